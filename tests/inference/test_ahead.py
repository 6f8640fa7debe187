"""Work done ahead: in order, within its limit, and not at all once nobody wants it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from hypothesis import given, settings
from hypothesis import strategies as st

from basicsr_unirestorer.inference.ahead import ahead


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 9), max_size=20), st.integers(0, 20))
def test_items_come_in_order_and_within_the_limit(costs, limit):
    loaded: list[int] = []
    lock = Lock()

    def load(item: tuple[int, int]) -> int:
        with lock:
            loaded.append(item[0])
        return item[0]

    with ThreadPoolExecutor(3) as threads:
        given_back = []
        for item, future in ahead(enumerate(costs), load, lambda item: item[1], limit, threads):
            given_back.append(future.result())
            with lock:
                held = [n for n in loaded if n >= item[0]]
            assert len(held) == 1 or sum(costs[n] for n in held) <= limit or not any(costs[n] for n in held[:-1])
    assert given_back == list(range(len(costs)))


def test_nothing_more_is_loaded_once_the_caller_stops():
    loaded: list[int] = []
    with ThreadPoolExecutor(1) as threads:
        items = ahead(range(100), lambda n: loaded.append(n), lambda n: 1, 3, threads)
        next(items)[1].result()
        items.close()
    assert len(loaded) <= 3
