"""ExpertBank: loads on demand, forgets the least recently used, keeps within its budget."""

from __future__ import annotations

import pytest
from torch import nn

from basicsr_unirestorer.inference import expert_bank
from basicsr_unirestorer.inference.expert_bank import ExpertBank, size_in_bytes

ONE = 4 * 6  # bytes of a network of six float32 numbers


@pytest.fixture
def loaded() -> list[str]:
    return []


@pytest.fixture
def load(loaded):
    def load(name: str) -> nn.Module:
        loaded.append(name)
        return nn.Linear(2, 2)

    return load


def test_size_counts_parameters_and_buffers():
    assert size_in_bytes(nn.Linear(2, 2)) == ONE
    assert size_in_bytes(nn.BatchNorm1d(3)) == 4 * 3 * 4 + 8  # weight, bias, mean, variance; an int64 counter


def test_experts_are_loaded_when_asked_for_and_only_once(load, loaded):
    bank = ExpertBank(load)
    assert loaded == []
    assert bank.get('a') is bank.get('a')
    assert loaded == ['a']


def test_bytes_are_counted_once_an_expert(load, monkeypatch):
    counted = []
    monkeypatch.setattr(expert_bank, 'size_in_bytes', lambda net: counted.append(net) or ONE)
    bank = ExpertBank(load, budget_bytes=2 * ONE)
    for name in 'abcabcabc':
        bank.get(name)
    assert len(counted) == 3


def test_least_recently_used_expert_leaves_first(load, loaded):
    bank = ExpertBank(load, budget_bytes=2 * ONE)
    for name in 'abac':
        bank.get(name)
    assert list(bank.cached) == ['a', 'c']
    bank.get('b')
    assert loaded == ['a', 'b', 'c', 'b']


@pytest.mark.parametrize('budget', [0, ONE, 3 * ONE])
def test_budget_is_kept_but_the_last_expert_stays(load, budget):
    bank = ExpertBank(load, budget)
    for name in 'abcdeab':
        assert bank.get(name) is bank.cached[name]
        assert sum(map(size_in_bytes, bank.cached.values())) <= max(budget, ONE)


@pytest.fixture
def sized(load):
    """A bank that knows sizes before it loads, with room for two."""
    return ExpertBank(load, 2 * ONE, size_of=lambda name: ONE)


def test_room_is_made_before_an_expert_is_loaded(loaded):
    held = []

    def load(name: str) -> nn.Module:
        held.append(sorted(bank.cached))
        return nn.Linear(2, 2)

    bank = ExpertBank(load, 2 * ONE, size_of=lambda name: ONE)
    for name in 'abcd':
        bank.get(name)
    assert held == [[], ['a'], ['b'], ['c']]  # never three at once


def test_expert_that_comes_next_is_loaded_ahead_once(sized, loaded):
    sized.get('a')
    assert sized.prefetch('b') and sized.prefetch('b')
    assert sized.get('a') is sized.get('a')  # still there
    assert isinstance(sized.get('b'), nn.Module)
    assert loaded == ['a', 'b'] and sized.prefetch('a')


@pytest.mark.parametrize('budget', [0, ONE])
def test_nothing_is_loaded_ahead_without_room_beside_the_one_in_use(load, loaded, budget):
    bank = ExpertBank(load, budget, size_of=lambda name: ONE)
    bank.get('a')
    assert not bank.prefetch('b') and loaded == ['a'] and list(bank.cached) == ['a']
    assert not ExpertBank(load).prefetch('b')  # nor where sizes are not known


def test_several_experts_in_use_stay(sized, loaded):
    sized.get('a'), sized.get('b')
    assert not sized.prefetch('c', beside=2) and list(sized.cached) == ['a', 'b']
    assert sized.prefetch('c', beside=1) and list(sized.cached) == ['b']


def test_wrong_guess_is_kept_within_the_budget(sized, loaded):
    sized.get('a')
    sized.prefetch('b')
    sized.get('c')
    assert sorted(loaded) == ['a', 'b', 'c']
    assert list(sized.cached)[-1] == 'c' and len(sized.cached) <= 2


def test_failed_load_ahead_is_told_when_the_expert_is_asked_for_and_tried_again(loaded):
    answers = {'a': [nn.Linear(2, 2)], 'b': [nn.Linear(2, 2), OSError('damaged')]}

    def load(name: str) -> nn.Module:
        answer = answers[name].pop()
        if isinstance(answer, Exception):
            raise answer
        return answer

    bank = ExpertBank(load, 2 * ONE, size_of=lambda name: ONE)
    bank.get('a')
    bank.prefetch('b')
    with pytest.raises(OSError, match='damaged'):
        bank.get('b')
    assert isinstance(bank.get('b'), nn.Module)
