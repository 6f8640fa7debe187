"""Illumination: pictures taken in the dark."""

from __future__ import annotations

import math

import numpy as np

from basicsr_unirestorer.degradations.maps import guided_filter
from basicsr_unirestorer.degradations.noise import DISPLAY_GAMMA, sensor_noise, to_display, to_linear
from basicsr_unirestorer.degradations.window import Window

LIGHT_RADIUS = 7  # pixels of the box windows that smooth the light map
LIGHT_EPS = 0.01  # variance below which the light map is taken for texture and smoothed
LIGHT_FLOOR = 0.02  # black pixels keep a trace of light


def darken(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Dim the illumination in one of three ways.

    - ``retinex``: I = J (a L)^(gamma - 1) + n. With a = 1 this is the model J / L * L^gamma + n of OneRestore; a < 1
      stands for a short exposure, without which bright walls stay bright at any gamma. L is the largest channel
      (LIME's first guess), smoothed within edges, so hue and texture outlast the darkness.
    - ``gamma``: I = b (a J)^gamma + n, the curve of MBLLEN and, with a = b = 1, of MiOIR.
    - ``linear``: what a shorter exposure does: the light before gamma 2.2 is divided by the ratio, the sensor adds shot
      and read noise, and gamma is applied again.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``mode``. For the first two ``gamma`` (1 changes nothing in ``retinex``), ``exposure`` (a), ``gain`` (b)
            and ``noise_255`` (standard deviation of n on the 0..255 scale); for ``linear`` the exposure ``ratio`` (1
            changes nothing), ``shot`` and ``read``, see ``add_camera_noise``.
        rng: Draws the noise.
        window: Unused.

    Returns:
        RGB, (h, w, 3), float32; the noise of the first two may leave [0, 1].
    """
    if params['mode'] == 'linear':
        light = to_linear(image) / np.float32(params['ratio'])
        return to_display(light + sensor_noise(light, params['shot'], params['read'], rng))
    if params['mode'] == 'gamma':
        image = np.float32(params['gain']) * (np.float32(params['exposure']) * image) ** np.float32(params['gamma'])
    elif params['gamma'] != 1:
        light = params['exposure'] * np.maximum(light_map(image), LIGHT_FLOOR)
        image = image * (light ** (params['gamma'] - 1))[..., None]
    if params['noise_255'] > 0:
        image = image + rng.standard_normal(image.shape, np.float32) * (params['noise_255'] / 255)
    return image


def darkness(params: dict) -> float:
    """State the strength as a gamma: an exposure ratio counts as the power that darkens 0.5 as much."""
    return params['gamma'] if params['mode'] != 'linear' else 1 + math.log2(params['ratio']) / DISPLAY_GAMMA


def light_map(image: np.ndarray) -> np.ndarray:
    """Estimate the illumination of (h, w, 3): the largest channel, smoothed but for its edges."""
    peak = image.max(axis=2)
    return np.clip(guided_filter(peak, peak, LIGHT_RADIUS, LIGHT_EPS), 0, 1)
