"""DehazeFormer as one writes it down first, to measure ours against: channel-first, attention step by step."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from types import MethodType

import torch
from torch import Tensor, nn

from basicsr_unirestorer.archs.dehazeformer_expert_arch import DehazeFormerExpert, RescaleNorm, WindowAttention


def plain(net: DehazeFormerExpert) -> nn.Module:
    """Copy a DehazeFormerExpert and let the copy compute the same the plain way."""
    net = deepcopy(net)
    net.facts = replace(net.facts, channels_last=False)
    forwards = {RescaleNorm: _norm, WindowAttention: _attention}
    for module in net.modules():
        if type(module) in forwards:
            module.forward = MethodType(forwards[type(module)], module)
    return net


def _norm(self: RescaleNorm, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    deviation = torch.sqrt((x - mean).pow(2).mean(dim=(1, 2, 3), keepdim=True) + self.eps)
    return (x - mean) / deviation * self.weight + self.bias, self.meta1(deviation), self.meta2(mean)


def _attention(self: WindowAttention, qkv: Tensor) -> Tensor:
    n, c3, h, w = qkv.shape
    s = self.window
    windows = qkv.permute(0, 2, 3, 1).reshape(n, h // s, s, w // s, s, c3).permute(0, 1, 3, 2, 4, 5)
    tokens = windows.reshape(-1, s * s, 3, self.heads, c3 // 3 // self.heads).permute(2, 0, 3, 1, 4)
    q, k, v = tokens.unbind(0)  # (windows, heads, s * s, d)
    bias = self.meta(self.relative_positions).permute(2, 0, 1)
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1) + bias[None]).softmax(dim=-1)
    out = (weights @ v).transpose(1, 2).reshape(n, h // s, w // s, s, s, c3 // 3)
    return out.permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c3 // 3).permute(0, 3, 1, 2).contiguous()
