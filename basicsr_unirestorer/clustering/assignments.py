"""Expert assignment on disk: which leaf each sample belongs to, and the meta files of every node's group."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import DataError, TreeMismatchError


def write_assignments(
    folder: str | Path,
    tree: DegradationTree,
    sample_ids: Sequence[str],
    leaf_ids: np.ndarray,
    shapes: Sequence[tuple[int, int, int]],
) -> None:
    """Write ``assignments.csv`` and one BasicSR ``meta_info_<node>.txt`` a node.

    Args:
        folder: Where to write; made where missing.
        tree: Names the leaves.
        sample_ids: ``key`` or ``key#variant`` of each sample.
        leaf_ids: Leaf id of each sample, shape (n,).
        shapes: (height, width, channels) of each sample's picture.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [tree.nodes[leaf].name for leaf in tree.leaves]
    _write_lines(
        folder / 'assignments.csv',
        ['sample_id,leaf', *(f'{sample},{names[leaf]}' for sample, leaf in zip(sample_ids, leaf_ids, strict=True))],
    )
    for node_id, node in enumerate(tree.nodes):
        member = (tree.paths[leaf_ids] == node_id).any(axis=1)
        lines = [
            f'{sample_ids[i]}.png ({shapes[i][0]},{shapes[i][1]},{shapes[i][2]}) 1' for i in np.flatnonzero(member)
        ]
        _write_lines(folder / f'meta_info_{node.name}.txt', lines)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    scratch = path.with_suffix('.tmp')
    scratch.write_text('\n'.join(lines) + '\n')
    os.replace(scratch, path)


def read_assignments(path: str | Path, tree: DegradationTree, sample_ids: Sequence[str]) -> np.ndarray:
    """Read the leaf id of each of the given samples.

    Raises:
        DataError: The file is missing or is no assignment.
        TreeMismatchError: It names leaves that the tree lacks, or knows other samples than the given ones.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f'No assignment at {path}; run `unirestorer cluster -opt ...` first.')
    with open(path, newline='') as file:
        rows = list(csv.reader(file))
    if not rows or rows[0] != ['sample_id', 'leaf'] or any(len(row) != 2 for row in rows):
        raise DataError(
            f"{path} is no assignment (its first line must be 'sample_id,leaf'); "
            'run `unirestorer cluster -opt ...` again.'
        )
    leaves = {tree.nodes[node].name: leaf for leaf, node in enumerate(tree.leaves)}
    strangers = {leaf for _, leaf in rows[1:]} - set(leaves)
    if strangers:
        raise TreeMismatchError(
            f"{path} assigns samples to '{sorted(strangers)[0]}', which is no leaf of the tree; "
            'use the degradation_tree.json written beside it.'
        )
    assigned = {sample: leaves[leaf] for sample, leaf in rows[1:]}
    missing = [sample for sample in sample_ids if sample not in assigned]
    if missing:
        raise TreeMismatchError(
            f"{len(missing)} of {len(sample_ids)} samples (first: '{missing[0]}') are not in {path}; "
            'cluster and train with the same dataroot_gt, variants and seed.'
        )
    return np.asarray([assigned[sample] for sample in sample_ids], np.int64)
