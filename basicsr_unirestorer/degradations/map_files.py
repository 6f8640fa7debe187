"""Masks and depth maps from a folder: real ones in the place of procedural ones."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from basicsr_unirestorer.degradations.window import Window
from basicsr_unirestorer.errors import DataError, did_you_mean
from basicsr_unirestorer.image_files import safe_key

SUFFIXES = ('.png', '.jpg', '.jpeg', '.npy', '.mat')
MAT_KEY = 'data_obj'  # under which MiOIR's depth files hold their map


@lru_cache(maxsize=64)
def map_files(folder: str) -> dict[str, str]:
    """List a folder and its subfolders, once a process: path by name (relative, without suffix), sorted.

    Raises:
        DataError: There is no such folder, no map in it, or two of one name.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"There is no folder '{folder}' with masks or depth maps; correct mask_dir or depth_dir.")
    paths = sorted(path for path in root.rglob('*') if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"The folder '{folder}' holds no masks or depth maps, expected files {', '.join(SUFFIXES)}.")
    found = {}
    for path in paths:
        name = path.relative_to(root).with_suffix('').as_posix()
        if name in found:
            raise DataError(f"The folder '{folder}' holds both '{Path(found[name]).name}' and '{path.name}'; keep one.")
        found[name] = str(path)
    return found


@lru_cache(maxsize=64)
def _by_key(folder: str) -> dict[str, str]:
    """Path by the key that a picture of the same name has in an LMDB."""
    return {safe_key(Path(f'{name}.png')): path for name, path in map_files(folder).items()}


def mask_from_folder(folder: str, number: int, window: Window) -> np.ndarray:
    """Read the mask that a number chooses, stretched over the picture. Returns its window, (h, w) float32 [0, 1].

    Raises:
        DataError: No folder, no mask in it, or a damaged one.
    """
    files = list(map_files(folder).values())
    return _stretch(read_map(files[number % len(files)]), window)


def depth_from_folder(folder: str, inverse: bool, box_px: int, window: Window) -> np.ndarray:
    """Read the depth map of the window's picture, found by its key and stretched over it.

    MiOIR stores depth (``.mat``, far is large): no flags. OneRestore stores inverse depth (``.png``, far is dark),
    smooths it over 22 pixels and stops it at 0.7: ``inverse=True, box_px=22``, and ``depth_cap`` 0.7 of haze.

    Args:
        folder: Where the maps are, named like the pictures, in the same sub-folders if any; or like their keys.
        inverse: Whether near is bright; then the depth is one minus the map.
        box_px: Side of the box that smooths the map, in its own pixels; 0 for none.
        window: Its ``key`` names the picture.

    Returns:
        The window's depth, (h, w) float32 in [0, 1], 1 is farthest. 8-bit files are divided by 255, all others by their
        own maximum.

    Raises:
        DataError: No folder, no map of that picture, or a damaged one.
    """
    files = map_files(folder)
    path = files.get(window.key) or _by_key(folder).get(window.key) or files.get(window.key.rpartition('/')[2])
    if path is None:
        if not window.key:
            raise DataError(f"Depth maps of '{folder}' are found by the picture's key, but this picture has none.")
        raise DataError(
            f"The folder '{folder}' holds no depth map of the picture '{window.key}'; expected {window.key}.png, "
            f'.npy or .mat.{did_you_mean(window.key, files)}'
        )
    depth = _stretch(_smooth(path, box_px) if box_px else read_map(path), window)
    return 1 - depth if inverse else depth


@lru_cache(maxsize=16)
def _smooth(path: str, box_px: int) -> np.ndarray:
    return cv2.blur(_scaled(read_map(path)), (box_px, box_px), borderType=cv2.BORDER_REFLECT_101)


def _scaled(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) / 255 if values.dtype == np.uint8 else values


def _stretch(values: np.ndarray, window: Window) -> np.ndarray:
    """Stretch a map over the whole picture of a window and cut the window out; bilinear, or averaging to shrink.

    OpenCV's warps round places to 1/32 pixel, which would tell crops apart; hence the two lines of interpolation.
    """
    h, w = values.shape
    if h > window.full_height or w > window.full_width:
        values = cv2.resize(values, (window.full_width, window.full_height), interpolation=cv2.INTER_AREA)
        h, w = values.shape
    row, down = _neighbours(window.top, window.height, window.full_height, h)
    column, right = _neighbours(window.left, window.width, window.full_width, w)
    values = _scaled(values[row[0] : row[-1] + 2])
    after = np.minimum(row + 1, h - 1) - row[0]
    lines = values[row - row[0]] * (1 - down[:, None]) + values[after] * down[:, None]
    return lines[:, column] * (1 - right) + lines[:, np.minimum(column + 1, w - 1)] * right


def _neighbours(start: int, size: int, full: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel the map's point before it and the way to the next, each (size,); the rim goes on outwards."""
    places = np.clip((start + np.arange(size) + 0.5) * (points / full) - 0.5, 0, points - 1)
    before = places.astype(int)
    return before, (places - before).astype(np.float32)


@lru_cache(maxsize=32)
def read_map(path: str) -> np.ndarray:
    """Read a map: (h, w), uint8 as it is in the file, or float32 divided by its maximum; colours become grey.

    Raises:
        DataError: The file is damaged, empty, negative, not finite or no map.
    """
    try:
        values = _read(path)
    except Exception as error:  # the parsers of NumPy and SciPy raise whatever a damaged file leads them to
        reason = ' '.join(str(error).split())
        raise DataError(f"The map '{path}' cannot be read ({reason}); replace the file.") from error
    if values is None:
        raise DataError(f"The map '{path}' cannot be read; it is damaged or no picture. Replace the file.")
    if values.ndim == 3 and values.shape[2] in (3, 4):
        values = cv2.cvtColor(values[..., :3], cv2.COLOR_BGR2GRAY)
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in 'uif':
        raise DataError(
            f"The map '{path}' has shape {values.shape} of {values.dtype}, expected numbers (height, width)."
        )
    if values.dtype == np.uint8:
        return values
    values = values.astype(np.float32)
    if not np.isfinite(values).all() or values.min() < 0:
        raise DataError(f"The map '{path}' has negative, NaN or infinite values, expected 0 (near, or none) upwards.")
    return values / max(float(values.max()), 1e-12)


def _read(path: str) -> np.ndarray | None:
    if path.lower().endswith('.npy'):
        return np.load(path, allow_pickle=False)
    if path.lower().endswith('.mat'):
        from scipy.io import loadmat  # scikit-learn brings it; needed for this format only

        content = loadmat(path)
        if MAT_KEY not in content:
            names = ', '.join(name for name in content if not name.startswith('__'))
            raise KeyError(f'it holds {names or "nothing"}, expected {MAT_KEY}')
        return content[MAT_KEY]
    return cv2.imread(path, cv2.IMREAD_UNCHANGED)
