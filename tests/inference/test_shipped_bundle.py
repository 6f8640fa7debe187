"""The bundle that ships with the package restores pictures that it has never seen."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from skimage import data

import basicsr_unirestorer
from basicsr_unirestorer.degradations import DegradationRecipe, degrade, sample_rng
from basicsr_unirestorer.inference.bundle import Bundle
from basicsr_unirestorer.inference.expert_bank import size_in_bytes
from basicsr_unirestorer.inference.restorer import Restorer

FOLDER = Path(basicsr_unirestorer.__file__).parent / 'zoo' / 'universal_small'
MOST_BYTES = 12_000_000


@pytest.fixture(scope='module')
def restorer(registered):
    return Restorer.from_bundle(FOLDER)


@pytest.fixture(scope='module')
def picture():
    return np.ascontiguousarray(data.astronaut()[40:296, 100:356])  # RGB, uint8: a face before a flag


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2) / 255**2 + 1e-12))


def degraded(picture: np.ndarray, **degradations: dict) -> np.ndarray:
    record = DegradationRecipe.load({'degradations': degradations}).draw(sample_rng(0))
    return np.rint(degrade(picture.astype(np.float32) / 255, record, sample_rng(1)) * 255).astype(np.uint8)


def test_is_small_and_in_half_precision():
    assert sum(path.stat().st_size for path in FOLDER.rglob('*') if path.is_file()) <= MOST_BYTES
    weights = list(FOLDER.rglob('*.safetensors'))
    assert len(weights) == len(Bundle(FOLDER).tree.nodes) + 2
    for path in weights:
        assert {value.dtype for value in load_file(path).values() if value.is_floating_point()} == {torch.float16}


def test_the_memory_of_an_expert_is_known_before_it_is_loaded(registered):
    bundle = Bundle(FOLDER)
    assert bundle.expert_size('l1_01') == size_in_bytes(bundle.expert('l1_01'))


def test_every_network_loads_and_computes_in_float32(registered):
    bundle = Bundle(FOLDER)
    networks = [bundle.encoder(), bundle.router(), *(bundle.expert(node.name) for node in bundle.tree.nodes)]
    for network in networks:
        for parameter in network.parameters():
            assert parameter.dtype == torch.float32 and torch.isfinite(parameter).all()


def test_has_a_card_and_names_the_recipe_it_was_trained_on():
    assert 'CBSD68' in (FOLDER / 'README.md').read_text()
    assert set(Bundle(FOLDER).tree.nodes[0].labels) == set(DegradationRecipe.load('zoo').types)


@pytest.mark.parametrize(
    ('degradations', 'gain'),
    [
        ({'noise': {'sigma_255': 15}}, 7),
        ({'noise': {'sigma_255': 25}}, 9),
        ({'noise': {'sigma_255': 50}}, 11),
        ({'jpeg': {'quality_pct': 10}}, 0.5),
        ({'jpeg': {'quality_pct': 30}}, 0.5),
        ({'rain': {'value': 100}}, 3),
        ({'snow': {'size': 'M'}}, 3),
    ],
    ids=['noise 15', 'noise 25', 'noise 50', 'jpeg 10', 'jpeg 30', 'rain', 'snow'],
)
def test_improves_a_photograph(restorer, picture, degradations, gain):
    lq = degraded(picture, **degradations)
    assert psnr(restorer(lq), picture) >= psnr(lq, picture) + gain


def test_leaves_a_clean_photograph_alone(restorer, picture):
    assert psnr(restorer(picture), picture) >= 40


def test_restores_what_the_command_gives_it(picture, tmp_path):
    from basicsr_unirestorer.inference.restore_command import main

    lq = degraded(picture, noise={'sigma_255': 25})
    cv2.imwrite(str(tmp_path / 'lq.png'), lq[..., ::-1])
    assert main([str(tmp_path / 'lq.png'), str(tmp_path / 'out.png')]) == 0  # it is the default
    assert psnr(cv2.imread(str(tmp_path / 'out.png'))[..., ::-1], picture) >= psnr(lq, picture) + 9
