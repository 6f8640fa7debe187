"""Memory: what is free, what a network takes, which errors say that none is left."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from basicsr_unirestorer.inference import memory
from basicsr_unirestorer.inference.memory import (
    PROBE,
    LiveTensors,
    bytes_per_pixel,
    fitting_tile,
    free_memory,
    is_out_of_memory,
)


def test_free_memory_is_plausible():
    assert 2**20 < free_memory() < 2**50


def test_limit_of_a_container_counts(monkeypatch):
    monkeypatch.setattr(memory, '_container_limits', lambda: [2**62, 123])
    assert free_memory('cpu') == 123


@pytest.mark.parametrize(
    ('error', 'answer'),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError('CUDA out of memory.'), True),
        (RuntimeError('MPS backend out of memory (MPS allocated: 1 GB)'), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError('DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes'), True),
        (RuntimeError('The size of tensor a (3) must match'), False),
        (ValueError('out of memory'), False),
    ],
)
def test_errors_that_say_so_are_known(error, answer):
    assert is_out_of_memory(error) is answer


def test_this_machine_says_so():
    """The error that torch really raises here when it asks for more than any machine has."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)


def test_peak_counts_what_lives_at_once():
    with LiveTensors() as live, torch.no_grad():
        x = torch.zeros(1000)  # 4000 bytes
        for _ in range(5):
            x = x + 1  # the old one goes when the new one is there
        view = x[:10]
        x.add_(1)
    assert live.peak == 8000
    del x
    assert live.now == 4000  # the view still holds it
    del view
    assert live.now == 0


def test_views_of_weights_are_not_counted():
    weights = torch.zeros(1000)
    with LiveTensors() as live:
        rows = weights.view(10, 100)
        rows.add_(1)
    assert live.peak == 0


def test_need_of_a_network_follows_from_its_layers():
    """32 channels of float32 made from 3 and back: both ends of the wider layer live at once."""
    net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 3, 1)).requires_grad_(False)
    assert bytes_per_pixel(net) == pytest.approx(2 * 32 * 4, rel=0.1)
    assert PROBE**2 > 1000


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 9000),
    st.integers(1, 9000),
    st.floats(10, 1e4),
    st.integers(0, 2**34),
    st.sampled_from([1, 4, 16]),
)
def test_tile_fits_the_budget_or_is_the_smallest(h, w, need, budget, multiple):
    side = fitting_tile(h, w, need, budget, multiple, smallest=64)
    if side is None:
        assert h * w * need <= budget
    else:
        assert side % multiple == 0 and (side == 64 or side * side * need <= budget)
        assert h * w * need > budget
