"""The router: which degradation a picture has, and how fine an expert that estimate deserves (ICLR 2026)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import TreeMismatchError


@dataclass(frozen=True)
class RouterOutput:
    """What the router says of n pictures; ``e_d`` estimates the leaf centre and ``e_g`` the log-variance of that."""

    e_d: Tensor  # (n, embed_dim)
    e_g: Tensor  # (n, embed_dim)
    leaf_logits: Tensor  # (n, num_leaves)
    level_logits: Tensor  # (n, num_levels); level 0 is the root


class EstimateHead(nn.Sequential):
    """Bias-free linear layers with LeakyReLU(0.1) between them and batch norm last (H_d and H_g).

    A training batch of one picture has no batch statistics, so it is normalised with the running ones.
    """

    def __init__(self, embed_dim: int, depth: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(embed_dim, embed_dim, bias=False), nn.LeakyReLU(0.1)]
        super().__init__(*layers[:-1], nn.BatchNorm1d(embed_dim))

    def forward(self, embedding: Tensor) -> Tensor:
        x = embedding
        for layer in list(self)[:-1]:
            x = layer(x)
        norm = self[-1]
        if self.training and len(x) == 1:
            return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return norm(x)


class NoisyGate(nn.Linear):
    """One bias-free, zero-initialised linear layer (G_d, G_g); its second half scales noise on the logits in training.

    Noisy gating after Shazeer et al., ICLR 2017, Eq. 4.
    """

    def __init__(self, embed_dim: int, choices: int) -> None:
        super().__init__(embed_dim, 2 * choices, bias=False)
        nn.init.zeros_(self.weight)

    def forward(self, estimate: Tensor, generator: torch.Generator | None = None) -> Tensor:
        logits, scale = super().forward(estimate).chunk(2, dim=1)
        if not self.training or generator is None:
            return logits
        noise = torch.randn(logits.shape, generator=generator).to(logits)
        return logits + noise * (F.softplus(scale) + 1e-2)


@ARCH_REGISTRY.register()
class UniRestorerRouter(nn.Module):
    """Degradation and granularity estimation on top of a frozen degradation encoder.

    Args:
        tree: The tree to route in, or the path of its ``degradation_tree.json``; gives the two numbers below.
        num_leaves: Leaves, where no tree is given.
        num_levels: Levels, root included, where no tree is given.
        embed_dim: Length of an embedding.
        depth: Linear layers of each estimate head.
        leaf_temperature: Divides the leaf logits, so that their softmax is a calibrated probability; the choice of a
            leaf stays what it is. Fitted after training, like the next two.
        level_temperature: The same for the level logits.
        reach: How far from each node's centre its own samples lie, one number a node of the tree, root first; a
            picture farther away falls back to a coarser node. None: nothing is out of reach.

    Raises:
        TreeMismatchError: The tree's centres are not ``embed_dim`` long.
    """

    def __init__(
        self,
        tree: DegradationTree | str | Path | None = None,
        num_leaves: int | None = None,
        num_levels: int | None = None,
        embed_dim: int = 512,
        depth: int = 5,
        leaf_temperature: float = 1.0,
        level_temperature: float = 1.0,
        reach: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if tree is not None:
            tree = tree if isinstance(tree, DegradationTree) else DegradationTree.load(tree)
            if tree.embed_dim != embed_dim:
                raise TreeMismatchError(
                    f'The tree was built on {tree.embed_dim}-d embeddings but the router takes '
                    f'{embed_dim}-d ones; set embed_dim: {tree.embed_dim}.'
                )
            num_leaves, num_levels = tree.num_leaves, tree.num_levels
        self.num_leaves = num_leaves
        self.num_levels = num_levels
        self.degradation_head = EstimateHead(embed_dim, depth)
        self.granularity_head = EstimateHead(embed_dim, depth)
        self.leaf_gate = NoisyGate(embed_dim, num_leaves)
        self.level_gate = NoisyGate(embed_dim, num_levels)
        self.leaf_temperature = leaf_temperature
        self.level_temperature = level_temperature
        self.reach = None if reach is None else tuple(reach)

    def forward(self, embedding: Tensor, generator: torch.Generator | None = None) -> RouterOutput:
        """Estimate leaf and level.

        Args:
            embedding: Output of the degradation encoder, shape (n, embed_dim).
            generator: Draws the gates' noise; used in training mode only. No noise where None.
        """
        e_d = self.degradation_head(embedding)
        e_g = self.granularity_head(embedding)
        leaf_logits = self.leaf_gate(e_d, generator) / self.leaf_temperature
        level_logits = self.level_gate(e_g, generator) / self.level_temperature
        return RouterOutput(e_d, e_g, leaf_logits, level_logits)


def pick_node(leaf_logits: Tensor, level_logits: Tensor, tree: DegradationTree) -> Tensor:
    """Choose one tree node a picture: the ancestor of its best leaf at its best level.

    A confident router goes to a fine node; an unsure one backs off to a coarser, safer one (UniRestorer, section 3).

    Args:
        leaf_logits: Degradation estimate, shape (n, tree.num_leaves), unnormalised; -inf masks a leaf.
        level_logits: Granularity estimate, shape (n, tree.num_levels), unnormalised; index 0 is the root level.
        tree: Gives the ancestor of every leaf at every level.

    Returns:
        Node ids, shape (n,), int64, on the device of ``leaf_logits``. No gradient flows through the choice.

    Raises:
        TreeMismatchError: The logits do not fit the tree (router trained on another tree).

    Example:
        >>> tree = DegradationTree.star(num_leaves=2)         # root 0 -> leaves 1, 2
        >>> pick_node(torch.tensor([[0., 9.]]), torch.tensor([[9., 0.]]), tree)   # best leaf 2, level 0
        tensor([0])
    """
    if (leaf_logits.shape[1], level_logits.shape[1]) != (tree.num_leaves, tree.num_levels):
        raise TreeMismatchError(
            f'The router knows {leaf_logits.shape[1]} leaves and {level_logits.shape[1]} levels, but the tree has '
            f'{tree.num_leaves} and {tree.num_levels}; pass the tree that was saved with the router.'
        )
    paths = torch.as_tensor(tree.paths, device=leaf_logits.device)  # (num_leaves, num_levels) -> node id
    return paths[leaf_logits.argmax(dim=1), level_logits.argmax(dim=1)]


def node_probs(leaf_probs: Tensor, level_probs: Tensor, paths: Tensor) -> Tensor:
    """Return how probable each node is: leaf times level, summed over the leaves that share it as an ancestor.

    Args:
        leaf_probs: Shape (n, num_leaves), rows add up to one.
        level_probs: Shape (n, num_levels), rows add up to one.
        paths: Node ids from the root to each leaf, shape (num_leaves, num_levels), int64.

    Returns:
        Shape (n, num_nodes), rows add up to one; differentiable.
    """
    joint = leaf_probs[:, :, None] * level_probs[:, None, :]  # (n, num_leaves, num_levels)
    nodes = joint.new_zeros(len(joint), int(paths.max()) + 1)
    return nodes.index_add(1, paths.flatten(), joint.flatten(1))


def distances_to_nodes(embedding: Tensor, tree: DegradationTree) -> Tensor:
    """Return how far embeddings, shape (n, embed_dim), lie from the centre of every node: shape (n, num_nodes)."""
    return torch.cdist(embedding.float(), torch.as_tensor(tree.centres, device=embedding.device))
