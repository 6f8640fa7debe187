"""Optics and motion: Gaussian blur, straight motion blur."""

from __future__ import annotations

import numpy as np

from basicsr_unirestorer.degradations.kernels import convolve, gaussian_kernel, line_kernel
from basicsr_unirestorer.degradations.window import Window


def blur_gaussian(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Blur with an isotropic or anisotropic Gaussian.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1]; mirrored at its borders.
        params: ``sigma_px``, ``aspect``, ``angle_deg``, see ``gaussian_kernel``.
        rng: Unused.
        window: Unused.
    """
    return convolve(image, gaussian_kernel(params['sigma_px'], params['aspect'], params['angle_deg']))


def blur_motion(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Blur along a straight path, as a camera panned at constant speed does.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1]; mirrored at its borders.
        params: ``length_px`` of the path and ``angle_deg``, from the x axis towards the lower border.
        rng: Unused.
        window: Unused.
    """
    kernel = line_kernel(params['length_px'], params['angle_deg'], width_px=1.0)
    return convolve(image, kernel / kernel.sum())
