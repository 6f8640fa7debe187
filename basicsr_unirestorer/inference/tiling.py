"""Restore large pictures piece by piece, without seams. The picture stays as it is; only a tile becomes a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from basicsr_unirestorer.errors import OptionError, UniRestorerError

STRIP = 128  # rows that are turned into pixels at a time


class NotFiniteError(UniRestorerError):
    """A network answered with NaN or infinite values."""


class Span(NamedTuple):
    """One tile along one axis: where it lies, and its share of each pixel's blend, shape (stop - start,)."""

    place: slice
    weights: Tensor


def tile_starts(length: int, tile: int, overlap: int, multiple: int = 1) -> list[int]:
    """Return the starts of tiles that cover ``length`` pixels.

    Every start is a multiple of ``multiple``, the stride of a network that halves its resolution inside: a tile then
    falls on the network's own grid, as the whole picture does. The last tile ends at the border.

    Raises:
        OptionError: The overlap leaves no such step between tiles.
    """
    if length <= tile:
        return [0]
    step = (tile - overlap) // multiple * multiple
    if overlap < 0 or step < 1:
        raise OptionError(
            f'The tile overlap is {overlap} but must be at least 0 and at least {multiple} pixels smaller than the '
            f'tile size {tile}; give --tile {max(overlap, 0) + multiple} or more.'
        )
    last = -(-(length - tile) // multiple) * multiple
    return [*range(0, last, step), last]


def even_tile(length: int, tile: int, overlap: int, multiple: int = 1) -> int:
    """Return the smallest tile that covers ``length`` with as few tiles as ``tile`` does: no work is done twice."""
    count = len(tile_starts(length, tile, overlap, multiple))
    needed = -(-(length + (count - 1) * overlap) // count)
    for side in range(needed, tile):
        if len(tile_starts(length, side, overlap, multiple)) == count:
            return side
    return tile


def blind_margin(overlap: int) -> int:
    """Return how many pixels at a tile's inner edge count for nothing: there the network lacked context."""
    return min(max(1, overlap // 4), overlap // 2)


def feather(size: int, overlap: int, inner: tuple[bool, bool]) -> Tensor:
    """Return blending weights along one axis, shape (size,).

    Args:
        size: Length of the tile.
        overlap: Pixels shared with each neighbour.
        inner: Whether the tile has a neighbour at its start and at its end. There the weights are zero for the blind
            margin and rise to one within the overlap; at the picture's border they are one.
    """
    margin = blind_margin(overlap)
    rise = (torch.arange(1, size + 1) - margin) / (overlap - 2 * margin + 1)
    weights = torch.ones(size)
    for has_neighbour, ramp in zip(inner, (rise, rise.flip(0)), strict=True):
        weights = torch.minimum(weights, ramp.clamp(min=0)) if has_neighbour else weights
    return weights


def spans(length: int, tile: int, overlap: int, multiple: int = 1) -> list[Span]:
    """Cut an axis into overlapping tiles whose weights add up to one at every pixel; arguments as ``tiled``."""
    tile = even_tile(length, tile, overlap, multiple)
    places = [slice(start, min(start + tile, length)) for start in tile_starts(length, tile, overlap, multiple)]
    weights = [feather(p.stop - p.start, overlap, (p.start > 0, p.stop < length)) for p in places]
    total = torch.zeros(length)
    for place, weight in zip(places, weights, strict=True):
        total[place] += weight
    return [Span(place, weight / total[place]) for place, weight in zip(places, weights, strict=True)]


def tile_places(h: int, w: int, tile: int, overlap: int, multiple: int = 1) -> list[tuple[slice, slice]]:
    """Return rows and columns of every tile, in the order in which ``tiled`` runs them."""
    columns = spans(w, tile, overlap, multiple)
    return [(row.place, column.place) for row in spans(h, tile, overlap, multiple) for column in columns]


def to_tensor(image: np.ndarray) -> Tensor:
    """Turn pixels into what networks take.

    Args:
        image: RGB or grey, shape (h, w, 3) or (h, w, 1); uint8, uint16, or float32 as it is.

    Returns:
        RGB, float32, [0, 1], shape (1, 3, h, w), channels-last in memory.
    """
    scale = np.iinfo(image.dtype).max if image.dtype.kind == 'u' else 1
    pixels = np.empty((*image.shape[:2], 3), np.float32)
    np.divide(image, scale, out=pixels, dtype=np.float32)  # grey is repeated
    return torch.from_numpy(pixels.transpose(2, 0, 1))[None]


def to_pixels(colours: Tensor, like: np.ndarray) -> np.ndarray:
    """Turn a network's answer into pixels: clamped to [0, 1], rounded, and grey (the mean) where ``like`` is.

    Args:
        colours: RGB, float32, shape (3, h, w).
        like: A picture of the wanted type and number of channels.

    Returns:
        Shape (h, w, like.shape[2]), type of ``like``.
    """
    pixels = colours.clamp(0, 1).permute(1, 2, 0).numpy()
    if like.shape[2] == 1:
        pixels = pixels.mean(axis=2, keepdims=True)
    if like.dtype.kind == 'u':
        pixels *= np.float32(np.iinfo(like.dtype).max)
        np.rint(pixels, out=pixels)
    return pixels.astype(like.dtype)


def tiled(
    net: Callable[[Tensor], Tensor],
    image: np.ndarray,
    tile_size: int | None = None,
    tile_overlap: int = 64,
    multiple: int = 1,
    progress: Callable[[float], object] = lambda done: None,
) -> np.ndarray:
    """Run a network on overlapping tiles and blend them linearly.

    Equal to the whole picture's result where the network sees no further than a quarter of the overlap (and one pixel
    from an overlap of 2 on) and ``multiple`` is a multiple of its stride; networks that average over the whole picture
    see one tile instead. Beside picture and result, one row of tiles is in memory.

    Args:
        net: Maps (1, 3, h, w), RGB, float32, [0, 1], on the CPU, to the same shape, on any device.
        image: RGB or grey, shape (h, w, 3) or (h, w, 1), uint8, uint16 or float32.
        tile_size: Longest side of a tile in pixels; None takes the picture as a whole.
        tile_overlap: Pixels that neighbours share at least.
        multiple: Tiles start at multiples of it.
        progress: Called with the share that is done, after every tile.

    Returns:
        Shape and type of ``image``.

    Raises:
        OptionError: The overlap is too large for the tiles.
        NotFiniteError: The network answered with NaN or infinite values.
    """
    h, w = image.shape[:2]
    tile_size = max(h, w) if tile_size is None else tile_size
    rows, columns = (spans(length, tile_size, tile_overlap, multiple) for length in (h, w))
    output = np.empty_like(image, order='C')
    waiting = torch.zeros(3, 0, w)  # rows that the next row of tiles adds to
    for number, (row, row_weights) in enumerate(rows):
        band = torch.zeros(3, row.stop - row.start, w)
        band[:, : waiting.shape[1]] = waiting
        for turn, (column, column_weights) in enumerate(columns):
            restored = net(to_tensor(image[row, column]))[0].to('cpu', torch.float32, copy=True)
            if not torch.isfinite(restored).all():
                raise NotFiniteError('The network answered with NaN or infinite values; try --precision fp32.')
            band[:, :, column] += restored.mul_(row_weights[:, None]).mul_(column_weights)
            progress((number * len(columns) + turn + 1) / (len(rows) * len(columns)))
        done = rows[number + 1].place.start if number + 1 < len(rows) else h
        for top in range(row.start, done, STRIP):
            strip = slice(top, min(top + STRIP, done))
            output[strip] = to_pixels(band[:, strip.start - row.start : strip.stop - row.start], image)
        waiting = band[:, done - row.start :].clone()
    return output
