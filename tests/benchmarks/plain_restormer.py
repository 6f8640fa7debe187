"""Restormer as one writes it down first, to measure ours against.

Norms go through (n, pixels, channels) and back, normalised queries and keys are formed, and nothing is channels-last.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.archs.restormer_expert_arch import ChannelAttention, GatedFeedForward, Norm, RestormerExpert


def plain(net: RestormerExpert) -> nn.Module:
    """Copy a RestormerExpert and let the copy compute the same the plain way."""
    net = deepcopy(net)
    net.facts = replace(net.facts, channels_last=False)
    forwards = {Norm: _norm, ChannelAttention: _attention, GatedFeedForward: _feed_forward}
    for module in net.modules():
        if type(module) in forwards:
            module.forward = MethodType(forwards[type(module)], module)
    return net


def _norm(self: Norm, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    tokens = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
    mean = tokens.mean(-1, keepdim=True)
    deviation = torch.sqrt(tokens.var(-1, keepdim=True, unbiased=False) + self.body.eps)
    if hasattr(self.body, 'bias'):
        tokens = (tokens - mean) / deviation * self.body.weight + self.body.bias
    else:
        tokens = tokens / deviation * self.body.weight
    return tokens.reshape(n, h, w, c).permute(0, 3, 1, 2).contiguous()


def _attention(self: ChannelAttention, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    heads = len(self.temperature)
    q, k, v = (t.reshape(n, heads, c // heads, h * w) for t in self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
    return self.project_out((weights @ v).reshape(n, c, h, w))


def _feed_forward(self: GatedFeedForward, x: Tensor) -> Tensor:
    gate, value = self.dwconv(self.project_in(x)).chunk(2, dim=1)
    return self.project_out(F.gelu(gate) * value)
