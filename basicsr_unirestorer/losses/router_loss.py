"""The router's own losses (UniRestorer, section 3) and the caption loss that teaches the degradation encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.archs.router_arch import node_probs


@LOSS_REGISTRY.register()
class DegradationGranularityLoss(nn.Module):
    """L_dg: negative log-likelihood of the leaf centre under a Gaussian with mean e_d and variance exp(e_g).

    A far-off degradation estimate must admit a large variance, which is what the granularity gate then reads.

    Args:
        loss_weight: Factor on the result (paper: 0.1).
    """

    def __init__(self, loss_weight: float = 0.1) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, e_d: Tensor, e_g: Tensor, centre: Tensor) -> Tensor:
        """Compute ``mean((u - e_d)^2 / (2 exp(e_g)) + e_g / 2)`` over pictures and dimensions.

        Args:
            e_d: Degradation estimate, shape (n, d).
            e_g: Its log-variance, shape (n, d); clamped to [-10, 10] so that a lucky hit cannot blow the loss up.
            centre: Centre of the leaf each sample belongs to, shape (n, d).
        """
        log_variance = e_g.clamp(-10, 10)
        likelihood = 0.5 * (centre - e_d) ** 2 * torch.exp(-log_variance) + 0.5 * log_variance
        return self.loss_weight * likelihood.mean()


@LOSS_REGISTRY.register()
class LoadBalancingLoss(nn.Module):
    """L_aux: squared coefficient of variation of the summed level probabilities (paper: weight 0.01).

    Args:
        loss_weight: Factor on the result.
    """

    def __init__(self, loss_weight: float = 0.01) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, level_probs: Tensor) -> Tensor:
        """Compute the loss of a batch of level probabilities, shape (n, levels); zero for a tree of one level."""
        if level_probs.shape[1] == 1:
            return level_probs.new_zeros(())
        load = F.normalize(level_probs.sum(dim=0), p=1, dim=0)
        return self.loss_weight * load.var() / (load.mean() ** 2 + 1e-10)


def known_or_estimated(leaf: Tensor, probs: Tensor) -> Tensor:
    """Return leaf probabilities, shape (n, num_leaves): one-hot where the leaf is known (not -1), else ``probs``."""
    known = F.one_hot(leaf.clamp(min=0), probs.shape[1]).to(probs)
    return torch.where((leaf >= 0)[:, None], known, probs)


def expected_regret(leaf_probs: Tensor, level_probs: Tensor, psnr: Tensor, paths: Tensor) -> Tensor:
    """Return how much PSNR a router is expected to lose against the best node that was measured, in dB.

    With the loss of every choice known, the gradient needs no sampling: each probability is pushed by what its node
    costs beyond the average of the others.

    Args:
        leaf_probs: Shape (n, num_leaves); one-hot where the leaf is known.
        level_probs: Shape (n, num_levels).
        psnr: What each node reaches on each sample, shape (n, num_nodes), dB; NaN where it was not measured, which must
            not be where the probabilities lead.
        paths: Node ids from the root to each leaf, shape (num_leaves, num_levels).

    Returns:
        Shape (n,), from 0.
    """
    regret = psnr.nan_to_num(nan=float('-inf')).amax(dim=1, keepdim=True) - psnr
    return (node_probs(leaf_probs, level_probs, paths) * regret.nan_to_num(nan=0.0)).sum(dim=1)


def serving_levels(leaf_probs: Tensor, psnr: Tensor, paths: Tensor, temperature_db: float = 0.5) -> Tensor:
    """Return which levels serve a picture: the softmax of PSNR along the path of its leaf.

    Levels closer together than the temperature count as about equally good, which tells a tie from a clear winner.

    Args:
        leaf_probs: Shape (n, num_leaves); one-hot where the leaf is known, else the mean over leaves is taken.
        psnr: What each node reaches on each sample, shape (n, num_nodes), dB; NaN where it was not measured.
        paths: Node ids from the root to each leaf, shape (num_leaves, num_levels).
        temperature_db: Difference in dB that multiplies a level's share by e.

    Returns:
        Shape (n, num_levels), rows add up to one.
    """
    along_path = psnr[:, paths].nan_to_num(nan=-1e9)  # (n, num_leaves, num_levels)
    return (leaf_probs[:, :, None] * (along_path / temperature_db).softmax(dim=2)).sum(dim=1)


def serving_leaves(leaf: Tensor, psnr: Tensor, paths: Tensor, margin_db: float = 0.5) -> Tensor:
    """Return which leaf each picture should be sent to: its own by the assignment, unless another serves it better.

    Clustering knows how pictures look, not who restores them: of two degradations at once the assignment may follow
    the one that costs less. Where every expert was tried, the truth is known.

    Args:
        leaf: By the assignment, shape (n,), int64; -1 outside it.
        psnr: What each node reaches on each sample, shape (n, num_nodes), dB; NaN where it was not measured.
        paths: Node ids from the root to each leaf, shape (num_leaves, num_levels).
        margin_db: How much better the best node on another leaf's path must be.

    Returns:
        Shape (n,), int64; ``leaf`` where not every node was measured.
    """
    along_path = psnr[:, paths]  # (n, num_leaves, num_levels)
    served = along_path.amax(dim=2)  # NaN stays NaN
    best = (served + 1e-3 * along_path[:, :, -1]).nan_to_num(nan=-1e9).argmax(dim=1)  # of equals the better leaf
    own = served.gather(1, leaf.clamp(min=0)[:, None])[:, 0]
    keeps = (leaf >= 0) & (served.amax(dim=1) <= own + margin_db)
    return torch.where(psnr.isnan().any(dim=1) | keeps, leaf, best)


@LOSS_REGISTRY.register()
class CaptionContrastiveLoss(nn.Module):
    """Symmetric InfoNCE between pictures and degradation captions in which equal captions are all positives.

    A batch holds many samples of one caption, which plain InfoNCE would wrongly push apart (degradations, section 5.4).

    Args:
        loss_weight: Factor on the result.
        temperature: Divides the cosine similarities.
    """

    def __init__(self, loss_weight: float = 1.0, temperature: float = 0.1) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.temperature = temperature

    def forward(self, embeddings: Tensor, captions: Sequence[str], caption_encoder: nn.Module) -> Tensor:
        """Compute the loss of a batch.

        Args:
            embeddings: Unit vectors, shape (n, d).
            captions: One a picture.
            caption_encoder: Maps a list of captions to unit vectors, shape (len, d).
        """
        distinct = sorted(set(captions))
        target = torch.tensor([distinct.index(caption) for caption in captions], device=embeddings.device)
        logits = embeddings @ caption_encoder(distinct).T / self.temperature  # (n, distinct)
        positives = F.one_hot(target, len(distinct)).T.to(logits)  # (distinct, n)
        positives = positives / positives.sum(dim=1, keepdim=True)
        to_caption = F.cross_entropy(logits, target)
        to_picture = F.cross_entropy(logits.T, positives)
        return self.loss_weight * 0.5 * (to_caption + to_picture)
