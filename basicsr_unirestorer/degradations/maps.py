"""Procedural maps, each (h, w) float32 in [0, 1]: scene depth, rain streaks, snow flakes. No external assets."""

from __future__ import annotations

import math

import cv2
import numpy as np

from basicsr_unirestorer.degradations.kernels import line_kernel, line_radius
from basicsr_unirestorer.degradations.window import Window

# Drops a pixel and unit of `value`: MiOIR draws noise from [0, 256) and keeps what is above 256 - value / 100.
RAIN_DENSITY = 1 / 25600
RAIN_FADE = 0.4  # share of a streak's length over which each end fades

# Class: (smallest radius, largest radius) in pixels of a 480-pixel-high picture, share of the picture it covers.
SNOW_CLASSES = {'S': (1.0, 3.0, 0.035), 'M': (3.0, 6.0, 0.05), 'L': (6.0, 12.0, 0.08)}


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
    rows = _smooth_weights(window.top, window.height, window.full_height, grid.shape[0])
    columns = _smooth_weights(window.left, window.width, window.full_width, grid.shape[1])
    return rows @ grid @ columns.T


def _smooth_weights(start: int, size: int, full: int, cells: int) -> np.ndarray:
    """Weights (size, cells) of each grid point at each pixel: smoothed hats, so that every row sums to one."""
    places = (start + np.arange(size) + 0.5) / full * (cells - 1)
    hats = np.clip(1 - np.abs(places[:, None] - np.arange(cells)), 0, 1)
    return hats * hats * (3 - 2 * hats)


def rain_streaks(
    height: int, width: int, value: float, length_px: float, angle_deg: float, width_px: float, rng: np.random.Generator
) -> np.ndarray:
    """Rain streaks after MiOIR: random drops, drawn out by a line kernel.

    MiOIR stretches its map from its minimum to its maximum. That depends on the luck of the drops, differs between a
    crop and the whole picture, and divides by zero without drops. Here the kernel's largest weight is one and a drop
    weighs at most one, so the peak is known beforehand and the brightness is the same on any crop; no drop, no rain.

    Args:
        height, width: Size of the map. Drops also fall around it, as far as a streak reaches in.
        value: Density, MiOIR's strength: value / 25600 drops a pixel.
        length_px, width_px: Size of a streak.
        angle_deg: Slant from the vertical; positive streaks run from upper right to lower left.
        rng: Draws number, places and weights of the drops.
    """
    pad = line_radius(length_px, width_px, RAIN_FADE * length_px)
    drops = np.zeros((height + 2 * pad, width + 2 * pad), np.float32)
    count = rng.poisson(value * RAIN_DENSITY * drops.size)
    if count == 0:
        return drops[pad : pad + height, pad : pad + width]
    drops.flat[rng.integers(drops.size, size=count)] = rng.uniform(0.15, 1, count)
    kernel = line_kernel(length_px, 90 + angle_deg, width_px, RAIN_FADE * length_px)
    streaks = cv2.filter2D(drops, -1, kernel, borderType=cv2.BORDER_CONSTANT)
    return np.clip(streaks[pad : pad + height, pad : pad + width], 0, 1)


def snow_mask(size: str, density: float, angle_deg: float, window: Window, rng: np.random.Generator) -> np.ndarray:
    """Opacity of falling flakes; larger classes contain the smaller ones, as in Snow100K-S, -M and -L.

    Args:
        size: Largest class present, ``'S'``, ``'M'`` or ``'L'``.
        density: Multiplies the share of the picture that flakes cover (about 4, 8 and 16 per cent).
        angle_deg: Slant of the fall from the vertical; positive flakes fall from upper right to lower left.
        window: Its whole picture scales the flakes: radii are meant for 480 rows. The scale stays within 0.5 and
            1.5, so that a flake of class S is never a large thing, nor one of class L a dot.
        rng: Draws number, places, sizes and opacities.
    """
    scale = min(1.5, max(0.5, min(window.full_height, window.full_width) / 480))
    clear = np.ones((window.height, window.width), np.float64)
    for name, (smallest, largest, cover) in SNOW_CLASSES.items():
        _draw_flakes(clear, smallest * scale, largest * scale, cover * density, angle_deg, rng)
        if name == size:
            break
    return (1 - clear).astype(np.float32)


def _draw_flakes(
    clear: np.ndarray, smallest: float, largest: float, cover: float, angle_deg: float, rng: np.random.Generator
) -> None:
    """Multiply the transparency map ``clear`` (h, w) by soft capsules: discs drawn out along the fall."""
    h, w = clear.shape
    half = math.ceil(1.5 * largest + 1)  # radius, half the longest trail and a soft rim
    middle = (smallest + largest) / 2
    area = (h + 2 * half) * (w + 2 * half)
    n = int(rng.poisson(cover * area / (math.pi * middle**2 + middle**2)))
    y, x = rng.uniform(-half, h + half, n), rng.uniform(-half, w + half, n)
    radius = rng.uniform(smallest, largest, n)
    trail = rng.uniform(0, 0.5, n) * radius  # half its length
    fall = np.radians(90 + angle_deg + rng.uniform(-12, 12, n))
    opacity, soft = rng.uniform(0.5, 1, n), np.maximum(1, rng.uniform(0.3, 1, n) * radius)
    steps = np.arange(-half, half + 1)
    rows, columns = np.floor(y).astype(int)[:, None] + steps, np.floor(x).astype(int)[:, None] + steps
    dy, dx = (rows - y[:, None])[:, :, None], (columns - x[:, None])[:, None, :]  # (n, k, 1) and (n, 1, k)
    uy, ux, trail = np.sin(fall)[:, None, None], np.cos(fall)[:, None, None], trail[:, None, None]
    along = np.clip(dy * uy + dx * ux, -trail, trail)
    distance = np.hypot(dy - along * uy, dx - along * ux)
    rim = np.clip((radius[:, None, None] - distance) / soft[:, None, None] + 0.5, 0, 1)
    seen = (rim > 0) & ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None, :]
    places = (rows[:, :, None] * w + columns[:, None, :])[seen]
    np.multiply.at(clear.reshape(-1), places, 1 - (opacity[:, None, None] * rim)[seen])
