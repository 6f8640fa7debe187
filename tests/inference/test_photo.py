"""Picture files: what is kept on the way through, and a corpus of broken ones that each end in one sentence."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.inference import photo as module
from basicsr_unirestorer.inference.photo import Photo, picture_size, read_photo, stored, upright
from basicsr_unirestorer.inference.photo_writing import encode_photo, write_whole

SETTINGS = {
    'deadline': None,
    'derandomize': True,
    'suppress_health_check': [HealthCheck.function_scoped_fixture],
}
LOSSLESS = ('.png', '.tif', '.bmp', '.webp')
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def pixels(*size: int, channels: int = 3, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max + 1, (*size, channels), dtype)


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[274], block[315] = orientation, 'somebody'
    block.get_ifd(0x8769)[36867] = '2020:01:01 00:00:00'
    return block.tobytes()


def through(photo: Photo, path) -> Photo:
    """Write and read again."""
    write_whole(path, encode_photo(photo, path)[0])
    return read_photo(path)


@settings(**SETTINGS, max_examples=80)
@given(
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.sampled_from([1, 2, 3, 4]),
    st.sampled_from([np.uint8, np.uint16]),
    st.integers(1, 8),
    st.sampled_from(LOSSLESS),
    st.booleans(),
)
def test_pixels_come_back_as_they_were(tmp_path, size, channels, dtype, orientation, suffix, dressed):
    """Any size, channels, depth and orientation, with or without profile and EXIF, where the format can hold them."""
    extras = {'icc': ICC, 'exif': exif(orientation), 'dpi': (300.0, 300.0)} if dressed else {}
    before = Photo(pixels(*size, channels=channels, dtype=dtype), 'PNG', orientation if dressed else 1, **extras)
    path = tmp_path / f'a{suffix}'
    path.unlink(missing_ok=True)
    if suffix == '.bmp' and channels in (2, 4):
        with pytest.raises(DataError, match='cannot keep the alpha channel, which BMP has not; let it end in .png'):
            encode_photo(before, path)
        return
    after = through(before, path)
    if dtype == np.uint16 and suffix in ('.bmp', '.webp'):
        assert encode_photo(before, path)[1].startswith(f'{after.format} holds 8 bit of 16')
        expected = np.rint(before.pixels / 257)
    else:
        expected = before.pixels
    no_grey = suffix == '.webp' or (suffix == '.png' and channels == 2 and dtype == np.uint16)
    if no_grey and channels < 3:
        expected = expected[..., [0, 0, 0, 1][: 3 if channels == 1 else 4]]
    if suffix == '.bmp':  # nor do BMPs know how to turn
        expected = stored(expected, before.orientation)
    if suffix == '.webp' and after.pixels.shape[2] == 3 and expected.shape[2] == 4:
        assert (expected[..., 3] == 255).all()  # it drops an alpha channel that says nothing
        expected = expected[..., :3]
    assert np.array_equal(after.pixels, expected)
    if dressed and suffix != '.bmp':
        assert after.icc == ICC and after.orientation == orientation
        written = Image.Exif()
        if after.exif:
            written.load(after.exif)
        assert written.get(315) == 'somebody'
        if suffix != '.webp':
            assert after.dpi == pytest.approx((300, 300), rel=1e-3)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_is_as_pillow_has_it(orientation):
    from PIL import ImageOps

    image = Image.fromarray(pixels(4, 6))
    block = image.getexif()
    block[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    ours = upright(np.asarray(image), orientation)
    assert np.array_equal(ours, expected)
    assert np.array_equal(stored(ours, orientation), np.asarray(image))


def test_jpeg_keeps_profile_and_exif_byte_for_byte(tmp_path):
    buffer = io.BytesIO()
    smooth = np.add.outer(np.arange(40), np.arange(60))[..., None].repeat(3, 2).astype(np.uint8)
    Image.fromarray(smooth).save(buffer, 'JPEG', quality=95, exif=exif(6), icc_profile=ICC, dpi=(72, 72), xmp=b'<x/>')
    (tmp_path / 'a.jpg').write_bytes(buffer.getvalue())
    before = read_photo(tmp_path / 'a.jpg')
    assert before.pixels.shape == (60, 40, 3) and before.lossy
    after = through(before, tmp_path / 'b.jpg')
    assert (after.exif, after.icc, after.dpi, after.orientation, after.xmp) == (exif(6), ICC, (72, 72), 6, b'<x/>')
    assert np.abs(after.pixels.astype(int) - before.pixels).max() <= 3
    with Image.open(tmp_path / 'b.jpg') as picture:
        assert picture.size == (60, 40)  # stored lying, as it was


@pytest.mark.parametrize(
    ('mode', 'channels', 'dtype'),
    [('1', 1, np.uint8), ('L', 1, np.uint8), ('P', 3, np.uint8), ('I;16', 1, np.uint16)],
)
def test_kinds_of_pixels_that_png_knows(tmp_path, mode, channels, dtype):
    Image.new(mode, (9, 6), 1).save(tmp_path / 'a.png')
    found = read_photo(tmp_path / 'a.png').pixels
    assert found.shape == (6, 9, channels) and found.dtype == dtype


def test_transparent_palette_becomes_alpha(tmp_path):
    Image.new('P', (4, 3)).save(tmp_path / 'a.png', transparency=0)
    assert read_photo(tmp_path / 'a.png').pixels.shape == (3, 4, 4)


def test_size_is_told_without_decoding(tmp_path):
    Image.fromarray(pixels(6, 9)).save(tmp_path / 'a.png')
    content = (tmp_path / 'a.png').read_bytes()
    (tmp_path / 'a.png').write_bytes(content[:-15])
    assert picture_size(tmp_path / 'a.png') == 54
    assert picture_size(tmp_path / 'nowhere.png') == 0


def huge_png() -> bytes:
    """A PNG of 100,000 x 100,000 pixels in a few bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))

    head = struct.pack('>IIBBBBB', 100_000, 100_000, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')


def encoded(form: str, mode: str = 'RGB', **options) -> bytes:
    buffer = io.BytesIO()
    base = Image.fromarray(pixels(16, 16)).convert(mode)
    base.save(buffer, form, **options)
    return buffer.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def deep_grey_alpha(frames: int = 1, **options) -> bytes:
    """A TIFF of grey and alpha in 16 bit, which Pillow does not open."""
    array = pixels(*(frames, 8, 9)[frames == 1 :], channels=2, dtype=np.uint16)
    layout = {'photometric': 'minisblack', 'planarconfig': 'contig', 'extrasamples': ['unassalpha']}
    return tiff(array, **{**layout, **options})


@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('planarconfig', ['contig', 'separate'])
def test_deep_grey_with_alpha_is_read_however_it_lies_in_the_file(tmp_path, planarconfig, compression):
    path, expected = tmp_path / 'a.tif', pixels(8, 9, channels=2, dtype=np.uint16)
    given = expected if planarconfig == 'contig' else np.moveaxis(expected, 2, 0)
    options = {'resolution': (100, 50), 'resolutionunit': 'CENTIMETER', 'software': 'scanner'}
    layout = {'photometric': 'minisblack', 'planarconfig': planarconfig, 'extrasamples': ['unassalpha']}
    path.write_bytes(tiff(given, compression=compression, **layout, **options))
    found = read_photo(path)
    assert np.array_equal(found.pixels, expected) and picture_size(path) == 72
    assert found.dpi == pytest.approx((254, 127)) and b'scanner' in found.exif


def broken(name: str) -> bytes:
    """Return a file that no picture can be restored from."""
    png, jpeg = encoded('PNG'), encoded('JPEG')
    return {
        'empty.png': b'',
        'text.png': b'this is no picture',
        'truncated.png': png[: len(png) // 2],
        'truncated.jpg': jpeg[: len(jpeg) // 2],
        'truncated.webp': encoded('WEBP')[:100],
        'truncated.bmp': encoded('BMP')[:100],
        'truncated.tif': encoded('TIFF')[:300],
        'zeros_at_end.jpg': jpeg[:-100] + bytes(100),
        'flipped_bit.png': png[:60] + bytes([png[60] ^ 1]) + png[61:],
        'cmyk.jpg': encoded('JPEG', 'CMYK'),
        'cmyk.tif': encoded('TIFF', 'CMYK'),
        'lab.tif': encoded('TIFF', 'LAB'),
        'floats.tif': encoded('TIFF', 'F'),
        'nan.tif': tiff(np.full((8, 8), np.nan, np.float32)),
        'float_rgb.tif': tiff(np.full((8, 8, 3), np.nan, np.float32), photometric='rgb'),
        'ints.tif': encoded('TIFF', 'I'),
        'five_channels.tif': tiff(pixels(8, 8, channels=5), photometric='rgb', extrasamples=[0, 0]),
        'spectral.tif': tiff(pixels(8, 8, channels=5), photometric='minisblack', planarconfig='contig'),
        'unnamed_fourth.tif': tiff(pixels(8, 8, channels=4), photometric='rgb', extrasamples=[0]),
        'truncated_deep_grey_alpha.tif': deep_grey_alpha()[:-30],
        'multiplied_alpha.tif': deep_grey_alpha(extrasamples=['assocalpha']),
        'deep_pages.tif': deep_grey_alpha(frames=2),
        'pages.tif': encoded('TIFF', save_all=True, append_images=[Image.new('RGB', (16, 16))]),
        'moving.webp': encoded('WEBP', save_all=True, append_images=[Image.new('RGB', (16, 16))]),
    }[name]


BROKEN = {
    'empty.png': 'it is empty',
    'text.png': 'its format is none that is known',
    'truncated.png': 'cannot be read as a picture',
    'truncated.jpg': 'cannot be read as a picture',
    'truncated.webp': 'cannot be read as a picture',
    'truncated.bmp': 'cannot be read as a picture',
    'truncated.tif': 'cannot be read as a picture',
    'zeros_at_end.jpg': 'its end is zeros',
    'flipped_bit.png': 'cannot be read as a picture',
    'cmyk.jpg': 'holds CMYK; save it as RGB',
    'cmyk.tif': 'holds CMYK; save it as RGB',
    'lab.tif': 'holds Lab; save it as RGB',
    'floats.tif': 'holds floating point numbers; save it as RGB or grey, in 8 or 16 bit',
    'nan.tif': 'holds floating point numbers',
    'float_rgb.tif': 'its format is none that is known|floating point numbers',
    'ints.tif': 'holds 32-bit whole numbers',
    'five_channels.tif': 'has 5 channels; save it as grey or RGB',
    'spectral.tif': 'its format is none that is known|has 5 channels',
    'unnamed_fourth.tif': 'has 4 channels; save it as grey or RGB, with or without alpha',
    'truncated_deep_grey_alpha.tif': 'cannot be read as a picture',
    'multiplied_alpha.tif': 'has 2 channels, the second no plain alpha; save it as grey',
    'deep_pages.tif': 'holds 2 pictures; save each as a file of its own',
    'pages.tif': 'holds 2 pictures; save each as a file of its own',
    'moving.webp': 'holds 2 pictures',
}


@pytest.mark.parametrize('name', BROKEN)
def test_broken_file_ends_in_one_sentence(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(broken(name))
    with pytest.raises(DataError, match=BROKEN[name]) as caught:
        read_photo(path)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)


def test_picture_larger_than_memory_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', None)
    (tmp_path / 'huge.png').write_bytes(huge_png())
    with pytest.raises(DataError, match=r'100000 x 100000 pixels, which take about 111\.8 GiB to decode'):
        read_photo(tmp_path / 'huge.png')


def test_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match='There is no picture .*gone.png'):
        read_photo(tmp_path / 'gone.png')


@settings(**SETTINGS, max_examples=180)
@given(st.sampled_from(['PNG', 'JPEG', 'TIFF', 'WEBP', 'BMP', 'deep']), st.integers(0, 2**31), st.integers(1, 12))
def test_damage_is_refused_or_leaves_a_picture(tmp_path, form, seed, count):
    """Bytes are changed anywhere: the answer is a picture, or one sentence, never another error."""
    rng = np.random.default_rng(seed)
    content = bytearray(deep_grey_alpha() if form == 'deep' else encoded(form))
    for place in rng.integers(0, len(content), count):
        content[place] = rng.integers(0, 256)
    path = tmp_path / 'damaged'
    path.write_bytes(content)
    try:
        found = read_photo(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert found.pixels.ndim == 3 and found.pixels.dtype in (np.uint8, np.uint16)


@pytest.mark.parametrize('name', ['a.jpg', 'a.bmp'])
def test_alpha_is_not_dropped(tmp_path, name):
    with pytest.raises(DataError, match='cannot keep the alpha channel'):
        encode_photo(Photo(pixels(4, 4, channels=4), 'PNG'), tmp_path / name)


def test_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(DataError, match='a.xyz has no suffix of a picture; let it end in one of .png, .jpg'):
        encode_photo(Photo(pixels(4, 4), 'PNG'), tmp_path / 'a.xyz')


def test_file_that_is_there_is_not_replaced_unasked(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'mine')
    with pytest.raises(DataError, match='a.png is there by now and is left as it is; --overwrite writes it again'):
        write_whole(tmp_path / 'a.png', b'new')
    assert (tmp_path / 'a.png').read_bytes() == b'mine'
    write_whole(tmp_path / 'a.png', b'new', overwrite=True)
    assert (tmp_path / 'a.png').read_bytes() == b'new'
    assert os.listdir(tmp_path) == ['a.png']


def test_file_system_without_links_will_do(tmp_path, monkeypatch):
    def link(source, target):
        raise PermissionError(1, 'Operation not permitted')

    monkeypatch.setattr(os, 'link', link)
    write_whole(tmp_path / 'deeper' / 'a.png', b'new')
    assert os.listdir(tmp_path / 'deeper') == ['a.png']
    with pytest.raises(DataError, match='is there by now'):
        write_whole(tmp_path / 'deeper' / 'a.png', b'newer')
    assert (tmp_path / 'deeper' / 'a.png').read_bytes() == b'new'


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / 'a.png').write_bytes(b'mine')

    def full(self, content):
        with open(self, 'wb') as file:
            file.write(content[:3])
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(module.Path, 'write_bytes', full)
    with pytest.raises(OSError, match='No space left'):
        write_whole(tmp_path / 'a.png', b'new and longer', overwrite=True)
    assert os.listdir(tmp_path) == ['a.png']
    assert (tmp_path / 'a.png').read_bytes() == b'mine'
