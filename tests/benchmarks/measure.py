"""Compare two ways to compute the same: time in turns in one process, peak memory in fresh ones."""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

Run = Callable[[], object]


class Ratio(NamedTuple):
    """How many times as long the first of two functions takes, over all pairs of runs."""

    median: float
    low: float
    high: float


def alternate(first: Run, second: Run, repeats: int) -> list[tuple[float, float]]:
    """Time two functions in turns, each pair close together, so that both meet the same state of the machine.

    Args:
        first: Called ``repeats + 1`` times; the first call, which pays for what is made once, does not count.
        second: Likewise.
        repeats: Number of pairs; every other one runs in reverse order.

    Returns:
        Seconds (first, second) of every pair.
    """
    first(), second()
    pairs = []
    for turn in range(repeats):
        if turn % 2:
            later, earlier = seconds(second), seconds(first)
            pairs.append((earlier, later))
        else:
            pairs.append((seconds(first), seconds(second)))
    return pairs


def seconds(run: Run) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(pairs: list[tuple[float, float]]) -> Ratio:
    """Return first / second: its median, smallest and largest over the pairs."""
    ratios = [first / second for first, second in pairs]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def peak_memory(prepare: Callable[..., Run], *args: object) -> int:
    """Return the bytes that a function needs at its peak, beyond what its process holds when it starts.

    Args:
        prepare: Called with ``args`` in a fresh process; returns the function to measure. Importable by name.
        args: Anything that can be pickled.

    Raises:
        BrokenProcessPool: The process died, most likely for want of memory.
    """
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as process:
        return process.submit(_growth, prepare, args).result()


def _growth(prepare: Callable[..., Run], args: tuple) -> int:
    _own_pages()
    run = prepare(*args)
    _return_freed_memory()
    _forget_peak()
    before = _peak()
    run()
    return _peak() - before


def _own_pages() -> None:
    """Let every larger tensor have pages of its own, given back when it is freed; else chance decides how many stay."""
    mmap_threshold = -3  # M_MMAP_THRESHOLD of glibc's malloc.h
    try:
        ctypes.CDLL(None).mallopt(mmap_threshold, 2**16)
    except (OSError, AttributeError):  # a C library other than glibc
        pass


def _return_freed_memory() -> None:
    """Give what ``prepare`` freed back to the system: kept for reuse, it would hide what the function takes."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # a C library other than glibc
        pass


def _forget_peak() -> None:
    """Let the peak start again from what is held now. Where that is impossible, what ``prepare`` took hides a peak."""
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        pass


def _peak() -> int:
    """Return the most bytes of memory that this process has held since its start, or since ``_forget_peak``."""
    try:
        lines = Path('/proc/self/status').read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM:')) * 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
