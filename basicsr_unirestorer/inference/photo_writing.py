"""Write a restored picture as its source was: depth, alpha, orientation, colour profile; whole or not at all."""

from __future__ import annotations

import io
import os
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.inference.photo import ORIENTATION, TEXTS, Photo, stored

FORMATS = {
    '.png': 'PNG',
    '.jpg': 'JPEG',
    '.jpeg': 'JPEG',
    '.bmp': 'BMP',
    '.tif': 'TIFF',
    '.tiff': 'TIFF',
    '.webp': 'WEBP',
}
MODES = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}
PNG_START = 33  # bytes before the first chunk that may hold a colour profile
QUALITY = 95


def encode_photo(photo: Photo, name: str | Path) -> tuple[bytes, str]:
    """Encode a picture in the format of a file's suffix.

    Returns:
        The file's bytes, and a note on what this format cannot hold, or nothing.

    Raises:
        DataError: The format has no alpha channel, or the suffix is none that is known.
    """
    form = FORMATS.get(Path(name).suffix.lower())
    if form is None:
        raise DataError(f'{name} has no suffix of a picture; let it end in one of {", ".join(FORMATS)}.')
    pixels = np.ascontiguousarray(stored(photo.pixels, photo.orientation))
    if form in ('JPEG', 'BMP') and pixels.shape[2] in (2, 4):
        raise DataError(f'{name} cannot keep the alpha channel, which {form} has not; let it end in .png.')
    notes = []
    if pixels.dtype == np.uint16 and form not in ('PNG', 'TIFF'):
        notes.append(f'{form} holds 8 bit of 16')
        pixels = np.rint(pixels / np.float32(257)).astype(np.uint8)
    if form == 'BMP' and (photo.icc or photo.exif):
        notes.append('BMP holds no colour profile and no EXIF')
    if form == 'TIFF':
        content = _tiff(pixels, photo)
    elif pixels.dtype == np.uint16:
        content = _deep_png(pixels, photo)
    else:
        content = _by_pillow(pixels, photo, form)
    return content, '; '.join(notes)


def _by_pillow(pixels: np.ndarray, photo: Photo, form: str) -> bytes:
    """Encode uint8 pixels, shape (h, w, channels)."""
    options: dict = {'icc_profile': photo.icc, 'exif': photo.exif, 'xmp': photo.xmp, 'dpi': photo.dpi}
    if form == 'JPEG':
        options.update(quality=QUALITY, subsampling=0)
    elif form == 'WEBP':
        options.update({'quality': QUALITY} if photo.lossy else {'lossless': True}, exact=True)
    elif form == 'PNG':
        options['compress_level'] = 4  # a third larger to encode than level 1, and nearly as small as 9
    elif form == 'BMP':
        options = {'dpi': photo.dpi}
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels, MODES[pixels.shape[2]])
    picture.save(buffer, form, **{key: value for key, value in options.items() if value})
    return buffer.getvalue()


def _deep_png(pixels: np.ndarray, photo: Photo) -> bytes:
    """Encode uint16 pixels, shape (h, w, channels); OpenCV writes them, but nothing beside them."""
    if pixels.shape[2] == 2:
        pixels = pixels[..., [0, 0, 0, 1]]
    ok, content = cv2.imencode('.png', pixels[..., [2, 1, 0, 3][: pixels.shape[2]]] if pixels.shape[2] > 1 else pixels)
    if not ok:
        raise OSError('OpenCV cannot encode it as a 16-bit PNG')
    chunks = io.BytesIO()
    if photo.icc:
        PngImagePlugin.putchunk(chunks, b'iCCP', b'ICC Profile\0\0', zlib.compress(photo.icc))
    if photo.exif:
        PngImagePlugin.putchunk(chunks, b'eXIf', photo.exif.removeprefix(b'Exif\0\0'))
    if photo.dpi:
        metre = b''.join(round(value / 0.0254).to_bytes(4, 'big') for value in photo.dpi)
        PngImagePlugin.putchunk(chunks, b'pHYs', metre, b'\1')
    content = content.tobytes()
    return content[:PNG_START] + chunks.getvalue() + content[PNG_START:]


def _tiff(pixels: np.ndarray, photo: Photo) -> bytes:
    """Encode uint8 or uint16 pixels, shape (h, w, channels); Pillow knows no 16-bit colour."""
    exif = Image.Exif()
    if photo.exif:
        exif.load(photo.exif)
    texts = [(tag, str(exif[tag]).encode('ascii', 'replace').decode()) for tag in TEXTS if exif.get(tag)]
    tags = [(tag, 's', 0, text, True) for tag, text in texts]
    tags += [(ORIENTATION, 'H', 1, photo.orientation, True)] if photo.orientation != 1 else []
    tags += [(700, 'B', len(photo.xmp), photo.xmp, True)] if photo.xmp else []
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels[..., 0] if pixels.shape[2] == 1 else pixels,
        photometric='rgb' if pixels.shape[2] > 2 else 'minisblack',
        planarconfig='contig' if pixels.shape[2] > 1 else None,
        extrasamples=['unassalpha'] if pixels.shape[2] in (2, 4) else None,
        compression='zlib',
        predictor=False,
        iccprofile=photo.icc,
        resolution=photo.dpi,
        resolutionunit='INCH' if photo.dpi else None,
        extratags=tags,
        metadata=None,
        software=False,
    )
    return buffer.getvalue()


def write_whole(path: Path, content: bytes, overwrite: bool = False) -> None:
    """Write a file aside, then put it in place, so that a file under its name is always complete.

    Raises:
        DataError: A file of this name is there, and ``overwrite`` is not set.
        OSError: It cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f'.{os.getpid()}-{threading.get_ident()}.part')
    try:
        scratch.write_bytes(content)
        if overwrite:
            os.replace(scratch, path)
        else:
            _put_new(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _put_new(scratch: Path, path: Path) -> None:
    """Give a file its name in one step that fails where the name is taken, if the file system knows such a step."""
    try:
        os.link(scratch, path)
    except OSError as error:
        if path.exists():
            raise DataError(f'{path} is there by now and is left as it is; --overwrite writes it again.') from error
        os.replace(scratch, path)  # a file system without links
