"""Who trains which expert: the experts of a tree divided among processes, coarse to fine, as pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

SHARING_COST = 1.05  # exchanging gradients is not free: a share must pay for it


@dataclass(frozen=True)
class Stint:
    """One expert's training within a schedule.

    Attributes:
        name: Node name.
        ranks: Processes that train it; several share every batch of it.
        start, end: When it is expected to begin and to end, in units of cost.
    """

    name: str
    ranks: tuple[int, ...]
    start: float
    end: float

    @property
    def writer(self) -> int:
        """The process that validates and saves the expert."""
        return self.ranks[0]


def schedule(
    costs: Mapping[str, float], parents: Mapping[str, str | None], num_ranks: int, most_sharing: int = 1
) -> list[Stint]:
    """Divide experts among processes so that all are done early; an expert begins when its own parent is done.

    Experts are placed coarse to fine and costly before cheap, each where it can begin first. Then single experts are
    shared by 2, 4, 8 ... processes wherever that lets the processes finish earlier, which is so for the root and for
    what is left over at the end.

    Args:
        costs: What each expert's remaining steps take one process, in the tree's order (parents before children);
            experts without remaining steps are left out.
        parents: The expert that each one has to wait for, one of ``costs``; None where it can begin at once.
        num_ranks: Number of processes.
        most_sharing: Processes that one expert can be shared by at most: samples of a batch, or 1 to share none.

    Returns:
        One stint an expert, in the order in which each process takes its own.
    """
    levels: dict[str, int] = {}
    for name in costs:
        levels[name] = levels.get(parents[name], -1) + 1
    order = sorted(costs, key=lambda name: (levels[name], -costs[name]))  # stable: equals keep the tree's order
    shares = dict.fromkeys(order, 1)
    best, loads = _place(order, costs, parents, shares, num_ranks, most_sharing)
    improved = True
    while improved:
        improved = False
        for name in order:
            for share in _doublings(min(num_ranks, most_sharing)):
                trial = {**shares, name: share}
                placed, new_loads = _place(order, costs, parents, trial, num_ranks, most_sharing)
                if new_loads < loads:
                    shares, best, loads, improved = trial, placed, new_loads, True
    return best


def _doublings(limit: int) -> list[int]:
    return [2**power for power in range(1, limit.bit_length()) if 2**power <= limit]


def _place(
    order: Sequence[str],
    costs: Mapping[str, float],
    parents: Mapping[str, str | None],
    shares: Mapping[str, int],
    num_ranks: int,
    batch_size: int,
) -> tuple[list[Stint], list[float]]:
    """Place every expert with a given number of processes; returns stints and the processes' ends, latest first."""
    free = [0.0] * num_ranks
    ends: dict[str, float] = {}
    stints = []
    for name in order:
        share = shares[name]
        ready = ends.get(parents[name], 0.0)
        # where it begins first; of processes that would wait for the parent, the one that has to wait the least
        ranks = sorted(range(num_ranks), key=lambda rank: (max(free[rank], ready), -free[rank], rank))[:share]
        start = max(ready, *(free[rank] for rank in ranks))
        ends[name] = start + costs[name] * part_of_cost(share, batch_size)
        for rank in ranks:
            free[rank] = ends[name]
        stints.append(Stint(name, tuple(sorted(ranks)), start, ends[name]))
    return stints, [round(end, 6) for end in sorted(free, reverse=True)]


def part_of_cost(share: int, batch_size: int) -> float:
    """Return what an expert takes where ``share`` processes share its batches, compared to one process alone."""
    return 1.0 if share == 1 else SHARING_COST * -(-batch_size // share) / batch_size


def retimed(
    stints: Sequence[Stint], durations: Mapping[str, float], parents: Mapping[str, str | None], batch_size: int
) -> list[Stint]:
    """Return a schedule as it comes out where experts take other times than it was made for.

    Args:
        stints: The schedule; who trains what, and in which order, stays.
        durations: What each expert takes one process.
        parents: As of ``schedule``.
        batch_size: Samples of a batch.
    """
    free: dict[int, float] = {}
    ends: dict[str | None, float] = {}
    placed = []
    for stint in stints:
        start = max(ends.get(parents.get(stint.name), 0.0), *(free.get(rank, 0.0) for rank in stint.ranks))
        ends[stint.name] = start + durations[stint.name] * part_of_cost(len(stint.ranks), batch_size)
        free.update(dict.fromkeys(stint.ranks, ends[stint.name]))
        placed.append(replace(stint, start=start, end=ends[stint.name]))
    return placed


def stints_of(stints: Sequence[Stint], rank: int) -> list[Stint]:
    """Return one process's stints in the order in which it takes them."""
    return [stint for stint in stints if rank in stint.ranks]


def busy(stints: Sequence[Stint], num_ranks: int) -> list[float]:
    """Return how long each process trains, in units of cost."""
    return [sum(stint.end - stint.start for stint in stints_of(stints, rank)) for rank in range(num_ranks)]


def balance(stints: Sequence[Stint], num_ranks: int) -> float:
    """Return how much longer than the mean the busiest process trains: 1 where all train equally long."""
    times = busy(stints, num_ranks)
    return max(times) / (sum(times) / num_ranks) if any(times) else 1.0
