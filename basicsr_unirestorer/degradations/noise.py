"""Sensor noise: Gaussian, Poisson, speckle and the heteroscedastic noise of a camera."""

from __future__ import annotations

import math

import numpy as np

from basicsr_unirestorer.degradations.window import Window

DISPLAY_GAMMA = 2.2
GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # of RGB, ITU-R BT.601


def add_gaussian_noise(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Add white Gaussian noise: I = J + n, n ~ N(0, (sigma / 255)^2).

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``sigma_255`` on the 0..255 scale; ``channels``, see ``gaussian_field``.
        rng: Draws the noise.
        window: Unused.

    Returns:
        RGB, (h, w, 3), float32; leaves [0, 1].
    """
    return image + gaussian_field(image.shape, params['channels'], rng) * np.float32(params['sigma_255'] / 255)


def add_speckle_noise(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Add noise in proportion to the light: I = J + J n, n ~ N(0, (sigma / 255)^2).

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``sigma_255`` on a white pixel, on the 0..255 scale; ``channels``, see ``gaussian_field``.
        rng: Draws the noise.
        window: Unused.

    Returns:
        RGB, (h, w, 3), float32; leaves [0, 1].
    """
    field = gaussian_field(image.shape, params['channels'], rng)
    return image + image * field * np.float32(params['sigma_255'] / 255)


def gaussian_field(shape: tuple[int, int, int], channels: str, rng: np.random.Generator) -> np.ndarray:
    """Draw noise of unit variance, (h, w, 3) or, where all channels are equal, (h, w, 1), float32.

    Args:
        shape: (h, w, 3).
        channels: ``'rgb'`` for independent channels, ``'grey'`` for one map in all three, ``'correlated'`` for BSRGAN's
            random mixture: covariance |U^T D U| with D diagonal of U(0, 1) and U a random rotation. BSRGAN leaves the
            size of that covariance to chance; here the mean variance of the channels is one, so that ``sigma_255``
            means the same for all three kinds.
        rng: Draws the mixture and the noise.
    """
    if channels == 'grey':
        return rng.standard_normal((*shape[:2], 1), np.float32)
    if channels == 'rgb':
        return rng.standard_normal(shape, np.float32)
    covariance = channel_covariance(rng)
    values, vectors = np.linalg.eigh(covariance)
    mixing = (vectors * np.sqrt(np.maximum(values, 0))).T.astype(np.float32)  # white noise @ mixing is correlated
    return rng.standard_normal(shape, np.float32) @ mixing


def channel_covariance(rng: np.random.Generator) -> np.ndarray:
    """Draw BSRGAN's covariance of the three channels, (3, 3), scaled to a mean variance of one."""
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    covariance = np.abs(rotation.T @ np.diag(rng.uniform(0, 1, 3)) @ rotation)
    return covariance * (3 / np.trace(covariance))


def add_poisson_noise(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Add shot noise: I = J + s (Poisson(v J) / v - J).

    BasicSR and Real-ESRGAN take v from the number of distinct values in the crop, so the strength of the noise changes
    with the crop's size and content. Here v is a parameter unless ``levels`` asks for theirs.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``scale`` (s), ``photons`` (v, photons that a white pixel counts), ``levels``: ``'fixed'`` or
            ``'distinct'`` (v by the count of BasicSR), ``channels``: ``'rgb'``, or ``'grey'`` for the noise of the grey
            picture in all three.
        rng: Draws the counts.
        window: Unused.

    Returns:
        RGB, (h, w, 3), float32; leaves [0, 1].
    """
    light = image if params['channels'] == 'rgb' else (image @ GREY_WEIGHTS)[..., None]
    light = np.clip(light, 0, None)  # a chain may hand over values that are not clipped
    photons = params['photons'] if params['levels'] == 'fixed' else distinct_levels(light)
    counts = rng.poisson(light * np.float32(photons)).astype(np.float32)
    return image + np.float32(params['scale']) * (counts / np.float32(photons) - light)


def distinct_levels(image: np.ndarray) -> int:
    """Count the distinct 8-bit values of an image and take the next power of two, as BasicSR does."""
    seen = np.bincount(np.rint(image * 255).astype(np.uint8).reshape(-1), minlength=256)
    return 2 ** math.ceil(math.log2(np.count_nonzero(seen)))


def add_camera_noise(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Add noise that grows with the light: n(x) ~ N(0, shot x + read^2), as CBDNet and Brooks 2019 model sensors.

    CBDNet draws ``shot`` from [0, 0.16] and ``read`` from [0, 0.06]. Brooks draws ``shot`` from [1e-4, 0.012] in its
    logarithm, in linear light, and ties ``read`` to it; here both are drawn on their own, so only his ranges match.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``shot`` (variance of a white pixel's photon noise), ``read`` (standard deviation of the electronics),
            ``light``: what x is, ``'display'`` the picture itself, ``'linear'`` its light before gamma 2.2.
        rng: Draws the noise.
        window: Unused.

    Returns:
        RGB, (h, w, 3), float32; leaves [0, 1] unless the light is linear.
    """
    if params['light'] == 'display':
        return image + sensor_noise(image, params['shot'], params['read'], rng)
    linear = to_linear(image)
    return to_display(linear + sensor_noise(linear, params['shot'], params['read'], rng))


def sensor_noise(light: np.ndarray, shot: float, read: float, rng: np.random.Generator) -> np.ndarray:
    """Draw n ~ N(0, shot x + read^2) for light x of at least 0; float32 of the same shape."""
    deviation = np.sqrt(np.float32(shot) * np.maximum(light, 0) + np.float32(read * read))
    return deviation * rng.standard_normal(light.shape, np.float32)


def camera_sigma_255(params: dict) -> float:
    """Standard deviation of camera noise on mid-grey (0.5, in linear light for that kind), on the 0..255 scale."""
    return 255 * math.sqrt(params['shot'] / 2 + params['read'] ** 2)


def to_linear(image: np.ndarray) -> np.ndarray:
    """Undo the display gamma of a picture in [0, 1]."""
    return np.maximum(image, 0) ** np.float32(DISPLAY_GAMMA)


def to_display(light: np.ndarray) -> np.ndarray:
    """Apply the display gamma to linear light, clipped to [0, 1]."""
    return np.clip(light, 0, 1) ** np.float32(1 / DISPLAY_GAMMA)
