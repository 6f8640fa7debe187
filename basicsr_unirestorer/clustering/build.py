"""Hierarchical K-means: from degradation embeddings to a degradation tree (UniRestorer, section 1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from basicsr_unirestorer.clustering.tree import DegradationTree, Node, node_name
from basicsr_unirestorer.errors import DataError, OptionError


def check_level_sizes(level_sizes: Sequence[int]) -> None:
    """Refuse level sizes that are no tree: they start at 1 (the root) and never shrink; raises OptionError."""
    sizes = list(level_sizes)
    if not sizes or sizes[0] != 1 or any(b < a for a, b in zip(sizes, sizes[1:], strict=False)):
        raise OptionError(
            f'level_sizes is {sizes}, but levels start with 1 (the root) and never shrink; '
            'write for example level_sizes: [1, 5, 10].'
        )


def split(embeddings: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, float]:
    """Cluster one group with K-means; returns each row's cluster, largest cluster first, and the inertia."""
    from sklearn.cluster import KMeans

    if count == 1:
        return np.zeros(len(embeddings), np.int64), float(((embeddings - embeddings.mean(0)) ** 2).sum())
    fit = KMeans(count, n_init=10, random_state=seed).fit(embeddings)
    by_size = np.argsort(-np.bincount(fit.labels_, minlength=count), kind='stable')
    return np.argsort(by_size)[fit.labels_], float(fit.inertia_)


def split_groups(groups: list[np.ndarray], embeddings: np.ndarray, total: int, seed: int) -> list[np.ndarray]:
    """Share ``total`` children out among groups, each further child to the group whose inertia it lowers most.

    Args:
        groups: Row numbers of each parent's samples.
        embeddings: Shape (n, d).
        total: Children wanted in all, at least one a group.
        seed: Seeds every K-means.

    Returns:
        For each group, its rows' child numbers.
    """
    current = [split(embeddings[rows], 1, seed) for rows in groups]
    counts = [1] * len(groups)
    distinct = [len(np.unique(embeddings[rows], axis=0)) for rows in groups]

    def finer(g: int) -> tuple[np.ndarray, float]:
        if distinct[g] <= counts[g]:
            return current[g][0], np.inf  # nothing left to tell apart
        return split(embeddings[groups[g]], counts[g] + 1, seed)

    following = [finer(g) for g in range(len(groups))]
    for _ in range(total - len(groups)):
        gains = [now[1] - after[1] for now, after in zip(current, following, strict=True)]
        g = int(np.argmax(gains))
        if not np.isfinite(gains[g]):
            raise DataError(f'The samples hold fewer than {total} distinct embeddings; lower level_sizes or add data.')
        current[g], counts[g] = following[g], counts[g] + 1
        following[g] = finer(g)
    return [children for children, _ in current]


def build_tree(
    embeddings: np.ndarray,
    captions: Sequence[str],
    level_sizes: Sequence[int],
    seed: int = 0,
    build: dict | None = None,
) -> tuple[DegradationTree, np.ndarray]:
    """Cluster embeddings level by level, each level inside the groups of the one above.

    Args:
        embeddings: Shape (n, d), finite.
        captions: Degradation caption of each sample; used to describe the nodes, never to build them.
        level_sizes: Nodes a level, the root first, e.g. ``[1, 5, 10]``.
        seed: Seeds every K-means.
        build: Facts to keep in the tree (encoder and data fingerprints).

    Returns:
        The tree and each sample's leaf id, shape (n,), int64.

    Raises:
        OptionError: ``level_sizes`` is no tree.
        DataError: Too few samples, too few distinct embeddings, or a NaN among them.
    """
    check_level_sizes(level_sizes)
    embeddings = np.asarray(embeddings, np.float32)
    if len(embeddings) < level_sizes[-1]:
        raise DataError(
            f'{len(embeddings)} samples cannot fill {level_sizes[-1]} leaves; lower level_sizes or add data.'
        )
    if not np.isfinite(embeddings).all():
        raise DataError(
            f'{int((~np.isfinite(embeddings).all(1)).sum())} of {len(embeddings)} embeddings are not '
            'finite; train the encoder with a lower learning rate.'
        )
    groups = [np.arange(len(embeddings))]
    parents = [-1]
    nodes: list[Node] = []
    centres: list[np.ndarray] = []
    for level, size in enumerate(level_sizes):
        if level:
            first = len(nodes) - len(groups)  # node id of the first parent
            children = split_groups(groups, embeddings, size, seed)
            parents = [first + g for g, child in enumerate(children) for _ in range(child.max() + 1)]
            groups = [
                rows[child == c] for rows, child in zip(groups, children, strict=True) for c in range(child.max() + 1)
            ]
        for index, (rows, parent) in enumerate(zip(groups, parents, strict=True)):
            centre = embeddings[rows].mean(0)
            radius = float(np.sqrt(((embeddings[rows] - centre) ** 2).sum(1).mean()))
            histogram = dict(Counter(captions[row] for row in rows).most_common())
            nodes.append(Node(node_name(level, index), level, parent, len(rows), histogram, radius))
            centres.append(centre)
    leaf_ids = np.empty(len(embeddings), np.int64)
    for leaf, rows in enumerate(groups):
        leaf_ids[rows] = leaf
    return DegradationTree(tuple(nodes), np.stack(centres), build or {}), leaf_ids
