"""One function over many items in several processes: results in order, and only a few of them alive at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import TypeVar

from basicsr_unirestorer.errors import DataError

Item = TypeVar('Item')
Result = TypeVar('Result')


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield ``function(item)`` for every item, in the order of the items, computed by ``workers`` processes.

    At most ``2 * workers + 2`` items are under way: who takes the results slowly holds the workers back. Processes
    start the way Python's ``multiprocessing`` is set to, and end with the generator, or with this process.

    Args:
        function: Importable by name, so that it can be sent to another process; so must be what it raises.
        items: Anything that can be pickled.
        workers: Number of processes; 1 computes in this one.

    Raises:
        DataError: A worker died, most likely for want of memory.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    items = iter(items)
    pool = ProcessPoolExecutor(workers, mp_context=get_context(), initializer=_become_worker)
    try:
        with _interrupts_held_back():
            waiting = deque(pool.submit(function, item) for item in islice(items, 2 * workers + 2))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(items, 1))
            yield result
    except BrokenProcessPool as error:
        raise DataError(
            f'One of {workers} worker processes died, as happens when memory runs out; run it again with fewer '
            '(--workers 1). A script that starts workers calls us below "if __name__ == \'__main__\':".'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start processes that never see Ctrl-C, which a terminal sends to all: ending them is their parent's work."""
    if not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _become_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed outright cannot tell its workers, and they would wait for it forever."""
    wait([parent_process().sentinel])
    os._exit(1)
