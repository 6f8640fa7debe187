"""Weather between scene and lens: rain, snow, haze."""

from __future__ import annotations

import numpy as np

from basicsr_unirestorer.degradations.maps import depth_map, rain_streaks, snow_mask
from basicsr_unirestorer.degradations.window import Window


def add_rain(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Add grey streaks: I = J + brightness * S, S from ``rain_streaks``.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``value`` (density), ``length_px``, ``width_px``, ``angle_deg`` (from the vertical), ``brightness``
            (light that the brightest drop adds).
        rng: Draws the drops, on this crop alone: crops of one picture have rain of one kind, not the same drops.
        window: Unused.

    Returns:
        RGB, (h, w, 3), float32; may exceed 1.
    """
    streaks = rain_streaks(
        *image.shape[:2], params['value'], params['length_px'], params['angle_deg'], params['width_px'], rng
    )
    return image + params['brightness'] * streaks[..., None]


def add_snow(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Lay flakes over the scene: I = a z + J (1 - z), z from ``snow_mask`` (model of DesnowNet and Snow100K).

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``size`` (``'S'``, ``'M'`` or ``'L'``), ``density``, ``angle_deg`` (from the vertical), ``brightness``
            (a, grey level of a flake).
        rng: Draws the flakes, on this crop alone.
        window: Its whole picture scales the flakes.
    """
    mask = snow_mask(params['size'], params['density'], params['angle_deg'], window, rng)[..., None]
    return params['brightness'] * mask + image * (1 - mask)


def add_haze(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Scatter light on the way: I = J t + A (1 - t), t = exp(-beta d), d from ``depth_map``.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``beta`` (0 changes nothing), ``airlight`` (A, grey), ``horizon``, ``falloff``, ``roughness``,
            ``map_seed``, see ``depth_map``.
        rng: Unused: the depth belongs to the picture, so every crop and every epoch sees the same scene.
        window: Place of the crop in the picture's depth.
    """
    depth = depth_map(params['horizon'], params['falloff'], params['roughness'], params['map_seed'], window)
    transmission = np.exp(-params['beta'] * depth)[..., None]
    return image * transmission + params['airlight'] * (1 - transmission)
