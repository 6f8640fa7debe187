"""Work that threads do ahead, bounded by what it holds in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar('Item')
Result = TypeVar('Result')


def ahead(
    items: Iterable[Item],
    load: Callable[[Item], Result],
    cost: Callable[[Item], int],
    limit: int,
    threads: Executor,
) -> Iterator[tuple[Item, Future[Result]]]:
    """Let threads load items in order before they are asked for.

    Args:
        items: What is loaded.
        load: Loads one, in a thread.
        cost: What a loaded item holds, in any unit.
        limit: What those loading, those waiting and the one in the caller's hands may hold together; a single item may
            exceed it.
        threads: They load.

    Yields:
        Each item with its future, in order. Closing the iterator cancels what has not begun.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    held, source = 0, iter(items)
    following = next(source, None)
    try:
        while True:
            while following is not None and (held + cost(following) <= limit or held == 0):
                waiting.append((following, threads.submit(load, following)))
                held += cost(following)
                following = next(source, None)
            if not waiting:
                if following is None:
                    return
                held = 0  # items that cost nothing
                continue
            item, future = waiting.popleft()
            yield item, future
            held -= cost(item)
    finally:
        for _, future in waiting:
            future.cancel()
