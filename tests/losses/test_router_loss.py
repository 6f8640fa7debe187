"""The router's losses and the caption loss: closed forms and behaviour."""

from __future__ import annotations

import math

import pytest
import torch

from basicsr_unirestorer.archs.compact_encoder_arch import CaptionEncoder
from basicsr_unirestorer.losses.router_loss import CaptionContrastiveLoss, DegradationGranularityLoss, LoadBalancingLoss


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
