"""Loaded experts, kept while memory allows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from threading import Lock

import torch
from torch import nn


def size_in_bytes(net: nn.Module) -> int:
    """Return the memory of a network's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers()))


def _is_on(net: nn.Module, device: torch.device | str) -> bool:
    """Tell by its first tensor whether a network is on a device; looking at all takes longer than a small one runs."""
    first = next(chain(net.parameters(), net.buffers()), None)
    return first is None or first.device == torch.device(device)


class ExpertBank:
    """An LRU cache of expert networks with a byte budget; the expert asked for last always stays.

    Args:
        load: Returns a frozen network for a node name.
        budget_bytes: Memory the cached experts may take together.
        size_of: Tells the bytes of an expert before it is loaded, so that room is made first; where None, the budget is
            exceeded by one expert while that is loaded, and nothing is loaded ahead.
    """

    def __init__(
        self,
        load: Callable[[str], nn.Module],
        budget_bytes: int = 2**31,
        size_of: Callable[[str], int] | None = None,
    ) -> None:
        self.load = load
        self.budget_bytes = budget_bytes
        self.size_of = size_of
        self.cached: OrderedDict[str, nn.Module] = OrderedDict()
        self._sizes: dict[str, int] = {}  # of every expert seen so far: counting takes longer than a small one runs
        self._coming: dict[str, Future[nn.Module]] = {}
        self._loader: ThreadPoolExecutor | None = None
        self._lock = Lock()

    def get(self, name: str, device: torch.device | str = 'cpu') -> nn.Module:
        """Return the expert of a node on a device; one that is coming already is waited for."""
        with self._lock:
            if name not in self.cached:
                self.cached[name] = self._arrived(name)
            self.cached.move_to_end(name)
            if not _is_on(self.cached[name], device):
                self.cached[name].to(device)
            while len(self.cached) > 1 and self._held() > self.budget_bytes:
                self.cached.popitem(last=False)
            return self.cached[name]

    def prefetch(self, name: str, beside: int = 1) -> bool:
        """Begin to load an expert that is needed next, where the budget has room for it beside those in use.

        Args:
            name: Its node.
            beside: How many of those asked for last are in use.

        Returns:
            Whether it is there or coming.
        """
        with self._lock:
            if name in self.cached or name in self._coming:
                return True
            if self.size_of is None or self._coming or not self._make_room(self.size_of(name), keep=beside):
                return False
            self._loader = self._loader or ThreadPoolExecutor(1, thread_name_prefix='expert')
            self._coming[name] = self._loader.submit(self.load, name)
            return True

    def _arrived(self, name: str) -> nn.Module:
        if name in self._coming:
            return self._coming.pop(name).result()
        for other in list(self._coming):  # what was expected next was wrong, or comes later: it is there all the same
            self.cached[other] = self._coming.pop(other).result()
            self.cached.move_to_end(other, last=False)
        if self.size_of is not None:
            self._make_room(self.size_of(name), keep=0)
        return self.load(name)

    def _make_room(self, size: int, keep: int) -> bool:
        """Forget the least recently used experts until ``size`` bytes fit; the last ``keep`` ones stay."""
        kept = sum(map(self._size, list(self.cached)[len(self.cached) - keep :])) if keep else 0
        if keep and kept + size > self.budget_bytes:
            return False
        while len(self.cached) > keep and self._held() + size > self.budget_bytes:
            self.cached.popitem(last=False)
        return True

    def _held(self) -> int:
        return sum(map(self._size, self.cached))

    def _size(self, name: str) -> int:
        if name not in self._sizes:
            self._sizes[name] = size_in_bytes(self.cached[name])
        return self._sizes[name]
