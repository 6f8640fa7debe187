"""Chains: degradations in a fixed, branching or shuffled order, the same type as often as it is written.

A step of a chain is one of

- ``{type: noise, sigma_255: [1, 30]}``: a degradation with its ranges;
- ``{one_of: [{weight: 2, type: noise}, {type: poisson_noise}]}``: one of several steps, by weight (1 where absent);
- ``{shuffle: [...], keep_order: [resize]}``: all of them in random order, every order equally likely, where the steps
  of the types (or names) in ``keep_order`` stay in the order written among themselves;
- ``{steps: [...]}`` or a bare list: all of them in the order written; an empty one does nothing.

Any step but a bare list may have ``p``, the probability that it happens at all (default 1), and a ``name`` for
``keep_order``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from basicsr_unirestorer.degradations.ingredient import Ingredient, known_type, read_ingredient, read_number
from basicsr_unirestorer.degradations.record import Operation
from basicsr_unirestorer.errors import OptionError, check_keys, did_you_mean

KINDS = ('type', 'one_of', 'shuffle', 'steps')
STEP_KEYS = ('p', 'name')


@dataclass(frozen=True)
class Step:
    """A step that holds other steps, or an ingredient.

    Attributes:
        kind: ``'type'``, ``'one_of'``, ``'shuffle'`` or ``'steps'``.
        p: Probability that it happens.
        name: What ``keep_order`` may call it; empty where only its type counts.
        ingredient: What a step of kind ``'type'`` applies.
        parts: Steps inside the other kinds.
        weights: Of the parts of ``'one_of'``.
        keep_order: Types or names of the parts of ``'shuffle'`` that keep their order.
    """

    kind: str
    p: float = 1.0
    name: str = ''
    ingredient: Ingredient | None = None
    parts: tuple[Step, ...] = ()
    weights: tuple[float, ...] = ()
    keep_order: tuple[str, ...] = ()

    def draw(self, rng: np.random.Generator) -> list[Operation]:
        """Draw what happens: whether, then which or in which order, then the steps inside, in order of application."""
        if self.p < 1 and rng.random() >= self.p:
            return []
        if self.kind == 'type':
            return [self.ingredient.draw(rng)]
        parts = self.parts
        if self.kind == 'one_of':
            bounds = np.cumsum(self.weights)
            parts = (parts[int(np.searchsorted(bounds, rng.random() * bounds[-1], side='right'))],)
        elif self.kind == 'shuffle':
            parts = self._shuffled(rng)
        return [operation for part in parts for operation in part.draw(rng)]

    def _shuffled(self, rng: np.random.Generator) -> list[Step]:
        """Permute the parts; those in ``keep_order`` share out the places they fell on in the order written."""
        order = rng.permutation(len(self.parts))
        kept = [place for place, part in enumerate(order) if self.parts[part].answers_to(self.keep_order)]
        order[kept] = np.sort(order[kept])
        return [self.parts[part] for part in order]

    def answers_to(self, names: tuple[str, ...]) -> bool:
        return self.name in names or (self.ingredient is not None and self.ingredient.type in names)

    def ingredients(self) -> Iterator[Ingredient]:
        """Yield every ingredient that can occur, in the order written."""
        if self.p == 0:
            return
        if self.ingredient:
            yield self.ingredient
        for part, weight in zip(self.parts, self.weights or (1,) * len(self.parts), strict=True):
            if weight > 0:
                yield from part.ingredients()

    def to_dict(self) -> dict[str, Any]:
        """Return the step with every default spelt out; ``read_step`` takes it back."""
        common = {'p': self.p, **({'name': self.name} if self.name else {})}
        if self.kind == 'type':
            return {'type': self.ingredient.type, **self.ingredient.to_dict(), **common}
        parts = [part.to_dict() for part in self.parts]
        if self.kind == 'one_of':
            parts = [{'weight': weight, **part} for weight, part in zip(self.weights, parts, strict=True)]
        elif self.kind == 'shuffle':
            common['keep_order'] = list(self.keep_order)
        return {self.kind: parts, **common}


def read_step(step: Any, where: str) -> Step:
    """Make a step from options.

    Args:
        step: A mapping as in the heading of this file, or a list of them.
        where: Dotted place, quoted in messages.

    Raises:
        OptionError: It is no step, has unknown keys, or cannot happen.
    """
    if isinstance(step, (list, tuple)):
        step = {'steps': step}
    kinds = [kind for kind in KINDS if kind in step] if isinstance(step, Mapping) else []
    if len(kinds) != 1:
        hint = did_you_mean(next((key for key in step if key not in KINDS), ''), KINDS) if step and not kinds else ''
        raise OptionError(
            f'{where} is {step}, expected a step with exactly one of {", ".join(KINDS)}, such as '
            f'{{type: noise, sigma_255: [1, 30]}}, or a list of steps.{hint}'
        )
    (kind,) = kinds
    if 'weight' in step:
        raise OptionError(
            f'{where}.weight means something inside one_of only; of a step that happens sometimes, write its p.'
        )
    common = {'p': read_number(step.get('p', 1), f'{where}.p', highest=1), 'name': str(step.get('name', ''))}
    if kind == 'type':
        name = known_type(step['type'], where)
        return Step('type', ingredient=read_ingredient(name, step, where, beside=('type', *STEP_KEYS)), **common)
    check_keys(step, (kind, *STEP_KEYS, *(('keep_order',) if kind == 'shuffle' else ())), where)
    inside = step[kind]
    if not isinstance(inside, (list, tuple)) or not inside and kind != 'steps':
        raise OptionError(f'{where}.{kind} is {inside}, expected a list of steps.')
    if kind == 'one_of':
        return _read_choice(inside, f'{where}.one_of', common)
    parts = tuple(read_step(part, f'{where}.{kind}.{number}') for number, part in enumerate(inside))
    keep_order = _read_keep_order(step.get('keep_order') or (), parts, where) if kind == 'shuffle' else ()
    return Step(kind, parts=parts, keep_order=keep_order, **common)


def _read_choice(inside: list, where: str, common: dict) -> Step:
    parts, weights = [], []
    for number, part in enumerate(inside):
        place, weight = f'{where}.{number}', 1
        if isinstance(part, Mapping):
            part = dict(part)
            weight = part.pop('weight', 1)
        weights.append(read_number(weight, f'{place}.weight'))
        parts.append(read_step(part, place))
    if not any(weights):
        raise OptionError(f'{where} has only weights of 0, so nothing can be drawn.')
    return Step('one_of', parts=tuple(parts), weights=tuple(weights), **common)


def _read_keep_order(names: Any, parts: tuple[Step, ...], where: str) -> tuple[str, ...]:
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise OptionError(f'{where}.keep_order is {names}, expected a list of types or names of steps.')
    known = [name for part in parts for name in (part.name, part.ingredient and part.ingredient.type) if name]
    for name in names:
        if name not in known:
            raise OptionError(
                f"{where}.keep_order has '{name}', which no step of the shuffle is called."
                f'{did_you_mean(name, known)} Known: {", ".join(dict.fromkeys(known)) or "none; give steps a name"}.'
            )
    if names and sum(part.answers_to(tuple(names)) for part in parts) < 2:
        raise OptionError(f"{where}.keep_order names a single step, '{names[0]}'; an order takes two.")
    return tuple(names)
