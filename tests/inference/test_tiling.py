"""Tiling: exact for local operators, everywhere covered, and out of the way for small pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.errors import OptionError
from basicsr_unirestorer.inference.tiling import (
    NotFiniteError,
    feather,
    spans,
    tile_places,
    tile_starts,
    tiled,
    to_pixels,
    to_tensor,
)

FEW = settings(max_examples=40, deadline=None, derandomize=True)
DTYPES = st.sampled_from([np.uint8, np.uint16, np.float32])
SIDES = st.integers(1, 70)


def noise(h: int, w: int, channels: int = 3, dtype: type = np.float32) -> np.ndarray:
    rng = np.random.default_rng(0)
    if dtype == np.float32:
        return rng.random((h, w, channels), np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, (h, w, channels), dtype)


def box_blur(lq: torch.Tensor, reach: int = 1) -> torch.Tensor:
    """A mean over a square; at a border, a tile's too, it makes up what it cannot see, as networks do."""
    return F.avg_pool2d(F.pad(lq, (reach,) * 4, mode='replicate'), 2 * reach + 1, stride=1)


def halving(lq: torch.Tensor) -> torch.Tensor:
    """Halve and double the resolution, as U-shaped networks do: what comes out depends on where its grid lies."""
    h, w = lq.shape[-2:]
    even = F.pad(lq, (0, w % 2, 0, h % 2), mode='replicate')
    return F.interpolate(F.avg_pool2d(even, 2), scale_factor=2, mode='nearest')[..., :h, :w]


@pytest.mark.parametrize(('overlap', 'reach'), [(2, 1), (3, 1), (6, 1), (8, 2), (14, 3)])
@pytest.mark.parametrize('size', [(37, 53), (64, 64), (8, 200), (17, 16), (33, 3)])
def test_tiling_is_exact_for_a_local_operator(size, overlap, reach):
    """A 3x3 mean sees one pixel around, so any overlap from 2 on gives the untiled result; larger ones need more."""
    image = noise(*size)
    result = tiled(lambda tile: box_blur(tile, reach), image, 16, overlap)
    np.testing.assert_allclose(result, tiled(lambda tile: box_blur(tile, reach), image), rtol=0, atol=1e-6)


@FEW
@given(SIDES, SIDES, st.sampled_from([1, 3]), DTYPES, st.integers(16, 80), st.integers(0, 12))
def test_pointwise_operator_sees_no_tiles(h, w, channels, dtype, tile, overlap):
    """Any size, type and tile: tiled equals untiled within one 255th (integers: exactly, but for a rounding)."""
    image = noise(h, w, channels, dtype)
    whole, pieces = tiled(torch.sqrt, image), tiled(torch.sqrt, image, tile, overlap, multiple=4)
    assert pieces.shape == image.shape and pieces.dtype == image.dtype
    limit = 1e-6 if dtype == np.float32 else 1
    assert np.abs(pieces.astype(np.float64) - whole).max() <= limit


@FEW
@given(SIDES, SIDES, st.integers(12, 40), st.integers(2, 8))
def test_tiles_lie_on_the_grid_of_a_network_that_halves(h, w, tile, overlap):
    image = noise(h, w)
    np.testing.assert_allclose(tiled(halving, image, tile, overlap, multiple=2), tiled(halving, image), atol=1e-6)


def test_tiles_off_the_grid_would_be_seen():
    """What the test above guards: with odd starts the same operator gives something else."""
    image = noise(57, 57)
    assert np.abs(tiled(halving, image, 15, 4, multiple=1) - tiled(halving, image)).max() > 0.1


@FEW
@given(SIDES, SIDES, st.sampled_from([1, 3]), DTYPES)
def test_pixels_survive_the_way_to_a_tensor_and_back(h, w, channels, dtype):
    image = noise(h, w, channels, dtype)
    tensor = to_tensor(image)
    assert tensor.shape == (1, 3, h, w) and tensor.dtype == torch.float32
    assert 0 <= tensor.min() and tensor.max() <= 1
    np.testing.assert_allclose(to_pixels(tensor[0], image), image, rtol=1e-6 if dtype == np.float32 else 0)


def test_tiles_that_disagree_are_blended_without_a_step():
    """Each tile is painted in its own number; with a hard seam neighbouring pixels would differ by a hundredth."""
    painted = iter(range(100))
    row = tiled(lambda tile: torch.full_like(tile, next(painted) / 100), noise(8, 40), 16, 8)[0, :, 0]
    assert 0 < np.diff(row).max() <= 0.0025


def test_small_pictures_are_not_tiled():
    calls = []
    image = noise(16, 12)
    assert np.array_equal(tiled(lambda tile: calls.append(tile) or tile, image, 16, 4), image)
    assert len(calls) == 1


def test_progress_ends_at_one():
    told: list[float] = []
    tiled(lambda tile: tile, noise(40, 50), 16, 4, progress=told.append)
    assert told == sorted(told) and told[-1] == 1 and len(told) == len(tile_places(40, 50, 16, 4))


def test_output_that_is_not_finite_is_refused():
    answers = iter([0.0, float('nan')])
    with pytest.raises(NotFiniteError, match='NaN or infinite values; try --precision fp32'):
        tiled(lambda tile: torch.full_like(tile, next(answers)), noise(16, 30), 16, 2)


@FEW
@given(st.integers(1, 300), st.integers(1, 64), st.integers(0, 40), st.sampled_from([1, 2, 4, 16]))
def test_tiles_cover_every_pixel_and_overlap(length, tile, overlap, multiple):
    if length > tile and (tile - overlap) < multiple:
        with pytest.raises(OptionError, match=r'must be at least 0 and at least \d+ pixels smaller'):
            tile_starts(length, tile, overlap, multiple)
        return
    starts = tile_starts(length, tile, overlap, multiple)
    assert all(start % multiple == 0 for start in starts) and starts[0] == 0
    stops = [min(start + tile, length) for start in starts]
    assert stops[-1] == length
    assert all(stop - start >= overlap for start, stop in zip(starts[1:], stops, strict=False))
    total = torch.zeros(length)
    parts = spans(length, tile, overlap, multiple)
    assert len(parts) == len(starts)
    for place, weights in parts:
        assert place.start % multiple == 0 and place.stop - place.start <= tile and weights.min() >= 0
        total[place] += weights
    torch.testing.assert_close(total, torch.ones(length))


def test_tiles_are_no_larger_than_their_number_needs():
    """1100 pixels take two tiles of 1024 as well as two of 582: the smaller ones do less twice."""
    assert [part.place for part in spans(1100, 1024, 64)] == [slice(0, 582), slice(518, 1100)]


def test_weights_mirror_each_other_and_are_one_at_the_border():
    first, last = (feather(16, 8, inner) for inner in ((False, True), (True, False)))
    assert torch.equal(first, last.flip(0))
    assert first[:8].eq(1).all() and first[-2:].eq(0).all()
