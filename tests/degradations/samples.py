"""A picture and records that the tests of this folder share."""

from __future__ import annotations

import numpy as np

from basicsr_unirestorer.degradations import DEGRADATION_TYPES, DegradationRecord, Operation, Window, sample_rng


def scene(height=96, width=96, seed=0):
    """A smooth gradient with edges and texture, RGB float32 [0.1, 0.9]."""
    y, x = np.mgrid[:height, :width] / 24.0
    shapes = np.stack([np.sin(3 * x) > 0, np.cos(2 * y + x) > 0.3, (x + y) % 1 > 0.5], axis=2) * 0.5
    texture = np.random.default_rng(seed).random((height, width, 3)) * 0.3
    return (0.1 + shapes + texture).astype(np.float32)


def make_record(*pairs):
    """Build a record from (type, fixed parameters); the rest takes a fixed draw from the defaults."""
    operations = []
    for name, fixed in pairs:
        kind = DEGRADATION_TYPES[name]
        params = kind.draw(fixed, sample_rng(0, name))
        operations.append(Operation(name, params, kind.strength(params), kind.word(kind.strength(params))))
    return DegradationRecord(tuple(operations))


def psnr(one, two):
    return -10 * np.log10(np.mean((one.astype(np.float64) - two) ** 2))


def apply_only(name, image, params, seed=0, window=None):
    """Run one operator alone, other parameters as drawn by default: neither clipped nor rounded."""
    params = make_record((name, params)).operations[0].params
    return DEGRADATION_TYPES[name].apply(image, params, sample_rng(seed), window or Window.whole(*image.shape[:2]))
