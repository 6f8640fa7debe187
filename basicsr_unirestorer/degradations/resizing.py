"""Change of the pixel grid, in the middle of a chain of degradations."""

from __future__ import annotations

import math

import numpy as np

from basicsr_unirestorer.degradations.window import Window

SUPPORT = {'bicubic': 2.0, 'bilinear': 1.0}  # radius of each kernel, in old pixels where it is not widened


def resize(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Sample the picture on another pixel grid, on which the next operators of a chain then work.

    Both grids are anchored at the picture's corner (see ``Window``), so a crop gets the pixels that the whole picture
    would have there; pixels that only touch the picture's right or lower border see its mirror image.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``scale`` of the new grid against the *picture's* grid, whatever the current one is: 0.5 halves the
            picture's sides, 1 goes back to its size. ``filter``: ``'bicubic'``, ``'bilinear'`` or ``'area'`` (mean of
            what the new pixel covers). ``antialias``: widen the kernel when shrinking, as ``imresize`` does and a
            plain ``interpolate`` does not; an area needs none.
        rng: Unused.
        window: Place of the crop, on the current grid.

    Returns:
        RGB, float32, of the size of ``window.on_grid(scale)``; cubic overshoot may leave [0, 1].
    """
    if params['scale'] == window.scale:
        return image
    target = window.on_grid(params['scale'])
    places = (
        (0, window.top, window.height, target.top, target.height),
        (1, window.left, window.width, target.left, target.width),
    )
    # the axis that shrinks more goes first: less is left for the other
    for axis, start, size, new_start, new_size in sorted(places, key=lambda place: place[4] / place[2]):
        new, ratio = np.arange(new_start, new_start + new_size), window.scale / target.scale
        first, weights = axis_weights(new, ratio, params['filter'], params['antialias'])
        image = _gather(image, axis, first - start, weights, size)
    return image


def resize_reach(params: dict, scale: float) -> float:
    """Picture pixels that a result of ``resize`` depends on, to each side, from a grid of the given scale."""
    if params['scale'] == scale:
        return 0.0
    if params['filter'] == 'area':
        return 0.5 / params['scale'] + 0.5 / scale
    return SUPPORT[params['filter']] * _stretch(scale / params['scale'], params['antialias']) / scale


def _stretch(ratio: float, antialias: bool) -> float:
    return max(1.0, ratio) if antialias else 1.0


def axis_weights(places: np.ndarray, ratio: float, method: str, antialias: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return what each new pixel of an axis is made of.

    Args:
        places: Indices of the new pixels, (n,), on their grid.
        ratio: Old pixels to one new pixel.
        method: ``'bicubic'``, ``'bilinear'`` or ``'area'``.
        antialias: Whether the kernel widens with the ratio.

    Returns:
        Index of the first old pixel, (n,), and the weights of it and its successors, (n, taps), float32; rows sum to
        one. Cubic weights are Catmull-Rom's where they smooth and of sharpness 0.75 where not, as in torch.
    """
    if method == 'area':
        low, high = places * ratio, (places + 1) * ratio
        first = np.floor(low).astype(int)
        cells = first[:, None] + np.arange(math.ceil(ratio) + 1)
        weights = np.clip(np.minimum(cells + 1, high[:, None]) - np.maximum(cells, low[:, None]), 0, None)
    else:
        stretch = _stretch(ratio, antialias)
        radius = SUPPORT[method] * stretch
        centre = (places + 0.5) * ratio - 0.5
        first = np.floor(centre - radius).astype(int) + 1
        distance = np.abs(first[:, None] + np.arange(math.ceil(2 * radius)) - centre[:, None]) / stretch
        if method == 'bilinear':
            weights = np.clip(1 - distance, 0, None)
        else:
            weights = _cubic(distance, -0.5 if antialias else -0.75)
    return first, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _cubic(distance: np.ndarray, sharpness: float) -> np.ndarray:
    """Keys' cubic kernel (1981) at non-negative distances."""
    near = ((sharpness + 2) * distance - (sharpness + 3)) * distance**2 + 1
    far = sharpness * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def _gather(image: np.ndarray, axis: int, first: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """Sum up weighted old pixels along an axis; indices beyond the image are mirrored into it."""
    shape = [1, 1, 1]
    shape[axis] = -1
    total = None
    for tap in range(weights.shape[1]):
        index = (first + tap) % (2 * size)
        index = np.where(index < size, index, 2 * size - 1 - index)
        part = np.take(image, index, axis=axis) * weights[:, tap].reshape(shape)
        total = part if total is None else np.add(total, part, out=total)
    return total
