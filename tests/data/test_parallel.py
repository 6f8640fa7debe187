"""Several processes over many items: order, bounds, errors."""

from __future__ import annotations

import os
import threading
import time

import pytest

from basicsr_unirestorer.data import parallel
from basicsr_unirestorer.data.parallel import in_order
from basicsr_unirestorer.errors import DataError


@pytest.fixture
def at_once(monkeypatch):
    """Start processes for the first item already."""
    monkeypatch.setattr(parallel, 'PATIENCE', 0)


@pytest.mark.parametrize('workers', [1, 2, 3])
def test_results_come_in_order(at_once, workers):
    assert list(in_order(divmod_seven, range(50), workers)) == [divmod(i, 7) for i in range(50)]


def divmod_seven(number: int) -> tuple[int, int]:
    time.sleep(0.002 * (number % 3))
    return divmod(number, 7)


def test_a_slow_taker_holds_the_items_back(at_once):
    taken = []
    results = in_order(divmod_seven, (taken.append(i) or i for i in range(1000)), 2)
    for count in range(1, 5):
        next(results)
        time.sleep(0.05)
        assert len(taken) <= 2 * 2 + 2 + count
    results.close()


def test_little_work_starts_no_process():
    assert set(in_order(process_number, range(20), 4)) == {os.getpid()}


def test_small_items_travel_in_groups_and_stay_in_order(monkeypatch):
    monkeypatch.setattr(parallel, 'PATIENCE', 0.01)
    taken = []
    results = in_order(abs, (taken.append(i) or i for i in range(5000)), 2)
    assert [next(results) for _ in range(5000)] == list(range(5000))
    results = in_order(slow_process_number, iter(range(4)), 2)
    assert len(list(results)) == 4


def process_number(_: int) -> int:
    return os.getpid()


def test_long_work_goes_over_to_processes(monkeypatch):
    monkeypatch.setattr(parallel, 'PATIENCE', 0.05)
    numbers = list(in_order(slow_process_number, range(12), 2))
    assert numbers[0] == os.getpid()
    assert os.getpid() not in numbers[-2:]


def slow_process_number(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def test_an_error_of_the_function_arrives_and_ends_the_processes(at_once):
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(in_order(over_three_less, range(9), 2))
    assert threading.active_count() == before


def over_three_less(number: int) -> float:
    return 1 / (number - 3)


def test_a_dead_worker_is_one_sentence(at_once):
    with pytest.raises(DataError, match='One of 2 worker processes died'):
        list(in_order(os._exit, [3], 2))
