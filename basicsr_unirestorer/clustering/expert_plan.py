"""The training plan of a tree of experts: which expert takes which samples at which step, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from basicsr_unirestorer.clustering.rounds import Rounds
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.degradations import sample_rng
from basicsr_unirestorer.errors import DataError, OptionError, check_keys, did_you_mean

EXPERT_BATCH_KEYS = ('batch_size', 'steps_per_level', 'experts', 'steps_follow', 'min_steps_share', 'enrich')
STEPS_FOLLOW = {'equal': lambda count: 1, 'proportional': lambda count: count, 'sqrt': math.sqrt}  # of a group's size
MIN_STEPS_SHARE = 0.25


def check_expert_batch(options: Mapping[str, Any], where: str = 'expert_batch') -> None:
    """Look for mistakes in the ``expert_batch`` options that need no tree to be seen.

    Args:
        options: As ``ExpertPlan`` takes them.
        where: Dotted place of them, quoted in messages.

    Raises:
        OptionError: Naming the first unknown key or impossible value.
    """
    check_keys(options, EXPERT_BATCH_KEYS, where)
    if not _whole(options.get('batch_size'), least=1):
        raise OptionError(f'{where}.batch_size is {options.get("batch_size")!r}; give a whole number from 1.')
    steps = options.get('steps_per_level')
    if not isinstance(steps, (list, tuple)) or not all(_whole(number, least=0) for number in steps):
        raise OptionError(f'{where}.steps_per_level is {steps!r}; give a whole number from 0 for each level.')
    follow = options.get('steps_follow') or 'equal'
    if follow not in STEPS_FOLLOW:
        raise OptionError(
            f"{where}.steps_follow is '{follow}'; write one of {', '.join(STEPS_FOLLOW)}."
            f'{did_you_mean(follow, STEPS_FOLLOW)}'
        )
    _check_share(options.get('min_steps_share', MIN_STEPS_SHARE), 1, f'{where}.min_steps_share')
    enrich = options.get('enrich')
    if enrich:
        check_keys(enrich, ('below', 'share'), f'{where}.enrich')
        if not _whole(enrich.get('below'), least=1):
            raise OptionError(
                f'{where}.enrich.below is {enrich.get("below")!r}; give the size below which a group takes samples of '
                'its parent, e.g. 200.'
            )
        _check_share(enrich.get('share'), 0.9, f'{where}.enrich.share')


def _whole(number: Any, least: int) -> bool:
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    return is_number and float(number).is_integer() and number >= least


def _check_share(share: Any, most: float, where: str) -> None:
    if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 <= share <= most:
        raise OptionError(f'{where} is {share!r}; give a number from 0 to {most}.')


def take_chosen_experts(opt: Mapping[str, Any]) -> None:
    """Hand ``train.experts``, the only nodes to train, on to ``expert_batch`` of the training set, which plans steps.

    Args:
        opt: Options of any stage; where ``train.experts`` is given, the training set's are changed in place.

    Raises:
        OptionError: ``train.experts`` is no list of names, stands in another stage, or ``expert_batch.experts`` says
            something else.
    """
    chosen = (opt.get('train') or {}).get('experts')
    if chosen is None:
        return
    if not isinstance(chosen, (list, tuple)) or not chosen or not all(isinstance(name, str) for name in chosen):
        raise OptionError(f"train.experts is {chosen!r}; give a list of nodes, e.g. ['l1_03'], or leave it out.")
    batch = opt['datasets'].get('train', {}).get('expert_batch')
    if not batch:
        raise OptionError('train.experts needs datasets.train.expert_batch; see options/unirestorer_experts.yml.')
    inner = batch.get('experts')
    if inner is not None and sorted(inner) != sorted(chosen):
        raise OptionError(
            f'train.experts is {list(chosen)}, but datasets.train.expert_batch.experts is {list(inner)}; write one.'
        )
    batch['experts'] = list(chosen)


def steps_of_experts(tree: DegradationTree, batch_options: Mapping[str, Any]) -> dict[str, int]:
    """Return each expert's training steps by node name, in training order: coarse to fine.

    Args:
        tree: The degradation tree.
        batch_options: As of ``ExpertPlan``. An expert gets the same steps whatever others are chosen beside it.

    Raises:
        OptionError: ``steps_per_level`` does not fit the tree, or ``experts`` names an unknown node.
    """
    means, experts = batch_options['steps_per_level'], batch_options.get('experts')
    if len(means) != tree.num_levels:
        raise OptionError(
            f'steps_per_level has {len(means)} numbers ({list(means)}) but the '
            f'tree has {tree.num_levels} levels; give one number a level, the root first.'
        )
    weight = STEPS_FOLLOW[batch_options.get('steps_follow') or 'equal']
    floor_share = batch_options.get('min_steps_share', MIN_STEPS_SHARE)
    steps: dict[str, int] = {}
    for level, mean in enumerate(map(int, means)):
        nodes = [node for node in tree.nodes if node.level == level]
        floor = math.ceil(Fraction(str(floor_share)) * mean)
        shares = share_out(mean * len(nodes), [weight(node.count) for node in nodes], floor)
        steps.update({node.name: share for node, share in zip(nodes, shares, strict=True)})
    chosen = range(len(tree.nodes)) if experts is None else sorted(tree.node_id(name) for name in experts)
    return {tree.nodes[i].name: steps[tree.nodes[i].name] for i in chosen}


def share_out(total: int, weights: Sequence[float], floor: int) -> list[int]:
    """Share a number out in proportion to weights, nobody getting less than ``floor``, by largest remainders.

    Args:
        total: What is shared out; the shares add up to exactly this. At least ``floor`` for everyone.
        weights: One weight from 0 for everyone; all alike where they are all 0. Equal remainders favour the first.
        floor: The least share.
    """
    exact = [Fraction(weight) for weight in (weights if any(weights) else [1] * len(weights))]
    poor: set[int] = set()
    while True:  # who falls below the floor gets it, and the others share what is left
        rich = [i for i in range(len(exact)) if i not in poor]
        left, sum_of_weights = total - floor * len(poor), sum(exact[i] for i in rich)
        quotas = {i: left * exact[i] / sum_of_weights for i in rich}
        below = {i for i, quota in quotas.items() if quota < floor}
        if not below:
            break
        poor |= below
    shares = [floor if i in poor else math.floor(quotas[i]) for i in range(len(exact))]
    by_remainder = sorted(rich, key=lambda i: (math.floor(quotas[i]) - quotas[i], i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


class ExpertPlan:
    """Train the nodes one after another, coarse to fine, so that a child can start from its parent's weights.

    Args:
        tree: The degradation tree.
        leaf_ids: Leaf id of each sample, shape (n,).
        batch_options: What ``check_expert_batch`` lets pass:

            - batch_size: Samples a step.
            - steps_per_level: Mean training steps of the experts of each level, the root's first.
            - steps_follow: How a level's steps are shared out among its experts: ``equal`` (default), ``proportional``
              to the size of their groups, or to its square root (``sqrt``). The sum stays.
            - min_steps_share: Part of the mean that no expert falls below (default 0.25).
            - enrich: ``{below, share}``: groups of fewer than ``below`` samples take this share of what they train on
              from the other samples of their parent. Off by default; the root has no parent.
            - experts: Names of the only nodes to train; all where None.
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
        batch_options: Mapping[str, Any],
        seed: int = 0,
        rates: np.ndarray | None = None,
    ) -> None:
        steps = steps_of_experts(tree, batch_options)
        self.nodes, self.steps = list(steps), list(steps.values())
        self.ends = np.cumsum(self.steps)
        self.total = int(self.ends[-1])
        self.batch_size = int(batch_options['batch_size'])
        self.feeds = [
            _feed(tree, tree.node_id(name), leaf_ids, batch_options.get('enrich') or {}, seed, rates) for name in steps
        ]

    def first_step(self, name: str) -> int:
        """Return where an expert's own steps begin within the whole plan."""
        place = self.nodes.index(name)
        return int(self.ends[place]) - self.steps[place]

    def locate(self, step: int) -> tuple[int, int]:
        """Return (place in ``nodes``, the expert's own step) of a step of the whole plan, 0 <= step < total."""
        place = int(np.searchsorted(self.ends, step, side='right'))
        return place, step - int(self.ends[place]) + self.steps[place]

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Return the samples of a step of the whole plan; see ``expert_batch``."""
        return self.expert_batch(*self.locate(step))

    def expert_batch(self, place: int, own_step: int) -> list[tuple[int, int]]:
        """Return the samples of an expert's own step as (sample number, how often it came before).

        An expert's batches depend on its own name and step alone, so training it with others or by itself is the same.
        """
        first = own_step * self.batch_size
        return [self.feeds[place].draw(position) for position in range(first, first + self.batch_size)]


def _feed(
    tree: DegradationTree, node_id: int, leaf_ids: np.ndarray, enrich: Mapping, seed: int, rates: np.ndarray | None
) -> Feed | EnrichedFeed:
    """Return the endless row of one expert's samples."""
    node, paths = tree.nodes[node_id], tree.paths[leaf_ids]  # (n, levels)
    inside = (paths == node_id).any(axis=1)
    group = np.flatnonzero(inside)
    if not len(group):
        raise DataError(
            f'No samples for node {node.name}: 0 of {len(leaf_ids)} fall in it; '
            'rebuild the tree with smaller level_sizes or add data.'
        )
    rates = np.ones(len(leaf_ids)) if rates is None else rates
    own = Feed(node.name, group, rates, seed)
    others = np.flatnonzero((paths == node.parent).any(axis=1) & ~inside)  # none around the root
    if len(group) >= enrich.get('below', 0) or not enrich['share'] or not len(others):
        return own
    return EnrichedFeed(own, Feed(f'{node.name} enriched', others, rates, seed), Fraction(str(enrich['share'])))


class Feed:
    """The endless row of a group's samples: pass after pass, each in a seeded order of its own.

    Args:
        name: Seeds the orders, with ``seed``.
        group: Sample numbers.
        rates: How often each sample of the data set comes in an epoch, shape (n,).
        seed: See ``name``.
    """

    def __init__(self, name: str, group: np.ndarray, rates: np.ndarray, seed: int) -> None:
        self.name, self.seed = name, seed
        own = rates[group]
        own = own / own.min() if own.min() == own.max() else own  # equal rates are no rates
        self.parts: list[tuple[np.ndarray, Rounds]] = []  # by rate; each fills its share of every pass
        for rate in np.unique(own):
            members = group[own == rate]
            quota = max(1, round(float(rate) * len(members)))
            self.parts.append((members, Rounds(len(members), quota, seed, f'{name} {len(self.parts)}')))
        self.quota = sum(rounds.quota for _, rounds in self.parts)
        self._lap, self._order = -1, np.empty(0, np.int64)

    def draw(self, position: int) -> tuple[int, int]:
        """Return (sample number, how often it came before) at a position of the row, from 0."""
        lap, offset = divmod(position, self.quota)
        if lap != self._lap:
            self._lap, self._order = lap, sample_rng(self.seed, self.name, 'order', lap).permutation(self.quota)
        offset = int(self._order[offset])
        for members, rounds in self.parts:
            if offset < rounds.quota:
                member, times = rounds.draw(lap, offset)
                return int(members[member]), times
            offset -= rounds.quota
        raise AssertionError('the order of a pass is longer than its parts')


class EnrichedFeed:
    """A row that takes ``share`` of its samples, evenly spread, from another row; exact over any stretch of it."""

    def __init__(self, own: Feed, others: Feed, share: Fraction) -> None:
        self.own, self.others, self.share = own, others, share

    def draw(self, position: int) -> tuple[int, int]:
        taken, after = math.floor(position * self.share), math.floor((position + 1) * self.share)
        return self.others.draw(taken) if after > taken else self.own.draw(position - taken)
