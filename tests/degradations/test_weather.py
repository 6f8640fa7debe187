"""Light, weather and lens: closed forms, places and looks."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr_unirestorer.degradations import DEGRADATION_TYPES, Window, degrade, sample_rng
from basicsr_unirestorer.degradations.maps import depth_map, fractal_map, prior_depth
from basicsr_unirestorer.degradations.precipitation import fall_speed, physical_rain, rain_streaks, snow_mask
from basicsr_unirestorer.degradations.weather import haze_depth
from tests.degradations.samples import apply_only, make_record, scene


@pytest.mark.parametrize('depth', ['ramp', 'prior', 'fractal'])
def test_haze_closed_form(depth):
    params = make_record(('haze', {'beta': 1.3, 'airlight': 0.9, 'depth': depth})).operations[0].params
    image = scene(40, 60)
    t = np.exp(-1.3 * haze_depth(image, params, Window.whole(40, 60)))[..., None]
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


def test_low_light_by_gamma_has_its_closed_form():
    image = scene()
    dark = apply_only('low_light', image, {'mode': 'gamma', 'gamma': 2.5, 'exposure': 0.9, 'gain': 0.8, 'noise_255': 0})
    np.testing.assert_allclose(dark, 0.8 * (0.9 * image) ** 2.5, atol=1e-6)


def test_low_light_by_exposure_divides_the_light():
    """Without noise a ratio is one factor on the display scale: (x^2.2 / r)^(1 / 2.2)."""
    image = scene()
    dark = apply_only('low_light', image, {'mode': 'linear', 'ratio': 8, 'shot': 0, 'read': 0})
    np.testing.assert_allclose(dark, image * 8 ** (-1 / 2.2), atol=1e-6)
    noisy = apply_only('low_light', image, {'mode': 'linear', 'ratio': 8, 'shot': 1e-3, 'read': 1e-3})
    assert 0.005 < (noisy - dark).std() < 0.1


def test_darkness_compares_modes():
    """A ratio gets the strength of the gamma that darkens 0.5 as much."""
    strength = DEGRADATION_TYPES['low_light'].strength
    power = strength({'mode': 'linear', 'ratio': 10})
    assert 0.5**power == pytest.approx(0.5 * 10 ** (-1 / 2.2))
    assert strength({'mode': 'gamma', 'gamma': 2.5}) == 2.5


def test_screen_never_exceeds_white_and_equals_its_formula():
    image, params = scene(), {'value': 140, 'blend': 'screen', 'brightness': 1.0}
    streaks = apply_only('rain', np.zeros_like(image), {**params, 'blend': 'add'})
    rain = apply_only('rain', image, params)
    np.testing.assert_allclose(rain, 1 - (1 - image) * (1 - streaks), atol=1e-6)
    assert rain.max() <= 1 + 1e-6


@pytest.mark.parametrize('name, fixed', [('rain', {'value': 60}), ('snow', {'size': 'M'})])
def test_veil_hides_the_far_part_of_the_scene(name, fixed):
    """I = K t + A (1 - t): on black, far rows are brighter, and t is exp(-veil) at the horizon."""
    black = np.zeros((120, 80, 3), np.float32)
    clear, veiled = (apply_only(name, black, {**fixed, 'veil': veil}) for veil in (0, 1.2))
    t = np.exp(-1.2 * depth_map(0.35, 0.5, 0, 0, Window.whole(120, 80)))[..., None]
    np.testing.assert_allclose(veiled, clear * t + 0.9 * (1 - t), atol=1e-5)
    assert t[0, 0, 0] == pytest.approx(np.exp(-1.2)) and t[-1, 0, 0] > 0.5


def test_far_layers_have_more_and_shorter_streaks():
    near, far = (rain_streaks(200, 200, 30, 30, 0, 2, layers, sample_rng(1)) for layers in (1, 3))
    added = far - near  # the first layer is the same
    assert added.min() >= -1e-6 and 0 < added[near == 0].max() < near.max()
    changes = [np.abs(np.diff(m, axis=0)).sum() / m.sum() for m in (near, np.where(near == 0, added, 0))]
    assert changes[1] > 1.5 * changes[0]


def test_drops_fall_as_measured():
    """Atlas 1973: about 4, 6.5 and 9 metres a second for 1, 2 and 5 mm."""
    np.testing.assert_allclose(fall_speed(np.array([1.0, 2.0, 5.0])), [4.0, 6.5, 9.1], atol=0.1)


def test_exposure_draws_physical_rain_out_and_thins_it():
    """Four times the exposure: the same light spread over longer, fainter streaks."""
    window = Window.whole(300, 300)
    short, long = (
        np.mean([physical_rain(60, ms, 0, window, sample_rng(s)).mean() for s in range(4)]) for ms in (4, 16)
    )
    assert long == pytest.approx(short, rel=0.25)
    peaks = [np.quantile(physical_rain(60, ms, 0, window, sample_rng(0)), 0.999) for ms in (4, 16)]
    assert peaks[1] < 0.6 * peaks[0]
    runs = [
        np.abs(np.diff(physical_rain(60, ms, 0, window, sample_rng(0)), axis=0)).sum()
        / np.abs(np.diff(physical_rain(60, ms, 0, window, sample_rng(0)), axis=1)).sum()
        for ms in (4, 16)
    ]
    assert runs[1] < 0.6 * runs[0]


def test_pale_and_bright_is_far_for_the_prior():
    image = np.zeros((90, 90, 3), np.float32)
    image[:45] = (0.8, 0.85, 0.9)  # sky
    image[45:] = (0.3, 0.25, 0.05)  # earth
    depth = prior_depth(image)
    assert depth[:20].min() > 0.9 and depth[-20:].max() < 0.3
    image[70:74, 40:44] = 1  # a white thing in front is not taken for sky
    assert prior_depth(image)[72, 42] < 0.35


def test_fractal_fog_is_patchy_and_decided_by_its_seed():
    one, two = (fractal_map(seed, Window.whole(120, 160)) for seed in (1, 2))
    assert one.std() > 0.08 and 0 <= one.min() and one.max() <= 1
    assert np.abs(one - two).mean() > 0.05
    np.testing.assert_array_equal(one, fractal_map(1, Window.whole(120, 160)))


def test_raindrops_cover_their_share_and_stay_where_they_are():
    """More cover adds drops; nothing changes outside of them; the realisation has no say."""
    image = scene(240, 320)
    few, many = (apply_only('raindrop', image, {'cover': cover, 'radius_px': 10}) for cover in (0.03, 0.12))
    touched = [np.abs(result - image).max(axis=2) > 1e-6 for result in (few, many)]
    assert 0.015 < touched[0].mean() < 0.05 and 0.07 < touched[1].mean() < 0.16
    assert (touched[0] & ~touched[1]).sum() == 0
    np.testing.assert_array_equal(few, apply_only('raindrop', image, {'cover': 0.03, 'radius_px': 10}, seed=5))


def test_a_raindrop_shows_what_is_around_it_upside_down():
    """On a picture bright above and dark below, drops on the border are dark above and bright below."""
    image = np.zeros((120, 400, 3), np.float32)
    image[:60] = 0.8
    result = apply_only('raindrop', image, {'cover': 0.5, 'radius_px': 12, 'blur_px': 1.0})
    above, below = result[52:60] - 0.8, result[60:68]
    assert above.min() < -0.5 and below.max() > 0.5
    assert np.isfinite(result).all()
