"""Which types of a recipe occur together: listed one by one, or all that a count and exclusions leave."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import prod
from typing import Any

from basicsr_unirestorer.degradations.ingredient import known_type, read_number
from basicsr_unirestorer.errors import OptionError, check_keys, did_you_mean

Combinations = list[tuple[tuple[str, ...], float]]  # sets of types, and the probability of each


def read_exclusive(groups: Any, source: str) -> list[set[str]]:
    """Read groups of types of which no two occur together; raises OptionError for anything else."""
    if not isinstance(groups, (list, tuple)) or not all(_is_list_of_words(group) for group in groups):
        raise OptionError(f'{source}.exclusive is {groups}, expected groups of types such as [[rain, snow]].')
    for name in (name for group in groups for name in group):
        known_type(name, f'{source}.exclusive')
    return [set(group) for group in groups]


def _allowed(types: tuple[str, ...], exclusive: list[set[str]]) -> bool:
    return all(len(group.intersection(types)) <= 1 for group in exclusive)


def count_combinations(count: Any, weights: dict[str, float], exclusive: list[set[str]], source: str) -> Combinations:
    """List all sets of each allowed size; within a size, a set is as likely as the product of its weights.

    Args:
        count: Probability of each size.
        weights: By type, in the order in which the types of a set are listed.
        exclusive: Groups of types of which no two occur together.
        source: Quoted in messages.

    Raises:
        OptionError: The probabilities are none, or a size cannot be reached.
    """
    where = f'{source}.count'
    if (
        not isinstance(count, Mapping)
        or not count
        or any(isinstance(size, bool) or not isinstance(size, int) or size < 0 for size in count)
    ):
        raise OptionError(f'{where} is {count}, expected how many at once and how often, e.g. {{1: 0.6, 2: 0.4}}.')
    shares = {size: read_number(share, f'{where}.{size}') for size, share in count.items()}
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise OptionError(f'{where} has probabilities that add up to {sum(shares.values()):g}, expected 1.')
    usable = [name for name, weight in weights.items() if weight > 0]
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
        products = [prod(weights[name] for name in types) for types in sets]
        table += [(types, share * product / sum(products)) for types, product in zip(sets, products, strict=True)]
    return table


def read_mixtures(options: Mapping, exclusive: list[set[str]], source: str) -> Combinations:
    """Read the combinations that a recipe lists; raises OptionError where one is impossible or never drawn."""
    where, mixtures, listed = f'{source}.mixtures', options['mixtures'], options['degradations']
    weighted = [name for name, settings in listed.items() if 'weight' in (settings or {})]
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
            if name not in listed:
                raise OptionError(
                    f"{place} has '{name}', which degradations does not list.{did_you_mean(name, listed)}"
                )
        if not _allowed(tuple(types), exclusive):
            raise OptionError(f'{place} combines {", ".join(types)}, which {source}.exclusive forbids.')
        table.append((tuple(types), read_number(mixture.get('weight', 1), f'{place}.weight')))
    total = sum(weight for _, weight in table)
    if total == 0:
        raise OptionError(f'{where} has only weights of 0, so nothing can be drawn.')
    return [(types, weight / total) for types, weight in table if weight > 0]


def _is_list_of_words(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values)
