"""Noise: its statistics, its channels, and BasicSR's way of counting."""

from __future__ import annotations

import numpy as np
import pytest
from basicsr.data.degradations import add_poisson_noise

from basicsr_unirestorer.degradations import DEGRADATION_TYPES, sample_rng
from basicsr_unirestorer.degradations.noise import channel_covariance, gaussian_field, to_display, to_linear
from tests.degradations.samples import apply_only, psnr, scene


def flat(level, size=300):
    return np.full((size, size, 3), level, np.float32)


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


@pytest.mark.parametrize('level', [0.2, 0.8])
def test_speckle_noise_grows_with_the_light(level):
    noise = apply_only('speckle_noise', flat(level), {'sigma_255': 25}) - flat(level)
    assert noise.std() == pytest.approx(level * 25 / 255, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize('level', [0.0, 0.1, 0.8])
def test_camera_noise_has_the_variance_of_its_model(level):
    """Var = shot x + read^2."""
    noise = apply_only('camera_noise', flat(level), {'shot': 0.01, 'read': 0.03}) - flat(level)
    assert noise.std() == pytest.approx(np.sqrt(0.01 * level + 0.03**2), rel=0.02)


def test_camera_noise_in_linear_light_is_stronger_in_the_dark():
    """There the display gamma is steep; on the display scale the ratio is the other way round."""
    params = {'shot': 1e-3, 'read': 0.005}
    spread = {
        light: [
            (apply_only('camera_noise', flat(level), {**params, 'light': light}) - flat(level)).std()
            for level in (0.15, 0.7)
        ]
        for light in ('linear', 'display')
    }
    assert spread['linear'][0] > spread['linear'][1] and spread['display'][0] < spread['display'][1]


def test_camera_strength_is_the_deviation_on_mid_grey():
    params = {'shot': 0.02, 'read': 0.04, 'light': 'display'}
    noise = apply_only('camera_noise', flat(0.5), params) - flat(0.5)
    assert DEGRADATION_TYPES['camera_noise'].strength(params) == pytest.approx(255 * noise.std(), rel=0.02)


@pytest.mark.parametrize('name', ['noise', 'speckle_noise'])
def test_correlated_noise_mixes_the_channels_at_the_same_strength(name):
    """Mean variance sigma^2 whatever the mixture; some channels vary together, unlike with rgb."""
    spread, correlation = [], []
    for seed in range(6):
        noise = apply_only(name, flat(1.0, 150), {'sigma_255': 25, 'channels': 'correlated'}, seed) - 1
        spread.append(np.sqrt(noise.var(axis=(0, 1)).mean()))
        correlation.append(np.abs(np.corrcoef(noise.reshape(-1, 3).T)[np.triu_indices(3, 1)]).max())
    np.testing.assert_allclose(spread, 25 / 255, rtol=0.02)
    assert np.mean(correlation) > 0.15


def test_correlated_field_has_its_covariance():
    covariance = channel_covariance(sample_rng(3))
    field = gaussian_field((400, 400, 3), 'correlated', sample_rng(3))
    np.testing.assert_allclose(np.cov(field.reshape(-1, 3).T), covariance, atol=0.02)
    assert np.trace(covariance) == pytest.approx(3) and np.linalg.eigvalsh(covariance).min() > -1e-9


def test_grey_poisson_noise_is_one_map():
    image = scene()
    noise = apply_only('poisson_noise', image, {'channels': 'grey'}) - image
    np.testing.assert_allclose(noise[..., 0], noise[..., 1], atol=1e-6)
    assert noise.std() > 0.01


@pytest.mark.parametrize('channels', ['rgb', 'grey'])
@pytest.mark.parametrize('levels', [5, 60])
def test_distinct_levels_give_the_noise_of_basicsr(channels, levels):
    """Few grey levels make few photons: the same spread as BasicSR's, which draws from the global generator."""
    image = np.round(scene(200, 200) * levels).astype(np.float32) / levels
    state = np.random.get_state()
    np.random.seed(0)
    try:
        theirs = add_poisson_noise(image, 1.5, clip=False, gray_noise=channels == 'grey') - image
    finally:
        np.random.set_state(state)
    ours = apply_only('poisson_noise', image, {'scale': 1.5, 'levels': 'distinct', 'channels': channels}) - image
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)


def test_poisson_strength_follows_the_photons():
    """A quarter of the photons is twice the noise, and gets the word of twice the scale."""
    strength = DEGRADATION_TYPES['poisson_noise'].strength
    assert strength({'scale': 1.2, 'photons': 256}) == 1.2
    assert strength({'scale': 1.2, 'photons': 64}) == pytest.approx(2.4)


def test_display_gamma_is_undone():
    image = scene()
    np.testing.assert_allclose(to_display(to_linear(image)), image, atol=1e-6)
