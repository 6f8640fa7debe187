"""Tiling: exact for local operators, everywhere covered, and out of the way for small pictures."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

from basicsr_unirestorer.inference.tiling import feather, tile_starts, tiled


def noise(*size: int) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


def box_blur(lq: torch.Tensor, reach: int = 1) -> torch.Tensor:
    """A mean over a square; at a border, a tile's too, it makes up what it cannot see, as networks do."""
    return F.avg_pool2d(F.pad(lq, (reach,) * 4, mode='replicate'), 2 * reach + 1, stride=1)


@pytest.mark.parametrize(('overlap', 'reach'), [(2, 1), (3, 1), (6, 1), (8, 2), (14, 3)])
@pytest.mark.parametrize('size', [(37, 53), (64, 64), (8, 200), (17, 16), (33, 3)])
def test_tiling_is_exact_for_a_local_operator(size, overlap, reach):
    """A 3x3 mean sees one pixel around, so any overlap from 2 on gives the untiled result; larger ones need more."""
    lq = noise(*size)
    result = tiled(lambda tile: box_blur(tile, reach), lq, 16, overlap)
    assert_close(result, box_blur(lq, reach), rtol=0, atol=1e-6)


@pytest.mark.parametrize('overlap', [0, 1, 2, 15])
def test_tiling_changes_nothing_for_a_pointwise_operator(overlap):
    lq = noise(37, 53)
    assert_close(tiled(torch.sqrt, lq, 16, overlap), lq.sqrt(), rtol=0, atol=1e-6)


def test_tiles_that_disagree_are_blended_without_a_step():
    """Each tile is painted in its own number; with a hard seam neighbouring pixels would differ by one."""
    painted = iter(range(100))
    row = tiled(lambda tile: torch.full_like(tile, next(painted)), noise(8, 40), 16, 8)[0, 0, 0]
    assert 0 < row.diff().max() <= 0.25


def test_small_pictures_are_not_tiled():
    calls = []
    lq = noise(16, 12)
    assert tiled(lambda tile: calls.append(tile) or tile, lq, 16, 4) is lq
    assert len(calls) == 1 and calls[0] is lq


@pytest.mark.parametrize(
    ('length', 'tile', 'overlap'), [(53, 16, 2), (16, 16, 4), (17, 16, 15), (200, 64, 0), (3, 16, 4)]
)
def test_tiles_cover_every_pixel_and_stay_inside(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    covered = sorted({pixel for start in starts for pixel in range(start, min(start + tile, length))})
    assert covered == list(range(length))
    assert all(0 <= start and start + min(tile, length) <= length for start in starts)
    assert all(b - a <= tile - overlap for a, b in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize(('length', 'overlap'), [(53, 0), (53, 1), (53, 2), (200, 15), (17, 8), (16, 4)])
def test_every_pixel_has_weight(length, overlap):
    total = torch.zeros(length)
    for start in tile_starts(length, 16, overlap):
        weights = feather(16, overlap, (start > 0, start + 16 < length), total.device)
        assert 0 <= weights.min() <= weights.max() <= 1
        total[start : start + 16] += weights
    assert total.min() > 0


def test_weights_mirror_each_other_and_are_one_at_the_border():
    first, last = (feather(16, 8, inner, torch.device('cpu')) for inner in ((False, True), (True, False)))
    assert torch.equal(first, last.flip(0))
    assert first[:8].eq(1).all() and first[-2:].eq(0).all()
