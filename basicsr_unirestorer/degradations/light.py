"""Illumination: pictures taken in the dark."""

from __future__ import annotations

import cv2
import numpy as np

from basicsr_unirestorer.degradations.window import Window

LIGHT_RADIUS = 7  # pixels of the box windows that smooth the light map
LIGHT_EPS = 0.01  # variance below which the light map is taken for texture and smoothed
LIGHT_FLOOR = 0.02  # black pixels keep a trace of light


def darken(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Dim the illumination: I = J (a L)^(gamma - 1) + n.

    With a = 1 this is the Retinex model J / L * L^gamma + n of OneRestore; a < 1 stands for the short exposure that
    MBLLEN's b (a J)^gamma has, without which bright walls stay bright at any gamma.

    L is the largest channel (LIME's first guess), smoothed within edges, so hue and texture outlast the darkness.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``gamma`` (1 changes nothing), ``exposure`` (a), ``noise_255`` (standard deviation of the sensor noise
            on the 0..255 scale).
        rng: Draws the noise.
        window: Unused.

    Returns:
        RGB, (h, w, 3), float32; the noise may leave [0, 1].
    """
    if params['gamma'] != 1:
        light = params['exposure'] * np.maximum(light_map(image), LIGHT_FLOOR)
        image = image * (light ** (params['gamma'] - 1))[..., None]
    if params['noise_255'] > 0:
        image = image + rng.standard_normal(image.shape, np.float32) * (params['noise_255'] / 255)
    return image


def light_map(image: np.ndarray) -> np.ndarray:
    """Estimate the illumination of (h, w, 3): the largest channel under a self-guided filter (He 2010)."""
    peak = image.max(axis=2)
    mean = _box(peak)
    variance = np.maximum(_box(peak * peak) - mean * mean, 0)
    slope = variance / (variance + LIGHT_EPS)
    return np.clip(_box(slope) * peak + _box((1 - slope) * mean), 0, 1)


def _box(values: np.ndarray) -> np.ndarray:
    side = 2 * LIGHT_RADIUS + 1
    return cv2.boxFilter(values, -1, (side, side), borderType=cv2.BORDER_REFLECT_101)
