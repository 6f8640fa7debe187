"""Loaded experts, kept while memory allows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn


def size_in_bytes(net: nn.Module) -> int:
    """Return the memory of a network's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers()))


class ExpertBank:
    """An LRU cache of expert networks with a byte budget; the expert asked for last always stays.

    Args:
        load: Returns a frozen network for a node name.
        budget_bytes: Memory the cached experts may take together.
    """

    def __init__(self, load: Callable[[str], nn.Module], budget_bytes: int = 2**31) -> None:
        self.load = load
        self.budget_bytes = budget_bytes
        self.cached: OrderedDict[str, nn.Module] = OrderedDict()

    def get(self, name: str, device: torch.device | str = 'cpu') -> nn.Module:
        """Return the expert of a node on a device."""
        if name not in self.cached:
            self.cached[name] = self.load(name)
        self.cached.move_to_end(name)
        self.cached[name].to(device)
        while len(self.cached) > 1 and sum(map(size_in_bytes, self.cached.values())) > self.budget_bytes:
            self.cached.popitem(last=False)
        return self.cached[name]
