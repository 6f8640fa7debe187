"""Geometric self-ensemble: a picture is restored in all eight orientations, and the results are averaged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def self_ensembled(run: Callable[[Tensor], Tensor], lq: Tensor) -> Tensor:
    """Average what a network makes of the four quarter turns of a picture and of its mirror image (EDSR's "+", Lim et
    al., CVPR Workshops 2017): a little better, at eight times the computation and no more memory.

    Args:
        run: Restores pictures of any size, keeping it.
        lq: Shape (n, 3, h, w), RGB, [0, 1].

    Returns:
        Shape of ``lq``, float32, not clamped.
    """
    total = torch.zeros_like(lq, dtype=torch.float32)
    for mirrored in (False, True):
        for turns in range(4):
            view = torch.rot90(lq.flip(3) if mirrored else lq, turns, (2, 3))
            restored = torch.rot90(run(view), -turns, (2, 3))
            total += restored.flip(3) if mirrored else restored
    return total / 8
