"""Recipes: which degradations occur, how many at once, how strong and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from basicsr_unirestorer.degradations.record import DegradationRecord, Operation
from basicsr_unirestorer.degradations.registry import DEGRADATION_TYPES
from basicsr_unirestorer.errors import OptionError, check_keys, did_you_mean
from basicsr_unirestorer.option_files import options_dir

ORDERS = ('physical', 'shuffle', 'listed')
RECIPE_KEYS = ('name', 'order', 'count', 'exclusive', 'degradations', 'mixtures')


@dataclass(frozen=True)
class Ingredient:
    """A degradation of a recipe: its weight, parameter ranges (only those that differ from the default) and edges."""

    weight: float
    ranges: dict[str, Any]
    edges: tuple[float, ...]


@dataclass(frozen=True)
class DegradationRecipe:
    """A weighted, ordered mixture of degradations; make one with ``load``, ``from_yaml`` or ``from_dict``.

    Attributes:
        name: For logs and reports.
        order: ``'physical'`` (light, weather, optics, sensor, file: the order of ``DEGRADATION_TYPES``), ``'shuffle'``
            (scene physically, then what the camera does in random order, after BSRGAN) or ``'listed'`` (as written).
        ingredients: By type; in physical order unless ``order`` is ``'listed'``.
        combinations: Every set of types that can occur together and its probability.
        options: The recipe as plain dicts and lists; ``from_dict`` takes it back.
    """

    name: str
    order: str
    ingredients: dict[str, Ingredient]
    combinations: tuple[tuple[tuple[str, ...], float], ...]
    options: dict[str, Any]

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
            options: ``degradations``, and either ``count`` (default ``{1: 1.0}``) or ``mixtures``; ``name``, ``order``
                (default physical), ``exclusive``.
            source: Quoted in messages.

        Raises:
            OptionError: Unknown keys, impossible ranges or impossible combinations.
        """
        if (
            not isinstance(options, Mapping)
            or not isinstance(options.get('degradations'), Mapping)
            or not options['degradations']
        ):
            raise OptionError(
                f'{source} needs a section degradations with at least one type, e.g. '
                'degradations: {noise: {sigma_255: [10, 50]}}.'
            )
        check_keys(options, RECIPE_KEYS, source)
        order = options.get('order', 'physical')
        if order not in ORDERS:
            raise OptionError(
                f"{source}.order is '{order}', expected one of {', '.join(ORDERS)}.{did_you_mean(order, ORDERS)}"
            )
        ingredients = {
            name: _read_ingredient(name, settings, f'{source}.degradations')
            for name, settings in options['degradations'].items()
        }
        if order != 'listed':  # so that the order of keys in a file changes no draw
            ingredients = {name: ingredients[name] for name in DEGRADATION_TYPES if name in ingredients}
        exclusive = _read_exclusive(options.get('exclusive') or [], source)
        if options.get('mixtures') is not None:
            table = _read_mixtures(options, ingredients, exclusive, source)
        else:
            table = _count_combinations(options.get('count', {1: 1.0}), ingredients, exclusive, source)
        return cls(str(options.get('name', Path(source).stem)), order, ingredients, tuple(table), _plain(options))

    def draw(self, rng: np.random.Generator) -> DegradationRecord:
        """Draw a record: the combination, its order, then the parameters of each operation in turn."""
        bounds = np.cumsum([probability for _, probability in self.combinations])
        place = int(np.searchsorted(bounds, rng.random() * bounds[-1], side='right'))
        types = self._arrange(self.combinations[place][0], rng)
        return DegradationRecord(tuple(self._operation(name, rng) for name in types))

    def _arrange(self, types: tuple[str, ...], rng: np.random.Generator) -> list[str]:
        if self.order == 'listed':
            return list(types)
        types = sorted(types, key=list(DEGRADATION_TYPES).index)
        if self.order == 'physical':
            return types
        camera = [name for name in types if DEGRADATION_TYPES[name].camera]
        return types[: len(types) - len(camera)] + [camera[place] for place in rng.permutation(len(camera))]

    def _operation(self, name: str, rng: np.random.Generator) -> Operation:
        kind, ingredient = DEGRADATION_TYPES[name], self.ingredients[name]
        params = kind.draw(ingredient.ranges, rng)
        strength = kind.strength(params)
        return Operation(name, params, strength, kind.word(strength, ingredient.edges))

    @property
    def types(self) -> tuple[str, ...]:
        """Types that can occur, in physical order."""
        used = {name for names, _ in self.combinations for name in names}
        return tuple(name for name in DEGRADATION_TYPES if name in used)

    def cells(self) -> list[tuple[str, str]]:
        """Return every (word, type) that can occur, by type in physical order."""
        return [
            (word, name)
            for name in self.types
            for word in DEGRADATION_TYPES[name].possible_words(
                self.ingredients[name].ranges, self.ingredients[name].edges
            )
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe with every default spelt out: equal dicts mean equal samples, whatever their key order."""
        full = {
            name: {**DEGRADATION_TYPES[name].ranges, **ingredient.ranges, 'edges': ingredient.edges}
            for name, ingredient in self.ingredients.items()
        }
        options = {**self.options, 'name': self.name, 'order': self.order, 'degradations': full}
        if self.order == 'listed':  # keys are in no order for a reader of JSON; lists are
            options['mixtures'] = [{'types': types, 'weight': weight} for types, weight in self.combinations]
            options.pop('count', None)
        elif 'mixtures' not in options:
            for name, settings in full.items():
                settings['weight'] = self.ingredients[name].weight
        return _plain(options)


def _read_ingredient(name: str, settings: Mapping | None, where: str) -> Ingredient:
    if name not in DEGRADATION_TYPES:
        raise OptionError(
            f"{where} has the unknown type '{name}'.{did_you_mean(name, DEGRADATION_TYPES)} "
            f'Known: {", ".join(DEGRADATION_TYPES)}.'
        )
    kind, where = DEGRADATION_TYPES[name], f'{where}.{name}'
    if not isinstance(settings, (Mapping, type(None))):
        raise OptionError(
            f'{where} is {settings}, expected parameters and their ranges, e.g. '
            f'{{{kind.measure}: {kind.ranges[kind.measure]}}}, or nothing for the defaults.'
        )
    settings = dict(settings or {})
    check_keys(settings, ['weight', 'edges', *kind.parameters], where)
    weight = _probability(settings.pop('weight', 1.0), f'{where}.weight')
    edges = settings.pop('edges', kind.edges)
    if (
        not isinstance(edges, (list, tuple))
        or len(edges) != len(kind.words) - 1
        or not all(isinstance(edge, (int, float)) for edge in edges)
        or list(edges) != sorted(set(edges))
    ):
        raise OptionError(
            f'{where}.edges is {edges}, expected {len(kind.words) - 1} rising numbers between {", ".join(kind.words)}.'
        )
    kind.check(settings, where)
    return Ingredient(weight, settings, tuple(edges))


def _probability(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float('inf'):
        raise OptionError(f'{where} is {value}, expected a number of at least 0.')
    return float(value)


def _read_exclusive(groups: Any, source: str) -> list[set[str]]:
    if not isinstance(groups, (list, tuple)) or not all(_is_list_of_words(group) for group in groups):
        raise OptionError(f'{source}.exclusive is {groups}, expected groups of types such as [[rain, snow]].')
    for name in (name for group in groups for name in group):
        if name not in DEGRADATION_TYPES:
            raise OptionError(
                f"{source}.exclusive has the unknown type '{name}'.{did_you_mean(name, DEGRADATION_TYPES)}"
            )
    return [set(group) for group in groups]


def _allowed(types: tuple[str, ...], exclusive: list[set[str]]) -> bool:
    return all(len(group.intersection(types)) <= 1 for group in exclusive)


def _count_combinations(
    count: Any, ingredients: dict[str, Ingredient], exclusive: list[set[str]], source: str
) -> list[tuple[tuple[str, ...], float]]:
    """List all sets of each allowed size; within a size, a set is as likely as the product of its weights."""
    where = f'{source}.count'
    if (
        not isinstance(count, Mapping)
        or not count
        or any(isinstance(size, bool) or not isinstance(size, int) or size < 0 for size in count)
    ):
        raise OptionError(f'{where} is {count}, expected how many at once and how often, e.g. {{1: 0.6, 2: 0.4}}.')
    shares = {size: _probability(share, f'{where}.{size}') for size, share in count.items()}
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise OptionError(f'{where} has probabilities that add up to {sum(shares.values()):g}, expected 1.')
    usable = [name for name, ingredient in ingredients.items() if ingredient.weight > 0]
    table = []
    for size, share in sorted(shares.items()):
        if share == 0:
            continue
        if size > len(usable):
            raise OptionError(
                f'{where} asks for {size} at once, but degradations has only {len(usable)} with a weight above 0.'
            )
        sets = [types for types in combinations(usable, size) if _allowed(types, exclusive)]
        if not sets:
            raise OptionError(
                f'{where} asks for {size} at once, but {source}.exclusive leaves no such combination of '
                f'{", ".join(usable)}.'
            )
        weights = [prod(ingredients[name].weight for name in types) for types in sets]
        table += [(types, share * weight / sum(weights)) for types, weight in zip(sets, weights, strict=True)]
    return table


def _read_mixtures(
    options: Mapping, ingredients: dict[str, Ingredient], exclusive: list[set[str]], source: str
) -> list[tuple[tuple[str, ...], float]]:
    where, mixtures = f'{source}.mixtures', options['mixtures']
    weighted = [name for name, settings in options['degradations'].items() if 'weight' in (settings or {})]
    if 'count' in options or weighted:
        clash = 'count' if 'count' in options else f'degradations.{weighted[0]}.weight'
        raise OptionError(
            f'{source} has both mixtures and {clash}; mixtures say themselves what occurs together and '
            'how often, so drop one of the two.'
        )
    if not isinstance(mixtures, (list, tuple)) or not mixtures or not all(isinstance(m, Mapping) for m in mixtures):
        raise OptionError(f'{where} is {mixtures}, expected a list such as [{{types: [noise, haze], weight: 1}}].')
    table = []
    for number, mixture in enumerate(mixtures):
        place = f'{where}.{number}'
        check_keys(mixture, ('types', 'weight'), place)
        types = mixture.get('types')
        if not _is_list_of_words(types) or len(set(types)) != len(types):
            raise OptionError(f'{place}.types is {types}, expected a list of different types.')
        for name in types:
            if name not in ingredients:
                raise OptionError(
                    f"{place} has '{name}', which degradations does not list.{did_you_mean(name, ingredients)}"
                )
        if not _allowed(tuple(types), exclusive):
            raise OptionError(f'{place} combines {", ".join(types)}, which {source}.exclusive forbids.')
        table.append((tuple(types), _probability(mixture.get('weight', 1), f'{place}.weight')))
    total = sum(weight for _, weight in table)
    if total == 0:
        raise OptionError(f'{where} has only weights of 0, so nothing can be drawn.')
    return [(types, weight / total) for types, weight in table if weight > 0]


def _is_list_of_words(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values)


def _plain(values: Any) -> Any:
    """Copy into plain dicts and lists, fit for JSON and yml."""
    if isinstance(values, Mapping):
        return {key: _plain(value) for key, value in values.items()}
    return [_plain(value) for value in values] if isinstance(values, (list, tuple)) else values
