"""ExpertBank: loads on demand, forgets the least recently used, keeps within its budget."""

from __future__ import annotations

import pytest
from torch import nn

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
