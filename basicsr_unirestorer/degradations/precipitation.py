"""Procedural masks of what falls, each (h, w) float32 in [0, 1]: rain streaks, snow flakes. No external assets."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from basicsr_unirestorer.degradations.kernels import line_kernel, line_radius
from basicsr_unirestorer.degradations.window import Window

# Drops a pixel and unit of `value`: MiOIR draws noise from [0, 256) and keeps what is above 256 - value / 100.
RAIN_DENSITY = 1 / 25600
RAIN_FADE = 0.4  # share of a streak's length over which each end fades
# Layers of rain, near to far (length, width, drops, light): as in RainStreakGen, the near ones are long, wide and few.
RAIN_LAYERS = ((1.0, 1.0, 1.0, 1.0), (0.6, 0.75, 1.5, 0.75), (0.35, 0.5, 2.5, 0.5))

DROPS = 8000.0  # a cubic metre and millimetre of diameter, of Marshall and Palmer 1948
LARGEST_DROP = 5.0  # mm; larger ones break up
DISTANCES = (0.5, 0.8, 1.3, 2.0, 3.2)  # metres: borders of the layers of physical rain
THINNEST_STREAK = 0.3  # pixels; thinner ones are too faint to be seen one by one
LONGEST_VIEW = 720  # pixels across 53 degrees, so that streaks on large pictures stay streaks
PHYSICAL_GAIN = 10.0  # light of a drop, which shows the whole sky, against the scene behind it

# Class: (smallest radius, largest radius) in pixels of a 480-pixel-high picture, share of the picture it covers.
SNOW_CLASSES = {'S': (1.0, 3.0, 0.035), 'M': (3.0, 6.0, 0.05), 'L': (6.0, 12.0, 0.08)}


def rain_streaks(
    height: int,
    width: int,
    value: float,
    length_px: float,
    angle_deg: float,
    width_px: float,
    layers: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Rain streaks after MiOIR: random drops, drawn out by a line kernel.

    MiOIR stretches its map from its minimum to its maximum. That depends on the luck of the drops, differs between a
    crop and the whole picture, and divides by zero without drops. Here the kernel's largest weight is one and a drop
    weighs at most one, so the peak is known beforehand and the brightness is the same on any crop; no drop, no rain.

    Args:
        height, width: Size of the map. Drops also fall around it, as far as a streak reaches in.
        value: Density, MiOIR's strength: value / 25600 drops a pixel.
        length_px, width_px: Size of a streak, in the nearest layer.
        angle_deg: Slant from the vertical; positive streaks run from upper right to lower left.
        layers: Number of layers, 1 to 3; farther ones have more, shorter, thinner and fainter streaks.
        rng: Draws number, places and weights of the drops.
    """
    total = np.zeros((height, width), np.float32)
    for longer, wider, denser, brighter in RAIN_LAYERS[:layers]:
        size = (length_px * longer, angle_deg, width_px * wider)
        density = value * denser * RAIN_DENSITY
        total += brighter * _layer(height, width, density, *size, lambda n: rng.uniform(0.15, 1, n), rng)
    return np.clip(total, 0, 1)


def physical_rain(
    value: float, exposure_ms: float, angle_deg: float, window: Window, rng: np.random.Generator
) -> np.ndarray:
    """Rain from its physics: sizes and speeds of drops, the exposure and their distance make the streaks.

    Diameters follow Marshall and Palmer, N(D) = 8000 exp(-L D) with L = 4.1 R^-0.21 a millimetre; speeds follow Atlas
    1973, v = 9.65 - 10.3 exp(-0.6 D) m/s. A drop at distance z is D f / z wide and v T f / z long, and as opaque as
    the share of the exposure T for which it covers a pixel, D / (v T) (Garg and Nayar 2006).

    Args:
        value: R, millimetres of rain an hour.
        exposure_ms: T; long exposures make long and faint streaks.
        angle_deg: Slant from the vertical; positive streaks run from upper right to lower left.
        window: Its size is the map's, its whole picture gives the focal length f.
        rng: Draws number, places and diameters of the drops.
    """
    total = np.zeros((window.height, window.width), np.float32)
    if value == 0:
        return total
    focal = min(max(window.full_height, window.full_width), LONGEST_VIEW)
    slope = 4.1 * value**-0.21
    for near, far in zip(DISTANCES, DISTANCES[1:], strict=False):
        z = (near + far) / 2
        smallest = max(0.5, THINNEST_STREAK * z / focal * 1000)
        if smallest >= LARGEST_DROP:
            break
        number = DROPS / slope * (math.exp(-slope * smallest) - math.exp(-slope * LARGEST_DROP))
        density = number * (far**3 - near**3) / (3 * focal**2)
        typical = smallest + 1 / slope
        length = fall_speed(typical) * exposure_ms / 1000 * focal / z
        width = typical / 1000 * focal / z

        def opacity(n: int, smallest: float = smallest) -> np.ndarray:
            diameter = np.minimum(smallest + rng.exponential(1 / slope, n), LARGEST_DROP)
            return PHYSICAL_GAIN * diameter / (fall_speed(diameter) * exposure_ms)

        total += min(width, 1) * _layer(*total.shape, density, length, angle_deg, max(width, 1), opacity, rng)
    return np.clip(total, 0, 1)


def fall_speed(diameter_mm: np.ndarray | float) -> np.ndarray | float:
    """Terminal velocity of a drop in metres a second (Atlas 1973), for diameters of at least 0.2 mm."""
    return 9.65 - 10.3 * np.exp(-0.6 * diameter_mm)


def _layer(
    height: int,
    width: int,
    density: float,
    length_px: float,
    angle_deg: float,
    width_px: float,
    draw_weights: Callable[[int], np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw out random points, ``density`` a pixel, by one stroke whose largest weight is one."""
    pad = line_radius(length_px, width_px, RAIN_FADE * length_px)
    drops = np.zeros((height + 2 * pad, width + 2 * pad), np.float32)
    count = rng.poisson(density * drops.size)
    if count == 0:
        return drops[pad : pad + height, pad : pad + width]
    drops.flat[rng.integers(drops.size, size=count)] = draw_weights(count)
    kernel = line_kernel(length_px, 90 + angle_deg, width_px, RAIN_FADE * length_px)
    streaks = cv2.filter2D(drops, -1, kernel, borderType=cv2.BORDER_CONSTANT)
    return streaks[pad : pad + height, pad : pad + width]


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
