"""Convolution kernels: float32, odd square size, centroid in the middle."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

FAINT = 4.5  # a weight of exp(-4.5), that of a Gaussian at three standard deviations, counts as nothing
LONGEST_TAIL = 4  # standard deviations at which the heavy tails of the other kernels are cut at the latest
SHAKE_STEPS = 200


def blur_kernel(
    sigma_px: float,
    aspect: float = 1.0,
    angle_deg: float = 0.0,
    kind: str = 'gaussian',
    shape: float = 1.0,
    radius_px: int = 0,
) -> np.ndarray:
    """Make a kernel of the Gaussian family that sums to one, isotropic or anisotropic.

    With q = x^T S^-1 x and S = R diag(sx^2, sy^2) R^T the weight is exp(-q / 2) (``gaussian``), exp(-q^shape / 2)
    (``generalized``) or 1 / (1 + q^shape) (``plateau``): the kernels of BSRGAN and Real-ESRGAN. Since sx = sigma
    sqrt(aspect) and sy = sigma / sqrt(aspect), ``sigma_px`` = sqrt(sx sy) states the strength whatever the shape.

    Args:
        sigma_px: Geometric mean of both standard deviations, in pixels; 0 gives the identity.
        aspect: Longer by shorter axis, at least 1; 1 is isotropic.
        angle_deg: Direction of the longer axis, from the x axis towards the lower border.
        kind: ``'gaussian'``, ``'generalized'`` or ``'plateau'``.
        shape: Exponent of the two latter; 1 makes the generalised kernel a Gaussian.
        radius_px: Where to cut; 0 cuts where nothing is left, see ``blur_radius``.
    """
    if sigma_px == 0:
        return np.ones((1, 1), np.float32)
    stretch = math.sqrt(aspect)
    along, across = _axes(blur_radius(sigma_px, aspect, kind, shape, radius_px), angle_deg)
    weights = _bell((along / (sigma_px * stretch)) ** 2 + (across * stretch / sigma_px) ** 2, kind, shape)
    return (weights / weights.sum()).astype(np.float32)


def blur_radius(
    sigma_px: float, aspect: float = 1.0, kind: str = 'gaussian', shape: float = 1.0, radius_px: int = 0
) -> int:
    """Pixels that ``blur_kernel`` reaches from its centre."""
    if sigma_px == 0:
        return 0
    if radius_px:
        return radius_px
    tail = 3.0
    if kind != 'gaussian':
        limit = 2 * FAINT if kind == 'generalized' else math.expm1(FAINT)
        tail = min(limit ** (0.5 / shape), LONGEST_TAIL)
    return math.ceil(tail * sigma_px * math.sqrt(aspect))


def blur_spread(sigma_px: float, kind: str = 'gaussian', shape: float = 1.0, radius_px: int = 0) -> float:
    """Standard deviation along an axis of an isotropic ``blur_kernel``: ``sigma_px`` unless its tails are odd or cut.

    A generalised Gaussian of shape 0.5 blurs three times as far as its sigma says, one cut to 7 x 7 pixels less far.
    """
    if sigma_px == 0 or (kind == 'gaussian' and not radius_px):
        return sigma_px
    disc = (blur_radius(sigma_px, 1.0, kind, shape, radius_px) + 0.5) * 2 / math.sqrt(math.pi)  # as large as the square
    end = min(disc / sigma_px, 20.0)
    r = end * (np.arange(100) + 0.5) / 100
    weights = r * _bell(r * r, kind, shape)
    return float(sigma_px * math.sqrt((weights * r * r).sum() / (2 * weights.sum())))


def _bell(q: np.ndarray, kind: str, shape: float) -> np.ndarray:
    if kind == 'plateau':
        return 1 / (1 + q**shape)
    return np.exp(-0.5 * (q if kind == 'gaussian' else q**shape))


def sinc_kernel(cutoff: float, radius_px: int) -> np.ndarray:
    """Make the low-pass kernel with a round pass band, which rings at edges; it sums to one.

    Its weights are cutoff J1(cutoff r) / (2 pi r), J1 the Bessel function, and cutoff^2 / (4 pi) in the centre.

    Args:
        cutoff: Highest frequency that passes, in radians a pixel, up to pi.
        radius_px: Where to cut.
    """
    from scipy.special import j1  # here, since its import takes longer than most pictures

    x, y = _axes(radius_px, 0)
    r = np.hypot(x, y)
    r[radius_px, radius_px] = 1
    weights = cutoff * j1(cutoff * r) / (2 * math.pi * r)
    weights[radius_px, radius_px] = cutoff**2 / (4 * math.pi)
    return (weights / weights.sum()).astype(np.float32)


def disc_kernel(radius_px: float, soft_px: float) -> np.ndarray:
    """Make the kernel of a defocused round aperture that sums to one.

    Args:
        radius_px: Radius of the disc; a pixel on its rim counts by its share. 0 gives the identity.
        soft_px: Standard deviation of the Gaussian that smooths the rim.
    """
    if radius_px == 0:
        return np.ones((1, 1), np.float32)
    x, y = _axes(disc_radius(radius_px, soft_px), 0)
    weights = np.clip(radius_px + 0.5 - np.hypot(x, y), 0, 1)
    if soft_px > 0:
        weights = cv2.GaussianBlur(weights, (0, 0), soft_px, borderType=cv2.BORDER_CONSTANT)
    return (weights / weights.sum()).astype(np.float32)


def disc_radius(radius_px: float, soft_px: float) -> int:
    """Pixels that ``disc_kernel`` reaches from its centre."""
    return math.ceil(radius_px + 3 * soft_px) if radius_px else 0


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
    kernel = ends * _stroke(across, width_px)
    return (kernel / kernel.max()).astype(np.float32)


def line_radius(length_px: float, width_px: float, fade_px: float = 1.0) -> int:
    """Pixels that ``line_kernel`` reaches from its centre."""
    return math.ceil((length_px + fade_px + width_px) / 2)


def fading_line_kernel(length_px: float, angle_deg: float) -> np.ndarray:
    """Make a straight stroke that starts at full weight and fades as half a Gaussian; it sums to one.

    The Gaussian's standard deviation is ``fading_spread(length_px)``, which makes the stroke as wide, in standard
    deviations, as a uniform line of that length. ImageNet-C's blur of (radius, sigma) is that of length 2.09 sigma.

    Args:
        length_px: Length of the equally spread uniform line.
        angle_deg: Direction in which it fades, from the x axis towards the lower border.
    """
    spread = fading_spread(length_px)
    along, across = _axes(fading_line_radius(length_px), angle_deg)
    travelled = along + spread * math.sqrt(2 / math.pi)  # the mean of half a Gaussian goes to the centre
    weights = np.clip(travelled + 0.5, 0, 1) * np.exp(-0.5 * (travelled / spread) ** 2) * _stroke(across, 1.0)
    return (weights / weights.sum()).astype(np.float32)


def fading_spread(length_px: float) -> float:
    """Standard deviation of the Gaussian of ``fading_line_kernel``: of half of it remain sqrt(1 - 2 / pi)."""
    return length_px / math.sqrt(12 * (1 - 2 / math.pi))


def fading_line_radius(length_px: float) -> int:
    """Pixels that ``fading_line_kernel`` reaches from its centre."""
    return math.ceil((3 - math.sqrt(2 / math.pi)) * fading_spread(length_px)) + 1


def shake_kernel(length_px: float, path_seed: int) -> np.ndarray:
    """Make the kernel of a hand-held camera: the time it spends at each place of a random path; it sums to one.

    Args:
        length_px: Length of the whole path, bends included.
        path_seed: Decides the path.
    """
    radius = shake_radius(length_px, path_seed)
    x, y = (shake_path(path_seed) * length_px + radius).T
    kernel = np.zeros((2 * radius + 1,) * 2)
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    x, y = x - column, y - row
    for down, right, weight in ((0, 0, (1 - y) * (1 - x)), (0, 1, (1 - y) * x), (1, 0, y * (1 - x)), (1, 1, y * x)):
        np.add.at(kernel, (row + down, column + right), weight)
    return (kernel / kernel.sum()).astype(np.float32)


def shake_radius(length_px: float, path_seed: int) -> int:
    """Pixels that ``shake_kernel`` reaches from its centre."""
    return math.ceil(float(np.abs(shake_path(path_seed)).max()) * length_px) + 1


@lru_cache(maxsize=64)
def shake_path(path_seed: int) -> np.ndarray:
    """Walk at random with inertia, rare jerks and a pull back to the start (after Boracchi and Foi 2012).

    Returns:
        (x, y) at equal times, (SHAKE_STEPS, 2), with a total length of one and the mean at the origin.
    """
    rng = np.random.default_rng(path_seed)
    pushes = rng.normal(size=(SHAKE_STEPS, 2)) @ (1, 1j)
    jerks = rng.random(SHAKE_STEPS) < 0.02
    place, speed, places = 0j, pushes[0] / abs(pushes[0]), []
    for push, jerk in zip(pushes.tolist(), jerks.tolist(), strict=True):
        speed = 0.985 * speed + 0.09 * push - 0.001 * place + (1.2 * push if jerk else 0)
        place += speed
        places.append(place)
    path = np.stack([np.real(places), np.imag(places)], axis=1)
    path /= np.hypot(*np.diff(path, axis=0).T).sum()
    return path - path.mean(axis=0)


def convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve (h, w) or (h, w, c), so that a point takes the shape of the kernel; borders are mirrored."""
    kernel = np.ascontiguousarray(kernel[::-1, ::-1])  # OpenCV correlates
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def _stroke(across: np.ndarray, width_px: float) -> np.ndarray:
    return np.exp(-4 * math.log(2) * (across / width_px) ** 2)


def _axes(radius: int, angle_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across a direction, each (2 radius + 1, 2 radius + 1)."""
    angle = math.radians(angle_deg)
    steps = np.arange(-radius, radius + 1, dtype=np.float64)
    x, y = steps[None, :], steps[:, None]
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
