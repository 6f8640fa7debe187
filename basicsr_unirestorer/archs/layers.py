"""Layers that several networks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

STRIP = 2**20  # values that a strip may hold: 4 MiB of float32, about what a core's cache keeps


class ChannelNorm(nn.Module):
    """Layer norm over the channels of every pixel of a (n, c, h, w) tensor; eps inside the root."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        channels_last = x.permute(0, 2, 3, 1)  # (n, h, w, c): a view, free in channels-last memory
        return F.layer_norm(channels_last, self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


def in_strips(
    function: Callable[..., Tensor],
    pictures: Sequence[Tensor],
    halo: int,
    width: int,
    then: Callable[[Tensor], Tensor] = lambda strip: strip,
) -> Tensor:
    """Compute a function of pictures a few rows at a time, so that what it makes in between stays in the cache.

    Only without gradients and on a CPU: elsewhere the whole picture at once is better.

    Args:
        function: Takes and returns tensors of shape (n, c, h, w); pads with zeros.
        pictures: Its arguments; the first has the result's shape.
        halo: How many rows up and down it looks.
        width: The most channels it makes in between.
        then: Applied to what the function returns; looks at single pixels, and sees every pixel once.

    Returns:
        The shape and type of the first picture.
    """
    like = pictures[0]
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if torch.is_grad_enabled() or traced or like.device.type != 'cpu':
        return then(function(*pictures))
    n, _, h, w = like.shape
    rows = max(8, STRIP // (n * width * w))
    if rows >= h:
        return then(function(*pictures))
    out = torch.empty_like(like)
    for top in range(0, h, rows):
        first, bottom = max(top - halo, 0), min(top + rows, h)
        strip = function(*(picture[:, :, first : bottom + halo] for picture in pictures))
        out[:, :, top:bottom] = then(strip[:, :, top - first : bottom - first])
    return out


def mix_channels(v: Tensor, weights: Tensor, project: Tensor, bias: Tensor | None) -> Tensor:
    """Apply channel attention and the projection after it in one product over the pixels.

    Args:
        v: Values, shape (n, pixels, c).
        weights: What each channel of a head takes of the head's values, shape (n, heads, c / heads, c / heads).
        project: Weight of the projection, shape (out, c) or (out, c, 1, 1).
        bias: Its bias, shape (out,), or None.

    Returns:
        Shape (n, pixels, out).
    """
    per_head = project.flatten(1).unflatten(1, weights.shape[1:3])  # (out, heads, c / heads)
    mixed = torch.einsum('ohd,nhde->nohe', per_head.to(v.dtype), weights.to(v.dtype)).flatten(2)  # (n, out, c)
    out = v @ mixed.transpose(1, 2)
    return out if bias is None else out + bias
