"""UniRestorer: route a picture by degradation and granularity, then restore it with that one expert (ICLR 2026)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_unirestorer.archs.router_arch import distances_to_nodes, node_probs, pick_node
from basicsr_unirestorer.errors import OptionError, TreeMismatchError

MODES = ('auto', 'instruction', 'oracle')


@dataclass(frozen=True)
class Route:
    """The decision for n pictures, with what led to it."""

    node_id: Tensor  # (n,) int64, places in tree.nodes
    leaf_probs: Tensor  # (n, num_leaves); masked leaves have 0
    level_probs: Tensor  # (n, num_levels), root first; levels out of reach have 0
    embedding: Tensor  # (n, embed_dim); (n, 0) where a tree of one node leaves no choice
    candidates: Tensor | None = None  # (n, k) int64, the k most probable nodes, best first; None: node_id alone
    gate: Tensor | None = None  # (n, k), the candidates' shares of the output; rows add up to one

    @property
    def leaf_id(self) -> Tensor:
        return self.leaf_probs.argmax(dim=1)

    @property
    def level(self) -> Tensor:
        return self.level_probs.argmax(dim=1)

    def __getitem__(self, rows: slice | Tensor) -> Route:
        """Return the decision for some of the pictures."""
        return Route(*(value if value is None else value[rows] for value in vars(self).values()))


def restore_by_node(
    lq: Tensor, node_ids: Tensor, expert: Callable[[int], nn.Module], gate: Tensor | None = None
) -> Tensor:
    """Dispatch a batch to its experts, each running once, and put the results back in order.

    Args:
        lq: Shape (n, 3, h, w), RGB, [0, 1].
        node_ids: Node of each picture, shape (n,); with a ``gate`` k different nodes of each, shape (n, k).
        expert: Returns the network of a node id.
        gate: Each node's share of the output, shape (n, k); experts whose share is zero do not run.

    Returns:
        Restored pictures, shape of ``lq``.
    """
    if gate is None:
        output = torch.empty_like(lq)
        for node_id in sorted(set(node_ids.tolist())):
            rows = torch.nonzero(node_ids == node_id).flatten().to(lq.device)
            output[rows] = expert(node_id)(lq[rows]).to(output)
        return output
    output = torch.zeros_like(lq)
    for node_id in sorted(set(node_ids[gate > 0].tolist())):
        rows, places = torch.nonzero((node_ids == node_id) & (gate > 0), as_tuple=True)
        share = gate[rows, places][:, None, None, None]
        output[rows] += (share * expert(node_id)(lq[rows])).to(output)
    return output


@ARCH_REGISTRY.register()
class UniRestorer(nn.Module):
    """A mixture of experts over a degradation tree, read from a bundle.

    Experts are loaded when a picture first needs them, and the least recently used ones leave when memory runs short.

    Args:
        bundle: Folder of a trained bundle.
        mode: ``auto`` routes by the picture alone, ``instruction`` prunes the tree to ``labels`` first, ``oracle``
            takes the node from the known caption (an upper bound for benchmarks).
        labels: What is wrong with the pictures, for instruction mode, e.g. ``['rain', 'large noise']``.
        cache_mb: Memory that loaded experts may take, in MiB.
        top_k: Experts a picture. 1 takes the router's choice; from 2 on the most probable nodes restore it together,
            weighted by their probabilities. Oracle mode always takes one.

    Raises:
        DataError: The bundle is incomplete or damaged.
        TreeMismatchError: Its tree, encoder and router do not belong together.
        OptionError: An unknown mode or label, instruction mode without labels, or a ``top_k`` that is no number of
            nodes.
    """

    def __init__(
        self,
        bundle: str | Path,
        mode: str = 'auto',
        labels: Sequence[str] | None = None,
        cache_mb: float = 2048,
        top_k: int = 1,
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
        if self.labels:
            self.tree.leaf_mask(self.labels)  # an unknown label fails here, not at the first picture
        if not isinstance(top_k, int) or not 1 <= top_k <= len(self.tree.nodes):
            raise OptionError(
                f'top_k is {top_k!r}, but this tree has {len(self.tree.nodes)} nodes; write a whole number from 1 '
                f'to {len(self.tree.nodes)}.'
            )
        self.top_k = top_k
        self.encoder = self.bundle.encoder()
        self.router = self.bundle.router()
        self._check_reach()
        self.bank = ExpertBank(self.bundle.expert, int(cache_mb * 2**20), self.bundle.expert_size)

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
        reachable = None
        wanted = self.labels if labels is None else tuple(labels)
        if wanted and (self.mode == 'instruction' or labels is not None):
            mask = torch.as_tensor(self.tree.leaf_mask(wanted), device=lq.device)
            leaf_logits = leaf_logits.masked_fill(~mask, float('-inf'))
        elif self.router.reach is not None:
            reachable = self._reachable(embedding)
            on_path = torch.as_tensor(self.tree.paths, device=lq.device)[leaf_logits.argmax(1)]  # (n, num_levels)
            level_logits = level_logits.masked_fill(~reachable.gather(1, on_path), float('-inf'))
        node_id = pick_node(leaf_logits, level_logits, self.tree)
        leaf_probs, level_probs = leaf_logits.softmax(1), level_logits.softmax(1)
        if self.mode == 'oracle':
            if captions is None:
                raise OptionError('Oracle mode needs the true captions; it is for benchmarks of known degradations.')
            node_id = torch.tensor([self.tree.node_for_caption(caption) for caption in captions], device=lq.device)
        elif self.top_k > 1:
            paths = torch.as_tensor(self.tree.paths, device=lq.device)
            probs = node_probs(leaf_probs, level_probs, paths)
            probs = probs if reachable is None else probs * reachable
            gate, candidates = probs.topk(self.top_k, dim=1)
            gate = gate / gate.sum(dim=1, keepdim=True)
            return Route(candidates[:, 0], leaf_probs, level_probs, embedding, candidates, gate)
        return Route(node_id, leaf_probs, level_probs, embedding)

    def _reachable(self, embedding: Tensor) -> Tensor:
        """Tell which nodes a picture is near enough to, shape (n, num_nodes), bool; the root always is."""
        reach = torch.tensor(self.router.reach, device=embedding.device)
        reachable = distances_to_nodes(embedding, self.tree) <= reach
        reachable[:, 0] = True
        return reachable

    def _check_reach(self) -> None:
        reach = getattr(self.router, 'reach', None)
        if reach is not None and len(reach) != len(self.tree.nodes):
            raise TreeMismatchError(
                f'The router of {self.bundle.folder} has a reach for {len(reach)} nodes, but its tree has '
                f'{len(self.tree.nodes)}; copy the whole bundle again.'
            )

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
            nodes = route.node_id if route.gate is None else route.candidates
            return restore_by_node(lq, nodes, lambda node_id: self.expert(node_id, lq.device), route.gate)
