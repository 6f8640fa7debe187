"""Restore large pictures piece by piece, without seams."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return the starts of tiles that cover ``length`` pixels; the last one is aligned to the border."""
    if length <= tile:
        return [0]
    starts = list(range(0, length - tile, tile - overlap))
    return [*starts, length - tile]


def feather(size: int, overlap: int, device: torch.device) -> Tensor:
    """Return blending weights along one axis, shape (size,): rising over the overlap, then one, then falling."""
    ramp = (torch.arange(1, size + 1, device=device) / (overlap + 1)).clamp(max=1)
    return torch.minimum(ramp, ramp.flip(0))


def tiled(net: Callable[[Tensor], Tensor], lq: Tensor, tile_size: int, tile_overlap: int) -> Tensor:
    """Run a network on overlapping tiles and blend them linearly.

    Equal to the untiled result where the network sees no further than half the overlap; networks that average over the
    whole picture see one tile instead.

    Args:
        net: Maps (n, 3, h, w) to the same shape.
        lq: Shape (n, 3, h, w).
        tile_size: Side of a tile in pixels.
        tile_overlap: Pixels that neighbours share, smaller than ``tile_size``.

    Returns:
        Shape of ``lq``.
    """
    h, w = lq.shape[-2:]
    if h <= tile_size and w <= tile_size:
        return net(lq)
    total, weights = torch.zeros_like(lq), lq.new_zeros(h, w)
    for top in tile_starts(h, tile_size, tile_overlap):
        for left in tile_starts(w, tile_size, tile_overlap):
            place = (..., slice(top, top + tile_size), slice(left, left + tile_size))
            piece = lq[place]
            weight = (
                feather(piece.shape[-2], tile_overlap, lq.device)[:, None]
                * feather(piece.shape[-1], tile_overlap, lq.device)[None, :]
            )
            total[place] += net(piece) * weight
            weights[place] += weight
    return total / weights
