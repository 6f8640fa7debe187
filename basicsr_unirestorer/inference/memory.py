"""How much memory there is, what a network takes of it, and which tiles fit."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

PROBE = 128  # side of the picture that a network's need is measured with
OUT_OF_MEMORY = ('out of memory', 'not enough memory', "can't allocate memory", 'cannot allocate memory')


def free_memory(device: str | torch.device = 'cpu') -> int:
    """Return the bytes that a device can still give: on a CPU within the limits of its container, too."""
    device = torch.device(device)
    if device.type == 'cuda':
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return min(_available(), *_container_limits())


def _available() -> int:
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith('MemAvailable:')) * 1024
    except (OSError, StopIteration):  # not Linux: half of what is built in
        if not hasattr(os, 'sysconf'):
            return 2**32
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2


def _container_limits() -> list[int]:
    """Return what control groups of either version leave, an unlimited one as 2**62."""
    left = [2**62]
    for root, limit, used in (
        ('/sys/fs/cgroup', 'memory.max', 'memory.current'),
        ('/sys/fs/cgroup/memory', 'memory.limit_in_bytes', 'memory.usage_in_bytes'),
    ):
        try:
            left.append(int(Path(root, limit).read_text()) - int(Path(root, used).read_text()))
        except (OSError, ValueError):  # no such group, or 'max'
            continue
    return left


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the computer, has no memory left."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)


class LiveTensors(TorchFunctionMode):
    """While it is active, count the bytes of tensors that are made; ``peak`` is the most that lived at once.

    (A dispatch mode would see a little more, but importing one imports torch's compiler: a second, and 100 MB.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_function__(
        self, func: Callable, types: Sequence, args: Sequence = (), kwargs: Mapping | None = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in args if isinstance(tensor, Tensor)}
        for tensor in result if isinstance(result, list | tuple) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:  # no view, nothing in place
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._known:
            return
        self._known.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.now -= size


def bytes_per_pixel(run: Callable[[Tensor], Tensor], device: str | torch.device = 'cpu') -> float:
    """Measure what a network needs for each pixel of its input, by restoring a small picture.

    Args:
        run: Maps (1, 3, h, w) to the same shape. Networks whose need grows faster than the picture need more.
        device: Where it runs.
    """
    probe = torch.full((1, 3, PROBE, PROBE), 0.5)
    if torch.device(device).type == 'cuda':
        run(probe)  # chooses algorithms and loads libraries
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run(probe)
        return (torch.cuda.max_memory_allocated(device) - before) / PROBE**2
    with LiveTensors() as live:
        run(probe)
    return live.peak / PROBE**2


def fitting_tile(h: int, w: int, need_per_pixel: float, budget: float, multiple: int, smallest: int) -> int | None:
    """Return the side of the largest square tile within a budget of bytes; None where the whole picture fits."""
    if h * w * need_per_pixel <= budget:
        return None
    return max(isqrt(int(budget / need_per_pixel)) // multiple * multiple, smallest)
