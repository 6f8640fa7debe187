"""Layers that several networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


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


def channel_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine between every channel of ``a`` and every channel of ``b``, each a vector over all pixels.

    The normalised maps are never formed: the norms divide the small matrix of dot products instead. Computed in
    float32, since sums over all pixels overflow in half precision.

    Args:
        a: Shape (n, pixels, heads, d).
        b: The same shape.

    Returns:
        Shape (n, heads, d of a, d of b), float32.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        a_norm, b_norm = ((t * t).sum(dim=1).sqrt().clamp_min(1e-12) for t in (a, b))  # (n, heads, d)
        dots = a.permute(0, 2, 3, 1) @ b.permute(0, 2, 1, 3)
        return dots / a_norm[..., :, None] / b_norm[..., None, :]


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
