"""Hierarchical clustering: from degradation embeddings to a degradation tree (UniRestorer, section 1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from basicsr_unirestorer.clustering.levels import (
    AUTO,
    check_adaptive,
    check_level_sizes,
    check_samples,
    choose_partition,
    split_groups,
)
from basicsr_unirestorer.clustering.methods import block_of, check_method
from basicsr_unirestorer.clustering.points import Points, check_prepare
from basicsr_unirestorer.clustering.tree import DegradationTree, Node, node_name
from basicsr_unirestorer.errors import DataError


def check_clustering(settings: Mapping) -> None:
    """Refuse settings of ``build_tree`` that cannot be meant, before anything is embedded; raises OptionError."""
    check_level_sizes(settings.get('level_sizes') or [])
    check_method(settings.get('method') or 'kmeans')
    check_prepare(settings.get('prepare'))
    check_adaptive(settings.get('adaptive'))


def build_tree(
    embeddings: np.ndarray,
    captions: Sequence[str],
    level_sizes: Sequence[int | str],
    seed: int = 0,
    build: dict | None = None,
    method: str = 'kmeans',
    prepare: Mapping | None = None,
    adaptive: Mapping | None = None,
) -> tuple[DegradationTree, np.ndarray]:
    """Cluster embeddings level by level, each level inside the groups of the one above.

    Groups are found among prepared embeddings; a node's centre is the mean of its group's embeddings as they are, so
    ``DegradationTree.assign`` and the router need no preparation.

    Args:
        embeddings: Shape (n, d), finite. With ``method='mini_batch'`` they may be memory-mapped, float32 or float16,
            and memory stays bounded; the other methods hold them in memory.
        captions: Degradation caption of each sample; used to describe the nodes, never to build them.
        level_sizes: Nodes a level, the root first, e.g. ``[1, 5, 10]``; ``'auto'`` lets the data decide.
        seed: Seeds every clustering.
        build: Facts to keep in the tree (encoder and data fingerprints).
        method: One of ``methods.METHODS``.
        prepare: See ``Points``.
        adaptive: See ``levels.choose_partition``, for levels of size ``'auto'``.

    Returns:
        The tree and each sample's leaf id, shape (n,), int64.

    Raises:
        OptionError: ``level_sizes`` is no tree, or an unknown method or preparation.
        DataError: Too few samples, too few distinct embeddings, equal centres, or a NaN among the embeddings.
    """
    check_level_sizes(level_sizes)
    check_method(method)
    check_adaptive(adaptive)
    points = Points(_readable(embeddings, method), prepare, seed)
    check_samples(len(points), level_sizes)
    groups = [np.arange(len(points))]
    parents = [-1]
    nodes: list[Node] = []
    centres: list[np.ndarray] = []
    build = dict(build or {})
    for level, size in enumerate(level_sizes):
        if level:
            first = len(nodes) - len(groups)  # node id of the first parent
            if size == AUTO:
                children, scores = choose_partition(groups, points, level, seed, method, adaptive)
                build.setdefault('adaptive_scores', {})[str(level)] = {str(n): score for n, score in scores.items()}
            else:
                children = split_groups(groups, points, _fitting(size, groups, level), seed, method)
            parents = [first + g for g, child in enumerate(children) for _ in range(child.max() + 1)]
            groups = [
                rows[child == c] for rows, child in zip(groups, children, strict=True) for c in range(child.max() + 1)
            ]
        for index, (rows, parent) in enumerate(zip(groups, parents, strict=True)):
            node, centre = _describe(points, rows, captions, level, index, parent, block_of(method) or len(rows))
            nodes.append(node)
            centres.append(centre)
    leaf_ids = np.empty(len(points), np.int64)
    for leaf, rows in enumerate(groups):
        leaf_ids[rows] = leaf
    tree = DegradationTree(tuple(nodes), np.stack(centres), build)
    check_centres(tree)
    return tree, leaf_ids


def _readable(embeddings: np.ndarray, method: str) -> np.ndarray:
    """Hold embeddings in memory as float32, but where the method reads them in blocks."""
    return embeddings if block_of(method) else np.asarray(embeddings, np.float32)


def _fitting(size: int, groups: list[np.ndarray], level: int) -> int:
    if size < len(groups):  # an adaptive level above took more
        raise DataError(
            f'Level {level} shall have {size} nodes, but the adaptive level above it has {len(groups)}; write a larger '
            'number, auto, or a smaller clustering.adaptive.max_nodes.'
        )
    return size


def _describe(
    points: Points, rows: np.ndarray, captions: Sequence[str], level: int, index: int, parent: int, block: int
) -> tuple[Node, np.ndarray]:
    centre = points.centre(rows, block)
    histogram = dict(Counter(captions[row] for row in rows).most_common())
    radius = points.radius(rows, centre, block)
    return Node(node_name(level, index), level, parent, len(rows), histogram, radius), centre


def check_centres(tree: DegradationTree) -> None:
    """Refuse siblings with equal centres, between which nobody could choose; raises DataError."""
    for node_id in range(len(tree.nodes)):
        children = tree.children(node_id)
        _, first = np.unique(tree.centres[children], axis=0, return_index=True)
        if len(first) < len(children):
            twin = next(i for i in range(len(children)) if i not in first)
            same = next(i for i in first if np.array_equal(tree.centres[children[i]], tree.centres[children[twin]]))
            raise DataError(
                f'Nodes {tree.nodes[children[same]].name} and {tree.nodes[children[twin]].name} have the same centre, '
                'so nothing can tell their samples apart; lower level_sizes.'
            )
