"""DehazeFormer as an expert: a U-Net of window attention that predicts haze gain and offset (Song et al., TIP 2023).

Written from the paper (arXiv 2204.03883) and from golden inputs and outputs; published weights (MIT) load unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.archs.expert import Expert, ExpertFacts
from basicsr_unirestorer.errors import OptionError


def relative_positions(window: int) -> Tensor:
    """Return logarithmic offsets between the pixels of a window: rows, columns; shape (window**2, window**2, 2)."""
    axis = torch.arange(window)
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing='ij')).flatten(1)  # (2, window**2)
    offsets = (pixels[:, :, None] - pixels[:, None, :]).permute(1, 2, 0).float()
    return offsets.sign() * (1 + offsets.abs()).log()


def reflected(channels: int, out: int, kernel: int, groups: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the size and mirrors the picture at its edges."""
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, padding_mode='reflect')


class RescaleNorm(nn.Module):
    """Normalise a whole picture by one mean and one deviation, and return what puts them back (RLN, section 3.2)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.meta1 = nn.Conv2d(1, channels, 1)
        self.meta2 = nn.Conv2d(1, channels, 1)
        self.eps = eps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the normalised picture, and the factor and offset per channel that undo it, (n, channels, 1, 1)."""
        with torch.autocast(x.device.type, enabled=False):  # sums over all pixels overflow in half precision
            x = x.float()
            if torch.is_grad_enabled():
                variance, mean = torch.var_mean(x, dim=(1, 2, 3), keepdim=True, correction=0)
                deviation = torch.sqrt(variance + self.eps)
                normal = (x - mean) / deviation * self.weight + self.bias
            else:  # several times faster, but no gradient flows through its mean and scale
                n, c, h, w = x.shape
                affine = self.weight.flatten(), self.bias.flatten()
                normal, mean, scale = torch.native_group_norm(x, *affine, n, c, h * w, 1, self.eps)
                mean, deviation = mean[..., None, None], 1 / scale[..., None, None]
        return normal, self.meta1(deviation), self.meta2(mean)


class WindowAttention(nn.Module):
    """Attention inside windows, with a bias from relative positions through a small network."""

    def __init__(self, window: int, heads: int) -> None:
        super().__init__()
        self.window = window
        self.heads = heads
        self.register_buffer('relative_positions', relative_positions(window))
        self.meta = nn.Sequential(nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, heads))

    def forward(self, qkv: Tensor) -> Tensor:
        """Attend: (n, 3 c, h, w), whole windows -> (n, c, h, w)."""
        n, c3, h, w = qkv.shape
        s, rows, columns = self.window, h // self.window, w // self.window
        windows = qkv.permute(0, 2, 3, 1).reshape(n, rows, s, columns, s, 3, self.heads, -1)
        windows = windows.permute(5, 0, 1, 3, 6, 2, 4, 7)  # (3, n, rows, columns, heads, s, s, d)
        q, k, v = windows.reshape(3, n * rows * columns, self.heads, s * s, -1)
        bias = self.meta(self.relative_positions).permute(2, 0, 1)  # (heads, s * s, s * s)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)[None])
        out = out.reshape(n, rows, columns, self.heads, s, s, -1).permute(0, 1, 4, 2, 5, 3, 6)
        return out.reshape(n, h, w, c3 // 3).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """A convolution and, in some blocks, window attention beside it.

    Odd blocks shift the windows by half of one: the picture is mirrored beyond its edges rather than rolled around, so
    no window mixes opposite edges (section 3.3).
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int, attends: bool, conv_type: str) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.attends = attends
        self.by_value = attends or conv_type == 'DWConv'  # the convolution takes the values rather than the input
        if conv_type == 'Conv':
            self.conv = nn.Sequential(reflected(channels, channels, 3), nn.ReLU(), reflected(channels, channels, 3))
        else:
            self.conv = reflected(channels, channels, 5, groups=channels)
        if self.by_value:
            self.V = nn.Conv2d(channels, channels, 1)
            self.proj = nn.Conv2d(channels, channels, 1)
        if attends:
            self.QK = nn.Conv2d(channels, 2 * channels, 1)
            self.attn = WindowAttention(window, heads)

    def forward(self, x: Tensor) -> Tensor:
        if not self.by_value:
            return self.conv(x)
        v = self.V(x)
        out = self.conv(v)
        if self.attends:
            out = out + self._attend(torch.cat([self.QK(x), v], dim=1))
        return self.proj(out)

    def _attend(self, qkv: Tensor) -> Tensor:
        h, w = qkv.shape[-2:]
        before = self.shift
        after_h, after_w = (-(side + before) % self.window for side in (h, w))
        qkv = F.pad(qkv, (before, after_w, before, after_h), mode='reflect')
        return self.attn(qkv)[..., before : before + h, before : before + w]


class FeedForward(nn.Module):
    """Two 1x1 convolutions with a ReLU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class Block(nn.Module):
    """Attention behind the rescaling norm, or a bare convolution; then the feed-forward, which has no norm."""

    def __init__(
        self, channels: int, heads: int, ratio: float, window: int, shift: int, attends: bool, conv_type: str
    ) -> None:
        super().__init__()
        if attends:
            self.norm1 = RescaleNorm(channels)
        self.attn = Attention(channels, heads, window, shift, attends, conv_type)
        self.mlp = FeedForward(channels, int(channels * ratio))

    def forward(self, x: Tensor) -> Tensor:
        if self.attn.attends:
            normal, rescale, rebias = self.norm1(x)
            x = x + torch.addcmul(rebias, self.attn(normal), rescale)
        else:
            x = x + self.attn(x)
        return x + self.mlp(x)


class Layer(nn.Module):
    """The blocks of one resolution; the last ``attention`` of them attend, every second one with shifted windows."""

    def __init__(
        self, channels: int, depth: int, heads: int, ratio: float, attention: float, window: int, conv_type: str
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(channels, heads, ratio, window, window // 2 * (i % 2), i >= depth - attention * depth, conv_type)
            for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Projection(nn.Module):
    """A convolution, and what follows it, under the name that published weights know it by."""

    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Fusion(nn.Module):
    """Weigh two pictures against each other, channel by channel (selective kernel fusion)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 8, 4)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, 2 * channels, 1, bias=False)
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        scores = self.mlp((first + second).mean(dim=(2, 3), keepdim=True))  # (n, 2 c, 1, 1)
        share = scores.unflatten(1, (2, -1)).softmax(dim=1)
        return first * share[:, 0] + second * share[:, 1]


def smallest_side(window: int, stages: Sequence[tuple[int, bool]]) -> int:
    """Return the smallest side, a multiple of 4, from which on windows can be mirrored at every resolution.

    Args:
        window: Side of a window.
        stages: Halvings of each stage, and whether it attends.
    """

    def fits(side: int) -> bool:
        for halvings, attends in stages:
            size = side >> halvings
            pads = [window // 2, -size % window, -(size + window // 2) % window]
            if size <= (max(2, *pads) if attends else 2):
                return False
        return True

    sides = range(4 * window + 8, 0, -4)
    return next(side + 4 for side in sides if not fits(side))


@ARCH_REGISTRY.register()
class DehazeFormerExpert(Expert):
    """DehazeFormer of any width and depth; its defaults are those of DehazeFormer-L as UniRestorer uses it.

    Args:
        in_chans: Colour channels.
        out_chans: ``in_chans + 1``: one gain and as many offsets as there are colours.
        window_size: Side of an attention window.
        embed_dims: Channels of the five stages; first and last, second and fourth are alike.
        mlp_ratios: Hidden channels of each stage's feed-forward over its width.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage.
        attn_ratio: Share of each stage's blocks, the last ones, that attend.
        conv_type: ``Conv`` (two 3x3) or ``DWConv`` (one depth-wise 5x5) for each stage.

    Raises:
        OptionError: Lists are not five long, widths do not pair up, heads do not divide them, or a type is unknown.
    """

    # on a photograph, with weights of the fixtures' rule at release size, fp16 on a CPU is 65 dB from fp32, but bf16
    # 47 dB: 0.3 dB of a restoration at 35 dB
    facts = ExpertFacts(
        paper='Song et al., TIP 2023', licence='MIT', multiple=4, minimum=28, precisions=('fp32', 'fp16')
    )

    def __init__(
        self,
        in_chans: int = 3,
        out_chans: int = 4,
        window_size: int = 8,
        embed_dims: Sequence[int] = (48, 96, 192, 96, 48),
        mlp_ratios: Sequence[float] = (2.0, 4.0, 4.0, 2.0, 2.0),
        depths: Sequence[int] = (16, 16, 16, 12, 12),
        num_heads: Sequence[int] = (2, 4, 6, 1, 1),
        attn_ratio: Sequence[float] = (0.25, 0.5, 0.75, 0, 0),
        conv_type: Sequence[str] = ('Conv', 'Conv', 'Conv', 'Conv', 'Conv'),
    ) -> None:
        super().__init__()
        lists = {
            'embed_dims': embed_dims,
            'mlp_ratios': mlp_ratios,
            'depths': depths,
            'num_heads': num_heads,
            'attn_ratio': attn_ratio,
            'conv_type': conv_type,
        }
        _check(in_chans, out_chans, window_size, lists)
        self.channels = in_chans
        attends = [ratio * depth > 0 for ratio, depth in zip(attn_ratio, depths, strict=True)]
        stages = list(zip((0, 1, 2, 1, 0), attends, strict=True))
        self.facts = replace(self.facts, minimum=smallest_side(window_size, stages))
        d1, d2, d3, d4, d5 = embed_dims

        def layer(i: int) -> Layer:
            sizes = embed_dims[i], depths[i], num_heads[i], mlp_ratios[i], attn_ratio[i]
            return Layer(*sizes, window_size, conv_type[i])

        def split(wide: int, narrow: int) -> Projection:
            return Projection(nn.Sequential(nn.Conv2d(wide, 4 * narrow, 1), nn.PixelShuffle(2)))

        self.patch_embed = Projection(reflected(in_chans, d1, 3))
        self.layer1 = layer(0)
        self.patch_merge1 = Projection(nn.Conv2d(d1, d2, 2, stride=2))
        self.skip1 = nn.Conv2d(d1, d1, 1)
        self.layer2 = layer(1)
        self.patch_merge2 = Projection(nn.Conv2d(d2, d3, 2, stride=2))
        self.skip2 = nn.Conv2d(d2, d2, 1)
        self.layer3 = layer(2)
        self.patch_split1 = split(d3, d4)
        self.fusion1 = Fusion(d4)
        self.layer4 = layer(3)
        self.patch_split2 = split(d4, d5)
        self.fusion2 = Fusion(d5)
        self.layer5 = layer(4)
        self.patch_unembed = Projection(nn.Sequential(reflected(d5, out_chans, 3)))

    def restore(self, padded: Tensor) -> Tensor:
        level1 = self.layer1(self.patch_embed(padded))
        level2 = self.layer2(self.patch_merge1(level1))
        x = self.layer3(self.patch_merge2(level2))
        x = self.patch_split1(x)
        x = self.layer4(self.fusion1(x, self.skip2(level2)) + x)
        x = self.patch_split2(x)
        x = self.layer5(self.fusion2(x, self.skip1(level1)) + x)
        x = self.patch_unembed(x)
        gain, offset = x[:, :1], x[:, 1:]
        return gain * padded - offset + padded

    @classmethod
    def options_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict | None:
        """See ``Expert``; a stage without attention has one head, and ratios are what gives this number of blocks."""
        if 'patch_unembed.proj.0.weight' not in shapes or 'layer5.blocks.0.mlp.mlp.0.weight' not in shapes:
            return None
        stages = [f'layer{i}.blocks' for i in range(1, 6)]
        widths = [shapes[f'{stage}.0.mlp.mlp.0.weight'][1] for stage in stages]
        depths = [sum(key.startswith(stage) and key.endswith('mlp.mlp.0.weight') for key in shapes) for stage in stages]
        attending = [sum(key.startswith(stage) and key.endswith('QK.weight') for key in shapes) for stage in stages]
        hidden = [shapes[f'{stage}.0.mlp.mlp.0.weight'][0] for stage in stages]
        last = [f'{stage}.{depth - 1}.attn.attn' for stage, depth in zip(stages, depths, strict=True)]
        windows = [shapes[key][0] for key in shapes if key.endswith('relative_positions')]
        return {
            'in_chans': shapes['patch_embed.proj.weight'][1],
            'out_chans': shapes['patch_unembed.proj.0.weight'][0],
            'window_size': int(windows[0] ** 0.5) if windows else 8,
            'embed_dims': widths,
            'mlp_ratios': [wide / width for wide, width in zip(hidden, widths, strict=True)],
            'depths': depths,
            'num_heads': [shapes.get(f'{key}.meta.2.weight', (1,))[0] for key in last],
            'attn_ratio': [count / depth for count, depth in zip(attending, depths, strict=True)],
            'conv_type': ['Conv' if f'{stage}.0.attn.conv.0.weight' in shapes else 'DWConv' for stage in stages],
        }


def _check(in_chans: int, out_chans: int, window_size: int, lists: Mapping[str, Sequence]) -> None:
    if out_chans != in_chans + 1:
        raise OptionError(f'out_chans is {out_chans} but must be {in_chans + 1}: one gain and {in_chans} offsets.')
    if window_size < 2:
        raise OptionError(f'window_size is {window_size} but must be at least 2.')
    for name, values in lists.items():
        if len(values) != 5:
            raise OptionError(f'{name} is {list(values)} but must give one value for each of the five stages.')
    widths, heads = lists['embed_dims'], lists['num_heads']
    if widths[0] != widths[4] or widths[1] != widths[3]:
        raise OptionError(f'embed_dims is {list(widths)} but the first and last, second and fourth must be alike.')
    if any(width % count for width, count in zip(widths, heads, strict=True)):
        raise OptionError(f'num_heads {list(heads)} must divide the widths {list(widths)}.')
    for kind in lists['conv_type']:
        if kind not in ('Conv', 'DWConv'):
            raise OptionError(f"conv_type names '{kind}'; choose Conv or DWConv.")
