"""What is fitted to a router after training: temperatures and the reach of nodes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from basicsr_unirestorer.clustering.tree import DegradationTree


@pytest.fixture
def calibration(registered):
    from basicsr_unirestorer.models import calibration

    return calibration


def truths(probs: torch.Tensor) -> torch.Tensor:
    return torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(1))[:, 0]


@pytest.mark.parametrize('sharper', [0.25, 1.0, 6.0])
def test_the_temperature_undoes_what_over_or_underconfidence_did(calibration, sharper):
    logits = 2 * torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))
    target = truths(logits.softmax(1))
    temperature = calibration.fitted_temperature(sharper * logits, target)
    assert temperature == pytest.approx(sharper, rel=0.1)
    after = calibration.calibration_error((sharper * logits / temperature).softmax(1), target)
    assert after < 0.03
    if sharper != 1:
        assert calibration.calibration_error((sharper * logits).softmax(1), target) > 3 * after


def test_nothing_to_fit_leaves_the_logits_alone(calibration):
    assert calibration.fitted_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) == 1.0


def test_a_router_that_is_always_right_gets_a_bounded_temperature(calibration):
    temperature = calibration.fitted_temperature(torch.eye(4), torch.arange(4))
    assert 0.04 < temperature < 1


def test_calibration_error_of_known_cases(calibration):
    always = torch.tensor([[0.75, 0.25]]).expand(8, 2)
    assert calibration.calibration_error(always, torch.tensor([0] * 6 + [1] * 2)) == pytest.approx(0, abs=1e-6)
    assert calibration.calibration_error(always, torch.zeros(8, dtype=torch.int64)) == pytest.approx(0.25)


def test_reach_follows_the_spread_of_each_nodes_own_samples(calibration):
    from basicsr_unirestorer.models.routing_table import RoutingTable

    tree = DegradationTree.star(num_leaves=3, embed_dim=2)
    rng = np.random.default_rng(0)
    leaf = torch.tensor([0] * 200 + [1] * 200 + [-1] * 50)
    embedding = torch.tensor(rng.normal(size=(450, 2)), dtype=torch.float32)
    embedding[200:400] *= 3
    embedding[400:] *= 100  # the unassigned do not count
    reach = calibration.reach_of_nodes(RoutingTable(embedding, torch.zeros(450, 4), leaf), tree)
    assert reach[2] == pytest.approx(3 * reach[1], rel=0.4) and reach[1] < reach[0] < 20
    assert math.isinf(reach[3])  # no samples of its own


def test_shares_are_targets_too(calibration):
    """A gate that repeats the shares is calibrated as it is; one that exaggerates them is softened."""
    shares = (2 * torch.randn(500, 3, generator=torch.Generator().manual_seed(0))).softmax(1)
    assert calibration.fitted_temperature(shares.log(), shares) == pytest.approx(1, abs=0.01)
    assert calibration.fitted_temperature(4 * shares.log(), shares) == pytest.approx(4, abs=0.05)
    assert calibration.calibration_error(shares, shares) == pytest.approx(0, abs=1e-5)
