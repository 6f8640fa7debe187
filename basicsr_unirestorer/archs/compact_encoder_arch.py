"""A small degradation encoder that reads crops at native resolution, and the caption encoder it is taught against."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.archs.padding import pad_to


def native_crops(lq: Tensor, size: int, count: int) -> Tensor:
    """Cut ``count`` crops at native resolution, spread evenly and always at the same places.

    Resizing would erase noise and compression, so the picture is never resized; one smaller than a crop is mirrored.

    Args:
        lq: Pictures, shape (n, c, h, w), any range.
        size: Side of a crop in pixels.
        count: Crops a picture.

    Returns:
        Shape (n * count, c, size, size); the crops of one picture stand together.
    """
    lq = pad_to(lq, size, size)
    h, w = map(int, lq.shape[-2:])  # a tracer gives tensors
    crops = []
    for i in range(count):
        # the additive recurrence of the plastic number covers the square evenly for any count
        top = round((0.5 + 0.7548776662466927 * i) % 1 * (h - size))
        left = round((0.5 + 0.5698402909980532 * i) % 1 * (w - size))
        crops.append(lq[..., top : top + size, left : left + size])
    return torch.stack(crops, dim=1).flatten(0, 1)  # (n, count, c, size, size) -> (n * count, ...)


class ResidualBlock(nn.Module):
    """Depth-wise 3x3 convolution and a two-layer pointwise mix, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.Conv2d(channels, 2 * channels, 1),
            nn.GELU(),
            nn.Conv2d(2 * channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


@ARCH_REGISTRY.register()
class CompactDegradationEncoder(nn.Module):
    """Embed *how* a picture is degraded: statistics of filter responses at four resolutions, mixed by a small MLP.

    Means and log standard deviations are kept from every resolution, because noise lives in the finest one
    and haze in the coarsest; no normalisation layer hides brightness or contrast.

    Args:
        embed_dim: Length of an embedding.
        width: Channels at full resolution; 2x, 4x and 6x at the halved ones.
        hidden: Width of the MLP.
        crop_size: Side in pixels of the native crops that ``embed`` reads.
        num_crops: Crops a picture that ``embed`` averages.
        whole_picture: Resize every picture to ``crop_size`` instead, as the paper's release does. Only to compare:
            resizing erases noise and compression.
    """

    def __init__(
        self,
        embed_dim: int = 512,
        width: int = 20,
        hidden: int = 192,
        crop_size: int = 96,
        num_crops: int = 5,
        whole_picture: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.crop_size = crop_size
        self.num_crops = num_crops
        self.whole_picture = whole_picture
        widths = [width, 2 * width, 4 * width, 6 * width]
        stems = [nn.Conv2d(3, width, 3, padding=1)]
        stems += [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(widths, widths[1:], strict=False)]
        # at full resolution a single filter bank: noise needs no more, and most of the time would go there
        self.stages = nn.ModuleList(
            nn.Sequential(stem, nn.GELU(), ResidualBlock(c) if i else nn.Identity())
            for i, (stem, c) in enumerate(zip(stems, widths, strict=True))
        )
        statistics = 2 * sum(widths)
        self.head = nn.Sequential(
            nn.LayerNorm(statistics), nn.Linear(statistics, hidden), nn.GELU(), nn.Linear(hidden, embed_dim)
        )

    def forward(self, crops: Tensor) -> Tensor:
        """Embed crops one by one.

        Args:
            crops: Shape (n, 3, h, w), RGB, [0, 1].

        Returns:
            Unit vectors, shape (n, embed_dim).
        """
        if self.whole_picture:
            side = (self.crop_size, self.crop_size)
            crops = F.interpolate(crops, side, mode='bicubic', align_corners=False, antialias=True)
        x = 4 * crops - 2
        statistics = []
        for stage in self.stages:
            x = stage(x)
            variance, mean = torch.var_mean(x, dim=(2, 3), correction=0)
            statistics += [mean, 0.5 * torch.log(variance + 1e-6)]
        return F.normalize(self.head(torch.cat(statistics, dim=1)), dim=1)

    def embed(self, lq: Tensor) -> Tensor:
        """Embed whole pictures of any size: the mean over native crops, normalised.

        Args:
            lq: Shape (n, 3, h, w), RGB, [0, 1].

        Returns:
            Unit vectors, shape (n, embed_dim).
        """
        if self.whole_picture:
            return self(lq)
        embeddings = self(native_crops(lq, self.crop_size, self.num_crops))
        return F.normalize(embeddings.unflatten(0, (-1, self.num_crops)).mean(dim=1), dim=1)


@ARCH_REGISTRY.register()
class CaptionEncoder(nn.Module):
    """Embed degradation captions such as ``"large noise, thick haze"`` as a sum over their words.

    Captions that share a type or a strength share a part of their embedding, which is what makes the degradation tree
    split by type first and by strength below it.

    Args:
        embed_dim: Length of an embedding.
        buckets: Rows of the word table; a word's row is the CRC-32 of its text.
    """

    def __init__(self, embed_dim: int = 512, buckets: int = 4096) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(buckets, embed_dim, mode='sum')
        nn.init.normal_(self.words.weight, std=embed_dim**-0.5)

    def forward(self, captions: Sequence[str]) -> Tensor:
        """Return unit vectors, shape (len(captions), embed_dim)."""
        rows = [
            [zlib.crc32(word.encode()) % self.words.num_embeddings for word in caption.replace(',', ' ').split()]
            for caption in captions
        ]
        offsets = torch.tensor([0] + [len(row) for row in rows[:-1]]).cumsum(0)
        flat = torch.tensor([index for row in rows for index in row])
        device = self.words.weight.device
        return F.normalize(self.words(flat.to(device), offsets.to(device)), dim=1)
