"""Changing the pixel grid: torch's results, anchored grids, crops that equal their picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from basicsr_unirestorer.degradations import DegradationRecord, Window, degrade, sample_rng
from basicsr_unirestorer.degradations.resizing import axis_weights, resize
from tests.degradations.samples import make_record, scene
from tests.degradations.test_crops import SIZE, WHOLE, crop_with_context

KINDS = [('bicubic', False), ('bicubic', True), ('bilinear', False), ('bilinear', True), ('area', False)]


def to_grid(scale, method='bicubic', antialias=False):
    return ('resize', {'scale': scale, 'filter': method, 'antialias': antialias})


@pytest.mark.parametrize('scale', [0.25, 0.5, 2])
@pytest.mark.parametrize('method, antialias', KINDS)
def test_agrees_with_torch_inside(scale, method, antialias):
    """At scales where both put the same number of pixels on the same grid; borders are handled differently."""
    image = scene(64, 96)
    ours = resize(image, to_grid(scale, method, antialias)[1], None, Window.whole(64, 96))
    options = {} if method == 'area' else {'align_corners': False, 'antialias': antialias}
    stack = torch.from_numpy(image.transpose(2, 0, 1))[None]
    theirs = torch.nn.functional.interpolate(stack, scale_factor=scale, mode=method, **options)[0].permute(1, 2, 0)
    assert ours.shape == tuple(theirs.shape) and ours.dtype == np.float32
    np.testing.assert_allclose(ours[4:-4, 4:-4], theirs.numpy()[4:-4, 4:-4], rtol=0, atol=1e-5)


@pytest.mark.parametrize('ratio', [0.3, 1, 1.7, 6.5])
@pytest.mark.parametrize('method, antialias', KINDS)
def test_weights_sum_to_one_and_keep_ramps(ratio, method, antialias):
    """A ramp stays nearly one: the weighted mean of the old places is near the new place's centre."""
    first, weights = axis_weights(np.arange(20), ratio, method, antialias)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    places = first[:, None] + np.arange(weights.shape[1])
    centre = (np.arange(20) + 0.5) * ratio - 0.5
    atol = 0.51 if method == 'area' and ratio < 1 else 0.17  # an area within one old pixel is that pixel
    np.testing.assert_allclose((weights * places).sum(axis=1), centre, rtol=0, atol=atol)


def test_windows_of_a_crop_and_of_its_picture_share_the_grid():
    whole, crop = Window.whole(100, 90, 'a'), Window(13, 20, 40, 30, 100, 90, 'a')
    for scale in (0.15, 0.37, 1.4):
        grid, part = whole.on_grid(scale), crop.on_grid(scale)
        assert (grid.top, grid.height, grid.full_height) == (0, np.ceil(100 * scale), np.ceil(100 * scale))
        assert part.top <= 13 * scale < part.top + 1 and part.top + part.height - 1 < 53 * scale
        assert (part.full_height, part.full_width, part.key) == (grid.height, grid.width, 'a')
        assert part.on_grid(0.5) == crop.on_grid(0.5)  # not rounded twice
        assert part.on_grid(1) is crop and grid.on_grid(1) is whole


@pytest.mark.parametrize('top, left', [(0, 0), (77, 90), (163, 201), (61, 13)])
@pytest.mark.parametrize(
    'steps',
    [
        [to_grid(0.37)],
        [to_grid(0.15, 'area')],
        [to_grid(0.5, 'bilinear', True)],
        [to_grid(1.43)],
        [('blur', {'sigma_px': 2}), to_grid(0.6, 'area'), ('haze', {}), to_grid(0.31), to_grid(1, 'bilinear')],
        [to_grid(0.45), ('blur', {'sigma_px': 1.5}), ('low_resolution', {'factor': 2}), to_grid(1.2, 'area')],
        [to_grid(0.7), ('motion_blur', {'length_px': 9}), ('ringing', {}), to_grid(1), ('defocus_blur', {})],
    ],
)
def test_crop_agrees_with_the_whole_picture_through_resize(steps, top, left):
    image, record = scene(*WHOLE), make_record(*steps)
    whole = degrade(image, record, sample_rng(9), quantize='off')[top : top + SIZE, left : left + SIZE]
    np.testing.assert_allclose(crop_with_context(image, record, top, left), whole, rtol=0, atol=2e-3)


@pytest.mark.parametrize('steps', [[to_grid(0.2)], [to_grid(0.4, 'area'), ('blur', {'sigma_px': 1})]])
def test_margin_is_needed_and_not_wasted(steps):
    image, record = scene(*WHOLE), make_record(*steps)
    whole = degrade(image, record, sample_rng(9), quantize='off')[77 : 77 + SIZE, 90 : 90 + SIZE]
    assert np.abs(crop_with_context(image, record, 77, 90, context=0) - whole).max() > 0.01
    assert record.margin <= 48


def test_jpeg_on_a_coarse_grid_has_its_blocks_there():
    """Eight coarse pixels a block, halved colours sixteen: crops and picture agree but for traces at the rim."""
    image, record = scene(*WHOLE), make_record(to_grid(0.5), ('jpeg', {'quality_pct': 10}))
    whole = degrade(image, record, sample_rng(0))[77 : 77 + SIZE, 90 : 90 + SIZE]
    assert np.abs(crop_with_context(image, record, 77, 90) - whole).mean() < 2e-3
    assert record.margin >= 2 * 16


def test_margin_counts_in_pixels_of_the_picture():
    blur = ('blur', {'sigma_px': 4, 'aspect': 1})
    assert make_record(blur).margin == 16  # 12, rounded up
    assert make_record(to_grid(0.5, 'area'), blur, to_grid(1, 'area')).margin == 32  # 1.5 + 2 * 12 + 1.5
    assert make_record(to_grid(2, 'area'), blur, to_grid(1, 'area')).margin == 8  # 0.75 + 12 / 2 + 0.75


@pytest.mark.parametrize('size', [(8, 8), (37, 53), (8, 200)])
@pytest.mark.parametrize('scale', [0.05, 0.33, 2.5])
def test_result_is_on_the_grid_of_the_picture_again(size, scale):
    image = scene(*size)
    for record in (make_record(to_grid(scale)), make_record(to_grid(scale), ('noise', {}), ('jpeg', {}), to_grid(1))):
        result = degrade(image, record, sample_rng(0))
        assert result.shape == image.shape and result.dtype == np.float32
        assert 0 <= result.min() and result.max() <= 1


def test_scale_one_is_the_identity_and_upsampling_nearly():
    image = scene()
    np.testing.assert_array_equal(degrade(image, make_record(to_grid(1)), sample_rng(0), quantize='off'), image)
    there_and_back = degrade(image, make_record(to_grid(2), to_grid(1, 'area')), sample_rng(0), quantize='off')
    assert np.abs(there_and_back - image).mean() < 0.03


def test_the_way_back_is_taken_once():
    assert len(make_record(to_grid(0.5)).steps) == 2
    assert len(make_record(to_grid(0.5), to_grid(1)).steps) == 2
    assert len(make_record(('noise', {})).steps) == 1
    assert DegradationRecord().steps == ()


def test_the_same_noise_is_coarser_on_a_coarse_grid():
    image = np.full((96, 96, 3), 0.5, np.float32)
    fine = degrade(image, make_record(('noise', {'sigma_255': 40})), sample_rng(0))
    coarse = degrade(image, make_record(to_grid(0.25), ('noise', {'sigma_255': 40})), sample_rng(0))
    steps = [np.abs(np.diff(noisy, axis=0)).mean() / noisy.std() for noisy in (fine, coarse)]
    assert steps[1] < 0.5 * steps[0]
