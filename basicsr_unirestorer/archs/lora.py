"""LoRA for any network: low-rank factors beside the frozen weights of its convolutions and linear layers.

Hu et al., ICLR 2022, arXiv 2106.09685. A layer computes with ``weight + (B @ A) * alpha / rank``. The base weights are
never changed: merging keeps that sum beside them, so that un-merging is exact and a state dict is the same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.errors import DataError, OptionError

Number = float | Callable[[str], float]
ADAPTABLE = (nn.Conv2d, nn.Linear)


class LoRALayer(nn.Module):
    """A frozen layer with factors, merged or not; the layer itself stands in ``conv``, the name of the release.

    Args:
        layer: The layer to adapt, frozen here.
        rank: Rank of the factors, in kernel sides for a convolution.
        alpha: Strength; the factors' product counts ``alpha / rank`` times.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        if int(rank) != rank or rank < 1 or alpha <= 0:
            raise OptionError(f'LoRA rank is {rank} and alpha {alpha}; give a whole rank from 1 and an alpha above 0.')
        rows, inner, columns = _factor_sides(layer, int(rank))
        like = {'dtype': layer.weight.dtype, 'device': layer.weight.device}
        self.lora_A = nn.Parameter(torch.empty(inner, columns, **like))
        self.lora_B = nn.Parameter(torch.zeros(rows, inner, **like))  # so that fresh factors change nothing
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)
        self.conv = layer.requires_grad_(False)
        self.scale = alpha / rank
        self.register_buffer('merged', None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.conv, nn.Conv2d):
            return self.conv._conv_forward(x, self.weight, self.bias)  # minds the padding mode
        return F.linear(x, self.weight, self.bias)

    @property
    def weight(self) -> Tensor:
        """The weight that the layer computes with, in the shape of the frozen one; never rounded by autocast."""
        if self.merged is not None:
            return self.merged
        device = self.lora_A.device.type
        with torch.autocast(device, enabled=False) if device in ('cpu', 'cuda') else nullcontext():
            return self.conv.weight + (self.lora_B @ self.lora_A).view(self.conv.weight.shape) * self.scale

    @property
    def bias(self) -> Tensor | None:
        return self.conv.bias

    def train(self, mode: bool = True) -> LoRALayer:
        """Set the mode; training needs the factors, so it un-merges."""
        if mode:
            self.merged = None
        return super().train(mode)

    def _load_from_state_dict(self, *args: object) -> None:
        self.merged = None  # made from the factors that are replaced
        super()._load_from_state_dict(*args)


def _factor_sides(layer: nn.Module, rank: int) -> tuple[int, int, int]:
    """Return the rows of B, what B and A share, and the columns of A.

    The product of rows and columns has as many entries as the weight, groups or not.
    """
    if isinstance(layer, nn.Linear):
        return layer.out_features, rank, layer.in_features
    height, width = layer.kernel_size
    return layer.out_channels // layer.groups * height, rank * height, layer.in_channels * width


def factors_are_smaller(layer: nn.Module, rank: int) -> bool:
    """Return whether ``add_lora`` can adapt a layer and its factors would hold fewer numbers than its weight."""
    if type(layer) not in ADAPTABLE:
        return False
    rows, inner, columns = _factor_sides(layer, rank)
    return inner * (rows + columns) < rows * columns


def lora_layers(net: nn.Module) -> dict[str, LoRALayer]:
    """Return a network's layers with factors, by name."""
    return {name: module for name, module in net.named_modules() if isinstance(module, LoRALayer)}


def add_lora(
    net: nn.Module, rank: Number = 8, alpha: Number = 16, only: Callable[[str], bool] = lambda name: True
) -> nn.Module:
    """Freeze a network and give its convolutions and linear layers factors, in place.

    Transposed convolutions, norms and single parameters stay frozen without factors.

    Args:
        net: The network; its output does not change.
        rank: Of every layer's factors, or a function of the layer's name.
        alpha: The same for alpha; 16 with rank 8 in the paper of UniRestorer.
        only: Whether a layer of this name gets factors.

    Raises:
        OptionError: A rank that is no whole number from 1, an alpha that is not above 0, or a network that has factors
            already or no layer to give them to.
    """
    if lora_layers(net):
        raise OptionError(f'{type(net).__name__} has LoRA factors already; merge them with fuse_lora first.')
    net.requires_grad_(False)
    found = {name: m for name, m in net.named_modules() if type(m) in ADAPTABLE and only(name)}
    if not found:
        raise OptionError(f'{type(net).__name__} has no convolution or linear layer that LoRA factors could adapt.')
    for name, layer in found.items():
        _replace(net, name, LoRALayer(layer, *(v(name) if callable(v) else v for v in (rank, alpha))))
    return net


def add_factors(net: nn.Module, rank: int, alpha: float) -> nn.Module:
    """Freeze a network and give it LoRA factors, in place, wherever they are smaller than the layer's own weights.

    Without that limit a depthwise 3x3 convolution would get eight times its own weights at rank 8.

    Args:
        net: The network; its output does not change. It is marked as one that is stored by its factors alone.
        rank: Of every layer's factors.
        alpha: Their strength, as of ``LoRALayer``.

    Raises:
        OptionError: As ``add_lora``, or no layer is large enough for factors of this rank.
    """
    modules = dict(net.named_modules())
    if not any(factors_are_smaller(module, rank) for module in modules.values()):
        raise OptionError(
            f'No layer of {type(net).__name__} is larger than its LoRA factors of rank {rank}; lower '
            'experts.lora.rank, or train every expert in full (lora: ~).'
        )
    add_lora(net, rank, alpha, only=lambda name: factors_are_smaller(modules[name], rank))
    net.stored_by_factors = True  # unlike LoRARestormerExpert, which holds a base of its own
    return net


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition('.')
    setattr(net.get_submodule(parent), last, module)


def lora_state(net: nn.Module) -> dict[str, Tensor]:
    """Return the factors alone: all that an expert adapted from a known base has to store."""
    return {key: value for key, value in net.state_dict().items() if key.endswith(('.lora_A', '.lora_B'))}


def load_lora(
    net: nn.Module, factors: Mapping[str, Tensor], source: str | Path = 'The state dict of LoRA factors'
) -> nn.Module:
    """Load factors into a network that has layers for them; the base stays.

    Args:
        net: The network.
        factors: What ``lora_state`` returned.
        source: Where they come from, for the message.

    Raises:
        DataError: Naming the first three factors that are missing, unknown or of another shape.
    """
    expected = lora_state(net)
    wrong = [f'{key} is missing' for key in expected if key not in factors]
    wrong += [f'{key} is unknown' for key in factors if key not in expected]
    wrong += [
        f'{key} is {tuple(factors[key].shape)} instead of {tuple(value.shape)}'
        for key, value in expected.items()
        if key in factors and factors[key].shape != value.shape
    ]
    if wrong:
        raise DataError(
            f'{source} does not fit {type(net).__name__}: {"; ".join(wrong[:3])}; '
            'build it with the rank, and from the base, that they were trained with.'
        )
    net.load_state_dict(factors, strict=False)
    return net


@torch.no_grad()
def merge_lora(net: nn.Module) -> nn.Module:
    """Let every adapted layer compute with one weight, kept beside base and factors (one more copy of the weights)."""
    for layer in lora_layers(net).values():
        layer.merged = layer.weight.detach().clone()
    return net


def unmerge_lora(net: nn.Module) -> nn.Module:
    """Undo ``merge_lora``, bit for bit."""
    for layer in lora_layers(net).values():
        layer.merged = None
    return net


@torch.no_grad()
def fuse_lora(net: nn.Module) -> nn.Module:
    """Merge for good, in place: a plain network with the names of the one that was adapted, without factors."""
    for name, layer in lora_layers(net).items():
        layer.conv.weight = nn.Parameter(layer.weight, requires_grad=False)
        _replace(net, name, layer.conv)
    return net
