"""Convolution kernels: float32, odd square size, point-symmetric."""

from __future__ import annotations

import math

import cv2
import numpy as np


def gaussian_kernel(sigma_px: float, aspect: float, angle_deg: float) -> np.ndarray:
    """Make an isotropic or anisotropic Gaussian kernel that sums to one.

    The covariance is R diag(sx^2, sy^2) R^T with sx = sigma sqrt(aspect) and sy = sigma / sqrt(aspect), so
    ``sigma_px`` = sqrt(sx sy) states the strength whatever the shape. It is cut at three times the longer axis.

    Args:
        sigma_px: Geometric mean of both standard deviations, in pixels; 0 gives the identity.
        aspect: Longer by shorter axis, at least 1; 1 is isotropic.
        angle_deg: Direction of the longer axis, from the x axis towards the lower border.
    """
    if sigma_px == 0:
        return np.ones((1, 1), np.float32)
    stretch = math.sqrt(aspect)
    along, across = _axes(gaussian_radius(sigma_px, aspect), angle_deg)
    kernel = np.exp(-0.5 * ((along / (sigma_px * stretch)) ** 2 + (across * stretch / sigma_px) ** 2))
    return (kernel / kernel.sum()).astype(np.float32)


def gaussian_radius(sigma_px: float, aspect: float) -> int:
    """Pixels that ``gaussian_kernel`` reaches from its centre."""
    return math.ceil(3 * sigma_px * math.sqrt(aspect))


def line_kernel(length_px: float, angle_deg: float, width_px: float, fade_px: float = 1.0) -> np.ndarray:
    """Make a soft straight stroke through the centre whose *largest* weight is one (divide by the sum to blur).

    Args:
        length_px: Length of the stroke, between the points of half weight.
        angle_deg: Direction, from the x axis towards the lower border.
        width_px: Full width at half maximum of its Gaussian cross-section.
        fade_px: Length over which each end fades out; one pixel keeps sharp ends free of stairs.
    """
    along, across = _axes(line_radius(length_px, width_px, fade_px), angle_deg)
    ends = np.clip(((length_px + fade_px) / 2 - np.abs(along)) / fade_px, 0, 1)
    profile = np.exp(-4 * math.log(2) * (across / width_px) ** 2)
    kernel = ends * profile
    return (kernel / kernel.max()).astype(np.float32)


def line_radius(length_px: float, width_px: float, fade_px: float = 1.0) -> int:
    """Pixels that ``line_kernel`` reaches from its centre."""
    return math.ceil((length_px + fade_px + width_px) / 2)


def convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Filter (h, w) or (h, w, c) with a point-symmetric kernel; borders are mirrored. Returns a new array."""
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def _axes(radius: int, angle_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across a direction, each (2 radius + 1, 2 radius + 1)."""
    angle = math.radians(angle_deg)
    steps = np.arange(-radius, radius + 1, dtype=np.float64)
    x, y = steps[None, :], steps[:, None]
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
