"""Sensor noise: Gaussian and Poisson."""

from __future__ import annotations

import numpy as np

from basicsr_unirestorer.degradations.window import Window


def add_gaussian_noise(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Add white Gaussian noise: I = J + n, n ~ N(0, (sigma / 255)^2).

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``sigma_255`` on the 0..255 scale; ``channels``: ``'rgb'`` for independent channels, ``'grey'`` for
            one map in all three.
        rng: Draws the noise.
        window: Unused.

    Returns:
        RGB, (h, w, 3), float32; leaves [0, 1].
    """
    shape = image.shape if params['channels'] == 'rgb' else (*image.shape[:2], 1)
    return image + rng.standard_normal(shape, np.float32) * (params['sigma_255'] / 255)


def add_poisson_noise(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Add shot noise: I = J + s (Poisson(v J) / v - J).

    BasicSR and Real-ESRGAN take v from the number of distinct values in the crop, so the strength of the noise changes
    with the crop's size and content. Here v is a parameter.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``scale`` (s, strength) and ``photons`` (v, photons that a white pixel counts).
        rng: Draws the counts.
        window: Unused.

    Returns:
        RGB, (h, w, 3), float32; leaves [0, 1].
    """
    photons, scale = params['photons'], params['scale']
    counts = rng.poisson(image * photons).astype(np.float32)
    return image + scale * (counts / photons - image)
