"""Dividing experts among processes: nothing lost, parents first, no deadlock, balanced."""

from __future__ import annotations

import pytest
from torch.testing import assert_close

from basicsr_unirestorer.clustering.expert_schedule import Stint, balance, busy, retimed, schedule, stints_of


def release(steps=(300.0, 150.0, 100.0)) -> tuple[dict[str, float], dict[str, str | None]]:
    """The shape of the release's tree, {1, 7, 22}: costs and parents."""
    parents: dict[str, str | None] = {'l0_00': None}
    parents |= {f'l1_{i:02d}': 'l0_00' for i in range(7)}
    parents |= {f'l2_{i:02d}': f'l1_{i % 7:02d}' for i in range(22)}
    return {name: steps[int(name[1])] for name in parents}, parents


@pytest.mark.parametrize('ranks', [1, 2, 3, 4, 8, 40])
@pytest.mark.parametrize('sharing', [1, 8])
def test_every_expert_is_trained_once_after_its_parent(ranks, sharing):
    costs, parents = release()
    stints = schedule(costs, parents, ranks, sharing)
    assert sorted(stint.name for stint in stints) == sorted(costs)
    ends = {stint.name: stint.end for stint in stints}
    for stint in stints:
        assert len(set(stint.ranks)) == len(stint.ranks) <= min(ranks, sharing)
        assert stint.start >= ends.get(parents[stint.name], 0)
    for rank in range(ranks):
        own = stints_of(stints, rank)
        assert all(before.end <= after.start for before, after in zip(own, own[1:], strict=False))


@pytest.mark.parametrize('ranks', [2, 3, 8])
def test_nobody_waits_for_ever(ranks):
    """Play the stints: each process takes its own in turn, once parent and sharers are there."""
    costs, parents = release()
    stints = schedule(costs, parents, ranks, 8)
    queues = [[stint.name for stint in stints_of(stints, rank)] for rank in range(ranks)]
    done: set[str] = set()
    while any(queues):
        ready = [
            stint
            for stint in stints
            if all(queues[rank][:1] == [stint.name] for rank in stint.ranks)
            and parents[stint.name] in (None, *done)
            and stint.name not in done
        ]
        assert ready
        for stint in ready:
            done.add(stint.name)
            for rank in stint.ranks:
                queues[rank].pop(0)
    assert done == set(costs)


@pytest.mark.parametrize(('ranks', 'loss'), [(1, 1.0), (2, 1.02), (4, 1.04), (8, 1.10), (16, 1.15)])
def test_processes_are_kept_busy(ranks, loss):
    costs, parents = release()
    stints = schedule(costs, parents, ranks, 8)
    load = busy(stints, ranks)
    assert max(load) / (sum(load) / ranks) <= 1.10
    assert max(stint.end for stint in stints) <= loss * sum(costs.values()) / ranks


def test_costly_networks_are_spread():
    """Two experts that cost ten times as much come first, and to different processes."""
    costs = {'l0_00': 1.0, **{f'l1_{i:02d}': 1.0 for i in range(20)}, 'l1_20': 10.0, 'l1_21': 10.0}
    parents = {name: None if name == 'l0_00' else 'l0_00' for name in costs}
    stints = {stint.name: stint for stint in schedule(costs, parents, 4)}
    assert stints['l1_20'].ranks != stints['l1_21'].ranks and stints['l1_20'].start == stints['l1_21'].start == 1.0
    assert max(stint.end for stint in stints.values()) <= 11.0 + 1e-9


def test_what_is_done_needs_no_process():
    assert schedule({}, {}, 3) == []
    (only,) = schedule({'l2_05': 7.0}, {'l2_05': None}, 2)
    assert (only.ranks, only.start, only.end, only.writer) == ((0,), 0.0, 7.0, 0)


def test_more_processes_than_experts_share_them():
    stints = schedule({'l0_00': 8.0}, {'l0_00': None}, 4, 8)
    assert stints[0].ranks == (0, 1, 2, 3) and stints[0].end < 8.0 / 4 * 1.1
    assert len(schedule({'l0_00': 8.0}, {'l0_00': None}, 4, 1)[0].ranks) == 1


def test_retimed_with_its_own_costs_is_the_same_schedule():
    costs = {'l0_00': 8.0, **{f'l1_{i:02d}': 3.0 + i for i in range(5)}}
    parents = {name: None if name == 'l0_00' else 'l0_00' for name in costs}
    stints = schedule(costs, parents, 4, 8)
    again = retimed(stints, costs, parents, 8)
    assert [(s.name, s.ranks) for s in again] == [(s.name, s.ranks) for s in stints]
    assert_close([t for s in again for t in (s.start, s.end)], [t for s in stints for t in (s.start, s.end)])


def test_balance_is_busiest_by_mean():
    stints = [Stint('l0_00', (0, 1), 0.0, 2.0), Stint('l1_00', (0,), 2.0, 6.0)]
    assert busy(stints, 2) == [6.0, 2.0] and balance(stints, 2) == 1.5
    assert balance([], 3) == 1.0
