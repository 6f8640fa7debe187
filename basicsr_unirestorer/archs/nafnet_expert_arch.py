"""NAFNet as an expert: a U-Net without non-linear activations (Chen et al., ECCV 2022, arXiv 2204.04676).

Written from the paper and from golden inputs and outputs; weights published for NAFNet (MIT licence) load unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_unirestorer.archs.expert import Expert, ExpertFacts
from basicsr_unirestorer.archs.layers import ChannelNorm
from basicsr_unirestorer.errors import OptionError


def gate(x: Tensor) -> Tensor:
    """Multiply the two channel halves, the only non-linearity besides the norms: (n, 2c, h, w) -> (n, c, h, w)."""
    first, second = x.chunk(2, dim=1)
    return first * second


class NAFBlock(nn.Module):
    """Gated depth-wise convolution with channel attention, then a gated feed-forward; both behind learned scales."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.norm1 = ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, wide, 1)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.norm2 = ChannelNorm(channels)
        self.conv4 = nn.Conv2d(channels, wide, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addcmul(x, self.beta, self.attend(x))
        return torch.addcmul(x, self.gamma, self.conv5(gate(self.conv4(self.norm2(x)))))

    def attend(self, x: Tensor) -> Tensor:
        """Gate and weigh the channels; a method of its own, so that nothing of it stays in memory afterwards."""
        y = gate(self.conv2(self.conv1(self.norm1(x))))
        return self.conv3(y * self.sca(y))


@ARCH_REGISTRY.register()
class NAFNetExpert(Expert):
    """NAFNet of any width and depth, for pictures of any size.

    Args:
        img_channel: Colour channels in and out.
        width: Channels at full resolution; they double at each of the ``len(enc_blk_nums)`` halvings.
        middle_blk_num: Blocks at the coarsest resolution.
        enc_blk_nums: Blocks of each encoder stage, finest first.
        dec_blk_nums: Blocks of each decoder stage, coarsest first; as many stages as the encoder.

    Raises:
        OptionError: The encoder and the decoder differ in their number of stages.
    """

    # Precisions: on photographs, with weights of the fixtures' rule at release size and at width 32, outputs under
    # autocast on a CPU are 59 to 65 dB (bf16) and 76 to 83 dB (fp16) from float32, less than 0.02 dB of a restoration
    # at 35 dB; the largest value inside was 6, and fp16 ends at 65504.
    facts = ExpertFacts(
        paper='Chen et al., ECCV 2022',
        licence='MIT',
        multiple=16,
        pad_mode='constant',
        precisions=('fp32', 'bf16', 'fp16'),
    )

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 32,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (1, 1, 1, 28),
        dec_blk_nums: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        if len(enc_blk_nums) != len(dec_blk_nums):
            raise OptionError(
                f'enc_blk_nums has {len(enc_blk_nums)} stages and dec_blk_nums {len(dec_blk_nums)}; '
                'give both the same number.'
            )
        stages = len(enc_blk_nums)
        widths = [width * 2**i for i in range(stages + 1)]
        self.facts = replace(self.facts, multiple=2**stages)
        self.channels = img_channel
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.ending = nn.Conv2d(width, img_channel, 3, padding=1)
        self.encoders = nn.ModuleList(self._stage(c, n) for c, n in zip(widths, enc_blk_nums, strict=False))
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in widths[:-1])
        self.middle_blks = self._stage(widths[-1], middle_blk_num)
        # 1x1 to twice the channels, then pixel shuffle: half the channels at twice the size
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 2 * c, 1, bias=False), nn.PixelShuffle(2)) for c in reversed(widths[1:])
        )
        self.decoders = nn.ModuleList(
            self._stage(c, n) for c, n in zip(reversed(widths[:-1]), dec_blk_nums, strict=True)
        )

    @staticmethod
    def _stage(channels: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(*(NAFBlock(channels) for _ in range(blocks)))

    def restore(self, padded: Tensor) -> Tensor:
        x = self.intro(padded)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle_blks(x)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(up(x) + skips.pop())
        return self.ending(x) + padded

    @classmethod
    def options_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict | None:
        if 'intro.weight' not in shapes or 'middle_blks.0.sca.1.weight' not in shapes:
            return None
        stages = sum(key.startswith('downs.') and key.endswith('.weight') for key in shapes)

        def blocks(prefix: str) -> int:
            return sum(key.startswith(f'{prefix}.') and key.endswith('.beta') for key in shapes)

        width, img_channel = shapes['intro.weight'][:2]
        return {
            'img_channel': img_channel,
            'width': width,
            'middle_blk_num': blocks('middle_blks'),
            'enc_blk_nums': [blocks(f'encoders.{i}') for i in range(stages)],
            'dec_blk_nums': [blocks(f'decoders.{i}') for i in range(stages)],
        }
