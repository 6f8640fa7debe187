"""Growing a tree: a branch of new nodes for a new degradation, while everything that is there stays as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from basicsr_unirestorer.clustering.tree import DegradationTree, Node, node_name
from basicsr_unirestorer.errors import DataError, OptionError


def check_branch(tree: DegradationTree, under: str, level_sizes: Sequence[int | str]) -> None:
    """Refuse a branch that does not reach from its node down to the leaves; raises OptionError."""
    node = tree.nodes[tree.node_id(under)]
    depth = tree.num_levels - node.level
    if depth == 1:
        above = tree.nodes[node.parent].name if node.parent >= 0 else 'l0_00'
        raise OptionError(f'{under} is a leaf, under which nothing can grow; write under: {above}.')
    if len(level_sizes) != depth:
        example = [1, *range(1, depth)]
        raise OptionError(
            f'level_sizes is {list(level_sizes)}, but a branch under {under} takes {depth} numbers: 1 for {under} '
            f'itself, and the new nodes of each level below it, e.g. {example}.'
        )


def grow_tree(tree: DegradationTree, branch: DegradationTree, under: str) -> tuple[DegradationTree, list[str]]:
    """Graft a branch onto a tree.

    Args:
        tree: The tree. Names, centres and order of its nodes stay; so does every leaf id.
        branch: A tree of the new samples alone; its root stands for the node ``under`` and brings no centre along.
        under: Name of the node that the branch's first level hangs from.

    Returns:
        The larger tree, whose new leaves have the ids from ``tree.num_leaves`` on in the branch's order, and the names
        of the new nodes, coarse to fine. The node ``under`` and its ancestors count the new samples, too.

    Raises:
        OptionError: The branch does not reach the leaves.
        DataError: A new leaf has the centre of an old one, or the new samples would outnumber an old node's own
            so that its expert would be another network.
    """
    check_branch(tree, under, branch.level_sizes)
    nodes, parents, centres, new, places = [], [], [], [], {}
    base = tree.nodes[tree.node_id(under)].level
    counted = _ancestors(tree, tree.node_id(under))
    for level in range(tree.num_levels):
        for old, node in enumerate(tree.nodes):
            if node.level == level:
                places['old', old] = len(nodes)
                nodes.append(_counting(node, branch.nodes[0]) if old in counted else node)
                parents.append(('old', node.parent))
                centres.append(tree.centres[old])
        index = tree.level_sizes[level]
        for own, node in enumerate(branch.nodes):
            if own and node.level == level - base:
                places['new', own] = len(nodes)
                nodes.append(replace(node, name=node_name(level, index), level=level))
                parents.append(('new', node.parent) if node.parent else ('old', tree.node_id(under)))
                centres.append(branch.centres[own])
                new.append(nodes[-1].name)
                index += 1
    nodes = [replace(node, parent=places.get(parent, -1)) for node, parent in zip(nodes, parents, strict=True)]
    names = [node.name for node in nodes]
    if len(set(names)) < len(names):
        raise DataError(
            "The names of the tree's nodes do not follow l{level}_{index}, so new ones cannot be told from them; "
            'build the tree again with `unirestorer cluster -opt ...`.'
        )
    grown = DegradationTree(tuple(nodes), np.stack(centres), {})
    _check_twins(grown, tree.num_leaves)
    return grown, new


def _ancestors(tree: DegradationTree, node_id: int) -> set[int]:
    found = set()
    while node_id >= 0:
        found.add(node_id)
        node_id = tree.nodes[node_id].parent
    return found


def _counting(node: Node, added: Node) -> Node:
    """Return an old node that counts the new samples, too; its network must stay the one that its label asks for."""
    captions = dict((Counter(node.captions) + Counter(added.captions)).most_common())
    counting = replace(node, captions=captions, count=node.count + added.count)
    if node.level and counting.dominant_label != node.dominant_label:
        raise DataError(
            f'The {added.count} new samples would change what dominates {node.name} ({node.count} samples), and so '
            'which network its expert is; grow under l0_00.'
        )
    return counting


def _check_twins(tree: DegradationTree, num_old: int) -> None:
    centres = tree.centres[tree.leaves]
    for new in range(num_old, len(centres)):
        same = np.flatnonzero((centres[:num_old] == centres[new]).all(1))
        if len(same):
            old = tree.nodes[tree.leaves[int(same[0])]]
            raise DataError(
                f'The new data have the same centre as {old.name} ({", ".join(list(old.captions)[:3])}), so nothing '
                'can tell them apart; the tree knows them already, or the encoder has to be trained on them first.'
            )


def separation(tree: DegradationTree, num_old: int, embeddings: np.ndarray, is_new: np.ndarray) -> tuple[float, float]:
    """Measure how well the embedding tells new samples from old ones.

    Args:
        tree: The grown tree.
        num_old: Leaves of the tree before.
        embeddings: Of all samples, shape (n, d).
        is_new: Which are new, shape (n,), bool.

    Returns:
        The share of new samples that the nearest centres lead to a new leaf, and the share of old ones that they do;
        NaN where there are none.
    """
    leads_to_new = tree.assign(embeddings) >= num_old
    shares = [float(leads_to_new[rows].mean()) if rows.any() else float('nan') for rows in (is_new, ~is_new)]
    return shares[0], shares[1]
