"""Self-ensemble: the mean over eight orientations, which does not depend on the orientation that came in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from basicsr_unirestorer.inference.restorer import Restorer
from basicsr_unirestorer.inference.self_ensemble import self_ensembled


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False)


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (8, 8), (7, 12)])
def test_every_orientation_is_restored_and_turned_back(size, network):
    lq, seen = torch.rand(2, 3, *size), []

    def run(view: torch.Tensor) -> torch.Tensor:
        seen.append(view)
        return network(view)

    mean = self_ensembled(run, lq)
    assert mean.shape == lq.shape and len(seen) == 8
    if min(size) > 1:
        assert len({view.numpy().tobytes() for view in seen}) == 8
    torch.testing.assert_close(self_ensembled(lambda view: view, lq), lq)


def test_turning_the_picture_turns_the_result(network):
    lq = torch.rand(1, 3, 6, 9)
    whole = self_ensembled(network, lq)
    assert not torch.allclose(torch.rot90(network(lq), 1, (2, 3)), network(torch.rot90(lq, 1, (2, 3))))
    torch.testing.assert_close(self_ensembled(network, torch.rot90(lq, 1, (2, 3))), torch.rot90(whole, 1, (2, 3)))
    torch.testing.assert_close(self_ensembled(network, lq.flip(3)), whole.flip(3))


def test_a_picture_is_routed_once_and_restored_in_all_orientations(smoke_demo):
    image = 0.35 + 0.3 * np.random.default_rng(0).random((40, 56, 3), np.float32)  # nothing is clipped
    plain, ensemble = (
        Restorer.from_bundle(smoke_demo / 'bundle', self_ensemble=wanted, level=0) for wanted in (False, True)
    )
    eight = [
        np.rot90(plain(np.ascontiguousarray(np.rot90(view, turns))), -turns)
        for view in (image, image[:, ::-1])
        for turns in range(4)
    ]
    expected = np.mean([*eight[:4], *(view[:, ::-1] for view in eight[4:])], axis=0)
    restored, decision = ensemble.restore(image)
    assert decision.expert == 'l0_00'
    np.testing.assert_allclose(restored, expected, atol=1e-4)
    assert np.abs(restored - plain(image)).max() > 1e-4
