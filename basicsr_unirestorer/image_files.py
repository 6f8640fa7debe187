"""Pictures on disk: finding and reading them so that a damaged one is always noticed."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from basicsr_unirestorer.errors import DataError

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')


def find_pictures(folder: str | Path) -> list[Path]:
    """Return every picture below a folder, sorted by relative path.

    Raises:
        DataError: The folder is missing or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f'{folder} is no folder; give the folder that holds your pictures.')
    pictures = sorted(path for path in folder.rglob('*') if path.suffix.lower() in SUFFIXES and path.is_file())
    if not pictures:
        raise DataError(
            f'{folder} holds no pictures ({", ".join(suffix[1:] for suffix in SUFFIXES)}); '
            'give the folder that holds your pictures.'
        )
    return pictures


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
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            picture = ImageOps.exif_transpose(picture)  # a phone held upright writes its turn beside the pixels
            if picture.mode.startswith('I'):
                rgb = np.asarray(picture.point(lambda value: value / 256).convert('L'))
                return cv2.cvtColor(rgb, cv2.COLOR_GRAY2BGR)
            return np.ascontiguousarray(np.asarray(picture.convert('RGB'))[..., ::-1])
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and zlib.error for broken files
        raise DataError(f'{name} cannot be read as a picture ({error}); replace or remove it.') from error


def read_picture(path: str | Path) -> np.ndarray:
    """Read a picture file as BGR, uint8, shape (h, w, 3); raises DataError where it is missing or damaged."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f'There is no picture {path}.')
    return decode_picture(path.read_bytes(), path)
