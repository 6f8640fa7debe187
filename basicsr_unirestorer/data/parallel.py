"""One function over many items in several processes: results in order, and only a few of them alive at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from types import ModuleType
from typing import TypeVar

import cv2

from basicsr_unirestorer.errors import DataError

Item = TypeVar('Item')
Result = TypeVar('Result')

PATIENCE = 0.2  # seconds; what is done by then is not worth starting processes, which takes longer
ERRAND = 0.02  # seconds of work worth sending at a time; sending costs about one thousandth of a second
MAX_TOGETHER = 16


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield ``function(item)`` for every item, in the order of the items, computed by ``workers`` processes.

    At most ``2 * workers + 2`` items are under way (or small groups of them, where one takes a few milliseconds): who
    takes the results slowly holds the workers back. The processes
    begin empty (a fork would inherit locks of OpenCV's threads without the threads) and do not run the calling script
    again, so it needs no guard. They end with the generator, or with this process, however that ends. The first items
    are computed here, so that little work pays for no process.

    Args:
        function: Importable by name from a module other than the script that runs; so must be what it raises.
        items: Anything that can be pickled.
        workers: Number of processes; 1 computes in this one.

    Raises:
        DataError: A worker died, most likely for want of memory.
    """
    items, spent, count = iter(items), 0.0, 0
    end = time.monotonic() + PATIENCE
    while workers <= 1 or time.monotonic() < end:
        item = next(items, end)
        if item is end:
            return
        start = time.monotonic()
        result = function(item)
        spent, count = spent + time.monotonic() - start, count + 1
        yield result
    together = max(1, min(MAX_TOGETHER, int(ERRAND * count / spent))) if spent else 1
    groups = iter(lambda: list(islice(items, together)), [])
    pool = ProcessPoolExecutor(workers, mp_context=get_context('spawn'), initializer=_become_worker)
    try:
        with _starting():
            waiting = deque(pool.submit(_each, function, group) for group in islice(groups, 2 * workers + 2))
        while waiting:
            results = waiting.popleft().result()
            with _starting():
                waiting.extend(pool.submit(_each, function, group) for group in islice(groups, 1))
            yield from results
    except BrokenProcessPool as error:
        raise DataError(
            f'One of {workers} worker processes died, as happens when memory runs out; run it again with fewer: '
            '--workers 1.'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Let processes start that never see Ctrl-C, which a terminal sends to all, and that do not import our script."""
    main, sys.modules['__main__'] = sys.modules['__main__'], ModuleType('__main__')
    blocks = hasattr(signal, 'pthread_sigmask')
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if blocks else None
    try:
        yield
    finally:
        sys.modules['__main__'] = main
        if blocks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _each(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]


def _become_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)  # one is what each of us is for
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed outright cannot tell its workers, and they would wait for it forever."""
    wait([parent_process().sentinel])
    os._exit(1)
