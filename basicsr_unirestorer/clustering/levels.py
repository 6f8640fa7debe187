"""How many nodes a level gets, and how they are shared out among the groups of the level above."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final

import numpy as np

from basicsr_unirestorer.clustering.methods import split
from basicsr_unirestorer.clustering.points import Points
from basicsr_unirestorer.errors import DataError, OptionError, check_keys

AUTO: Final = 'auto'
ADAPTIVE_KEYS = ('criterion', 'max_nodes', 'min_samples', 'resamples')
CRITERIA = ('silhouette', 'stability')
MAX_SILHOUETTE = 2000  # the silhouette takes memory quadratic in the samples
MAX_RESAMPLED = 5000
RESAMPLE = 0.8
AS_GOOD = 0.01  # of partitions whose silhouette is this close to the best one, the coarsest is taken
AS_STABLE = 0.02  # of partitions this close to the most stable one, the finest is taken

Partition = list[np.ndarray]  # for each group, its rows' child numbers


def check_level_sizes(level_sizes: Sequence[int | str]) -> None:
    """Refuse level sizes that are no tree: they start at 1 (the root) and never shrink; raises OptionError."""
    sizes = list(level_sizes)
    numbers = [size for size in sizes if size != AUTO]
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in numbers)
    if not whole or not sizes or sizes[0] != 1 or any(b < a for a, b in zip(numbers, numbers[1:], strict=False)):
        raise OptionError(
            f'level_sizes is {sizes}, but levels start with 1 (the root) and never shrink; '
            'write for example level_sizes: [1, 5, 10], or [1, auto, auto].'
        )


def check_samples(count: int, level_sizes: Sequence[int | str]) -> None:
    """Refuse fewer samples than the largest level has nodes; raises DataError."""
    largest = max((size for size in level_sizes if size != AUTO), default=1)
    if count < largest:
        raise DataError(f'{count} samples cannot fill {largest} leaves; lower level_sizes or add data.')


def check_adaptive(adaptive: Mapping | None) -> None:
    """Refuse unknown options of adaptive levels; raises OptionError."""
    adaptive = adaptive or {}
    check_keys(adaptive, ADAPTIVE_KEYS, 'clustering.adaptive')
    if adaptive.get('criterion', CRITERIA[0]) not in CRITERIA:
        raise OptionError(
            f"clustering.adaptive.criterion is '{adaptive['criterion']}'; write one of {', '.join(CRITERIA)}."
        )


def refinements(
    groups: list[np.ndarray], points: Points, seed: int, method: str = 'kmeans', min_samples: int = 1
) -> Iterator[Partition]:
    """Yield ever finer partitions: the next child always goes to the group whose spread it lowers most.

    Args:
        groups: Row numbers of each parent's samples.
        points: All embeddings.
        seed: Seeds every clustering.
        method: How a group is split.
        min_samples: A group is not split where a child would have fewer samples.

    Yields:
        Partitions with one child a group, then one child more, and so on until no group can be split.
    """
    current = [split(points, rows, 1, seed, method) for rows in groups]
    counts = [1] * len(groups)

    def finer(g: int) -> tuple[np.ndarray, float]:
        if points.distinct(groups[g], counts[g] + 1) <= counts[g]:
            return current[g][0], np.inf  # nothing left to tell apart
        children, inertia = split(points, groups[g], counts[g] + 1, seed, method)
        return children, inertia if np.bincount(children).min() >= min_samples else np.inf

    yield [children for children, _ in current]
    following = [finer(g) for g in range(len(groups))]
    while True:
        gains = [now[1] - after[1] for now, after in zip(current, following, strict=True)]
        g = int(np.argmax(gains))
        if not np.isfinite(gains[g]):
            return
        current[g], counts[g] = following[g], counts[g] + 1
        yield [children for children, _ in current]
        following[g] = finer(g)


def split_groups(groups: list[np.ndarray], points: Points, total: int, seed: int, method: str = 'kmeans') -> Partition:
    """Share ``total`` children out among groups, see ``refinements``.

    Raises:
        DataError: There are not so many different embeddings, or the method leaves a cluster empty.
    """
    children = None
    if len(groups) == 1:  # no need to go through all smaller numbers
        if points.distinct(groups[0], total) == total:
            labels, inertia = split(points, groups[0], total, seed, method)
            children = [labels] if np.isfinite(inertia) else None
    else:
        for count, partition in enumerate(refinements(groups, points, seed, method), start=len(groups)):
            if count == total:
                children = partition
                break
    if children is None:
        everyone = np.concatenate(groups)
        raise DataError(
            f'The samples hold fewer than {total} distinct embeddings; lower level_sizes or add data.'
            if points.distinct(everyone, total) < total
            else f"Clustering by '{method}' finds no {total} groups in these samples; lower level_sizes, or try "
            'method: kmeans.'
        )
    return children


def choose_partition(
    groups: list[np.ndarray], points: Points, level: int, seed: int, method: str, adaptive: Mapping | None = None
) -> tuple[Partition, dict[int, float]]:
    """Choose how many children a level gets.

    Args:
        groups: Row numbers of each parent's samples.
        points: All embeddings.
        level: The level to fill, at least 1.
        seed: Seeds clustering, and the choice of samples.
        method: How a group is split.
        adaptive: ``criterion``: ``silhouette`` (of each parent's children among each other; the
            coarsest of the best partitions wins) or ``stability`` (the adjusted Rand index between partitions of
            ``resamples`` random parts of the samples; the finest of the most stable ones wins);
            ``max_nodes``: most nodes of a level, a number or one a level, the root first (default 20);
            ``min_samples``: fewest samples of a node (default 20).

    Returns:
        The partition, and the criterion of every number of nodes that was tried.

    Raises:
        DataError: No group can be split.
    """
    adaptive = adaptive or {}
    least = int(adaptive.get('min_samples', 20))
    most = adaptive.get('max_nodes', 20)
    most = int(most[min(level, len(most) - 1)] if isinstance(most, Sequence) else most)
    partitions: dict[int, Partition] = {}
    for count, partition in enumerate(refinements(groups, points, seed, method, least), start=len(groups)):
        if count > most:
            break
        if count > len(groups):
            partitions[count] = list(partition)
    if not partitions:
        raise DataError(
            f'Level {level} cannot be finer than the {len(groups)} node{"s" if len(groups) > 1 else ""} above it '
            f'with {least} samples a node and {most} nodes at most; drop the level, or change '
            'clustering.adaptive.min_samples or max_nodes.'
        )
    if adaptive.get('criterion', CRITERIA[0]) == 'silhouette':
        scores = _silhouettes(groups, points, partitions, seed)
        best = min(count for count, score in scores.items() if score >= max(scores.values()) - AS_GOOD)
    else:
        scores = _stabilities(groups, points, max(partitions), seed, method, int(adaptive.get('resamples', 3)))
        scores = {count: score for count, score in scores.items() if count in partitions} or {min(partitions): 0.0}
        best = max(count for count, score in scores.items() if score >= max(scores.values()) - AS_STABLE)
    return partitions[best], scores


def labels_of(groups: list[np.ndarray], partition: Partition, size: int) -> np.ndarray:
    """Number the children of all groups through, as one array over all ``size`` rows; -1 outside the groups."""
    labels, first = np.full(size, -1, np.int64), 0
    for rows, children in zip(groups, partition, strict=True):
        labels[rows] = first + children
        first += int(children.max()) + 1
    return labels


def _silhouettes(
    groups: list[np.ndarray], points: Points, partitions: Mapping[int, Partition], seed: int
) -> dict[int, float]:
    """Return the mean silhouette for each number of nodes; samples of a parent that is not split count as 0."""
    from sklearn.metrics import pairwise_distances, silhouette_score

    total = sum(map(len, groups))
    rng = np.random.default_rng(seed)
    scores = dict.fromkeys(partitions, 0.0)
    for g, rows in enumerate(groups):
        share = len(rows) / total
        places = np.sort(rng.permutation(len(rows))[: max(2, round(MAX_SILHOUETTE * share))])
        distances = pairwise_distances(points.take(rows[places]))
        for count, partition in partitions.items():
            labels = partition[g][places]
            if 1 < len(np.unique(labels)) < len(labels):
                scores[count] += share * float(silhouette_score(distances, labels, metric='precomputed'))
    return scores


def _stabilities(
    groups: list[np.ndarray], points: Points, most: int, seed: int, method: str, resamples: int
) -> dict[int, float]:
    """Return the mean adjusted Rand index between partitions of random parts, for each number of nodes."""
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(seed)
    everyone = np.concatenate(groups)
    size = int(min(MAX_RESAMPLED, RESAMPLE * len(everyone)))
    parts = []
    for _ in range(max(2, resamples)):
        chosen = np.zeros(len(points), bool)
        chosen[rng.permutation(everyone)[:size]] = True
        parts.append([rows[chosen[rows]] for rows in groups])
    if any(not len(rows) for part in parts for rows in part):
        return {}
    scores: dict[int, float] = {}
    runs = zip(*(refinements(part, points, seed + i, method) for i, part in enumerate(parts)), strict=False)
    for count, partitions in enumerate(runs, start=len(groups)):
        if count > most:
            break
        labels = [labels_of(part, partition, len(points)) for part, partition in zip(parts, partitions, strict=True)]
        pairs = [adjusted_rand_score(*_common(a, b)) for a, b in combinations(labels, 2)]
        scores[count] = float(np.mean(pairs))
    return scores


def _common(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    both = (a >= 0) & (b >= 0)
    return a[both], b[both]
