"""Operators against closed forms, identities and monotony; the pipeline's promises and messages."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from basicsr_unirestorer import degradations
from basicsr_unirestorer.degradations import DEGRADATION_TYPES, DegradationRecord, Window, degrade, sample_rng
from basicsr_unirestorer.errors import DataError, OptionError
from tests.degradations.samples import apply_only, make_record, psnr, scene


def test_public_names():
    assert set(degradations.__all__) == {
        'DEGRADATION_TYPES',
        'DegradationRecipe',
        'DegradationRecord',
        'Operation',
        'Window',
        'degrade',
        'parse_caption',
        'sample_rng',
    }


def test_types_stand_in_physical_order():
    assert list(DEGRADATION_TYPES) == [
        'low_light',
        'rain',
        'snow',
        'haze',
        'raindrop',
        'defocus_blur',
        'motion_blur',
        'blur',
        'ringing',
        'low_resolution',
        'resize',
        'poisson_noise',
        'speckle_noise',
        'camera_noise',
        'noise',
        'jpeg',
        'webp',
    ]


@pytest.mark.parametrize('name', DEGRADATION_TYPES)
@pytest.mark.parametrize('size', [(8, 8), (37, 53), (8, 200), (96, 96)])
def test_operator_keeps_shape_type_range_and_input(name, size):
    image = scene(*size)
    before = image.copy()
    result = degrade(image, make_record((name, {})), sample_rng(1))
    assert result.shape == image.shape and result.dtype == np.float32
    assert result.min() >= 0 and result.max() <= 1
    np.testing.assert_array_equal(image, before)
    assert np.abs(result * 255 - np.rint(result * 255)).max() < 1e-4
    if size == (96, 96):
        assert psnr(result, image) < 45


@pytest.mark.parametrize('name', DEGRADATION_TYPES)
def test_pure_operator_never_writes_to_its_input(name):
    image = scene()
    image.setflags(write=False)
    apply_only(name, image, make_record((name, {})).operations[0].params)


@pytest.mark.parametrize('name', DEGRADATION_TYPES)
def test_same_seed_same_image(name):
    image, record = scene(), make_record((name, {}))
    one, two = (degrade(image, record, sample_rng(3, 'realise')) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize('name', ['rain', 'snow', 'noise', 'poisson_noise', 'speckle_noise', 'camera_noise'])
def test_another_seed_gives_another_realisation(name):
    image, record = scene(), make_record((name, {}))
    assert not np.array_equal(degrade(image, record, sample_rng(3)), degrade(image, record, sample_rng(4)))


@pytest.mark.parametrize(
    'name, params',
    [
        ('haze', {'beta': 0}),
        ('low_light', {'gamma': 1, 'noise_255': 0}),
        ('rain', {'value': 0}),
        ('snow', {'density': 0}),
        ('noise', {'sigma_255': 0}),
        ('poisson_noise', {'scale': 0}),
        ('speckle_noise', {'sigma_255': 0}),
        ('camera_noise', {'shot': 0, 'read': 0}),
        ('camera_noise', {'shot': 0, 'read': 0, 'light': 'linear'}),
        ('blur', {'sigma_px': 0}),
        ('blur', {'sigma_px': 0, 'kernel': 'plateau'}),
        ('defocus_blur', {'radius_px': 0}),
        ('low_resolution', {'factor': 1}),
        ('low_resolution', {'factor': 1, 'filter': 'area'}),
        ('haze', {'beta': 0, 'depth': 'prior'}),
        ('haze', {'beta': 0, 'depth': 'fractal'}),
        ('low_light', {'mode': 'gamma', 'gamma': 1, 'exposure': 1, 'noise_255': 0}),
        ('low_light', {'mode': 'linear', 'ratio': 1, 'shot': 0, 'read': 0}),
        ('rain', {'mode': 'physical', 'value': 0}),
        ('rain', {'value': 0, 'layers': 3, 'blend': 'screen'}),
        ('raindrop', {'cover': 0}),
    ],
)
def test_zero_strength_is_the_identity(name, params):
    image = scene()
    result = degrade(image, make_record((name, params)), sample_rng(0), quantize=False)
    np.testing.assert_allclose(result, image, rtol=0, atol=1e-6)


def test_best_jpeg_is_nearly_the_identity():
    y, x = np.mgrid[:96, :96] / 96
    image = np.stack([x, y, (x + y) / 2], axis=2).astype(np.float32)
    assert psnr(degrade(image, make_record(('jpeg', {'quality_pct': 100})), sample_rng(0)), image) > 40


@pytest.mark.parametrize(
    'name, fixed, key, values',
    [
        ('low_light', {}, 'gamma', [1.2, 1.8, 2.6, 3.5]),
        ('low_light', {'mode': 'gamma'}, 'gamma', [1.2, 1.8, 2.6, 3.5]),
        ('low_light', {'mode': 'linear'}, 'ratio', [2, 4, 8, 16]),
        ('rain', {}, 'value', [10, 40, 80, 150]),
        ('rain', {'layers': 3, 'blend': 'screen'}, 'value', [10, 40, 80, 150]),
        ('rain', {'mode': 'physical'}, 'value', [10, 40, 80, 150]),
        ('rain', {'value': 50}, 'veil', [0.2, 0.5, 1, 2]),
        ('snow', {}, 'size', ['S', 'M', 'L']),
        ('snow', {}, 'veil', [0.2, 0.5, 1, 2]),
        ('haze', {}, 'beta', [0.3, 0.8, 1.5, 2.5]),
        ('haze', {'depth': 'prior'}, 'beta', [0.3, 0.8, 1.5, 2.5]),
        ('haze', {'depth': 'fractal'}, 'beta', [0.3, 0.8, 1.5, 2.5]),
        ('raindrop', {'radius_px': 8}, 'cover', [0.02, 0.05, 0.1, 0.2]),
        ('defocus_blur', {}, 'radius_px', [1, 2, 4, 8]),
        ('motion_blur', {}, 'length_px', [3, 8, 15, 31]),
        ('motion_blur', {'path': 'gaussian'}, 'length_px', [3, 8, 15, 31]),
        ('motion_blur', {'path': 'trajectory'}, 'length_px', [5, 15, 30, 60]),
        ('blur', {}, 'sigma_px', [0.5, 1, 2, 4]),
        ('blur', {'kernel': 'generalized', 'shape': 0.5}, 'sigma_px', [0.5, 1, 2, 4]),
        ('blur', {'kernel': 'plateau', 'shape': 1.5}, 'sigma_px', [0.5, 1, 2, 4]),
        ('blur', {'radius_px': 10}, 'sigma_px', [0.5, 1, 2, 4]),
        ('ringing', {}, 'cutoff', [3.1, 2.4, 1.7, 1]),
        ('low_resolution', {}, 'factor', [1.3, 2, 3, 4]),
        ('low_resolution', {'filter': 'bilinear'}, 'factor', [1.3, 2, 3, 4]),
        ('low_resolution', {'filter': 'area'}, 'factor', [1.3, 2, 3, 4]),
        ('poisson_noise', {}, 'scale', [0.3, 0.8, 1.7, 3]),
        ('poisson_noise', {'scale': 1}, 'photons', [1000, 300, 100, 30]),
        ('poisson_noise', {'levels': 'distinct', 'channels': 'grey'}, 'scale', [0.3, 0.8, 1.7, 3]),
        ('speckle_noise', {}, 'sigma_255', [5, 15, 25, 50]),
        ('camera_noise', {'read': 0.01}, 'shot', [1e-3, 4e-3, 0.02, 0.08]),
        ('camera_noise', {'shot': 1e-3}, 'read', [0.01, 0.02, 0.04, 0.06]),
        ('noise', {}, 'sigma_255', [5, 15, 25, 50]),
        ('noise', {'channels': 'correlated'}, 'sigma_255', [5, 15, 25, 50]),
        ('jpeg', {}, 'quality_pct', [90, 50, 25, 8]),
        ('webp', {}, 'quality_pct', [90, 50, 25, 5]),
    ],
)
def test_psnr_falls_with_strength(name, fixed, key, values):
    """Averaged over eight seeds, since one seed may place few drops of heavy rain."""
    image = scene()
    records = [make_record((name, {**fixed, key: value})) for value in values]
    curve = [np.mean([psnr(degrade(image, one, sample_rng(seed)), image) for seed in range(8)]) for one in records]
    assert all(weak > strong for weak, strong in zip(curve, curve[1:], strict=False)), curve
    strengths = [record.operations[0].strength for record in records]
    assert key == 'veil' or sorted(strengths) in (strengths, strengths[::-1])


def test_without_antialiasing_fine_texture_turns_into_false_detail():
    y, x = np.mgrid[:96, :96]
    stripes = np.repeat((0.5 + 0.4 * np.cos(2 * np.pi * x / 3.3))[..., None], 3, axis=2).astype(np.float32)
    kept = {
        antialias: apply_only('low_resolution', stripes, {'factor': 3.0, 'antialias': antialias}).std()
        for antialias in (True, False)
    }
    assert kept[True] < 0.3 * kept[False]


def test_operations_run_in_the_order_of_the_record():
    image = scene()
    blur, noise = ('blur', {'sigma_px': 2.5}), ('noise', {'sigma_255': 40})
    smooth = degrade(image, make_record(noise, blur), sample_rng(0))
    rough = degrade(image, make_record(blur, noise), sample_rng(0))
    assert np.abs(np.diff(smooth, axis=0)).mean() < 0.5 * np.abs(np.diff(rough, axis=0)).mean()


def test_clean_record_returns_a_rounded_copy():
    image = np.full((8, 8, 3), 0.5, np.float32)
    result = degrade(image, DegradationRecord(), sample_rng(0))
    assert result is not image and result[0, 0, 0] == np.float32(128 / 255)
    unrounded = degrade(image, DegradationRecord(), sample_rng(0), quantize=False)
    assert not np.shares_memory(unrounded, image)


def with_nan():
    image = scene()
    image[3, 4, 1] = np.nan
    return image


@pytest.mark.parametrize(
    'image, message',
    [
        ((scene() * 255).astype(np.uint8), r'is uint8, expected a float32 array.*astype'),
        ([[0.5]], 'is list, expected a float32 array'),
        (scene()[..., 0], r'shape \(96, 96\), expected \(height, width, 3\)'),
        (np.zeros((16, 16, 4), np.float32), r'shape \(16, 16, 4\), expected'),
        (np.zeros((7, 20, 3), np.float32), 'is 20x7, expected at least 8x8'),
        (with_nan(), 'NaN or infinite'),
        (scene() * 255, r'values from .* to .*, expected 0 to 1; divide'),
    ],
)
def test_bad_images_are_named(image, message):
    with pytest.raises(DataError, match=message):
        degrade(image, DegradationRecord(), sample_rng(0))


def test_window_of_another_size_is_named():
    with pytest.raises(DataError, match='window is 20x10 but the image 96x96'):
        degrade(scene(), DegradationRecord(), sample_rng(0), Window(0, 0, 10, 20, 100, 100))


def test_opencv_without_webp_is_named(monkeypatch):
    def refuse(*args):
        raise cv2.error('could not find encoder for the specified extension')

    monkeypatch.setattr(cv2, 'imencode', refuse)
    with pytest.raises(OptionError, match='built without WebP, which the degradation webp needs; install'):
        degrade(scene(), make_record(('webp', {})), sample_rng(0))
