"""Metrics: BasicSR's own numbers, on the picture that a file would hold; LPIPS and DISTS only where installed."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from basicsr_unirestorer.errors import DataError, OptionError, UniRestorerError
from basicsr_unirestorer.inference import metrics
from tests.inference.report_samples import noisy, smooth_picture

RGB = {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': False}


def unit(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float32) / 255


def test_to_uint8_clamps_and_rounds():
    picture = np.float32([[[-1.0, 0.5, 2.0]]])
    assert metrics.to_uint8(picture).tolist() == [[[0, 128, 255]]]


def test_psnr_follows_its_formula(registered):
    clean = smooth_picture(0)
    restored = noisy(clean)
    mse = np.mean((restored.astype(float) - clean) ** 2)
    values = metrics.measure({'psnr': RGB, 'border': {**RGB, 'crop_border': 4}}, unit(restored), clean)
    assert values['psnr'] == pytest.approx(10 * np.log10(255**2 / mse), abs=1e-6)
    inner = np.mean((restored.astype(float) - clean)[4:-4, 4:-4] ** 2)
    assert values['border'] == pytest.approx(10 * np.log10(255**2 / inner), abs=1e-6)
    assert metrics.measure({'psnr': RGB}, unit(clean), clean)['psnr'] == float('inf')


def test_y_channel_weighs_red_green_and_blue_apart(registered):
    """BT.601: an error in blue counts least. BasicSR takes BGR, so exchanged channels would show here."""
    clean = np.full((16, 16, 3), 100, np.uint8)
    values = []
    for channel in range(3):
        restored = clean.copy()
        restored[..., channel] += 20
        values.append(metrics.measure({'y': {**RGB, 'test_y_channel': True}}, unit(restored), clean)['y'])
    for weight, value in zip((65.481, 128.553, 24.966), values, strict=True):
        assert value == pytest.approx(20 * np.log10(255 / (20 * weight / 255)), abs=0.01)


def test_mean_alignment_forgives_a_wrong_brightness(registered):
    clean = smooth_picture(0) // 2 + 40
    dark = unit(clean) * 0.5
    plain, aligned = (metrics.measure({'p': {**RGB, 'mean_align': on}}, dark, clean)['p'] for on in (False, True))
    assert aligned > plain + 15
    black = np.zeros(clean.shape, np.float32)
    assert np.isfinite(metrics.measure({'p': {**RGB, 'mean_align': True}}, black, clean)['p'])


def test_ssim_by_basicsr_and_by_scikit_image(registered):
    from skimage.metrics import structural_similarity

    clean = smooth_picture(0)
    restored = noisy(clean)
    block = {'ssim': {'type': 'calculate_ssim'}, 'win7': {'type': 'structural_similarity'}}
    values = metrics.measure(block, unit(restored), clean)
    assert values['win7'] == pytest.approx(structural_similarity(restored, clean, channel_axis=2, data_range=255))
    assert 0 < values['ssim'] < 1 and values['ssim'] != pytest.approx(values['win7'], abs=1e-4)
    assert metrics.measure(block, unit(clean), clean) == pytest.approx({'ssim': 1, 'win7': 1})


def test_unequal_sizes_and_wrong_blocks_are_one_sentence(registered):
    with pytest.raises(DataError, match='64x48 pixels into one of 32x48'):
        metrics.measure({'psnr': RGB}, unit(smooth_picture(0, 48, 32)), smooth_picture(0))
    with pytest.raises(OptionError, match="Did you mean 'crop_border'"):
        metrics.check_metrics({'psnr': {**RGB, 'crop_boarder': 1}}, 'metrics')
    with pytest.raises(OptionError, match="Option 'metrics.psnr.type' is missing"):
        metrics.check_metrics({'psnr': {'crop_border': 1}}, 'metrics')
    with pytest.raises(OptionError, match="no extra metric 'niqe'; choose among lpips, dists"):
        metrics.perceptual_metrics(['niqe'])


@pytest.fixture
def no_cache():
    metrics.perceptual_network.cache_clear()
    yield
    metrics.perceptual_network.cache_clear()


def test_missing_library_is_one_sentence(monkeypatch, no_cache):
    for name in ('torchmetrics', 'torchmetrics.image', 'torchmetrics.image.lpip', 'torchmetrics.image.dists'):
        monkeypatch.setitem(sys.modules, name, None)
    for name in metrics.PERCEPTUAL:
        with pytest.raises(UniRestorerError, match=rf'{name.upper()} needs torchmetrics.*\[perceptual\]'):
            metrics.perceptual_metrics([name])


@pytest.mark.parametrize(
    ('name', 'module', 'kind', 'given'),
    [
        ('lpips', 'lpip', 'LearnedPerceptualImagePatchSimilarity', {'net_type': 'alex', 'normalize': True}),
        ('dists', 'dists', 'DeepImageStructureAndTextureSimilarity', {}),
    ],
)
def test_library_gets_unit_range_rgb(monkeypatch, no_cache, name, module, kind, given):
    """A stand-in for torchmetrics that records what it gets and returns the mean difference."""
    seen = []

    class Stand(torch.nn.Module):
        def __init__(self, **options):
            super().__init__()
            assert options == given

        def forward(self, one, other):
            seen.append((one, other))
            return (one - other).abs().mean()

    stand = ModuleType(f'torchmetrics.image.{module}')
    setattr(stand, kind, Stand)
    for package in ('torchmetrics', 'torchmetrics.image'):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.setitem(sys.modules, stand.__name__, stand)
    clean = smooth_picture(0)
    value = metrics.measure(metrics.perceptual_metrics([name]), unit(noisy(clean)), clean)[name]
    one, other = seen[-1]
    assert (
        one.shape == (1, 3, 48, 64) and np.array_equal(other[0].permute(1, 2, 0), unit(clean)) and float(one.max()) <= 1
    )
    assert value == pytest.approx(float((one - other).abs().mean()))


def test_network_that_cannot_be_fetched_is_one_sentence(monkeypatch, no_cache):
    class Offline:
        def __init__(self, **options):
            raise OSError('no route to host')

    stand = ModuleType('torchmetrics.image.dists')
    stand.DeepImageStructureAndTextureSimilarity = Offline
    for package in ('torchmetrics', 'torchmetrics.image'):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.setitem(sys.modules, stand.__name__, stand)
    with pytest.raises(UniRestorerError, match='could not be fetched .no route to host.; run it once with a network'):
        metrics.perceptual_metrics(['dists'])
