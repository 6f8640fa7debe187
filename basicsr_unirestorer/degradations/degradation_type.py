"""One kind of degradation: how to draw it, do it and name it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from basicsr_unirestorer.degradations.map_files import map_files
from basicsr_unirestorer.degradations.parameter import Parameter
from basicsr_unirestorer.degradations.window import Window
from basicsr_unirestorer.errors import OptionError, check_keys

UNNAMED = 'none'  # the word of a strength that no caption mentions
Operator = Callable[[np.ndarray, dict, np.random.Generator, Window], np.ndarray]


@dataclass(frozen=True)
class DegradationType:
    """One kind of degradation.

    Attributes:
        name: Name in recipes, records and labels.
        apply: ``(image, params, rng, window) -> image``, RGB (h, w, 3) float32; never changes its input.
        parameters: What it takes, by name.
        measure: The parameter that states the strength (a word counts by its place among the choices, from 1).
        words: Strength words, from the smallest measure to the largest.
        edges: Measures at which the word changes, one fewer than words; recipes may set their own.
        phrase: Pattern of the caption, with ``{word}`` in it.
        reach: Pixels around a crop that its result depends on, from the parameters.
        camera: Whether it happens in the camera, where the order varies, and not in the scene.
        edge_belongs_below: Whether a measure equal to an edge takes the word below it (else the one above).
        formula: The strength as a function of the parameters, monotone in each number, where it takes more than one.
        formula_of: Names of the parameters that ``formula`` reads.
        weakens: Whether a larger measure means less damage, as for JPEG's quality.
        label: The type it counts as in captions and labels; empty for its own name.
        grid: Scale of the pixel grid that it leaves behind, from the parameters, see ``Window``; None where it keeps
            the grid. Such a type occurs in the chain of a recipe only.
    """

    name: str
    apply: Operator
    parameters: dict[str, Parameter]
    measure: str
    words: tuple[str, ...]
    edges: tuple[float, ...]
    phrase: str
    reach: Callable[[dict], int] = lambda params: 0
    camera: bool = False
    edge_belongs_below: bool = False
    formula: Callable[[dict], float] | None = None
    formula_of: tuple[str, ...] = ()
    weakens: bool = False
    label: str = ''
    grid: Callable[[dict], float] | None = None

    @property
    def ranges(self) -> dict[str, Any]:
        """Default range of each parameter."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    def check(self, ranges: dict, where: str | None = None) -> None:
        """Refuse what cannot be drawn; ``where`` is quoted in the message.

        Raises:
            OptionError: Unknown parameters, impossible ranges, parameters without effect, or a folder that is needed.
            DataError: A folder that does not exist, or holds no masks or depth maps.
        """
        where = where or self.name
        check_keys(ranges, self.parameters, where)
        for name, given in ranges.items():
            self.parameters[name].alternatives(given, f'{where}.{name}')
            if self.parameters[name].folder and given:
                map_files(given)
        for name, parameter in self.parameters.items():
            if parameter.needs is None:
                continue
            other, values = parameter.needs
            possible = self.parameters[other].alternatives(ranges.get(other, self.ranges[other]), f'{where}.{other}')
            met = any((value in values) if values else value for value in possible)
            wanted = f'{other} is {" or ".join(map(str, values))}' if values else f'{other} names a folder'
            if not met and ranges.get(name, parameter.default) != parameter.default:
                raise OptionError(f'{where}.{name} has an effect only where {wanted}; set that too, or drop {name}.')
            if parameter.folder and met and not ranges.get(name):
                raise OptionError(f'{where}.{name} is missing: where {wanted}, it must name a folder.')

    def draw(self, ranges: dict, rng: np.random.Generator) -> dict[str, Any]:
        """Draw all parameters, in the order of the table whatever the order of ``ranges``; absent ones by default."""
        check_keys(ranges, self.parameters, self.name)
        params = {}
        for name, parameter in self.parameters.items():
            drawn = parameter.first or parameter.is_met(params)
            given = ranges.get(name, parameter.default)
            params[name] = parameter.draw(given, f'{self.name}.{name}', rng) if drawn else parameter.idle
        return {
            name: value if self.parameters[name].is_met(params) else self.parameters[name].idle
            for name, value in params.items()
        }

    def strength(self, params: dict) -> float:
        """Return the measure of drawn parameters. It need not grow with the damage: JPEG is measured by quality."""
        if self.formula:
            return float(self.formula(params))
        value, choices = params[self.measure], self.parameters[self.measure].choices
        return float(choices.index(value) + 1 if choices else value)

    def word(self, strength: float, edges: tuple[float, ...] | None = None) -> str:
        """Return the word of a strength; intervals are half-open, so 50 is medium rain where 50 is an edge."""
        find = bisect_left if self.edge_belongs_below else bisect_right
        return self.words[find(self.edges if edges is None else edges, strength)]

    def severity(self, word: str) -> float:
        """Return the damage that a word stands for among the type's words: above 0, and 1 for the worst."""
        place = self.words.index(word)
        return (len(self.words) - place if self.weakens else place + 1) / len(self.words)

    def possible_words(self, ranges: dict, edges: tuple[float, ...] | None = None) -> list[str]:
        """Return the words that parameters drawn from ``ranges`` can get, weakest measure first."""
        names, found = self.formula_of or (self.measure,), set()
        for chosen in product(*(self._ends(name, ranges) for name in names)):
            corners = [self.strength(dict(zip(names, corner, strict=True))) for corner in product(*chosen)]
            first, last = (self.words.index(self.word(end, edges)) for end in (min(corners), max(corners)))
            found.update(range(first, last + 1))
        return [self.words[index] for index in sorted(found)]

    def _ends(self, name: str, ranges: dict) -> Iterator[tuple]:
        """Smallest and largest value of each alternative of a parameter."""
        parameter = self.parameters[name]
        for option in parameter.alternatives(ranges.get(name, parameter.default), name):
            if parameter.choices:
                yield (option,)
            elif parameter.integer or option[0] == option[1]:
                yield option
            else:  # the ends of a continuous range have no weight of their own: U(20, 40) is never 40
                yield float(np.nextafter(option[0], option[1])), float(np.nextafter(option[1], option[0]))
