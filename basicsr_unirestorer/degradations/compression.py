"""Lost detail: down-up sampling and JPEG."""

from __future__ import annotations

import math

import cv2
import numpy as np

from basicsr_unirestorer.degradations.window import Window

JPEG_UNIT = 16  # pixels: libjpeg halves the colour channels by default, so its 8x8 blocks cover 16x16 pixels


def resample(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Shrink by a factor and enlarge back to the same size, both bicubically.

    The coarse pixels lie on one grid over the whole picture (pixel j covers the fine range [j s, (j + 1) s)), so a
    crop loses the same detail as the picture it comes from, for any real factor.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``factor`` (s; 1 changes nothing); ``antialias``: smooth before shrinking, as ``imresize`` does and a
            plain bicubic ``interpolate`` does not.
        rng: Unused.
        window: Place of the crop on the grid.

    Returns:
        RGB, (h, w, 3), float32; cubic overshoot may leave [0, 1].
    """
    factor = params['factor']
    if factor == 1:
        return image
    if params['antialias']:
        image = cv2.GaussianBlur(image, (0, 0), antialias_sigma(factor), borderType=cv2.BORDER_REFLECT_101)
    first, count = zip(
        *(
            _coarse_range(start, size, factor)
            for start, size in ((window.left, window.width), (window.top, window.height))
        ),
        strict=True,
    )
    centre = (factor - 1) / 2  # of the first coarse pixel, in fine pixels
    down = [first[0] * factor + centre - window.left, first[1] * factor + centre - window.top]
    up = [(window.left - centre) / factor - first[0], (window.top - centre) / factor - first[1]]
    coarse = _scale(image, factor, down, count)
    return _scale(coarse, 1 / factor, up, (window.width, window.height))


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


def _scale(image: np.ndarray, step: float, offset: list[float], size: tuple[int, int]) -> np.ndarray:
    """Sample ``image`` cubically at ``step * i + offset`` for ``size`` (columns, rows) pixels."""
    matrix = np.array([[step, 0, offset[0]], [0, step, offset[1]]])
    return cv2.warpAffine(
        image, matrix, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )


def compress_jpeg(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Encode and decode as JPEG with OpenCV's defaults (baseline, halved colour channels).

    The blocks lie on the grid of the whole picture, so a crop shows the block borders of the picture it comes from.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1]; rounded to 8 bits before encoding.
        params: ``quality_pct``, 1 to 100.
        rng: Unused.
        window: Place of the crop on the block grid.
    """
    top, left = window.top % JPEG_UNIT, window.left % JPEG_UNIT
    pixels = np.rint(np.clip(image[..., ::-1], 0, 1) * 255).astype(np.uint8)
    pixels = cv2.copyMakeBorder(pixels, top, 0, left, 0, cv2.BORDER_REPLICATE)
    _, code = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, int(params['quality_pct'])])
    decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)[top:, left:, ::-1]
    return decoded.astype(np.float32) / 255
