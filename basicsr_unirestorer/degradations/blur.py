"""Optics and motion: the Gaussian family, ringing, defocus, and motion along a line or a shaken path."""

from __future__ import annotations

import math

import numpy as np

from basicsr_unirestorer.degradations import kernels
from basicsr_unirestorer.degradations.window import Window


def blur_gaussian(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Blur with a kernel of the Gaussian family, isotropic or not.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1]; mirrored at its borders.
        params: ``sigma_px``, ``aspect``, ``angle_deg``, ``kernel``, ``shape``, ``radius_px``, see ``blur_kernel``; with
            ``across_px``, ``sigma_px`` and that are the standard deviations along and across the angle, each drawn on
            its own as BSRGAN and Real-ESRGAN do, and ``aspect`` means nothing.
        rng: Unused.
        window: Unused.
    """
    sigma, aspect, turn = blur_axes(params)
    size = (params['kernel'], params['shape'], params['radius_px'])
    return kernels.convolve(image, kernels.blur_kernel(sigma, aspect, params['angle_deg'] + turn, *size))


def blur_gaussian_reach(params: dict) -> int:
    """Pixels that ``blur_gaussian`` reaches."""
    sigma, aspect, _ = blur_axes(params)
    return kernels.blur_radius(sigma, aspect, params['kernel'], params['shape'], params['radius_px'])


def blur_axes(params: dict) -> tuple[float, float, float]:
    """Return the mean standard deviation, the aspect, and the degrees from the angle to the longer axis."""
    along, across = params['sigma_px'], params['across_px']
    if across == 0 or along == 0:
        return along, params['aspect'], 0.0
    return math.sqrt(along * across), max(along / across, across / along), 90.0 * (across > along)


def blur_strength(params: dict) -> float:
    """State the strength of the Gaussian family: how far the kernel spreads, the mean of both axes in pixels."""
    along, across = params['sigma_px'], params['across_px']
    sigma = math.sqrt(along * across) if across else along
    return kernels.blur_spread(sigma, params['kernel'], params['shape'], params['radius_px'])


def blur_ringing(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Cut off high frequencies sharply, so that edges ring, as after sharpening and in Real-ESRGAN's last step.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1]; mirrored at its borders.
        params: ``cutoff`` in radians a pixel (pi keeps nearly everything) and ``radius_px`` of the kernel.
        rng: Unused.
        window: Unused.

    Returns:
        RGB, (h, w, 3), float32; the ringing may leave [0, 1].
    """
    return kernels.convolve(image, kernels.sinc_kernel(params['cutoff'], params['radius_px']))


def blur_defocus(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Blur with a disc, as a lens out of focus does.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1]; mirrored at its borders.
        params: ``radius_px`` of the disc (0 changes nothing), ``soft_px`` of its rim, see ``disc_kernel``.
        rng: Unused.
        window: Unused.
    """
    return kernels.convolve(image, kernels.disc_kernel(params['radius_px'], params['soft_px']))


def blur_motion(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Blur along a path, as a moved camera does.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1]; mirrored at its borders.
        params: ``path``: ``'line'`` (constant speed), ``'gaussian'`` (slowing away from a sharp start, as in
            ImageNet-C) or ``'trajectory'`` (a shaking hand); ``length_px`` of the path; ``angle_deg`` of the straight
            ones, from the x axis towards the lower border; ``path_seed`` of the shaken one. The path belongs to the
            parameters, so that all crops of a picture have moved alike.
        rng: Unused.
        window: Unused.
    """
    return kernels.convolve(image, motion_kernel(params))


def motion_kernel(params: dict) -> np.ndarray:
    """Make the kernel of ``blur_motion``."""
    if params['path'] == 'trajectory':
        return kernels.shake_kernel(params['length_px'], params['path_seed'])
    if params['path'] == 'gaussian':
        return kernels.fading_line_kernel(params['length_px'], params['angle_deg'])
    kernel = kernels.line_kernel(params['length_px'], params['angle_deg'], width_px=1.0)
    return kernel / kernel.sum()


def blur_motion_reach(params: dict) -> int:
    """Pixels that ``blur_motion`` reaches."""
    if params['path'] == 'trajectory':
        return kernels.shake_radius(params['length_px'], params['path_seed'])
    if params['path'] == 'gaussian':
        return kernels.fading_line_radius(params['length_px'])
    return kernels.line_radius(params['length_px'], 1)
