"""Pictures on disk: finding and reading them so that a damaged one is always noticed."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from basicsr_unirestorer.errors import DataError, UniRestorerError

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')


def find_pictures(folder: str | Path) -> list[Path]:
    """Return every picture below a folder, sorted by relative path; hidden files are passed over.

    Raises:
        DataError: The folder is missing or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f'{folder} is no folder; give the folder that holds your pictures.')
    pictures = sorted(path for path in folder.rglob('*') if is_picture(path))
    if not pictures:
        raise DataError(
            f'{folder} holds no pictures ({", ".join(suffix[1:] for suffix in SUFFIXES)}); '
            'give the folder that holds your pictures.'
        )
    return pictures


def is_picture(path: Path) -> bool:
    """Whether a file's name is that of a picture, and not hidden, as the ``._`` files are that a Mac leaves behind."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith('.') and path.is_file()


def safe_key(relative: Path) -> str:
    """Turn a relative path into an LMDB key: ASCII, without dots (BasicSR cuts keys at the first dot) or slashes."""
    stem = '-'.join(relative.with_suffix('').parts).replace('.', 'p')
    return re.sub(r'[^A-Za-z0-9_\-]', '_', stem)


def decode_picture(content: bytes, name: str | Path) -> np.ndarray:
    """Decode a picture file completely.

    OpenCV returns a half-grey picture for a truncated file without a word, so Pillow, which refuses it, decodes.

    Args:
        content: The file's bytes.
        name: What to call it in an error.

    Returns:
        BGR, uint8, shape (h, w, 3); grey is repeated, alpha dropped, 16 bit reduced to 8.

    Raises:
        DataError: The bytes are no picture, or only a part of one.
    """
    return decode_noted(content, name)[0]


def decode_noted(content: bytes, name: str | Path) -> tuple[np.ndarray, str]:
    """Do what ``decode_picture`` does, and name what the file lost: ``'grey, 16 bit'``, ``'alpha'``, or nothing."""
    with decoding_errors(content, name), Image.open(io.BytesIO(content)) as picture:
        note = _losses(picture)
        picture.load()
        refuse_zeros_at_end(picture, content)
        picture = ImageOps.exif_transpose(picture)  # a phone held upright writes its turn beside the pixels
        if picture.mode.startswith('I'):
            grey = np.asarray(picture.point(lambda value: value / 256).convert('L'))
            return np.repeat(grey[..., None], 3, axis=2), note
        if picture.mode == 'F':
            raise OSError('it holds floating point numbers')
        picture = picture.convert('RGB')
        bgr = np.frombuffer(picture.tobytes('raw', 'BGR'), np.uint8)
        return bgr.reshape(picture.height, picture.width, 3), note


@contextmanager
def decoding_errors(content: bytes, name: str | Path) -> Iterator[None]:
    """Turn whatever decoding a picture raises into one sentence, a DataError."""
    try:
        yield
    except UnidentifiedImageError as error:  # its own words hold an address in memory
        what = 'its format is none that is known' if content else 'it is empty'
        raise DataError(f'{name} cannot be read as a picture ({what}); replace or remove it.') from error
    except (UniRestorerError, MemoryError):
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and zlib.error for broken files
        raise DataError(f'{name} cannot be read as a picture ({error}); replace or remove it.') from error


def _losses(picture: Image.Image) -> str:
    """Name what an opened, not yet decoded picture has beyond, or short of, three channels of 8 bit."""
    layouts = [str(tile[3]) for tile in picture.tile]
    facts = {
        'grey': picture.mode in ('1', 'L', 'LA', 'La', 'I', 'F') or picture.mode.startswith('I;'),
        'alpha': picture.mode in ('RGBA', 'RGBa', 'LA', 'La', 'PA') or 'transparency' in picture.info,
        '16 bit': picture.mode.startswith('I') or any(';16' in layout for layout in layouts),
    }
    return ', '.join(name for name, present in facts.items() if present)


def refuse_zeros_at_end(picture: Image.Image, content: bytes) -> None:
    """Raise OSError for a JPEG whose end was not copied."""
    if picture.format in ('JPEG', 'MPO') and _ends_in_zeros(content):
        raise OSError('its end is zeros, as when copying it broke off')


def _ends_in_zeros(jpeg: bytes) -> bool:
    """Whether zeros stand where a JPEG's data should go on, which decoders take for grey without a word."""
    if jpeg[-2:] != b'\0\0':
        return False
    place = 2
    while jpeg[place : place + 1] == b'\xff' and jpeg[place + 1] != 0xDA:  # segments, up to the start of the scan
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], 'big')
    return b'\xff\xd9' not in jpeg[place:]


def read_picture(path: str | Path) -> np.ndarray:
    """Read a picture file as BGR, uint8, shape (h, w, 3); raises DataError where it is missing or damaged."""
    return read_picture_noted(path)[0]


def read_picture_noted(path: str | Path) -> tuple[np.ndarray, str]:
    """Do what ``read_picture`` does, and name what the file lost, as ``decode_noted`` does."""
    return decode_noted(read_bytes(path), path)


def read_bytes(path: str | Path) -> bytes:
    """Read a file; raises DataError where it is missing or cannot be read."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f'There is no picture {path}.')
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f'{path} cannot be read ({error.strerror}); replace or remove it.') from error
