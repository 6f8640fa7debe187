"""UniRestorer: route a picture by degradation and granularity, then restore it with that one expert (ICLR 2026)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_unirestorer.archs.router_arch import pick_node
from basicsr_unirestorer.errors import OptionError

MODES = ('auto', 'instruction', 'oracle')


@dataclass(frozen=True)
class Route:
    """The decision for n pictures, with what led to it."""

    node_id: Tensor  # (n,) int64, places in tree.nodes
    leaf_probs: Tensor  # (n, num_leaves); masked leaves have 0
    level_probs: Tensor  # (n, num_levels), root first
    embedding: Tensor  # (n, embed_dim); (n, 0) where a tree of one node leaves no choice

    @property
    def leaf_id(self) -> Tensor:
        return self.leaf_probs.argmax(dim=1)

    @property
    def level(self) -> Tensor:
        return self.level_probs.argmax(dim=1)


def restore_by_node(lq: Tensor, node_ids: Tensor, expert: Callable[[int], nn.Module]) -> Tensor:
    """Dispatch a batch to its experts, each running once, and put the results back in order.

    Args:
        lq: Shape (n, 3, h, w), RGB, [0, 1].
        node_ids: Node of each picture, shape (n,).
        expert: Returns the network of a node id.

    Returns:
        Restored pictures, shape of ``lq``.
    """
    output = torch.empty_like(lq)
    for node_id in sorted(set(node_ids.tolist())):
        rows = torch.nonzero(node_ids == node_id).flatten().to(lq.device)
        output[rows] = expert(node_id)(lq[rows]).to(output)
    return output


@ARCH_REGISTRY.register()
class UniRestorer(nn.Module):
    """A mixture of experts over a degradation tree, read from a bundle.

    Experts are loaded when a picture first needs them, and the least recently used ones leave when memory runs short.

    Args:
        bundle: Folder of a trained bundle.
        mode: ``auto`` routes by the picture alone, ``instruction`` prunes the tree to ``labels`` first, ``oracle``
            takes the node from the known caption (an upper bound for benchmarks).
        labels: Degradation types for instruction mode.
        cache_mb: Memory that loaded experts may take, in MiB.

    Raises:
        DataError: The bundle is incomplete or damaged.
        TreeMismatchError: Its tree, encoder and router do not belong together.
        OptionError: An unknown mode or label, or instruction mode without labels.
    """

    def __init__(
        self, bundle: str | Path, mode: str = 'auto', labels: Sequence[str] | None = None, cache_mb: float = 2048
    ) -> None:
        super().__init__()
        # the one import against the arrows: networks are described by bundles, and this network is made of one
        from basicsr_unirestorer.inference.bundle import Bundle
        from basicsr_unirestorer.inference.expert_bank import ExpertBank

        if mode not in MODES:
            raise OptionError(f"There is no mode '{mode}'; choose one of {', '.join(MODES)}.")
        if mode == 'instruction' and not labels:
            raise OptionError('Instruction mode needs labels: name what is wrong with the picture, e.g. --labels rain.')
        self.bundle = Bundle(bundle)
        self.tree = self.bundle.tree
        self.mode = mode
        self.labels = tuple(labels or ())
        self.tree.leaf_mask(
            self.labels
        ) if self.labels else None  # an unknown label fails here, not at the first picture
        self.encoder = self.bundle.encoder()
        self.router = self.bundle.router()
        self.bank = ExpertBank(self.bundle.expert, budget_bytes=int(cache_mb * 2**20))

    def train(self, mode: bool = True) -> UniRestorer:
        """Stay in evaluation mode: encoder, router and experts are frozen (the training stages train them)."""
        return super().train(False)

    def route(self, lq: Tensor, labels: Sequence[str] | None = None, captions: Sequence[str] | None = None) -> Route:
        """Choose an expert for each picture; cheap next to restoring it.

        Args:
            lq: Shape (n, 3, h, w), RGB, [0, 1], any size.
            labels: Degradation types to prune the tree to, instead of the constructor's.
            captions: Known degradation captions, one a picture, for oracle mode.
        """
        if self.router is None:  # a tree of one node leaves no choice
            certain = lq.new_ones(len(lq), 1)
            return Route(torch.zeros(len(lq), dtype=torch.int64), certain, certain, lq.new_zeros(len(lq), 0))
        with torch.no_grad():
            embedding = self.encoder.embed(lq)
            out = self.router(embedding)
        leaf_logits, level_logits = out.leaf_logits, out.level_logits
        wanted = self.labels if labels is None else tuple(labels)
        if wanted and (self.mode == 'instruction' or labels is not None):
            mask = torch.as_tensor(self.tree.leaf_mask(wanted), device=lq.device)
            leaf_logits = leaf_logits.masked_fill(~mask, float('-inf'))
        node_id = pick_node(leaf_logits, level_logits, self.tree)
        if self.mode == 'oracle':
            if captions is None:
                raise OptionError('Oracle mode needs the true captions; it is for benchmarks of known degradations.')
            node_id = torch.tensor([self.tree.node_for_caption(caption) for caption in captions], device=lq.device)
        return Route(node_id, leaf_logits.softmax(1), level_logits.softmax(1), embedding)

    def expert(self, node_id: int, device: torch.device | str = 'cpu') -> nn.Module:
        """Return the network of a node, loaded on demand."""
        return self.bank.get(self.tree.nodes[node_id].name, device)

    def forward(self, lq: Tensor, route: Route | None = None) -> Tensor:
        """Restore pictures.

        Args:
            lq: Shape (n, 3, h, w), RGB, [0, 1], any size.
            route: A decision made earlier; routed here where None.

        Returns:
            Shape of ``lq``, not clamped.
        """
        route = self.route(lq) if route is None else route
        with torch.no_grad():
            return restore_by_node(lq, route.node_id, lambda node_id: self.expert(node_id, lq.device))
