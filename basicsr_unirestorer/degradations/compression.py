"""Lost detail: down-up sampling, JPEG and WebP."""

from __future__ import annotations

import math

import cv2
import numpy as np

from basicsr_unirestorer.degradations.window import Window
from basicsr_unirestorer.errors import OptionError

JPEG_UNIT = 16  # pixels: libjpeg halves the colour channels by default, so its 8x8 blocks cover 16x16 pixels
WEBP_UNIT = 16  # pixels: side of a macroblock


def resample(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Shrink by a factor and enlarge back to the same size.

    The coarse pixels lie on one grid over the whole picture (pixel j covers the fine range [j s, (j + 1) s)), so a
    crop loses the same detail as the picture it comes from, for any real factor.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``factor`` (s; 1 changes nothing); ``filter``: ``'bicubic'`` or ``'bilinear'`` both ways, or ``'area'``,
            which shrinks by averaging and enlarges bilinearly; ``antialias``: smooth before shrinking, as ``imresize``
            does and a plain bicubic ``interpolate`` does not (the average of ``'area'`` needs none).
        rng: Unused.
        window: Place of the crop on the grid.

    Returns:
        RGB, (h, w, 3), float32; cubic overshoot may leave [0, 1].
    """
    factor, kind = params['factor'], params['filter']
    if factor == 1:
        return image
    if params['antialias'] and kind != 'area':
        image = cv2.GaussianBlur(image, (0, 0), antialias_sigma(factor), borderType=cv2.BORDER_REFLECT_101)
    first, count = zip(
        *(
            _coarse_range(start, size, factor)
            for start, size in ((window.left, window.width), (window.top, window.height))
        ),
        strict=True,
    )
    centre = (factor - 1) / 2  # of the first coarse pixel, in fine pixels
    up = [(window.left - centre) / factor - first[0], (window.top - centre) / factor - first[1]]
    flags = cv2.INTER_CUBIC if kind == 'bicubic' else cv2.INTER_LINEAR
    if kind == 'area':
        coarse = _average(image, factor, (window.left, window.top), first, count)
    else:
        down = [first[0] * factor + centre - window.left, first[1] * factor + centre - window.top]
        coarse = _scale(image, factor, down, count, flags)
    return _scale(coarse, 1 / factor, up, (window.width, window.height), flags)


def antialias_sigma(factor: float) -> float:
    """Standard deviation in fine pixels of the smoothing before shrinking: it vanishes as the factor nears 1."""
    return 0.5 * math.sqrt(factor * factor - 1)


def resample_reach(factor: float) -> int:
    """Fine pixels that a result of ``resample`` depends on, to each side: two cubic taps of each grid, and the blur."""
    return math.ceil(2 * factor + 2 + 3 * antialias_sigma(factor))


def _coarse_range(start: int, size: int, factor: float) -> tuple[int, int]:
    """First coarse pixel and number of them that cubic interpolation of a fine range touches."""
    first = math.floor(start / factor) - 2
    return first, math.ceil((start + size) / factor) + 2 - first


def _scale(image: np.ndarray, step: float, offset: list[float], size: tuple[int, int], flags: int) -> np.ndarray:
    """Interpolate ``image`` at ``step * i + offset`` for ``size`` (columns, rows) pixels."""
    matrix = np.array([[step, 0, offset[0]], [0, step, offset[1]]])
    return cv2.warpAffine(image, matrix, size, flags=flags | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT)


def _average(
    image: np.ndarray, factor: float, start: tuple[int, int], first: tuple[int, int], count: tuple[int, int]
) -> np.ndarray:
    """Average the fine pixels of each coarse one, by the share of them that lies in it; tuples are (column, row)."""
    for axis in (0, 1):
        place = 1 - axis  # in the tuples
        borders = (first[place] + np.arange(count[place] + 1)) * factor - start[place]
        image = _average_axis(image, borders, axis) / np.float32(factor)
    return image.astype(np.float32)


def _average_axis(image: np.ndarray, borders: np.ndarray, axis: int) -> np.ndarray:
    """Add up an axis between real-valued borders; beyond the image its outermost pixels go on."""
    before, after = max(0, math.ceil(-borders[0])), max(0, math.ceil(borders[-1] - image.shape[axis]))
    padding = [(before + 1, after + 1) if a == axis else (0, 0) for a in range(3)]
    total = np.cumsum(np.pad(image, padding, mode='edge'), axis=axis, dtype=np.float64)
    borders = borders + before  # total[i] holds the pixels up to and including i - before - 1
    whole = np.floor(borders).astype(int)
    share = (borders - whole).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    low, high = total.take(whole, axis), total.take(whole + 1, axis)
    return np.diff(low + share * (high - low), axis=axis)


def compress_jpeg(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Encode and decode as JPEG with OpenCV's defaults (baseline, halved colour channels).

    The blocks lie on the grid of the whole picture, so a crop shows the block borders of the picture it comes from.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1]; rounded to 8 bits before encoding.
        params: ``quality_pct``, 1 to 100; ``shift_rows`` and ``shift_columns``: pixels by which the picture was cropped
            after it was compressed, which moves the block borders as much up and to the left.
        rng: Unused.
        window: Place of the crop on the block grid.
    """
    place = (window.top + params['shift_rows']) % JPEG_UNIT, (window.left + params['shift_columns']) % JPEG_UNIT
    return _through_codec(image, '.jpg', [cv2.IMWRITE_JPEG_QUALITY, int(params['quality_pct'])], place)


def compress_webp(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Encode and decode as lossy WebP.

    Its macroblocks lie on the grid of the whole picture, but the encoder predicts each from its neighbours and spreads
    its bits over all it is given. So a crop shows artefacts of the same kind, neither the same ones nor exactly as
    strong: crops of 128 pixels of three photographs had 0.98 to 1.06 times the squared error of the whole picture on
    average, single ones 0.9 to 1.4 times.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1]; rounded to 8 bits before encoding.
        params: ``quality_pct``, 1 to 100.
        rng: Unused.
        window: Place of the crop on the grid of macroblocks.

    Raises:
        OptionError: OpenCV was built without WebP.
    """
    place = window.top % WEBP_UNIT, window.left % WEBP_UNIT
    try:
        return _through_codec(image, '.webp', [cv2.IMWRITE_WEBP_QUALITY, int(params['quality_pct'])], place)
    except cv2.error as error:
        raise OptionError(
            'This OpenCV was built without WebP, which the degradation webp needs; install the opencv-python of PyPI, '
            'or use jpeg instead.'
        ) from error


def _through_codec(image: np.ndarray, suffix: str, options: list[int], place: tuple[int, int]) -> np.ndarray:
    """Encode and decode an image whose first pixel lies at ``place`` (row, column) of its block."""
    top, left = place
    pixels = np.rint(np.clip(image[..., ::-1], 0, 1) * 255).astype(np.uint8)
    pixels = cv2.copyMakeBorder(pixels, top, 0, left, 0, cv2.BORDER_REPLICATE)
    _, code = cv2.imencode(suffix, pixels, options)
    decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)[top:, left:, ::-1]
    return decoded.astype(np.float32) / 255
