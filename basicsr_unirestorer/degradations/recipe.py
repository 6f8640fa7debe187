"""Recipes: which degradations occur, how many at once, how strong and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from basicsr_unirestorer.degradations.chain import Step, read_step
from basicsr_unirestorer.degradations.ingredient import Ingredient, known_type, read_ingredient, read_number
from basicsr_unirestorer.degradations.mixtures import count_combinations, read_exclusive, read_mixtures
from basicsr_unirestorer.degradations.record import QUANTIZE, DegradationRecord
from basicsr_unirestorer.degradations.registry import DEGRADATION_TYPES
from basicsr_unirestorer.errors import OptionError, check_keys, did_you_mean
from basicsr_unirestorer.option_files import options_dir

ORDERS = ('physical', 'shuffle', 'listed')
UNORDERED_KEYS = ('order', 'count', 'exclusive', 'degradations', 'mixtures')  # what a chain takes the place of
RECIPE_KEYS = ('name', 'quantize', 'chain', *UNORDERED_KEYS)


@dataclass(frozen=True)
class DegradationRecipe:
    """A weighted, ordered mixture of degradations, or a chain of them; make one with ``load``.

    Attributes:
        name: For logs and reports.
        order: ``'physical'`` (light, weather, optics, sensor, file: the order of ``DEGRADATION_TYPES``), ``'shuffle'``
            (scene physically, then what the camera does in random order, after BSRGAN) or ``'listed'`` (as written).
        ingredients: By type, each once; in physical order unless ``order`` is ``'listed'``. Empty for a chain.
        combinations: Every set of types that can occur together and its probability. Empty for a chain.
        options: The recipe as plain dicts and lists; ``from_dict`` takes it back.
        chain: Steps in order, see ``chain.py``; None where the recipe is a mixture.
        quantize: When values are rounded to 8 bits, see ``DegradationRecord``.
    """

    name: str
    order: str
    ingredients: dict[str, Ingredient]
    combinations: tuple[tuple[tuple[str, ...], float], ...]
    options: dict[str, Any]
    chain: Step | None = None
    quantize: str = 'end'

    @classmethod
    def load(cls, source: DegradationRecipe | Mapping | str | Path) -> DegradationRecipe:
        """Make a recipe from options, a file, or the name of a recipe that comes with the package.

        Raises:
            OptionError: There is no such recipe, or it is faulty.
        """
        if isinstance(source, cls):
            return source
        if isinstance(source, Mapping):
            return cls.from_dict(source)
        path = Path(source).expanduser()
        if path.suffix in ('.yml', '.yaml'):
            return cls.from_yaml(path)
        files = {file.stem: file for file in sorted((options_dir() / 'recipes').glob('*.yml'))}
        if str(source) not in files:
            raise OptionError(
                f"There is no recipe '{source}'.{did_you_mean(source, files)} Known: "
                f'{", ".join(sorted(files))}; or give the path of a .yml file.'
            )
        return cls.from_yaml(files[str(source)])

    @classmethod
    def from_yaml(cls, path: str | Path) -> DegradationRecipe:
        """Read a recipe file. Raises OptionError naming the file and the key where something is wrong."""
        path = Path(path).expanduser()
        if not path.is_file():
            raise OptionError(
                f'There is no recipe file {path}; give an existing .yml file or the bare name of a '
                'recipe that comes with the package.'
            )
        try:
            options = yaml.safe_load(path.read_text(encoding='utf-8'))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise OptionError(f'{path} is no valid yml: {" ".join(str(error).split())}.') from error
        return cls.from_dict(options, str(path))

    @classmethod
    def from_dict(cls, options: Mapping, source: str = 'recipe') -> DegradationRecipe:
        """Make a recipe from options with the keys of a recipe file.

        Args:
            options: ``degradations``, and either ``count`` (default ``{1: 1.0}``) or ``mixtures``, with ``order``
                (default physical) and ``exclusive``; or ``chain`` alone. In any case ``name`` and ``quantize``
                (default end).
            source: Quoted in messages.

        Raises:
            OptionError: Unknown keys, impossible ranges or impossible combinations.
        """
        if isinstance(options, Mapping):
            check_keys(options, RECIPE_KEYS, source)
        if isinstance(options, Mapping) and isinstance(options.get('count'), Mapping):  # JSON has words as keys
            count = {int(size) if str(size).isdigit() else size: share for size, share in options['count'].items()}
            options = {**options, 'count': count}
        quantize = _read_quantize(options, source)
        if isinstance(options, Mapping) and options.get('chain') is not None:
            name, chain = str(options.get('name', Path(source).stem)), _read_chain(options, source)
            return cls(name, 'listed', {}, (), _plain(options), chain, quantize)
        ingredients = _read_ingredients(options, source)
        order = options.get('order', 'physical')
        if order not in ORDERS:
            raise OptionError(
                f"{source}.order is '{order}', expected one of {', '.join(ORDERS)}.{did_you_mean(order, ORDERS)}"
            )
        if order != 'listed':  # so that the order of keys in a file changes no draw
            ingredients = {name: ingredients[name] for name in DEGRADATION_TYPES if name in ingredients}
        exclusive = read_exclusive(options.get('exclusive') or [], source)
        if options.get('mixtures') is not None:
            table = read_mixtures(options, exclusive, source)
        else:
            weights = {name: _weight(options, name, source) for name in ingredients}
            table = count_combinations(options.get('count', {1: 1.0}), weights, exclusive, source)
        name = str(options.get('name', Path(source).stem))
        return cls(name, order, ingredients, tuple(table), _plain(options), quantize=quantize)

    def draw(self, rng: np.random.Generator) -> DegradationRecord:
        """Draw a record: the combination, its order, then the parameters of each operation in turn.

        A chain is drawn step by step instead, in the order of application.
        """
        if self.chain:
            return DegradationRecord(tuple(self.chain.draw(rng)), self.quantize)
        place = int(np.searchsorted(self._bounds, rng.random() * self._bounds[-1], side='right'))
        types = self._arrange(self.combinations[place][0], rng)
        return DegradationRecord(tuple(self.ingredients[name].draw(rng) for name in types), self.quantize)

    @cached_property
    def _bounds(self) -> np.ndarray:
        return np.cumsum([probability for _, probability in self.combinations])

    def _arrange(self, types: tuple[str, ...], rng: np.random.Generator) -> list[str]:
        if self.order == 'listed':
            return list(types)
        types = sorted(types, key=list(DEGRADATION_TYPES).index)
        if self.order == 'physical':
            return types
        camera = [name for name in types if DEGRADATION_TYPES[name].camera]
        return types[: len(types) - len(camera)] + [camera[place] for place in rng.permutation(len(camera))]

    def _possible(self) -> Iterator[Ingredient]:
        """Yield every ingredient that can occur; a chain may have several of one type."""
        if self.chain:
            return self.chain.ingredients()
        used = {name for names, _ in self.combinations for name in names}
        return (ingredient for name, ingredient in self.ingredients.items() if name in used)

    @property
    def types(self) -> tuple[str, ...]:
        """Labels that can occur, in physical order."""
        labels = {label for _, label in self.cells()}
        return tuple(name for name in DEGRADATION_TYPES if name in labels)

    def cells(self) -> list[tuple[str, str]]:
        """Return every (word, label) that can occur, by label in physical order, weakest measure first."""
        found = {cell for ingredient in self._possible() for cell in ingredient.cells()}
        cells = [(word, name) for name, kind in DEGRADATION_TYPES.items() for word in kind.words]
        return [cell for cell in cells if cell in found]

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe with every default spelt out: equal dicts mean equal samples, whatever their key order."""
        if self.chain:
            return _plain({'name': self.name, 'quantize': self.quantize, 'chain': self.chain.to_dict()['steps']})
        full = {name: ingredient.to_dict() for name, ingredient in self.ingredients.items()}
        return self._spelt_out(full, quantize=self.quantize)

    def identity(self) -> dict[str, Any]:
        """Return what samples depend on, as the first release wrote it: later options count where they are used.

        So a new parameter changes no fingerprint of a recipe that does not mention it.
        """
        if self.chain:
            return self.to_dict()
        full = {name: ingredient.identity() for name, ingredient in self.ingredients.items()}
        return self._spelt_out(full, **({} if self.quantize == 'end' else {'quantize': self.quantize}))

    def _spelt_out(self, full: dict[str, dict], **more: Any) -> dict[str, Any]:
        options = {key: value for key, value in self.options.items() if key != 'quantize'}
        options |= {'name': self.name, 'order': self.order, 'degradations': full, **more}
        if self.order == 'listed':  # keys are in no order for a reader of JSON; lists are
            options['mixtures'] = [{'types': types, 'weight': weight} for types, weight in self.combinations]
            options.pop('count', None)
        elif 'mixtures' not in options:
            for name, settings in full.items():
                settings['weight'] = _weight(self.options, name, self.name)
        return _plain(options)


def _read_quantize(options: Any, source: str) -> str:
    given = options.get('quantize', 'end') if isinstance(options, Mapping) else 'end'
    given = 'off' if given is False else given  # how yml reads a bare off
    if given not in QUANTIZE:
        raise OptionError(
            f"{source}.quantize is '{given}', expected one of {', '.join(QUANTIZE)}.{did_you_mean(given, QUANTIZE)}"
        )
    return given


def _read_chain(options: Mapping, source: str) -> Step:
    clash = next((key for key in UNORDERED_KEYS if options.get(key) is not None), None)
    if clash:
        raise OptionError(
            f'{source} has both chain and {clash}; a chain says itself what happens in which order, so drop one of '
            'the two.'
        )
    if not isinstance(options['chain'], (list, tuple)):
        raise OptionError(f'{source}.chain is {options["chain"]}, expected a list of steps such as [{{type: noise}}].')
    where = f'{source}.chain'
    chain = Step('steps', parts=tuple(read_step(step, f'{where}.{n}') for n, step in enumerate(options['chain'])))
    if not any(chain.ingredients()):
        raise OptionError(f'{where} never does anything; give it at least one step such as {{type: noise}}.')
    return chain


def _read_ingredients(options: Any, source: str) -> dict[str, Ingredient]:
    listed = options.get('degradations') if isinstance(options, Mapping) else None
    if not isinstance(listed, Mapping) or not listed:
        raise OptionError(
            f'{source} needs a section degradations with at least one type, e.g. '
            'degradations: {noise: {sigma_255: [10, 50]}}, or a chain.'
        )
    ingredients, where = {}, f'{source}.degradations'
    for name, settings in listed.items():
        kind = DEGRADATION_TYPES[known_type(name, where)]
        if kind.grid:
            raise OptionError(
                f'{where} has {name}, which changes the pixel grid and so belongs in a chain only; '
                f'use low_resolution here, or write a chain.'
            )
        if not isinstance(settings, (Mapping, type(None))):
            raise OptionError(
                f'{where}.{name} is {settings}, expected parameters and their ranges, e.g. '
                f'{{{kind.measure}: {kind.ranges[kind.measure]}}}, or nothing for the defaults.'
            )
        ingredients[name] = read_ingredient(name, settings, f'{where}.{name}', beside=('weight',))
        _weight(options, name, source)
    return ingredients


def _weight(options: Mapping, name: str, source: str) -> float:
    settings = options['degradations'][name] or {}
    return read_number(settings.get('weight', 1.0), f'{source}.degradations.{name}.weight')


def _plain(values: Any) -> Any:
    """Copy into plain dicts and lists, fit for JSON and yml."""
    if isinstance(values, Mapping):
        return {key: _plain(value) for key, value in values.items()}
    return [_plain(value) for value in values] if isinstance(values, (list, tuple)) else values
