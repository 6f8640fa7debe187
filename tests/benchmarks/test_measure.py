"""What measures networks: properties of the measuring, never times of a network."""

from __future__ import annotations

import os
import time
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import pytest

from tests.benchmarks import measure

MIB = 2**20


def pieces(mebibytes: int) -> list[bytes]:
    """Fill that much memory in pieces small enough for the C library to keep them for reuse when they are freed."""
    return [bytes(1000) for _ in range(mebibytes * MIB // 1000)]


def pieces_after_more(mebibytes: int) -> measure.Run:
    """Prepare a function that fills that much memory, after having held and freed twice as much."""
    last = pieces(2 * mebibytes)[-1]  # at the end of the heap, so that all below stays with the process
    return lambda: [*pieces(mebibytes), last]


def test_a_sleep_twice_as_long_takes_twice_as_long():
    found = measure.ratio(measure.alternate(partial(time.sleep, 0.1), partial(time.sleep, 0.05), repeats=5))
    assert found.median == pytest.approx(2, rel=0.3)


def test_functions_run_in_turns_and_every_other_pair_is_reversed():
    calls = []
    measure.alternate(partial(calls.append, 'a'), partial(calls.append, 'b'), repeats=3)
    assert ''.join(calls) == 'ab' + 'ab' + 'ba' + 'ab'  # what comes before the first pair is not timed


def test_a_pair_is_first_and_second_in_whichever_order_they_ran():
    for first, second in measure.alternate(partial(time.sleep, 0.05), int, repeats=2):
        assert first > 0.05 > second


def test_the_ratio_is_of_pairs():
    assert measure.ratio([(1, 1), (2, 1), (30, 3)]) == (2, 1, 10)


@pytest.mark.skipif(not os.access('/proc/self/clear_refs', os.W_OK), reason='a process cannot reset its peak here')
def test_memory_is_seen_and_what_was_there_before_is_not():
    assert measure.peak_memory(pieces_after_more, 200) == pytest.approx(200 * MIB, rel=0.1)


def test_a_process_that_dies_is_reported():
    with pytest.raises(BrokenProcessPool):
        measure.peak_memory(partial, os._exit, 1)


@pytest.mark.slow
def test_the_plain_forms_compute_the_same_at_release_size():
    from tests.benchmarks import networks  # here, so that the processes of the tests above need not import torch

    for name in networks.CASES:
        plain, ours = (networks.forward(networks.build(name, plain), networks.picture(40))() for plain in (True, False))
        assert (plain - ours).abs().max() < 1e-5, name
