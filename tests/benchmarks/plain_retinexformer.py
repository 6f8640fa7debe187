"""RetinexFormer as one writes it down first, to measure ours against: channel-first, every step materialised."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from types import MethodType

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.archs.layers import ChannelNorm
from basicsr_unirestorer.archs.retinexformer_expert_arch import (
    FeedForward,
    LitChannelAttention,
    PixelwiseGELU,
    RetinexFormerExpert,
)


def plain(net: RetinexFormerExpert) -> nn.Module:
    """Copy a network and let the copy compute the same the plain way."""
    net = deepcopy(net)
    net.facts = replace(net.facts, channels_last=False)
    forwards = {ChannelNorm: _norm, LitChannelAttention: _attention, PixelwiseGELU: _gelu, FeedForward: _feed_forward}
    for module in net.modules():
        if type(module) in forwards:
            module.forward = MethodType(forwards[type(module)], module)
    return net


def _norm(self: ChannelNorm, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    tokens = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
    mean = tokens.mean(-1, keepdim=True)
    variance = (tokens - mean).pow(2).mean(-1, keepdim=True)
    tokens = (tokens - mean) / (variance + self.eps).sqrt() * self.weight + self.bias
    return tokens.reshape(n, h, w, c).permute(0, 3, 1, 2).contiguous()


def _gelu(self: PixelwiseGELU, x: Tensor) -> Tensor:
    return F.gelu(x)


def _attention(self: LitChannelAttention, x: Tensor, light: Tensor) -> Tensor:
    n, c, h, w = x.shape
    heads = len(self.rescale)
    tokens, light = (t.permute(0, 2, 3, 1).reshape(n, h * w, c) for t in (x, light))
    values = self.to_v(tokens)

    def split(t: Tensor) -> Tensor:  # (n, pixels, c) -> (n, heads, c / heads, pixels)
        return t.reshape(n, h * w, heads, c // heads).permute(0, 2, 3, 1)

    q, k, v = split(self.to_q(tokens)), split(self.to_k(tokens)), split(values) * split(light)
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    weights = (k @ q.transpose(-2, -1) * self.rescale).softmax(dim=-1)
    out = self.proj((weights @ v).permute(0, 3, 1, 2).reshape(n, h * w, c))
    position = self.pos_emb(values.reshape(n, h, w, c).permute(0, 3, 1, 2).contiguous())
    return x + out.reshape(n, h, w, c).permute(0, 3, 1, 2).contiguous() + position


def _feed_forward(self: FeedForward, x: Tensor) -> Tensor:
    return x + self.fn['net'](self.norm(x))
