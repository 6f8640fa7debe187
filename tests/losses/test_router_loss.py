"""The router's losses and the caption loss: closed forms and behaviour."""

from __future__ import annotations

import math

import pytest
import torch

from basicsr_unirestorer.archs.compact_encoder_arch import CaptionEncoder
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.losses.router_loss import (
    CaptionContrastiveLoss,
    DegradationGranularityLoss,
    LoadBalancingLoss,
    expected_regret,
    serving_leaves,
    serving_levels,
)


def test_likelihood_is_the_gaussian_s():
    e_d, e_g, centre = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, math.log(4)]]), torch.tensor([[3.0, 2.0]])
    gauss = torch.distributions.Normal(e_d, torch.exp(e_g / 2))
    expected = -gauss.log_prob(centre).mean() - 0.5 * math.log(2 * math.pi)
    assert DegradationGranularityLoss(0.1)(e_d, e_g, centre).item() == pytest.approx(0.1 * expected.item(), rel=1e-5)


def test_the_best_variance_is_the_squared_error():
    """A far-off estimate must admit a large variance: the loss is least where exp(e_g) is the squared error."""
    error = torch.tensor([[0.5, 3.0]])
    e_g = torch.zeros(1, 2, requires_grad=True)
    optimizer = torch.optim.Adam([e_g], 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        DegradationGranularityLoss(1.0)(torch.zeros(1, 2), e_g, error).backward()
        optimizer.step()
    torch.testing.assert_close(e_g.detach().exp(), error**2, rtol=0.02, atol=0)


def test_balanced_levels_cost_nothing_and_one_sided_ones_most():
    loss = LoadBalancingLoss(1.0)
    balanced, leaning, one_sided = (
        torch.tensor([p]).expand(5, 3) for p in ([1 / 3] * 3, [0.5, 0.3, 0.2], [1.0, 0.0, 0.0])
    )
    assert loss(balanced).item() == pytest.approx(0, abs=1e-9)
    assert loss(leaning) < loss(one_sided)
    assert loss(one_sided).item() == pytest.approx(3)  # var(1, 0, 0) / mean^2 = (1/3) / (1/9)
    assert loss(torch.ones(4, 1)).item() == 0


def test_captions_pull_their_own_pictures_and_push_the_others():
    captions = ['large noise', 'thick haze', 'large noise', 'small rain']
    encoder = CaptionEncoder(embed_dim=16)
    loss = CaptionContrastiveLoss(temperature=0.1)
    right = encoder(captions).detach()
    wrong = right.roll(1, dims=0)
    assert loss(right, captions, encoder) < loss(wrong, captions, encoder)


def test_equal_captions_are_positives():
    """With one caption in the batch nothing is left to push apart."""
    encoder = CaptionEncoder(embed_dim=8)
    embeddings = torch.nn.functional.normalize(torch.ones(3, 8), dim=1)
    assert CaptionContrastiveLoss()(embeddings, ['large noise'] * 3, encoder).item() == pytest.approx(
        0.5 * math.log(3), rel=1e-5
    )  # picture side: even over its three positives; caption side: zero


def test_caption_encoder_shares_words():
    torch.manual_seed(0)
    large, small, haze = CaptionEncoder()(['large noise', 'small noise', 'thick haze'])
    assert large @ small > 0.3 > large @ haze


def test_expected_regret_of_known_choices():
    paths = torch.as_tensor(DegradationTree.star(2).paths)
    psnr = torch.tensor([[20.0, 24.0, float('nan')], [20.0, 24.0, 12.0]])
    known, torn = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    leaf, level = torch.stack([known, torn]), torch.tensor([[0.25, 0.75], [0.0, 1.0]])
    # the first loses 4 dB where it takes the root; the second 0 or 12 dB
    torch.testing.assert_close(expected_regret(leaf, level, psnr, paths), torch.tensor([1.0, 6.0]))


def test_expected_regret_teaches_the_best_node():
    """An unknown leaf: descending the loss finds the one node that serves best."""
    paths = torch.as_tensor(DegradationTree.star(3).paths)
    psnr = torch.tensor([[20.0, 18.0, 21.0, 15.0]])
    leaf, level = torch.zeros(1, 3, requires_grad=True), torch.zeros(1, 2, requires_grad=True)
    optimizer = torch.optim.Adam([leaf, level], 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        loss = expected_regret(leaf.softmax(1), level.softmax(1), psnr, paths).mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.05 and leaf.argmax() == 1 and level.argmax() == 1


def test_a_leaf_that_only_harms_teaches_the_root():
    paths = torch.as_tensor(DegradationTree.star(2).paths)
    level = torch.zeros(1, 2, requires_grad=True)
    expected_regret(torch.tensor([[1.0, 0.0]]), level.softmax(1), torch.tensor([[11.6, 9.1, 30.0]]), paths).backward()
    assert level.grad[0, 0] < 0 < level.grad[0, 1]  # downhill is towards level 0


def test_levels_serve_by_what_they_reach():
    paths = torch.as_tensor(DegradationTree.star(2).paths)
    nan = float('nan')
    psnr = torch.tensor([[20.0, 20.0, nan], [20.0, nan, 30.0], [20.0, 30.0, 10.0]])
    leaf = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    shares = serving_levels(leaf, psnr, paths)
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.5, 0.5]]), atol=1e-6, rtol=0)
    softer = serving_levels(leaf, psnr, paths, temperature_db=10.0)
    assert softer[1, 1] == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-4)


def test_a_leaf_stays_unless_another_serves_better():
    paths = torch.as_tensor(DegradationTree.star(3).paths)  # root 0 -> leaves 1, 2, 3
    nan = float('nan')
    psnr = torch.tensor(
        [
            [20.0, 25.0, 25.4, 15.0],  # better by less than the margin
            [20.0, 25.0, 25.6, 15.0],  # by more
            [20.0, 12.0, 15.0, 19.0],  # the root serves best, which is on every path
            [20.0, 12.0, nan, nan],  # not every expert was tried
            [20.0, 12.0, 15.0, 30.0],  # outside the assignment
            [20.0, 12.0, 15.0, 19.0],  # the same, and the root is best: the best of the leaves
        ]
    )
    leaf = torch.tensor([0, 0, 0, 0, -1, -1])
    assert serving_leaves(leaf, psnr, paths).tolist() == [0, 1, 0, 0, 2, 2]
    assert serving_leaves(leaf, psnr, paths, margin_db=0.1).tolist()[0] == 1
