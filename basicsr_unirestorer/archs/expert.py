"""What every restoration network of this package promises: pictures of any size, checked input, stated facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from basicsr_unirestorer.archs.padding import pad_to
from basicsr_unirestorer.errors import DataError


@dataclass(frozen=True)
class ExpertFacts:
    """What a caller has to know of a network."""

    paper: str
    licence: str  # of the weights its authors published
    multiple: int  # sides are padded to a multiple of this inside
    minimum: int = 1  # ... and to at least this
    pad_mode: Literal['reflect', 'constant'] = 'reflect'
    precisions: tuple[str, ...] = ('fp32', 'bf16', 'fp16')  # under autocast, measured to stay within 0.05 dB of fp32
    tiles: Literal['exact', 'approximate'] = 'approximate'  # whether a tile can give what the whole picture gives
    channels_last: bool = True  # the memory format it is fastest in


class Expert(nn.Module):
    """Base of the restoration networks: a subclass sets ``facts`` and ``channels`` and writes ``restore``.

    Shape:
        lq (n, channels, h, w), RGB, [0, 1], any h, w >= 1 -> restored picture of the same shape, not clamped.

    Raises:
        DataError: Another number of channels or, outside training, NaN or infinite values.
    """

    facts: ExpertFacts
    channels: int = 3

    def forward(self, lq: Tensor) -> Tensor:
        self._check(lq)
        h, w = lq.shape[-2:]
        multiple, minimum = self.facts.multiple, self.facts.minimum
        sides = [-(-max(side, minimum) // multiple) * multiple for side in (h, w)]  # rounded up
        padded = pad_to(lq, *sides, mode=self.facts.pad_mode)
        if self.facts.channels_last:
            padded = padded.contiguous(memory_format=torch.channels_last)
        return self.restore(padded)[..., :h, :w]

    def restore(self, padded: Tensor) -> Tensor:
        """Restore a picture whose sides the network can take; shape in and out as in ``forward``."""
        raise NotImplementedError

    def _check(self, lq: Tensor) -> None:
        if lq.ndim != 4 or lq.shape[1] != self.channels or 0 in lq.shape[-2:]:
            raise DataError(
                f'{type(self).__name__} takes pictures of shape (n, {self.channels}, h, w), RGB, in [0, 1], but got '
                f'{tuple(lq.shape)}; convert grey or transparent pictures to RGB first.'
            )
        if self.training or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return  # a training reports a loss that is not finite
        if not torch.isfinite(lq).all():
            raise DataError(
                f'The picture given to {type(self).__name__} holds NaN or infinite values; repair or leave out that '
                'picture.'
            )

    @classmethod
    def options_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict | None:
        """Infer the constructor's arguments from a state dict's keys and shapes.

        Args:
            shapes: Shape of every entry.

        Returns:
            The arguments, without ``type``; None where the entries cannot be this network's.
        """
        raise NotImplementedError
