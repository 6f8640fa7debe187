"""NAFNet as one writes it down first, to measure ours against: channel-first, norms from mean and variance."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from types import MethodType

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.archs.expert import Expert
from basicsr_unirestorer.archs.layers import ChannelNorm
from basicsr_unirestorer.archs.nafnet_expert_arch import NAFBlock
from basicsr_unirestorer.archs.nafnet_local_expert_arch import LocalPool


def plain(net: Expert) -> nn.Module:
    """Copy a NAFNetExpert or NAFNetLocalExpert (exact pooling) and let the copy compute the same the plain way."""
    net = deepcopy(net)
    net.facts = replace(net.facts, channels_last=False)
    forwards = {ChannelNorm: _norm, NAFBlock: _block, LocalPool: _pool}
    for module in net.modules():
        if type(module) in forwards:
            module.forward = MethodType(forwards[type(module)], module)
    return net


def _norm(self: ChannelNorm, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    normal = (x - mean) / (variance + self.eps).sqrt()
    return self.weight[:, None, None] * normal + self.bias[:, None, None]


def _gate(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=1)
    return first * second


def _block(self: NAFBlock, x: Tensor) -> Tensor:
    y = _gate(self.conv2(self.conv1(self.norm1(x))))
    x = x + self.beta * self.conv3(y * self.sca(y))
    return x + self.gamma * self.conv5(_gate(self.conv4(self.norm2(x))))


def _pool(self: LocalPool, x: Tensor) -> Tensor:
    h, w = x.shape[-2:]
    if self.window[0] >= h and self.window[1] >= w:
        return F.adaptive_avg_pool2d(x, 1)
    k, m = min(self.window[0], h), min(self.window[1], w)
    # sums over everything above and left of a pixel, with a row and a column of zeros before the first
    sums = F.pad(x.cumsum(-1).cumsum(-2), (1, 0, 1, 0))
    means = (sums[..., k:, m:] - sums[..., :-k, m:] - sums[..., k:, :-m] + sums[..., :-k, :-m]) / (k * m)
    spare_h, spare_w = h - means.shape[-2], w - means.shape[-1]
    return F.pad(means, (spare_w // 2, -(-spare_w // 2), spare_h // 2, -(-spare_h // 2)), mode='replicate')
