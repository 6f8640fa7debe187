"""One degradation of a recipe: its ranges, and how an operation is drawn from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from basicsr_unirestorer.degradations.record import Operation
from basicsr_unirestorer.degradations.registry import DEGRADATION_TYPES, UNNAMED, DegradationType
from basicsr_unirestorer.errors import OptionError, check_keys, did_you_mean

SETTINGS = ('edges', 'clip')  # what a recipe may say of any type, beside its parameters


@dataclass(frozen=True)
class Ingredient:
    """A degradation as a recipe describes it.

    Attributes:
        type: A key of ``DEGRADATION_TYPES``.
        ranges: Ranges of the parameters that the recipe gives; the others keep their defaults.
        edges: Measures at which the strength word changes.
        clip: Whether its result is clipped to [0, 1] before the next operation.
    """

    type: str
    ranges: dict[str, Any] = field(hash=False)
    edges: tuple[float, ...]
    clip: bool = True

    @property
    def kind(self) -> DegradationType:
        return DEGRADATION_TYPES[self.type]

    def draw(self, rng: np.random.Generator) -> Operation:
        """Draw the parameters, in the order of the type's table."""
        params = self.kind.draw(self.ranges, rng)
        strength = self.kind.strength(params)
        return Operation(self.type, params, strength, self.kind.word(strength, self.edges), self.clip)

    def cells(self) -> list[tuple[str, str]]:
        """Return every (word, label) that it can add to a caption, weakest measure first."""
        words = self.kind.possible_words(self.ranges, self.edges)
        return [(word, self.kind.label or self.type) for word in words if word != UNNAMED]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings with every default spelt out."""
        return {**self.kind.ranges, **self.ranges, 'edges': list(self.edges), 'clip': self.clip}

    def identity(self) -> dict[str, Any]:
        """Return the settings without those of later releases that are at their defaults."""
        settings = self.to_dict()
        later = {name: parameter.default for name, parameter in self.kind.parameters.items() if not parameter.first}
        later['clip'] = True
        return {name: value for name, value in settings.items() if name not in later or later[name] != value}


def read_ingredient(name: str, settings: Mapping | None, where: str, beside: Iterable[str] = ()) -> Ingredient:
    """Make an ingredient from options.

    Args:
        name: The type.
        settings: Parameter ranges, ``edges`` and ``clip``; None for the defaults. Keys of ``beside`` are passed over.
        where: Dotted place of the settings, quoted in messages.
        beside: Keys that mean something to the caller.

    Raises:
        OptionError: Unknown type or key, or an impossible range.
    """
    kind, settings = DEGRADATION_TYPES[name], dict(settings or {})
    check_keys(settings, [*beside, *SETTINGS, *kind.parameters], where)
    edges, clip = settings.pop('edges', kind.edges), settings.pop('clip', True)
    if (
        not isinstance(edges, (list, tuple))
        or len(edges) != len(kind.words) - 1
        or not all(isinstance(edge, (int, float)) for edge in edges)
        or list(edges) != sorted(set(edges))
    ):
        raise OptionError(
            f'{where}.edges is {edges}, expected {len(kind.words) - 1} rising numbers between {", ".join(kind.words)}.'
        )
    if not isinstance(clip, bool):
        raise OptionError(f'{where}.clip is {clip}, expected true or false.')
    ranges = {key: value for key, value in settings.items() if key not in beside}
    kind.check(ranges, where)
    return Ingredient(name, ranges, tuple(edges), clip)


def known_type(name: Any, where: str) -> str:
    """Return the name of a type; raises OptionError with the nearest one where there is no such type."""
    if name not in DEGRADATION_TYPES:
        raise OptionError(
            f"{where} has the unknown type '{name}'.{did_you_mean(name, DEGRADATION_TYPES)} "
            f'Known: {", ".join(DEGRADATION_TYPES)}.'
        )
    return name


def read_number(value: Any, where: str, highest: float = float('inf')) -> float:
    """Return a weight (any number of at least 0) or, with ``highest`` 1, a probability; raises OptionError."""
    number = not isinstance(value, bool) and isinstance(value, (int, float))
    if not number or not 0 <= value <= highest or value == float('inf'):
        limits = 'of at least 0' if highest > 1 else 'from 0 to 1'
        raise OptionError(f'{where} is {value}, expected a number {limits}.')
    return float(value)
