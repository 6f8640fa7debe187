"""Degrading a crop and cropping the degraded picture agree."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr_unirestorer.degradations import DegradationRecord, Window, degrade, sample_rng
from tests.degradations.samples import make_record, scene

SIZE = 40
WHOLE = (203, 241)


def crop_with_context(image, record, top, left, context=None):
    """Degrade the crop at (top, left) with its margin of context, cut off afterwards."""
    margin = record.margin if context is None else context
    h, w = image.shape[:2]
    y0, x0 = max(0, top - margin), max(0, left - margin)
    y1, x1 = min(h, top + SIZE + margin), min(w, left + SIZE + margin)
    result = degrade(image[y0:y1, x0:x1], record, sample_rng(9), Window(y0, x0, y1 - y0, x1 - x0, h, w), quantize=False)
    return result[top - y0 : top - y0 + SIZE, left - x0 : left - x0 + SIZE]


@pytest.mark.parametrize('top, left', [(0, 0), (77, 90), (163, 201), (61, 13)])
@pytest.mark.parametrize(
    'steps, tolerance',
    [
        ([('haze', {'beta': 2})], 1e-6),
        ([('haze', {'beta': 2, 'depth': 'prior'})], 1e-4),
        ([('haze', {'beta': 2, 'depth': 'fractal'})], 1e-5),
        ([('low_light', {'gamma': 3, 'noise_255': 0})], 1e-4),
        ([('low_light', {'gamma': 3, 'mode': 'gamma', 'noise_255': 0})], 1e-6),
        ([('low_light', {'mode': 'linear', 'shot': 0, 'read': 0})], 1e-6),
        ([('rain', {'value': 0, 'veil': 1.0})], 1e-6),
        ([('raindrop', {'cover': 0.3, 'radius_px': 12, 'blur_px': 2})], 1e-3),
        ([('defocus_blur', {'radius_px': 6})], 1e-4),
        ([('blur', {'sigma_px': 3, 'aspect': 2})], 1e-4),
        ([('motion_blur', {'length_px': 25})], 1e-4),
        ([('motion_blur', {'length_px': 25, 'path': 'gaussian'})], 1e-4),
        ([('motion_blur', {'length_px': 40, 'path': 'trajectory'})], 1e-4),
        ([('blur', {'sigma_px': 2, 'kernel': 'generalized', 'shape': 0.5})], 1e-4),
        ([('blur', {'sigma_px': 2, 'kernel': 'plateau', 'radius_px': 7})], 1e-4),
        ([('ringing', {'cutoff': 1.2})], 1e-4),
        ([('low_resolution', {'factor': 2.37, 'filter': 'bilinear'})], 1e-3),
        ([('low_resolution', {'factor': 2.37, 'filter': 'area'})], 1e-3),
        ([('low_resolution', {'factor': 3})], 1e-3),
        ([('low_resolution', {'factor': 2.37})], 1e-3),
        ([('low_resolution', {'factor': 2.37, 'antialias': False})], 1e-3),
        ([('low_light', {'noise_255': 0}), ('haze', {}), ('motion_blur', {}), ('low_resolution', {})], 2e-3),
    ],
)
def test_crop_agrees_with_the_whole_picture(steps, tolerance, top, left):
    image, record = scene(*WHOLE), make_record(*steps)
    whole = degrade(image, record, sample_rng(9), quantize=False)[top : top + SIZE, left : left + SIZE]
    np.testing.assert_allclose(crop_with_context(image, record, top, left), whole, rtol=0, atol=tolerance)


@pytest.mark.parametrize('top, left', [(0, 0), (77, 90), (61, 13)])
@pytest.mark.parametrize('shift', [{}, {'shift_rows': 5, 'shift_columns': 14}])
def test_jpeg_blocks_lie_on_the_grid_of_the_picture(top, left, shift):
    """Identical but for traces of the colour interpolation at the crop's rim."""
    image, record = scene(*WHOLE), make_record(('jpeg', {'quality_pct': 10, **shift}))
    whole = degrade(image, record, sample_rng(0))[top : top + SIZE, left : left + SIZE]
    crop = crop_with_context(image, record, top, left)
    assert np.abs(crop - whole).mean() < 1e-3
    np.testing.assert_allclose(crop[2:-2, 2:-2], whole[2:-2, 2:-2], rtol=0, atol=1.5 / 255)


@pytest.mark.parametrize(
    'name, fixed',
    [
        ('low_light', {'noise_255': 0}),
        ('haze', {'depth': 'prior'}),
        ('raindrop', {'cover': 0.4, 'radius_px': 15}),
        ('defocus_blur', {}),
        ('motion_blur', {}),
        ('motion_blur', {'path': 'gaussian'}),
        ('motion_blur', {'path': 'trajectory', 'length_px': 40}),
        ('blur', {}),
        ('ringing', {'cutoff': 1.2}),
        ('low_resolution', {}),
        ('jpeg', {}),
    ],
)
def test_margin_is_needed(name, fixed):
    """Without context the borders come out wrong, so the tests above would notice a margin of zero."""
    image, record = scene(*WHOLE), make_record((name, fixed))
    whole = degrade(image, record, sample_rng(9), quantize=False)[77 : 77 + SIZE, 90 : 90 + SIZE]
    assert np.abs(crop_with_context(image, record, 77, 90, context=0) - whole).max() > 0.01


def test_margin_is_a_multiple_of_eight_that_adds_up():
    blur, jpeg = ('blur', {'sigma_px': 3, 'aspect': 1}), ('jpeg', {})
    assert make_record(blur).margin == 16
    assert make_record(jpeg).margin == 16
    assert make_record(blur, jpeg).margin == 32
    assert DegradationRecord().margin == 0


def test_rain_is_equally_bright_on_crops_and_on_the_whole():
    """Mean added light a pixel, over several seeds: a crop's luck averages out instead of being stretched away."""
    record = make_record(('rain', {'value': 80}))
    whole = np.mean([degrade(np.zeros((256, 256, 3), np.float32), record, sample_rng(s)).mean() for s in range(25)])
    crops = np.mean(
        [
            degrade(np.zeros((32, 32, 3), np.float32), record, sample_rng(s), Window(50, 60, 32, 32, 256, 256)).mean()
            for s in range(2000)
        ]
    )
    assert crops == pytest.approx(whole, rel=0.06)


def test_shifted_jpeg_is_the_jpeg_of_a_picture_that_was_cropped_afterwards():
    image = scene(120, 140)
    whole = degrade(image, make_record(('jpeg', {'quality_pct': 10})), sample_rng(0))
    shifted = make_record(('jpeg', {'quality_pct': 10, 'shift_rows': 3, 'shift_columns': 9}))
    cropped = degrade(np.ascontiguousarray(image[3:, 9:]), shifted, sample_rng(0))
    inside = np.s_[16:-16, 16:-16]  # blocks without padding
    np.testing.assert_allclose(cropped[inside], whole[3:, 9:][inside], rtol=0, atol=1.5 / 255)
    straight = degrade(np.ascontiguousarray(image[3:, 9:]), make_record(('jpeg', {'quality_pct': 10})), sample_rng(0))
    assert np.abs(straight[inside] - whole[3:, 9:][inside]).max() > 10 / 255


def test_webp_crops_are_about_as_damaged_as_the_picture():
    """The encoder adapts to all it is given, so this holds on average and only nearly (JPEG's grid test is exact)."""
    record, errors = make_record(('webp', {'quality_pct': 20})), []
    for seed in range(4):
        image = scene(*WHOLE, seed=seed)
        whole = degrade(image, record, sample_rng(9), quantize=False)
        for top, left in ((0, 0), (77, 90), (163, 201), (61, 13), (20, 150)):
            place = np.s_[top : top + SIZE, left : left + SIZE]
            crop = crop_with_context(image, record, top, left)
            errors.append([np.mean((result - image[place]) ** 2) for result in (crop, whole[place])])
    crops, wholes = np.mean(errors, axis=0)
    assert 0.9 < crops / wholes < 1.15
