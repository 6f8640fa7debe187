"""Perceptual hashes: the same photograph is found in another size and format, others are not."""

from __future__ import annotations

import cv2
import numpy as np

from basicsr_unirestorer.data.picture_hash import MAX_DISTANCE, dhash, near_pairs
from tests.data.miniatures import picture


def test_the_same_photograph_is_near_and_others_are_far():
    original = picture(1, 120, 160)
    small = cv2.resize(original, (111, 83), interpolation=cv2.INTER_AREA)
    jpeg = cv2.imdecode(cv2.imencode('.jpg', original, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
    darker = (original * 0.8).astype(np.uint8)
    for changed in (small, jpeg, darker):
        assert (dhash(original) ^ dhash(changed)).bit_count() <= MAX_DISTANCE
    others = [(dhash(original) ^ dhash(picture(seed, 120, 160))).bit_count() for seed in range(2, 30)]
    assert min(others) > 3 * MAX_DISTANCE


def test_near_pairs_are_those_of_comparing_all_with_all():
    rng = np.random.default_rng(0)
    first = [int(value) for value in rng.integers(0, 2**63, 60)]
    second = [
        value ^ sum(1 << int(bit) for bit in rng.choice(64, n % 9, replace=False)) for n, value in enumerate(first)
    ]
    for most in (0, 4, 7):
        all_with_all = [(i, j, (a ^ b).bit_count()) for i, a in enumerate(first) for j, b in enumerate(second)]
        expected = [entry for entry in all_with_all if entry[2] <= most]
        assert list(near_pairs(first, second, most)) == expected
        assert len(expected) >= 6
