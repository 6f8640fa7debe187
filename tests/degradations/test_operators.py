"""Operators against closed forms, identities and monotony; the pipeline's promises and messages."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr_unirestorer import degradations
from basicsr_unirestorer.degradations import DEGRADATION_TYPES, DegradationRecord, Window, degrade, sample_rng
from basicsr_unirestorer.degradations.maps import depth_map
from basicsr_unirestorer.degradations.precipitation import snow_mask
from basicsr_unirestorer.errors import DataError
from tests.degradations.samples import make_record, scene


def psnr(one, two):
    return -10 * np.log10(np.mean((one.astype(np.float64) - two) ** 2))


def apply_only(name, image, params, seed=0):
    """Run one operator alone, other parameters as drawn by default: neither clipped nor rounded."""
    params = make_record((name, params)).operations[0].params
    return DEGRADATION_TYPES[name].apply(image, params, sample_rng(seed), Window.whole(*image.shape[:2]))


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


@pytest.mark.parametrize('name', ['rain', 'snow', 'noise', 'poisson_noise'])
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
        ('blur', {'sigma_px': 0}),
        ('low_resolution', {'factor': 1}),
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
    'name, key, values',
    [
        ('low_light', 'gamma', [1.2, 1.8, 2.6, 3.5]),
        ('rain', 'value', [10, 40, 80, 150]),
        ('snow', 'size', ['S', 'M', 'L']),
        ('haze', 'beta', [0.3, 0.8, 1.5, 2.5]),
        ('motion_blur', 'length_px', [3, 8, 15, 31]),
        ('blur', 'sigma_px', [0.5, 1, 2, 4]),
        ('low_resolution', 'factor', [1.3, 2, 3, 4]),
        ('poisson_noise', 'scale', [0.3, 0.8, 1.7, 3]),
        ('noise', 'sigma_255', [5, 15, 25, 50]),
        ('jpeg', 'quality_pct', [90, 50, 25, 8]),
    ],
)
def test_psnr_falls_with_strength(name, key, values):
    """Averaged over eight seeds, since one seed may place few drops of heavy rain."""
    image = scene()
    curve = [
        np.mean([psnr(degrade(image, make_record((name, {key: value})), sample_rng(seed)), image) for seed in range(8)])
        for value in values
    ]
    assert all(weak > strong for weak, strong in zip(curve, curve[1:], strict=False)), curve


@pytest.mark.parametrize('sigma, expected', [(15, 24.61), (25, 20.17), (50, 14.15)])
@pytest.mark.parametrize('channels', ['rgb', 'grey'])
def test_gaussian_noise_has_its_sigma_and_psnr(sigma, expected, channels):
    """Unclipped: 20 log10(255 / sigma)."""
    grey = np.full((400, 400, 3), 0.5, np.float32)
    noisy = apply_only('noise', grey, {'sigma_255': sigma, 'channels': channels})
    assert noisy.dtype == np.float32
    assert np.std(noisy - grey) == pytest.approx(sigma / 255, rel=0.02)
    assert psnr(noisy, grey) == pytest.approx(expected, abs=0.05)
    assert np.allclose(noisy[..., 0], noisy[..., 1]) == (channels == 'grey')


@pytest.mark.parametrize('level', [0.2, 0.8])
def test_poisson_noise_has_its_mean_and_variance(level):
    """Var = scale^2 J / photons, and the mean stays J."""
    flat = np.full((300, 300, 3), level, np.float32)
    noise = apply_only('poisson_noise', flat, {'scale': 2.0, 'photons': 256}) - flat
    assert noise.mean() == pytest.approx(0, abs=2e-3)
    assert noise.std() == pytest.approx(2 * np.sqrt(level / 256), rel=0.02)


def test_haze_closed_form():
    params = make_record(('haze', {'beta': 1.3, 'airlight': 0.9})).operations[0].params
    image = scene(40, 60)
    depth = depth_map(
        params['horizon'], params['falloff'], params['roughness'], params['map_seed'], Window.whole(40, 60)
    )[..., None]
    t = np.exp(-1.3 * depth)
    np.testing.assert_allclose(apply_only('haze', image, params), image * t + 0.9 * (1 - t), atol=1e-6)


def test_depth_recedes_towards_the_horizon():
    depth = depth_map(0.3, 0.4, 0.0, 0, Window.whole(100, 50))
    assert depth[:30].min() == 1
    assert (np.diff(depth[31:, 0]) < 0).all()
    assert depth[-1, 0] == pytest.approx(0.4 / (0.4 + 0.995 - 0.3), rel=1e-4)


def test_low_light_rain_haze_follow_the_closed_form_in_order():
    """On a constant image (J L^(g-1) + R) t + A (1 - t), the CDD-11 order."""
    record = make_record(
        ('low_light', {'gamma': 2.5, 'exposure': 1, 'noise_255': 0}),
        ('rain', {'value': 100, 'brightness': 0.5}),
        ('haze', {'beta': 1.5, 'airlight': 0.8}),
    )
    image = np.full((64, 64, 3), 0.4, np.float32)
    result = degrade(image, record, sample_rng(5), quantize=False)
    dark, rain, haze = record.operations
    streaks = apply_only('rain', np.zeros_like(image), rain.params, seed=5)
    depth = depth_map(
        *(haze.params[key] for key in ('horizon', 'falloff', 'roughness', 'map_seed')), Window.whole(64, 64)
    )[..., None]
    t = np.exp(-1.5 * depth)
    np.testing.assert_allclose(result, (0.4 * 0.4**1.5 + streaks) * t + 0.8 * (1 - t), atol=1e-5)


def test_low_light_keeps_hue():
    image = np.broadcast_to(np.array([0.8, 0.4, 0.2], np.float32), (32, 32, 3)).copy()
    dark = apply_only('low_light', image, {'gamma': 3.0, 'exposure': 0.7, 'noise_255': 0})
    np.testing.assert_allclose(dark / dark[..., :1], image / image[..., :1], rtol=1e-4)
    assert dark.max() == pytest.approx(0.8 * 0.56**2, rel=1e-4)


def test_rain_peak_does_not_depend_on_the_drops():
    """A crop with one faint drop stays faint: nothing stretches it to white."""
    params = make_record(('rain', {'value': 3, 'brightness': 0.8})).operations[0].params
    peaks = [apply_only('rain', np.zeros((48, 48, 3), np.float32), params, seed).max() for seed in range(40)]
    assert max(peaks) <= 0.8 + 1e-6
    assert np.std([peak for peak in peaks if peak > 0]) > 0.1


def test_rain_runs_along_its_angle():
    """Upright streaks change less down a column than along a row."""
    params = make_record(('rain', {'value': 100, 'angle_deg': 0})).operations[0].params
    streaks = apply_only('rain', np.zeros((96, 96, 3), np.float32), params)[..., 0]
    assert np.abs(np.diff(streaks, axis=0)).mean() < 0.4 * np.abs(np.diff(streaks, axis=1)).mean()


def test_snow_covers_its_share_and_scales_with_the_picture():
    cover = {
        size: np.mean([snow_mask(size, 1.0, 0, Window.whole(480, 480), sample_rng(s)).mean() for s in range(4)])
        for size in 'SML'
    }
    assert 0.01 < cover['S'] < 0.05 < cover['M'] + 0.01 < 0.12 and 0.08 < cover['L'] < 0.25
    small, large = (snow_mask('S', 1.0, 0, Window(0, 0, 200, 200, side, side), sample_rng(1)) for side in (240, 720))
    runs = [np.abs(np.diff((mask > 0.2).astype(int), axis=1)).sum() / (mask > 0.2).sum() for mask in (small, large)]
    assert runs[0] > 1.5 * runs[1]  # edges a covered pixel: smaller flakes have more


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
