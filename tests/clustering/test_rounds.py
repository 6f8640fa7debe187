"""Rounds: counts of an epoch, evenness over epochs, purity."""

from __future__ import annotations

from collections import Counter

import pytest

from basicsr_unirestorer.clustering.rounds import Rounds


def epoch(rounds: Rounds, number: int) -> list[tuple[int, int]]:
    return [rounds.draw(number, place) for place in range(rounds.quota)]


def test_a_capped_group_shows_others_each_epoch_until_all_were_seen():
    rounds = Rounds(size=12, quota=4, seed=1)
    parts = [[member for member, _ in epoch(rounds, number)] for number in range(6)]
    assert all(len(set(part)) == 4 for part in parts)
    assert sorted(parts[0] + parts[1] + parts[2]) == list(range(12))
    assert sorted(parts[3] + parts[4] + parts[5]) == list(range(12))
    assert parts[:3] != parts[3:]  # the second round has another order
    assert parts[0] != list(range(4))


@pytest.mark.parametrize(('size', 'quota'), [(3, 3), (3, 9), (3, 7), (7, 3), (1, 5), (5, 1)])
def test_every_sample_comes_equally_often_and_never_twice_alike(size, quota):
    rounds = Rounds(size, quota, seed=0, name='x')
    drawn = [pair for number in range(size) for pair in epoch(rounds, number)]
    assert len(set(drawn)) == len(drawn) == size * quota
    assert Counter(member for member, _ in drawn) == dict.fromkeys(range(size), quota)


def test_a_whole_epoch_keeps_its_numbers():
    assert epoch(Rounds(4, 4), 2) == [(0, 2), (1, 2), (2, 2), (3, 2)]


def test_draws_depend_on_seed_name_and_place_alone():
    forwards = [Rounds(50, 20, 3, 'a').draw(7, place) for place in range(20)]
    backwards = [Rounds(50, 20, 3, 'a').draw(7, place) for place in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert forwards != [Rounds(50, 20, 4, 'a').draw(7, place) for place in range(20)]
    assert forwards != [Rounds(50, 20, 3, 'b').draw(7, place) for place in range(20)]
