"""Kernels: sum, symmetry, size, direction."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr_unirestorer.degradations.kernels import blur_kernel, blur_radius, line_kernel, line_radius


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
