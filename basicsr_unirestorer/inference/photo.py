"""A user's picture file: its pixels at full depth, and everything beside them that the restored file keeps."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.image_files import decoding_errors, read_bytes, refuse_zeros_at_end
from basicsr_unirestorer.inference.memory import free_memory

ORIENTATION = 274  # EXIF tag
DIRECT = {'L': 1, 'LA': 2, 'RGB': 3, 'RGBA': 4}  # Pillow's modes that are pixels already, and their channels
NEAREST = {'1': 'L', 'La': 'LA', 'RGBa': 'RGBA', 'PA': 'RGBA', 'YCbCr': 'RGB'}  # those that equal one of them
NAMES = {'CMYK': 'CMYK', 'LAB': 'Lab', 'HSV': 'HSV', 'F': 'floating point numbers', 'I': '32-bit whole numbers'}
TEXTS = (270, 271, 272, 305, 306, 315, 33432)  # TIFF tags: description, make, model, software, time, artist, copyright
NEED = 4  # times the pixels' bytes that decoding takes at its peak


@dataclass(frozen=True)
class Photo:
    """A decoded picture.

    Args:
        pixels: As seen upright: shape (h, w, channels), 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha; uint8 or
            uint16.
        format: Pillow's name of the file's format.
        orientation: How the file stores them (EXIF, 1 to 8); a restored file stores them in the same way.
        icc: Colour profile.
        exif: EXIF block as in a JPEG.
        dpi: Resolution.
        xmp: XMP packet.
        lossy: Whether the file's compression was.
    """

    pixels: np.ndarray
    format: str
    orientation: int = 1
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    lossy: bool = False


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels, (h, w, c), as EXIF's ``orientation`` says; a view."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def stored(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo ``upright``; a view."""
    return upright(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def picture_size(path: str | Path) -> int:
    """Return how many pixels a picture file says it has, without decoding it; 0 where it cannot be read."""
    try:
        try:
            with Image.open(path) as picture:
                return picture.width * picture.height
        except UnidentifiedImageError:
            with tifffile.TiffFile(path) as file:
                return file.pages[0].imagewidth * file.pages[0].imagelength
    except Exception:  # whatever the libraries raise for broken files; reading it will tell
        return 0


def read_photo(path: str | Path) -> Photo:
    """Read a picture file with everything that belongs to it.

    Raises:
        DataError: The file is missing, damaged, or holds what a restored file could not keep: several pictures, CMYK,
            more than four channels, numbers beyond 16 bit.
    """
    content = read_bytes(path)
    with decoding_errors(content, path):
        try:
            picture = Image.open(io.BytesIO(content))
        except UnidentifiedImageError:
            photo = _deep_grey_alpha(content, path)
            if photo is None:
                raise
            return photo
        return _photo(picture, content, path)


def _photo(picture: Image.Image, content: bytes, path: str | Path) -> Photo:
    """Decode a picture that Pillow has opened; errors as in ``read_photo``, or whatever decoding raises."""
    with picture:
        _refuse(picture, path)
        deep = _is_deep(picture)
        orientation = _orientation(picture)
        kept = {
            'format': picture.format,
            'orientation': orientation,
            'icc': picture.info.get('icc_profile') or None,
            'exif': _exif(picture),
            'xmp': _xmp(picture),
            'lossy': picture.format in ('JPEG', 'MPO') or (picture.format == 'WEBP' and b'VP8L' not in content[:64]),
        }
        picture.load()
        refuse_zeros_at_end(picture, content)
        dpi = picture.info.get('dpi')
        # some versions of Pillow turn a TIFF while they decode it, and then drop its tag
        turned = orientation != 1 and _orientation(picture) == 1
        pixels = _pixels(picture)
        pixels = pixels if turned else upright(pixels, orientation)
        pixels = _deep_pixels(content, pixels, orientation) if deep else pixels
    return Photo(pixels, dpi=None if dpi is None else tuple(map(float, dpi)), **kept)


def _refuse(picture: Image.Image, path: str | Path) -> None:
    """Raise DataError for a picture that could not be kept whole, and before memory runs out."""
    frames = getattr(picture, 'n_frames', 1)
    if frames > 1 and picture.format != 'MPO':  # a phone's second picture is a preview or a depth map
        raise DataError(f'{path} holds {frames} pictures; save each as a file of its own.')
    tags = getattr(picture, 'tag_v2', {})
    channels, bits = tags.get(277, len(picture.getbands())), max(tags.get(258, (8,)))
    if channels > (1 if picture.mode in ('P', 'F') else max(len(picture.getbands()), 1)) or channels > 4:
        raise DataError(f'{path} has {channels} channels; save it as grey or RGB, with or without alpha.')
    mode = 'I' if bits > 16 and picture.mode != 'F' else picture.mode
    if mode in NAMES and not (picture.mode == 'I' and picture.format == 'PNG'):
        raise DataError(f'{path} holds {NAMES[mode]}; save it as RGB or grey, in 8 or 16 bit.')
    _refuse_too_large(path, picture.width, picture.height, len(picture.getbands()))


def _refuse_too_large(path: str | Path, width: int, height: int, pixel_bytes: int) -> None:
    needed, free = NEED * width * height * pixel_bytes, free_memory()
    if needed > free:
        raise DataError(
            f'{path} has {width} x {height} pixels, which take about {needed / 2**30:.1f} GiB to decode, but '
            f'{free / 2**30:.1f} GiB of memory are free; cut it into parts.'
        )


def _is_deep(picture: Image.Image) -> bool:
    """Whether a picture that is not decoded yet stores colours in 16 bit, of which Pillow gives 8."""
    return any(';16' in str(tile[3]) for tile in picture.tile) and not picture.mode.startswith('I')


def _orientation(picture: Image.Image) -> int:
    return _valid(picture.getexif().get(ORIENTATION))


def _valid(orientation: object) -> int:
    return orientation if orientation in range(1, 9) else 1


def _exif(picture: Image.Image) -> bytes | None:
    """Return the EXIF block; of a TIFF, whose tags also describe how it is stored, the texts and the orientation."""
    if picture.format != 'TIFF':
        return picture.info.get('exif') or None
    return _texts(picture.getexif())


def _texts(tags: Mapping[int, object]) -> bytes | None:
    """Return an EXIF block of the texts and the orientation among a TIFF's tags."""
    exif = Image.Exif()
    for tag in (ORIENTATION, *TEXTS):
        if tag in tags:
            exif[tag] = tags[tag]
    return exif.tobytes() if len(exif) else None


def _xmp(picture: Image.Image) -> bytes | None:
    packet = picture.info.get('xmp') or getattr(picture, 'tag_v2', {}).get(700)
    return packet if isinstance(packet, bytes) else None


def _pixels(picture: Image.Image) -> np.ndarray:
    """Return a decoded picture's pixels, (h, w, channels), uint8 or, of 16-bit grey, uint16."""
    if picture.mode.startswith('I'):
        return np.asarray(picture).astype(np.uint16)[..., None]
    transparent = 'transparency' in picture.info
    if picture.mode == 'P':
        picture = picture.convert('RGBA' if transparent else 'RGB')
    elif transparent and picture.mode in ('L', 'RGB'):
        picture = picture.convert({'L': 'LA', 'RGB': 'RGBA'}[picture.mode])
    elif picture.mode in NEAREST:
        picture = picture.convert(NEAREST[picture.mode])
    if picture.mode not in DIRECT:
        raise OSError(f"its pixels are of kind '{picture.mode}', which is none that is known")
    return np.asarray(picture).reshape(picture.height, picture.width, DIRECT[picture.mode])


def _deep_pixels(content: bytes, eight: np.ndarray, orientation: int) -> np.ndarray:
    """Decode 16 bit a channel, of which Pillow shows the upper 8, with OpenCV, and check one against the other.

    Args:
        content: The file.
        eight: What Pillow decoded, upright, uint8.
        orientation: How the file stores it; OpenCV turns some formats itself.

    Returns:
        Shape of ``eight``, uint16.
    """
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is not None and decoded.dtype == np.uint16 and decoded.ndim == 3:
        decoded = decoded[..., [2, 1, 0, 3][: decoded.shape[2]]]
        decoded = decoded[..., [0, 3]] if eight.shape[2] == 2 and decoded.shape[2] == 4 else decoded
        for candidate in (decoded, upright(decoded, orientation)):
            if candidate.shape == eight.shape and np.array_equal(candidate >> 8, eight):
                return candidate
    raise OSError('its way to store 16 bit is none that is known; save it as a 16-bit PNG')


def _deep_grey_alpha(content: bytes, path: str | Path) -> Photo | None:
    """Read a TIFF of grey and alpha in 16 bit, which Pillow does not know; None for any other file.

    Raises:
        DataError: It holds several pictures, an alpha that is multiplied into the grey, or too many pixels; and
            whatever tifffile raises for a damaged file.
    """
    try:
        file = tifffile.TiffFile(io.BytesIO(content))
    except Exception:  # no TIFF, or one whose head is damaged
        return None
    with file:
        page = file.pages[0]
        if page.dtype != np.uint16 or page.samplesperpixel != 2 or page.photometric != tifffile.PHOTOMETRIC.MINISBLACK:
            return None
        if len(file.pages) > 1:
            raise DataError(f'{path} holds {len(file.pages)} pictures; save each as a file of its own.')
        if tuple(page.extrasamples) != (tifffile.EXTRASAMPLE.UNASSALPHA,):
            raise DataError(f'{path} has 2 channels, the second no plain alpha; save it as grey, or as a 16-bit PNG.')
        _refuse_too_large(path, page.imagewidth, page.imagelength, 4)
        tags = {tag.code: tag.value for tag in page.tags}
        if not all(page.dataoffsets) or not all(page.databytecounts):  # tifffile would fill them with zeros
            raise OSError('parts of it are missing')
        pixels = page.asarray()
        pixels = pixels if page.planarconfig == tifffile.PLANARCONFIG.CONTIG else np.moveaxis(pixels, 0, -1)
        if pixels.shape != (page.imagelength, page.imagewidth, 2) or not pixels.size:
            raise OSError('its size is damaged')
    orientation = _valid(tags.get(ORIENTATION))
    per_inch = {2: 1.0, 3: 2.54}.get(tags.get(296, 2))
    known = per_inch and all(tag in tags and tags[tag][1] for tag in (282, 283))
    dpi = tuple(tags[tag][0] / tags[tag][1] * per_inch for tag in (282, 283)) if known else None
    xmp = tags.get(700) if isinstance(tags.get(700), bytes) else None
    return Photo(upright(pixels, orientation), 'TIFF', orientation, tags.get(34675), _texts(tags), dpi, xmp)
