"""Padding of pictures to the sizes that networks take."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def pad_to(x: Tensor, height: int, width: int, mode: str = 'reflect') -> Tensor:
    """Grow a picture at its bottom and right until it has at least the given sides; a larger one stays as it is.

    Args:
        x: Shape (n, c, h, w), h and w at least 1.
        height: Wanted rows.
        width: Wanted columns.
        mode: ``reflect`` mirrors without repeating the edge, again and again where one mirror image does not reach;
            ``constant`` adds zeros.

    Returns:
        Shape (n, c, max(h, height), max(w, width)).
    """
    if mode == 'constant':
        return F.pad(x, (0, max(width - x.shape[-1], 0), 0, max(height - x.shape[-2], 0)))
    while x.shape[-2] < height or x.shape[-1] < width:
        h, w = x.shape[-2:]
        # one reflection adds at most side - 1 pixels, and a side of one pixel can only be repeated
        grow_h, grow_w = min(height - h, max(h - 1, 1)), min(width - w, max(w - 1, 1))
        for side, grow in ((h, (0, 0, 0, grow_h)), (w, (0, grow_w, 0, 0))):
            if max(grow) > 0:
                x = F.pad(x, grow, mode='reflect' if side > 1 else 'replicate')
    return x
