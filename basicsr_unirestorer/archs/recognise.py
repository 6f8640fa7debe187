"""Tell from the names and shapes of weights which network they belong to, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor

from basicsr_unirestorer.archs.expert import Expert

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(params: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every entry of a state dict."""
    return {key: tuple(value.shape) for key, value in params.items()}


def differences(expected: Shapes, given: Shapes) -> list[str]:
    """Return a phrase for every entry that is missing, unknown or of another shape; empty where all fit."""
    missing = [f'{key} is missing' for key in expected if key not in given]
    unknown = [f'{key} is unknown' for key in given if key not in expected]
    reshaped = [
        f'{key} is {given[key]} instead of {shape}'
        for key, shape in expected.items()
        if key in given and given[key] != shape
    ]
    return reshaped + missing + unknown


def recognise(shapes: Shapes) -> dict | None:
    """Find the expert network that a state dict belongs to.

    Args:
        shapes: Shape of every entry.

    Returns:
        ``type`` and the constructor's arguments; None where no network of this package has such entries. NAFNet and
        NAFNetLocal have the same entries and come back as NAFNetExpert.
    """
    experts = {name: net for name, net in ARCH_REGISTRY if isinstance(net, type) and issubclass(net, Expert)}
    for name in sorted(experts):
        try:
            options = experts[name].options_of(shapes)
        except (KeyError, IndexError, ValueError, ZeroDivisionError):  # half of a network's entries, or odd shapes
            continue
        if options is not None:
            return {'type': name, **options}
    return None


def likely(shapes: Shapes) -> str:
    """Say in half a sentence what a state dict looks like."""
    if any(key.startswith('l0_experts.') for key in shapes):
        return 'it looks like the whole release of UniRestorer: run unirestorer convert-release'
    options = recognise(shapes)
    if options is None:
        return 'it looks like no network of this package'
    name = options.pop('type')
    return f'it looks like a {name} with ' + ', '.join(f'{key}: {value}' for key, value in options.items())
