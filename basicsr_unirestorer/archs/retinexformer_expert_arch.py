"""RetinexFormer as an expert: light up a dark picture, then clean it, guided by the light (Cai et al., ICCV 2023).

Written from the paper (arXiv 2303.06705) and from golden inputs and outputs; weights published for RetinexFormer (MIT
licence) load unchanged.
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


class PixelwiseGELU(nn.Module):
    """The exact GELU of a (n, c, h, w) tensor in channels-last memory."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LightEstimator(nn.Module):
    """Estimate from a picture by how much to light it up, and features of the light for the attention (section 3.1).

    Shape:
        (n, channels, h, w) -> features (n, width, h, w) and the map of the light (n, channels, h, w).
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        seen = channels + 1  # the colours and their mean
        self.conv1 = nn.Conv2d(seen, width, 1)
        self.depth_conv = nn.Conv2d(width, width, 5, padding=2, groups=seen)
        self.conv2 = nn.Conv2d(width, channels, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.depth_conv(self.conv1(torch.cat([image, image.mean(dim=1, keepdim=True)], dim=1)))
        return features, self.conv2(features)


class LitChannelAttention(nn.Module):
    """Attention between the channels of a head, with values weighted by the features of the light (section 3.2).

    Queries and keys are linear in the input x (pixels, c), so all that is needed of them, their products over the
    pixels, follows from the small matrix x^T x. The attention in turn is multiplied into the projection of the output.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.rescale = nn.Parameter(torch.ones(heads, 1, 1))
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.pos_emb = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False, groups=channels),
            PixelwiseGELU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False, groups=channels),
        )

    def forward(self, x: Tensor, light: Tensor) -> Tensor:
        weights = self._weights(x.permute(0, 2, 3, 1).flatten(1, 2))

        def attend(x: Tensor, light: Tensor) -> Tensor:
            v = self.to_v(x.permute(0, 2, 3, 1))  # (n, h, w, c): a view in channels-last memory, as the light
            position = self.pos_emb(v.permute(0, 3, 1, 2))
            lit = (v * light.permute(0, 2, 3, 1)).flatten(1, 2)
            out = mix_channels(lit, weights, self.proj.weight, self.proj.bias)
            return x + position + out.view(v.shape).permute(0, 3, 1, 2)

        return in_strips(attend, (x, light), halo=2, width=x.shape[1])

    def _weights(self, x: Tensor) -> Tensor:
        """Return what each channel takes of each in its head, (n, heads, c / heads, c / heads), from (n, pixels, c).

        Sums over a thousand pixels are float32, since half precision overflows, and sums of these float64: what cancels
        in queries and keys, where they are small for the input, has to cancel here too.
        """
        exact = torch.float32 if x.device.type == 'mps' else torch.float64  # which that device lacks
        with torch.autocast(x.device.type, enabled=False):
            parts = x.float().split(1024, dim=1)
            gram = sum((part.mT @ part).to(exact) for part in parts).unsqueeze(1)  # (n, 1, c, c)
            q, k = (m.weight.to(exact).unflatten(0, (len(self.rescale), -1)) for m in (self.to_q, self.to_k))
            q_gram, k_gram = q @ gram, k @ gram  # (n, heads, c / heads, c)
            q_norm, k_norm = ((a * b).sum(-1).clamp_min(1e-24).sqrt() for a, b in ((q_gram, q), (k_gram, k)))
            cosines = (k_gram @ q.mT / k_norm[..., :, None] / q_norm[..., None, :]).float()
            return (cosines * self.rescale).softmax(dim=-1)


class FeedForward(nn.Module):
    """Behind a norm, widen every pixel to four times its channels, look at its neighbours, and go back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = 4 * channels
        net = nn.Sequential(
            nn.Conv2d(channels, self.hidden, 1, bias=False),
            PixelwiseGELU(),
            nn.Conv2d(self.hidden, self.hidden, 3, padding=1, bias=False, groups=self.hidden),
            PixelwiseGELU(),
            nn.Conv2d(self.hidden, channels, 1, bias=False),
        )
        self.fn = nn.ModuleDict({'net': net})
        self.norm = ChannelNorm(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return in_strips(lambda x: x + self.fn['net'](self.norm(x)), (x,), halo=1, width=self.hidden)


class LitBlocks(nn.Module):
    """Attention guided by the light and a feed-forward, in turns."""

    def __init__(self, channels: int, heads: int, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList([LitChannelAttention(channels, heads), FeedForward(channels)]) for _ in range(count)
        )

    def forward(self, x: Tensor, light: Tensor) -> Tensor:
        for attention, feed_forward in self.blocks:
            x = feed_forward(attention(x, light))
        return x


class Denoiser(nn.Module):
    """A U-Net of two halvings that cleans a lit picture; the features of the light are halved beside it."""

    def __init__(self, channels: int, width: int, num_blocks: Sequence[int]) -> None:
        super().__init__()

        def halve(c: int) -> nn.Conv2d:
            return nn.Conv2d(c, 2 * c, 4, stride=2, padding=1, bias=False)

        def blocks(level: int) -> LitBlocks:
            return LitBlocks(width * 2**level, heads=2**level, count=num_blocks[level])

        self.embedding = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.encoder_layers = nn.ModuleList(
            nn.ModuleList([blocks(level), halve(c), halve(c)]) for level, c in enumerate((width, 2 * width))
        )
        self.bottleneck = blocks(2)
        self.decoder_layers = nn.ModuleList(
            nn.ModuleList(
                [nn.ConvTranspose2d(2 * c, c, 2, stride=2), nn.Conv2d(2 * c, c, 1, bias=False), blocks(level)]
            )
            for level, c in ((1, 2 * width), (0, width))
        )
        self.mapping = nn.Conv2d(width, channels, 3, padding=1, bias=False)

    def forward(self, image: Tensor, light: Tensor) -> Tensor:
        x, skips = self.embedding(image), []
        for blocks, down, light_down in self.encoder_layers:
            x = blocks(x, light)
            skips.append((x, light))
            x, light = down(x), light_down(light)
        x = self.bottleneck(x, light)
        for up, fuse, blocks in self.decoder_layers:
            skip, light = skips.pop()
            x = blocks(fuse(torch.cat([up(x), skip], dim=1)), light)
        return self.mapping(x) + image


class RetinexStage(nn.Module):
    """Light up a picture, then clean it."""

    def __init__(self, channels: int, width: int, num_blocks: Sequence[int]) -> None:
        super().__init__()
        self.estimator = LightEstimator(channels, width)
        self.denoiser = Denoiser(channels, width, num_blocks)

    def forward(self, image: Tensor) -> Tensor:
        features, light = self.estimator(image)
        return self.denoiser(torch.addcmul(image, image, light), features)


@ARCH_REGISTRY.register()
class RetinexFormerExpert(Expert):
    """RetinexFormer of any width and depth.

    Args:
        in_channels: Colour channels in.
        out_channels: Colour channels out; as many as come in, since the lit picture is added to the output.
        n_feat: Channels at full resolution, a multiple of ``in_channels + 1``; they double at each of the two halvings,
            and every ``n_feat`` of them are one attention head.
        stage: How often to light up and clean; a stage takes the picture that the one before it restored. Published
            weights have one.
        num_blocks: Blocks at full, half and quarter resolution; the decoder has as many.

    Raises:
        OptionError: Channels in and out differ, ``n_feat`` is no such multiple, or numbers are missing or not positive.
    """

    # bfloat16 on a CPU, with the weights of the golden fixtures: 68 dB to float32, float16 88 dB
    facts = ExpertFacts(paper='Cai et al., ICCV 2023', licence='MIT', multiple=4)

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        n_feat: int = 40,
        stage: int = 1,
        num_blocks: Sequence[int] = (1, 2, 2),
    ) -> None:
        super().__init__()
        if in_channels != out_channels:
            raise OptionError(
                f'in_channels is {in_channels} and out_channels {out_channels}, but the lit picture is added to the '
                'output; give both the same number.'
            )
        if n_feat < 1 or n_feat % (in_channels + 1):
            raise OptionError(
                f'n_feat is {n_feat}, but the light is estimated in {in_channels + 1} groups of channels; give a '
                f'positive multiple of {in_channels + 1}.'
            )
        if stage < 1:
            raise OptionError(f'stage is {stage}, but a picture is restored at least once; give 1 or more.')
        if len(num_blocks) != 3 or min(num_blocks) < 1:
            raise OptionError(
                f'num_blocks is {list(num_blocks)}, but there are three resolutions; give three positive numbers.'
            )
        self.channels = in_channels
        self.body = nn.Sequential(*(RetinexStage(in_channels, n_feat, num_blocks) for _ in range(stage)))

    def restore(self, padded: Tensor) -> Tensor:
        return self.body(padded)

    @classmethod
    def options_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict | None:
        if 'body.0.estimator.depth_conv.weight' not in shapes or 'body.0.denoiser.mapping.weight' not in shapes:
            return None

        def blocks(part: str) -> int:
            prefix = f'body.0.denoiser.{part}.blocks.'
            return sum(key.startswith(prefix) and key.endswith('.rescale') for key in shapes)

        channels, n_feat = shapes['body.0.denoiser.mapping.weight'][:2]
        return {
            'in_channels': channels,
            'out_channels': channels,
            'n_feat': n_feat,
            'stage': sum(key.endswith('.estimator.depth_conv.weight') for key in shapes),
            'num_blocks': [blocks(part) for part in ('encoder_layers.0.0', 'encoder_layers.1.0', 'bottleneck')],
        }
