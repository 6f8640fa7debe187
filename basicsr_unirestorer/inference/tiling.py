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


def blind_margin(overlap: int) -> int:
    """Return how many pixels at a tile's inner edge count for nothing: there the network lacked context."""
    return min(max(1, overlap // 4), overlap // 2)


def feather(size: int, overlap: int, inner: tuple[bool, bool], device: torch.device) -> Tensor:
    """Return blending weights along one axis, shape (size,).

    Args:
        size: Length of the tile.
        overlap: Pixels shared with each neighbour.
        inner: Whether the tile has a neighbour at its start and at its end. There the weights are zero for the blind
            margin and rise to one within the overlap; at the picture's border they are one.
        device: Where the weights are wanted.
    """
    margin = blind_margin(overlap)
    rise = (torch.arange(1, size + 1, device=device) - margin) / (overlap - 2 * margin + 1)
    weights = torch.ones(size, device=device)
    for has_neighbour, ramp in zip(inner, (rise, rise.flip(0)), strict=True):
        weights = torch.minimum(weights, ramp.clamp(min=0)) if has_neighbour else weights
    return weights


def tiled(net: Callable[[Tensor], Tensor], lq: Tensor, tile_size: int, tile_overlap: int) -> Tensor:
    """Run a network on overlapping tiles and blend them linearly.

    Equal to the untiled result where the network sees no further than a quarter of the overlap (and one pixel from an
    overlap of 2 on); networks that average over the whole picture see one tile instead.

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
            along_h, along_w = (
                feather(side, tile_overlap, (start > 0, start + side < length), lq.device)
                for start, side, length in ((top, piece.shape[-2], h), (left, piece.shape[-1], w))
            )
            weight = along_h[:, None] * along_w[None, :]
            total[place] += net(piece) * weight
            weights[place] += weight
    return total / weights
