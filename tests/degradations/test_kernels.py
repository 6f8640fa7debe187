"""Kernels: sum, symmetry, size, direction, and the numbers of BasicSR's."""

from __future__ import annotations

import numpy as np
import pytest
from basicsr.data import degradations as theirs

from basicsr_unirestorer.degradations import DEGRADATION_TYPES, sample_rng
from basicsr_unirestorer.degradations.blur import blur_motion_reach, motion_kernel
from basicsr_unirestorer.degradations.kernels import (
    blur_kernel,
    blur_radius,
    blur_spread,
    convolve,
    disc_kernel,
    disc_radius,
    fading_line_kernel,
    fading_spread,
    line_kernel,
    line_radius,
    shake_kernel,
    shake_path,
    shake_radius,
    sinc_kernel,
)

FAMILY = [
    blur_kernel(2.3, 2.0, 30, 'generalized', 0.5),
    blur_kernel(2.3, 2.0, 30, 'generalized', 3.0),
    blur_kernel(2.3, 2.0, 30, 'plateau', 1.0),
    blur_kernel(2.3, 2.0, 30, 'plateau', 2.0),
    blur_kernel(2.3, radius_px=5),
    sinc_kernel(1.0, 10),
    sinc_kernel(3.14, 3),
    disc_kernel(0, 0.5),
    disc_kernel(3.3, 0.5),
    disc_kernel(8, 0),
    *(fading_line_kernel(length, angle) for length, angle in ((1, 0), (6, 33), (16, 200), (31, 90))),
    *(shake_kernel(length, seed) for length in (1, 10, 60) for seed in (0, 1, 2**31 - 1)),
]


@pytest.mark.parametrize('kernel', FAMILY)
def test_kernel_sums_to_one_is_odd_and_centred(kernel):
    side = len(kernel)
    assert kernel.dtype == np.float32 and kernel.shape == (side, side) and side % 2 == 1
    assert kernel.sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    steps = np.arange(side) - side // 2
    assert abs((kernel.sum(0) * steps).sum()) < 0.5 and abs((kernel.sum(1) * steps).sum()) < 0.5


def size_21(kernel):
    """Pad to BasicSR's 21 pixels."""
    return np.pad(kernel, (21 - len(kernel)) // 2)


@pytest.mark.parametrize('radius', [3, 7, 10])
@pytest.mark.parametrize('sigma, aspect, angle', [(0.7, 1, 0), (2.0, 1, 0), (1.6, 2.5, 40), (2.4, 1.7, -70)])
@pytest.mark.parametrize('kind, shape', [('gaussian', 1), ('generalized', 0.6), ('generalized', 3), ('plateau', 1.5)])
def test_family_equals_that_of_basicsr(kind, shape, sigma, aspect, angle, radius):
    long, short, isotropic = sigma * aspect**0.5, sigma / aspect**0.5, aspect == 1
    args = (2 * radius + 1, long, short, np.deg2rad(angle))
    if kind == 'gaussian':
        expected = theirs.bivariate_Gaussian(*args, isotropic=isotropic)
    elif kind == 'generalized':
        expected = theirs.bivariate_generalized_Gaussian(*args, shape, isotropic=isotropic)
    else:
        expected = theirs.bivariate_plateau(*args, shape, isotropic=isotropic)
    np.testing.assert_allclose(blur_kernel(sigma, aspect, angle, kind, shape, radius), expected, atol=1e-6)


@pytest.mark.parametrize('cutoff', [np.pi / 3, 2.0, np.pi])
@pytest.mark.parametrize('radius', [3, 10])
def test_sinc_equals_that_of_basicsr(cutoff, radius):
    np.testing.assert_allclose(
        sinc_kernel(cutoff, radius), theirs.circular_lowpass_kernel(cutoff, 2 * radius + 1), atol=1e-6
    )


def test_generalised_kernel_of_shape_one_is_gaussian():
    np.testing.assert_allclose(
        blur_kernel(2, 1.5, 20, 'generalized', 1.0), blur_kernel(2, 1.5, 20, 'gaussian'), atol=1e-7
    )


@pytest.mark.parametrize(
    'kind, shape, radius',
    [('gaussian', 1, 0), ('gaussian', 1, 4), ('generalized', 0.5, 0), ('generalized', 2, 0), ('plateau', 1, 10)],
)
def test_spread_is_that_of_the_kernel(kind, shape, radius):
    kernel = blur_kernel(3.0, kind=kind, shape=shape, radius_px=radius)
    steps = np.arange(len(kernel)) - len(kernel) // 2
    measured = np.sqrt((kernel.sum(axis=0) * steps**2).sum())
    assert blur_spread(3.0, kind, shape, radius) == pytest.approx(measured, rel=0.03)


def test_disc_has_its_area_and_a_soft_rim():
    kernel = disc_kernel(6.0, 0.5)
    assert len(kernel) == 2 * disc_radius(6.0, 0.5) + 1
    middle = len(kernel) // 2
    assert 1 / kernel[middle, middle] == pytest.approx(np.pi * 36, rel=0.03)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-7)
    rim = kernel[middle, middle + 5 : middle + 8] / kernel[middle, middle]
    assert 1 > rim[0] > rim[1] > rim[2] > 0


def test_fading_line_starts_sharp_and_fades_in_its_direction():
    """Angle 0 fades to the right; a line of the same length has the same standard deviation."""
    kernel = fading_line_kernel(20, 0)
    profile = kernel.sum(axis=0)
    start = int(np.argmax(profile > 0.5 * profile.max()))
    assert profile[: start - 1].max() < 1e-6
    assert (np.diff(profile[start + 1 :]) <= 1e-9).all()
    steps = np.arange(len(profile)) - len(profile) // 2
    assert np.sqrt((profile * steps**2).sum() - (profile * steps).sum() ** 2) == pytest.approx(20 / 12**0.5, rel=0.05)
    assert fading_spread(20.9) == pytest.approx(10, rel=0.01)  # ImageNet-C's sigma


def test_point_takes_the_shape_of_the_kernel():
    """Convolution, not correlation: an uneven kernel must not come out turned by half a turn."""
    kernel = fading_line_kernel(9, 30)
    point = np.zeros((61, 61), np.float32)
    point[30, 30] = 1
    r = len(kernel) // 2
    np.testing.assert_allclose(convolve(point, kernel)[30 - r : 31 + r, 30 - r : 31 + r], kernel, atol=1e-7)
    assert np.abs(kernel - kernel[::-1, ::-1]).max() > 0.02


def test_shaken_path_has_unit_length_bends_and_belongs_to_its_seed():
    path = shake_path(11)
    assert np.hypot(*np.diff(path, axis=0).T).sum() == pytest.approx(1)
    assert np.hypot(*(path[-1] - path[0])) < 0.95
    assert not np.allclose(path, shake_path(12))
    spans = [np.ptp(shake_path(seed), axis=0).max() for seed in range(40)]
    assert 0.25 < np.median(spans) < 0.8  # neither a dot nor a line
    assert shake_kernel(40, 11).shape[0] == 2 * shake_radius(40, 11) + 1 > shake_kernel(10, 11).shape[0]


@pytest.mark.parametrize('path', ['line', 'gaussian', 'trajectory'])
def test_motion_reaches_as_far_as_it_says(path):
    kind = DEGRADATION_TYPES['motion_blur']
    for seed in range(10):
        params = kind.draw({'path': path}, sample_rng(seed))
        assert len(motion_kernel(params)) == 2 * blur_motion_reach(params) + 1


@pytest.mark.parametrize('sigma, aspect, angle', [(0, 1, 0), (0.3, 1, 0), (1.7, 1, 0), (2.5, 2, 30), (4, 2.5, 135)])
def test_gaussian_kernel_is_normalised_odd_and_point_symmetric(sigma, aspect, angle):
    kernel = blur_kernel(sigma, aspect, angle)
    assert kernel.dtype == np.float32
    assert kernel.shape == (2 * blur_radius(sigma, aspect) + 1,) * 2
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-9)
    if aspect == 1:
        np.testing.assert_allclose(kernel, kernel.T, atol=1e-9)


@pytest.mark.parametrize('angle', [0, 90])
def test_gaussian_kernel_has_its_spread_along_each_axis(angle):
    """Standard deviations sigma sqrt(aspect) and sigma / sqrt(aspect), swapped by a quarter turn."""
    kernel = blur_kernel(2.0, 2.25, angle)
    steps = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
    spread = [np.sqrt((kernel.sum(axis=axis) * steps**2).sum()) for axis in (0, 1)]  # x, y
    expected = [3.0, 4 / 3] if angle == 0 else [4 / 3, 3.0]
    np.testing.assert_allclose(spread, expected, rtol=0.03)


@pytest.mark.parametrize('length, angle, width', [(1, 0, 1), (5, 0, 1), (15, 37, 1), (30, 120, 3)])
def test_line_kernel_is_odd_symmetric_with_peak_one_and_fades_out_inside(length, angle, width):
    kernel = line_kernel(length, angle, width)
    assert kernel.shape == (2 * line_radius(length, width) + 1,) * 2
    assert kernel.max() == 1 and kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] == 1
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)
    border = np.concatenate([kernel[0], kernel[-1], kernel[:, 0], kernel[:, -1]])
    assert border.max() <= 0.51


def test_line_kernel_follows_length_and_direction():
    kernel = line_kernel(21, 0, 1)
    middle = kernel.shape[0] // 2
    assert kernel[middle].sum() == pytest.approx(21, abs=0.1)
    np.testing.assert_allclose(line_kernel(21, 90, 1), kernel.T, atol=1e-6)
    y, x = np.nonzero(line_kernel(21, 45, 1) > 0.5)
    np.testing.assert_array_equal(y, x)  # from the upper left towards the lower right
