"""NAFNet with local pooling: what channel attention sees of a large picture is what it saw in training (TLC).

Chu et al., "Improving Image Restoration by Revisiting Global Information Aggregation", ECCV 2022, arXiv 2112.04491, on
NAFNet (Chen et al., ECCV 2022). Written from the papers and from golden inputs and outputs; weights published for
NAFNet (MIT licence) load unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.archs.nafnet_expert_arch import NAFNetExpert
from basicsr_unirestorer.errors import OptionError

Sides = tuple[int, int]  # of a window or a picture: rows, columns


def sliding_means(x: Tensor, width: int, dim: int) -> Tensor:
    """Average over every run of neighbours along an axis.

    The mean of the first run is taken, the others follow by what enters and leaves a run. Unlike sums from the
    picture's edge, these stay as small as the means themselves, so float32 is exact enough however large the picture.

    Args:
        x: Any shape and floating type.
        width: Length of a run; a longer one than the axis is cut to it.
        dim: The axis.

    Returns:
        Shape of ``x``, but ``max(1, size - width + 1)`` along the axis; float32, or float64 for float64.
    """
    size = x.shape[dim]
    dtype = torch.promote_types(x.dtype, torch.float32)
    first = x.narrow(dim, 0, min(width, size)).mean(dim, keepdim=True, dtype=dtype)
    if width >= size:
        return first
    enters, leaves = (x.narrow(dim, start, size - width) for start in (width, 0))
    return torch.cat([first, (enters.to(dtype) - leaves) / width], dim).cumsum(dim)


def window_means(x: Tensor, window: Sides) -> Tensor:
    """Average over every window inside a picture: (n, c, h, w) -> (n, c, h - rows + 1, w - columns + 1)."""
    rows, columns = window
    x = x.permute(0, 2, 3, 1)  # (n, h, w, c): contiguous where memory is channels-last
    # columns first: sums along rows jump through memory, so they take what is left of it
    return sliding_means(sliding_means(x, columns, 2), rows, 1).permute(0, 3, 1, 2)


def repeat_edges(x: Tensor, height: int, width: int) -> Tensor:
    """Grow a picture to (n, c, height, width), in its middle."""
    spare_h, spare_w = height - x.shape[-2], width - x.shape[-1]
    top, left = spare_h // 2, spare_w // 2
    return F.pad(x, (left, spare_w - left, top, spare_h - top), mode='replicate')


class LocalPool(nn.Module):
    """Average every pixel's surroundings; a picture that fits into one window has one average.

    A pixel near the picture's edge gets the average of the nearest window that lies inside the picture. Training and
    evaluation pool alike.

    Args:
        window: Rows and columns of the window.

    Shape:
        (n, c, h, w) -> shape that multiplies it: (n, c, h or 1, w or 1), 1 where one window spans the axis.
    """

    def __init__(self, window: Sides) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        height, width = (1 if span >= side else side for span, side in zip(self.window, x.shape[-2:], strict=True))
        if height == width == 1:
            return F.adaptive_avg_pool2d(x, 1)
        return repeat_edges(self.means(x), height, width).to(x.dtype)

    def means(self, x: Tensor) -> Tensor:
        """Average over the windows: (n, c, h, w) -> (n, c, at most h, at most w), float32 at least."""
        return window_means(x, self.window)

    def extra_repr(self) -> str:
        return f'window={self.window}'


class FastLocalPool(LocalPool):
    """Local pooling that averages only every few rows and columns.

    As the authors compute it: of what is left, the first row and column belong to no window.

    Args:
        window: Rows and columns of the window.
        max_steps: Up to which row and column step pixels are left out.
    """

    def __init__(self, window: Sides, max_steps: Sides) -> None:
        super().__init__(window)
        self.max_steps = max_steps

    def means(self, x: Tensor) -> Tensor:
        steps = [_step(side, most) for side, most in zip(x.shape[-2:], self.max_steps, strict=True)]
        x = x[..., :: steps[0], :: steps[1]]
        top, left = (min(1, side - 1) for side in x.shape[-2:])  # an only row or column is kept
        rows, columns = (max(1, side // step) for side, step in zip(self.window, steps, strict=True))
        means = window_means(x[..., top:, left:], (rows, columns))
        scale = [float(step) if side > 1 else 1.0 for side, step in zip(means.shape[-2:], steps, strict=True)]
        return F.interpolate(means, scale_factor=scale, mode='nearest')

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, max_steps={self.max_steps}'


def _step(side: int, most: int) -> int:
    """Return the largest step up to 5 that divides a side, cut to ``most``."""
    for step in (5, 4, 3, 2):
        if side % step == 0:
            return min(step, most)
    return 1


@ARCH_REGISTRY.register()
class NAFNetLocalExpert(NAFNetExpert):
    """NAFNet whose channel attention averages over windows of 1.5 times the training patch, not the whole picture.

    Pictures up to that size come out as from NAFNetExpert with the same weights.

    Args:
        img_channel: Colour channels in and out.
        width: Channels at full resolution; they double at each of the ``len(enc_blk_nums)`` halvings.
        middle_blk_num: Blocks at the coarsest resolution.
        enc_blk_nums: Blocks of each encoder stage, finest first.
        dec_blk_nums: Blocks of each decoder stage, coarsest first; as many stages as the encoder.
        train_size: Shape (n, channels, h, w) of a training batch; its h and w set the windows.
        fast_imp: Average over every few pixels only: faster on large pictures, a little different.

    Raises:
        OptionError: ``train_size`` is not four positive numbers, or as NAFNetExpert.
    """

    # Tiles stay approximate: every block looks half a window around a pixel, so in the end all of a picture counts. But
    # what lies far away counts little: with windows of 96, tiles of 160 pixels that overlap by 96 came out 104 dB from
    # the whole picture, NAFNetExpert's 84 dB. With fast_imp the steps follow a tile's sides, and 87 dB were seen too.
    # Precisions are as measured of NAFNetExpert: bf16 60 to 65 dB, fp16 76 to 84 dB; windows are summed in float32.
    facts = replace(NAFNetExpert.facts, paper='Chu et al., ECCV 2022 (TLC); Chen et al., ECCV 2022')

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 32,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (1, 1, 1, 28),
        dec_blk_nums: Sequence[int] = (1, 1, 1, 1),
        train_size: Sequence[int] = (1, 3, 256, 256),
        fast_imp: bool = False,
    ) -> None:
        super().__init__(img_channel, width, middle_blk_num, enc_blk_nums, dec_blk_nums)
        if not _is_shape(train_size):
            raise OptionError(
                f'train_size is {train_size}, but the windows need the shape of a training batch; give four positive '
                'whole numbers, e.g. [1, 3, 256, 256].'
            )
        coarsest = len(self.encoders)
        levels = [*range(coarsest + 1), *reversed(range(coarsest))]  # halvings before each stage
        for level, stage in zip(levels, [*self.encoders, self.middle_blks, *self.decoders], strict=True):
            for block in stage:
                block.sca[0] = self._pool(train_size[2:], level, fast_imp)

    def _pool(self, trained: Sequence[int], level: int, fast: bool) -> LocalPool:
        """Return the pooling of a stage, given rows and columns of a training picture."""
        multiple = self.facts.multiple
        features = [-(-side // multiple) * multiple >> level for side in trained]  # of the padded training picture
        # integer arithmetic as the authors have it: a window of 1.5 pictures, measured at this level
        window = tuple(feature * int(1.5 * side) // side for feature, side in zip(features, trained, strict=True))
        if not fast:
            return LocalPool(window)
        return FastLocalPool(window, tuple(max(1, 5 * f // side) for f, side in zip(features, trained, strict=True)))

    @classmethod
    def options_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict | None:
        """Infer the arguments; weights do not tell the windows, so those of the authors' training are assumed."""
        options = super().options_of(shapes)
        return options and {**options, 'train_size': [1, 3, 256, 256], 'fast_imp': False}


def _is_shape(value: Sequence[int]) -> bool:
    """Tell whether a value is four positive whole numbers."""
    return isinstance(value, Sequence) and len(value) == 4 and all(isinstance(n, int) and n > 0 for n in value)
