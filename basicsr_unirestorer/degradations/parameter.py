"""What a parameter of a degradation may be, and how it is drawn from a range.

A range of a parameter is written, here and in recipes, as

- a fixed value: ``25``, ``rgb``, ``true``, or a folder;
- two numbers ``[lo, hi]``, between which one is drawn uniformly (for some parameters: uniformly in the logarithm);
- a list of such ranges ``[[10, 20], [40, 60]]``, one of which is chosen first, each as often as the others;
- a list of words ``[S, L]``, where the parameter is a word or a switch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from basicsr_unirestorer.errors import OptionError


@dataclass(frozen=True)
class Parameter:
    """What a parameter may be.

    A range of a single value takes nothing from the generator, so a new parameter with a fixed default changes no
    sample that was drawn before there was one.

    Attributes:
        default: Range used where a recipe gives none.
        lowest, highest: Limits of what makes sense, both included.
        integer: Whether it is drawn as an integer, both ends included.
        choices: The allowed words (or switches); then the limits mean nothing.
        folder: Whether it is the path of a folder; empty for none.
        log: Whether it is drawn uniformly in its logarithm; a range from 0, which has none, is drawn uniformly.
        needs: A parameter of the same type and the values of it that give this one a meaning (no values: anything but
            empty); with another value it is not drawn and stays at ``idle``.
        first: Whether it comes from the first release, where a single value took a number from the generator too and
            the fingerprint of a recipe spelt it out: both still hold, since published samples must stay what they are.
    """

    default: Any
    lowest: float = 0
    highest: float = 0
    integer: bool = False
    choices: tuple = ()
    folder: bool = False
    log: bool = False
    needs: tuple[str, tuple] | None = None
    first: bool = False

    @property
    def idle(self) -> Any:
        """Value where the parameter means nothing."""
        if self.folder:
            return ''
        return self.choices[0] if self.choices else (int if self.integer else float)(self.lowest)

    def alternatives(self, given: Any, where: str) -> list:
        """Check a range and list what it may be: words, or (lo, hi) pairs.

        Raises:
            OptionError: Not a range, empty, outside the limits or an unknown word; names ``where``.
        """
        if self.folder:
            if not isinstance(given, str):
                raise OptionError(f'{where} is {given}, expected the path of a folder.')
            return [given]
        if self.choices:
            words = given if isinstance(given, (list, tuple)) else [given]
            if not words or any(type(word) is not type(self.choices[0]) or word not in self.choices for word in words):
                raise OptionError(
                    f'{where} is {given}, expected one of {", ".join(map(str, self.choices))}, or a list of them.'
                )
            return list(words)
        nested = isinstance(given, (list, tuple)) and given and all(isinstance(part, (list, tuple)) for part in given)
        return [self._pair(part, where) for part in (given if nested else [given])]

    def _pair(self, given: Any, where: str) -> tuple[float, float]:
        pair = tuple(given) if isinstance(given, (list, tuple)) else (given, given)
        if len(pair) != 2 or any(isinstance(end, bool) or not isinstance(end, (int, float)) for end in pair):
            raise OptionError(
                f'{where} is {given}, expected a number, a range [lo, hi] or a list of ranges [[lo, hi], [lo, hi]].'
            )
        if pair[0] > pair[1]:
            raise OptionError(f'{where} is the empty range {list(pair)}; write {[pair[1], pair[0]]}.')
        if not self.lowest <= pair[0] <= pair[1] <= self.highest:
            raise OptionError(f'{where} is {given}, expected values from {self.lowest:g} to {self.highest:g}.')
        if self.integer and any(end != int(end) for end in pair):
            raise OptionError(f'{where} is {given}, expected whole numbers.')
        return pair

    def draw(self, given: Any, where: str, rng: np.random.Generator) -> Any:
        """Draw a plain Python value from a range."""
        options = self.alternatives(given, where)
        chosen = options[int(rng.integers(len(options)))]
        if self.choices or self.folder:
            return chosen
        lo, hi = chosen
        if self.integer:
            return int(rng.integers(int(lo), int(hi) + 1))
        if lo == hi and not self.first:
            return float(lo)
        if self.log and 0 < lo < hi:
            return float(math.exp(rng.uniform(math.log(lo), math.log(hi))))
        return float(rng.uniform(lo, hi))

    def is_met(self, params: dict) -> bool:
        """Whether the parameter has a meaning beside these others, as far as they are drawn."""
        if self.needs is None or self.needs[0] not in params:
            return True
        name, values = self.needs
        return params[name] in values if values else bool(params[name])
