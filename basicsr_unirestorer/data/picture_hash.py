"""Perceptual hashes: pictures that show the same have nearly the same one, whatever their size and file format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

MAX_DISTANCE = 4  # bits of 64 by which two files of one photograph may differ


def dhash(picture: np.ndarray) -> int:
    """Return the difference hash of a BGR uint8 (h, w, 3) picture: 64 bits, one for each step of brightness to the
    right in its 8 x 9 miniature."""
    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), 'big')


def near_pairs(first: Sequence[int], second: Sequence[int], most: int = MAX_DISTANCE) -> Iterator[tuple[int, int, int]]:
    """Yield (place in first, place in second, distance) of all hashes that differ in at most so many bits.

    Of ``most + 1`` bands of bits one at least is the same in two hashes that differ in ``most`` bits, so only those
    with a common band are compared: a few seconds for 50,000 by 50,000.
    """
    width = -(-64 // (most + 1))
    buckets: dict[tuple[int, int], list[int]] = {}
    for place, value in enumerate(second):
        for band in _bands(value, width):
            buckets.setdefault(band, []).append(place)
    for place, value in enumerate(first):
        candidates = {other for band in _bands(value, width) for other in buckets.get(band, ())}
        for other in sorted(candidates):
            distance = (value ^ second[other]).bit_count()
            if distance <= most:
                yield place, other, distance


def _bands(value: int, width: int) -> Iterator[tuple[int, int]]:
    return ((start, value >> start & ((1 << width) - 1)) for start in range(0, 64, width))
