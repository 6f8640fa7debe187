"""The training plan of a tree of experts: which expert takes which samples at which step, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from basicsr_unirestorer.clustering.rounds import Rounds
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.degradations import sample_rng
from basicsr_unirestorer.errors import DataError, OptionError


def steps_of_experts(
    tree: DegradationTree, steps_per_level: Sequence[int], experts: Sequence[str] | None = None
) -> dict[str, int]:
    """Return each expert's training steps by node name, in training order: coarse to fine.

    Args:
        tree: The degradation tree.
        steps_per_level: Steps of each expert of a level, the root's first.
        experts: Names of the only nodes to train; all where None.

    Raises:
        OptionError: ``steps_per_level`` does not fit the tree, or ``experts`` names an unknown node.
    """
    if len(steps_per_level) != tree.num_levels:
        raise OptionError(
            f'steps_per_level has {len(steps_per_level)} numbers ({list(steps_per_level)}) but the '
            f'tree has {tree.num_levels} levels; give one number a level, the root first.'
        )
    chosen = range(len(tree.nodes)) if experts is None else sorted(tree.node_id(name) for name in experts)
    return {tree.nodes[i].name: int(steps_per_level[tree.nodes[i].level]) for i in chosen}


class ExpertPlan:
    """Train the nodes one after another, coarse to fine, so that a child can start from its parent's weights.

    Args:
        tree: The degradation tree.
        leaf_ids: Leaf id of each sample, shape (n,).
        steps_per_level: Training steps of each expert, by level, the root's first.
        batch_size: Samples a step.
        experts: Names of the only nodes to train; all where None.
        seed: Seeds the order in which a group's samples are drawn.
        rates: How often each sample comes in an epoch, shape (n,); a group takes its samples in these proportions. All
            equally often where None.

    Attributes:
        nodes: Names of the experts in training order.
        steps: Steps of each of them.
        total: Steps in all: what ``train: total_iter`` must be.

    Raises:
        OptionError: ``steps_per_level`` does not fit the tree, or ``experts`` names an unknown node.
        DataError: A node to be trained has no samples.
    """

    def __init__(
        self,
        tree: DegradationTree,
        leaf_ids: np.ndarray,
        steps_per_level: Sequence[int],
        batch_size: int,
        experts: Sequence[str] | None = None,
        seed: int = 0,
        rates: np.ndarray | None = None,
    ) -> None:
        steps = steps_of_experts(tree, steps_per_level, experts)
        self.nodes, self.steps = list(steps), list(steps.values())
        self.groups = [np.flatnonzero((tree.paths[leaf_ids] == tree.node_id(name)).any(axis=1)) for name in steps]
        self.ends = np.cumsum(self.steps)
        self.total = int(self.ends[-1])
        self.batch_size = batch_size
        self.seed = seed
        for name, group in zip(self.nodes, self.groups, strict=True):
            if not len(group):
                raise DataError(
                    f'No samples for node {name}: 0 of {len(leaf_ids)} fall in it; '
                    'rebuild the tree with smaller level_sizes or add data.'
                )
        rates = np.ones(len(leaf_ids)) if rates is None else rates
        self.parts = [self._parts(name, group, rates) for name, group in zip(self.nodes, self.groups, strict=True)]

    def _parts(self, name: str, group: np.ndarray, rates: np.ndarray) -> list[tuple[np.ndarray, Rounds]]:
        """Split a group by rate; each part fills its share of every pass through the group."""
        own = rates[group]
        own = own / own.min() if own.min() == own.max() else own  # equal rates are no rates
        parts = []
        for rate in np.unique(own):
            members = group[own == rate]
            quota = max(1, round(float(rate) * len(members)))
            parts.append((members, Rounds(len(members), quota, self.seed, f'{name} {len(parts)}')))
        return parts

    def locate(self, step: int) -> tuple[int, int]:
        """Return (place in ``nodes``, the expert's own step) of a step of the whole plan, 0 <= step < total."""
        place = int(np.searchsorted(self.ends, step, side='right'))
        return place, step - int(self.ends[place]) + self.steps[place]

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Return the samples of a step as (sample number, how often it came before).

        An expert's batches depend on its own name and step alone, so training it with others or by itself is the same.
        """
        place, own_step = self.locate(step)
        return [
            self._draw(place, position)
            for position in range(own_step * self.batch_size, (own_step + 1) * self.batch_size)
        ]

    def _draw(self, place: int, position: int) -> tuple[int, int]:
        parts = self.parts[place]
        lap, offset = divmod(position, sum(rounds.quota for _, rounds in parts))
        offset = int(self._order(place, lap)[offset])
        for members, rounds in parts:
            if offset < rounds.quota:
                member, times = rounds.draw(lap, offset)
                return int(members[member]), times
            offset -= rounds.quota
        raise AssertionError('the order of a pass is longer than its parts')

    def _order(self, place: int, lap: int) -> np.ndarray:
        if getattr(self, '_cached', None) != (place, lap):
            rng = sample_rng(self.seed, self.nodes[place], 'order', lap)
            quota = sum(rounds.quota for _, rounds in self.parts[place])
            self._cached, self._permutation = (place, lap), rng.permutation(quota)
        return self._permutation
