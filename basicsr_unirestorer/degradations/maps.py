"""Procedural maps of scene depth, each (h, w) float32 in [0, 1], 1 is farthest. No external assets."""

from __future__ import annotations

import cv2
import numpy as np

from basicsr_unirestorer.degradations.window import Window

# Colour attenuation prior (Zhu 2015): depth = 0.121779 + 0.959710 V - 0.780245 S. Normalised by what photographs span
# (10th and 95th percentile), since the extremes of the picture at hand would differ from crop to crop.
PRIOR = (0.121779, 0.959710, -0.780245)
PRIOR_NEAR, PRIOR_FAR = -0.5, 0.7
PRIOR_MINIMUM = 15  # pixels: side of the minimum filter, so that white things in front are not taken for sky
PRIOR_RADIUS = 16  # pixels: radius of the guided filter, which brings the borders of things back
PRIOR_EPS = 1e-3
PRIOR_REACH = PRIOR_MINIMUM // 2 + 2 * PRIOR_RADIUS
FRACTAL_OCTAVES = ((3, 0.35), (6, 0.25), (12, 0.15), (24, 0.08))  # grid points a side, share


def depth_map(horizon: float, falloff: float, roughness: float, map_seed: int, window: Window) -> np.ndarray:
    """Depth of an imagined ground plane under a sky, with gentle irregularities; 1 is farthest.

    Below the horizon the depth is k / (k + y) with y the distance to the horizon in picture heights. It is a function
    of the parameters and of the place in the picture only, so a crop sees its own part of the picture's depth.

    Args:
        horizon: Row of the horizon, as a share of the picture's height.
        falloff: k; large values make a flat map, small ones a near foreground.
        roughness: Largest deviation from the plane.
        map_seed: Decides the irregularities.
        window: Part of the picture to compute.
    """
    rows = (window.top + np.arange(window.height) + 0.5) / window.full_height
    plane = falloff / (falloff + np.maximum(rows - horizon, 0))
    rng = np.random.default_rng(map_seed)
    bumps = sum(
        share * value_noise(rng.uniform(-1, 1, (cells, cells)), window) for cells, share in ((4, 0.7), (9, 0.3))
    )
    return np.clip(plane[:, None] + roughness * bumps, 0, 1).astype(np.float32)


def value_noise(grid: np.ndarray, window: Window) -> np.ndarray:
    """Interpolate a coarse grid, spread over the whole picture, smoothly at the pixels of a window."""
    row, down = _places(window.top, window.height, window.full_height, grid.shape[0])
    column, right = _places(window.left, window.width, window.full_width, grid.shape[1])
    lines = grid[row] + down[:, None] * (grid[row + 1] - grid[row])  # (h, cells)
    left = lines[:, column]
    return left + right * (lines[:, column + 1] - left)


def _places(start: int, size: int, full: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel the grid point before it and the smoothed way to the next, each (size,)."""
    places = (start + np.arange(size) + 0.5) / full * (cells - 1)
    before = np.minimum(places.astype(int), cells - 2)
    way = places - before
    return before, way * way * (3 - 2 * way)


def fractal_map(map_seed: int, window: Window) -> np.ndarray:
    """Patches at several scales, like drifting fog: a function of the seed and of the place in the picture only."""
    rng = np.random.default_rng(map_seed)
    grids = [
        (rng.uniform(-share, share, (cells, cells)).astype(np.float32), window) for cells, share in FRACTAL_OCTAVES
    ]
    bumps = sum(value_noise(*grid) for grid in grids)
    return np.clip(0.55 + bumps, 0, 1).astype(np.float32)


def prior_depth(image: np.ndarray) -> np.ndarray:
    """Estimate depth from colour: what is bright and pale is taken to be far (colour attenuation prior, Zhu 2015).

    A pixel depends on ``PRIOR_REACH`` pixels around it and on nothing else of the picture.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
    """
    value, lowest = image.max(axis=2), image.min(axis=2)
    saturation = (value - lowest) / np.maximum(value, 1e-6)
    depth = PRIOR[0] + PRIOR[1] * value + PRIOR[2] * saturation
    depth = np.clip((depth - PRIOR_NEAR) / (PRIOR_FAR - PRIOR_NEAR), 0, 1).astype(np.float32)
    depth = cv2.erode(depth, np.ones((PRIOR_MINIMUM, PRIOR_MINIMUM), np.uint8), borderType=cv2.BORDER_REFLECT_101)
    return np.clip(guided_filter(image.mean(axis=2), depth, PRIOR_RADIUS, PRIOR_EPS), 0, 1)


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Smooth (h, w) values but for the edges of a guide (He 2010); reaches twice its radius."""
    mean, mean_values = _box(guide, radius), _box(values, radius)
    variance = _box(guide * guide, radius) - mean * mean
    slope = (_box(guide * values, radius) - mean * mean_values) / (np.maximum(variance, 0) + eps)
    return _box(slope, radius) * guide + _box(mean_values - slope * mean, radius)


def _box(values: np.ndarray, radius: int) -> np.ndarray:
    side = 2 * radius + 1
    return cv2.boxFilter(values, -1, (side, side), borderType=cv2.BORDER_REFLECT_101)
