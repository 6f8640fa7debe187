"""Restormer as an expert: a U-Net of transformer blocks that attend across channels (Zamir et al., CVPR 2022).

Written from the paper (arXiv 2111.09881) and from golden inputs and outputs; published weights load unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.archs.expert import Expert, ExpertFacts
from basicsr_unirestorer.archs.layers import ChannelNorm, in_strips, mix_channels
from basicsr_unirestorer.errors import OptionError


class BiasFreeNorm(nn.Module):
    """Divide every pixel of a (n, c, h, w) tensor by the deviation of its channels; the mean stays in."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # (n, h, w, c)
        if torch.is_grad_enabled():
            scaled = x * torch.rsqrt(x.var(-1, keepdim=True, correction=0) + self.eps) * self.weight
        else:  # several times faster, but no gradient flows through its mean and scale
            centred, mean, scale = torch.native_layer_norm(x, self.weight.shape, self.weight, None, self.eps)
            # x / deviation = (x - mean) / deviation + mean / deviation
            scaled = torch.addcmul(centred, (mean * scale).to(centred.dtype), self.weight.to(centred.dtype))
        return scaled.permute(0, 3, 1, 2)


NORMS = {'WithBias': lambda channels: ChannelNorm(channels, eps=1e-5), 'BiasFree': BiasFreeNorm}


class Norm(nn.Module):
    """A norm under the name that published weights know it by."""

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.body = NORMS[kind](channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def pixels(x: Tensor) -> Tensor:
    """List the pixels of a (n, c, h, w) tensor, (n, h * w, c): a view in channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def channel_products(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Multiply every channel of ``q`` with every channel of ``k``, and each with itself, summed over the pixels.

    Sums over parts of a picture may be added up. In float32, since half precision overflows.

    Args:
        q: Shape (n, pixels, heads, d).
        k: The same shape.

    Returns:
        Products (n, heads, d of q, d of k), squares of q (n, heads, d, 1) and squares of k (n, heads, 1, d).
    """
    with torch.autocast(q.device.type, enabled=False):
        q, k = q.float(), k.float()
        q_squares, k_squares = ((t * t).sum(dim=1) for t in (q, k))
        return q.permute(0, 2, 3, 1) @ k.permute(0, 2, 1, 3), q_squares.unsqueeze(-1), k_squares.unsqueeze(-2)


class ChannelAttention(nn.Module):
    """Attention between the channels of a head, each channel being a vector over all pixels (MDTA, section 3.1).

    Of queries and keys only their products are kept, whose norms divide the small matrix of products instead of whole
    maps. That matrix, softmaxed, is multiplied into the output projection, so that attended values are never formed.
    """

    def __init__(self, channels: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=bias)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        heads = (len(self.temperature), -1)
        products = []  # of every strip

        def values(qkv: Tensor) -> Tensor:
            q, k, v = qkv.split(c, dim=1)
            products.append(channel_products(pixels(q).unflatten(-1, heads), pixels(k).unflatten(-1, heads)))
            return v

        v = in_strips(lambda x: self.qkv_dwconv(self.qkv(x)), (x,), halo=1, width=3 * c, then=values)
        dots, q_squares, k_squares = (sum(parts) for parts in zip(*products, strict=True))
        cosines = dots / q_squares.clamp_min(1e-24).sqrt() / k_squares.clamp_min(1e-24).sqrt()
        weights = (cosines * self.temperature).softmax(dim=-1)
        out = mix_channels(pixels(v), weights, self.project_out.weight, self.project_out.bias)
        return out.view(n, h, w, c).permute(0, 3, 1, 2)


class GatedFeedForward(nn.Module):
    """Two branches of a depth-wise convolution, one gating the other through a GELU (GDFN, section 3.2)."""

    def __init__(self, channels: int, factor: float, bias: bool) -> None:
        super().__init__()
        hidden = int(channels * factor)
        self.wide = 2 * hidden
        self.project_in = nn.Conv2d(channels, self.wide, 1, bias=bias)
        self.dwconv = nn.Conv2d(self.wide, self.wide, 3, padding=1, groups=self.wide, bias=bias)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return in_strips(lambda x: self.dwconv(self.project_in(x)), (x,), 1, self.wide, then=self.narrow)

    def narrow(self, x: Tensor) -> Tensor:
        """Let one half of the channels gate the other, and project."""
        gate, value = x.chunk(2, dim=1)
        return self.project_out(F.gelu(gate.contiguous(memory_format=torch.channels_last)) * value)


class TransformerBlock(nn.Module):
    """Channel attention, then the gated feed-forward, each behind a norm and added to its input."""

    def __init__(self, channels: int, heads: int, factor: float, bias: bool, norm: str) -> None:
        super().__init__()
        self.norm1 = Norm(channels, norm)
        self.attn = ChannelAttention(channels, heads, bias)
        self.norm2 = Norm(channels, norm)
        self.ffn = GatedFeedForward(channels, factor, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Resize(nn.Module):
    """A 3x3 convolution and a pixel shuffle: half the size and twice the channels, or the reverse."""

    def __init__(self, channels: int, shuffle: nn.Module) -> None:
        super().__init__()
        out = channels // 2 if isinstance(shuffle, nn.PixelUnshuffle) else 2 * channels
        self.body = nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, bias=False), shuffle)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class PatchEmbed(nn.Module):
    """The first convolution, under the name that published weights know it by."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


@ARCH_REGISTRY.register()
class RestormerExpert(Expert):
    """Restormer of any width and depth.

    Args:
        inp_channels: Colour channels in.
        out_channels: Colour channels out; as many as come in, since the input is added to the output.
        dim: Channels at full resolution; they double at each of the three halvings.
        num_blocks: Blocks at each resolution, finest first; the decoder has as many.
        num_refinement_blocks: Blocks after the decoder, at full resolution.
        heads: Attention heads at each resolution.
        ffn_expansion_factor: Hidden channels of the feed-forward over its width, rounded down.
        bias: Whether convolutions inside the blocks have a bias.
        LayerNorm_type: ``WithBias`` or ``BiasFree``, which leaves the mean in.
        dual_pixel_task: Only adds a convolution that nothing uses, which some published weights hold.

    Raises:
        OptionError: Channels in and out differ, lists are not four long, heads do not divide the widths, or the norm is
            unknown.
    """

    facts = ExpertFacts(
        paper='Zamir et al., CVPR 2022',
        licence='Academic Public License (non-commercial)',
        multiple=8,
        minimum=8,
    )

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: str = 'WithBias',  # noqa: N803
        dual_pixel_task: bool = False,
    ) -> None:
        super().__init__()
        if inp_channels != out_channels:
            raise OptionError(
                f'inp_channels is {inp_channels} and out_channels {out_channels}, but the input is added to the '
                'output; give both the same number.'
            )
        if len(num_blocks) != 4 or len(heads) != 4:
            raise OptionError(
                f'num_blocks {list(num_blocks)} and heads {list(heads)} must give one number for each of the four '
                'resolutions.'
            )
        if any(dim * 2**level % count for level, count in enumerate(heads)):
            raise OptionError(
                f'heads {list(heads)} must divide the widths {[dim * 2**level for level in range(4)]}; change dim or '
                'heads.'
            )
        if LayerNorm_type not in NORMS:
            raise OptionError(f"LayerNorm_type is '{LayerNorm_type}'; choose {' or '.join(NORMS)}.")
        self.channels = inp_channels

        def stage(width: int, level: int, blocks: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    TransformerBlock(width, heads[level], ffn_expansion_factor, bias, LayerNorm_type)
                    for _ in range(blocks)
                )
            )

        self.patch_embed = PatchEmbed(inp_channels, dim)
        self.encoder_level1 = stage(dim, 0, num_blocks[0])
        self.down1_2 = Resize(dim, nn.PixelUnshuffle(2))
        self.encoder_level2 = stage(2 * dim, 1, num_blocks[1])
        self.down2_3 = Resize(2 * dim, nn.PixelUnshuffle(2))
        self.encoder_level3 = stage(4 * dim, 2, num_blocks[2])
        self.down3_4 = Resize(4 * dim, nn.PixelUnshuffle(2))
        self.latent = stage(8 * dim, 3, num_blocks[3])
        self.up4_3 = Resize(8 * dim, nn.PixelShuffle(2))
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = stage(4 * dim, 2, num_blocks[2])
        self.up3_2 = Resize(4 * dim, nn.PixelShuffle(2))
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = stage(2 * dim, 1, num_blocks[1])
        self.up2_1 = Resize(2 * dim, nn.PixelShuffle(2))
        self.decoder_level1 = stage(2 * dim, 0, num_blocks[0])
        self.refinement = stage(2 * dim, 0, num_refinement_blocks)
        if dual_pixel_task:
            self.skip_conv = nn.Conv2d(dim, 2 * dim, 1, bias=bias)
        self.output = nn.Conv2d(2 * dim, out_channels, 3, padding=1, bias=bias)

    def restore(self, padded: Tensor) -> Tensor:
        level1 = self.encoder_level1(self.patch_embed(padded))
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        x = self.latent(self.down3_4(level3))
        x = self.decoder_level3(self.reduce_chan_level3(torch.cat([self.up4_3(x), level3], dim=1)))
        x = self.decoder_level2(self.reduce_chan_level2(torch.cat([self.up3_2(x), level2], dim=1)))
        x = self.decoder_level1(torch.cat([self.up2_1(x), level1], dim=1))
        return self.output(self.refinement(x)) + padded

    @classmethod
    def options_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict | None:
        if 'patch_embed.proj.weight' not in shapes or 'latent.0.attn.temperature' not in shapes:
            return None
        dim, inp_channels = shapes['patch_embed.proj.weight'][:2]
        stages = ['encoder_level1', 'encoder_level2', 'encoder_level3', 'latent']

        def blocks(stage: str) -> int:
            return sum(key.startswith(f'{stage}.') and key.endswith('.temperature') for key in shapes)

        hidden = [shapes[f'{stage}.0.ffn.project_out.weight'][1] for stage in stages]
        # the factor itself is not stored: the usual ones are tried before the smallest that gives these widths
        factors = [2.66, 2.0, 4.0, max(width / (dim * 2**level) for level, width in enumerate(hidden))]
        fits = [f for f in factors if hidden == [int(dim * 2**level * f) for level in range(4)]]
        return {
            'inp_channels': inp_channels,
            'out_channels': shapes['output.weight'][0],
            'dim': dim,
            'num_blocks': [blocks(stage) for stage in stages],
            'num_refinement_blocks': blocks('refinement'),
            'heads': [shapes[f'{stage}.0.attn.temperature'][0] for stage in stages],
            'ffn_expansion_factor': fits[0] if fits else factors[-1],
            'bias': 'output.bias' in shapes,
            'LayerNorm_type': 'WithBias' if 'latent.0.norm1.body.bias' in shapes else 'BiasFree',
            'dual_pixel_task': 'skip_conv.weight' in shapes,
        }
