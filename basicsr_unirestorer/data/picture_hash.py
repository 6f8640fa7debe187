"""Perceptual hashes: pictures that show the same have nearly the same one, whatever their size and file format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

MAX_DISTANCE = 4  # bits of 64 by which two files of one photograph may differ
BLOCK = 1024  # rows compared at a time


def dhash(picture: np.ndarray) -> int:
    """Return the difference hash of a BGR uint8 (h, w, 3) picture: 64 bits, one for each step of brightness to the
    right in its 8 x 9 miniature."""
    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), 'big')


def near_pairs(first: Sequence[int], second: Sequence[int], most: int = MAX_DISTANCE) -> Iterator[tuple[int, int, int]]:
    """Yield (place in first, place in second, distance) of all hashes that differ in at most so many bits."""
    a, b = (np.asarray(hashes, np.uint64).view(np.uint8).reshape(-1, 8) for hashes in (first, second))
    for start in range(0, len(a), BLOCK):
        differing = np.zeros((len(a[start : start + BLOCK]), len(b)), np.uint8)
        for byte in range(8):
            differing += BITS[a[start : start + BLOCK, byte, None] ^ b[None, :, byte]]
        for i, j in zip(*np.nonzero(differing <= most), strict=True):
            yield start + int(i), int(j), int(differing[i, j])


BITS = np.array([value.bit_count() for value in range(256)], np.uint8)
