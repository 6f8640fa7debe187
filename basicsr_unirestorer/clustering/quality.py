"""How good a degradation tree is: as numbers and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from basicsr_unirestorer.clustering.build import build_tree
from basicsr_unirestorer.clustering.levels import MAX_RESAMPLED, MAX_SILHOUETTE, RESAMPLE
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import DataError

MIN_SAMPLES = 20  # a node with fewer is called starved
# entry of a level's report, in the order of the table's columns
COLUMNS = (
    'purity_by_type',
    'purity_by_caption',
    'nmi_by_type',
    'nmi_by_caption',
    'ari_by_type',
    'ari_by_caption',
    'silhouette',
    'stability',
    'nearest',
)


def purity(groups: np.ndarray, labels: Sequence[str]) -> float:
    """Return the share of samples whose label is the commonest of their group; 1 is best."""
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(groups, _numbers(labels), sparse=True)  # (groups, labels)
    return float(table.max(axis=1).sum()) / len(groups)


def _numbers(labels: Sequence[str]) -> np.ndarray:
    """Number labels by their first appearance."""
    known: dict[str, int] = {}
    return np.fromiter((known.setdefault(label, len(known)) for label in labels), np.int64, len(labels))


def quality_report(
    tree: DegradationTree,
    embeddings: np.ndarray,
    leaf_ids: np.ndarray,
    captions: Sequence[str],
    types: Sequence[str],
    seed: int = 0,
    settings: Mapping | None = None,
) -> dict:
    """Measure each level below the root.

    Args:
        tree: The tree.
        embeddings: Shape (n, d), in memory or memory-mapped.
        leaf_ids: Leaf of each sample, shape (n,).
        captions: Fine-grained caption (types with strengths) of each sample.
        types: Degradation type(s) of each sample as one string.
        seed: Chooses samples where there are too many, and seeds the clusterings that stability is measured by.
        settings: ``method`` and ``prepare`` that the tree was built with; ``min_samples`` below which a node is
            starved (default 20); ``stability_seeds`` clusterings for the stability (default 3, 0: not measured).

    Returns:
        ``samples``, ``method``, ``min_samples``, ``notes`` (sentences), ``nodes`` (name, parent, count, radius,
        labels, captions) and ``levels``, each with: ``level``, ``nodes``, ``counts``; ``purity``, ``nmi`` and ``ari``
        ``_by_type`` and ``_by_caption``, 1 being best (NMI and ARI are None where all samples are called alike);
        ``silhouette`` in [-1, 1]; ``stability``: the mean adjusted Rand index with clusterings of other seeds and
        random parts of the samples; ``nearest``: the share of samples whose node is the one with the nearest centre;
        ``starved``: names of nodes.
    """
    settings = settings or {}
    least = settings.get('min_samples', MIN_SAMPLES)
    stability = _stability(tree, embeddings, leaf_ids, seed, settings)
    nearest = tree.assign(embeddings)
    rows = np.random.default_rng(seed).permutation(len(embeddings))[:MAX_SILHOUETTE]
    levels = []
    for level in range(1, tree.num_levels):
        groups = tree.paths[leaf_ids, level]
        nodes = [node for node in tree.nodes if node.level == level]
        levels.append(
            {
                'level': level,
                'nodes': tree.level_sizes[level],
                'counts': [node.count for node in nodes],
                **_agreement(groups, types, 'type'),
                **_agreement(groups, captions, 'caption'),
                'silhouette': _silhouette(np.asarray(embeddings[rows], np.float32), groups[rows]),
                'stability': stability[level],
                'nearest': float((tree.paths[nearest, level] == groups).mean()),
                'starved': [node.name for node in nodes if node.count < least],
            }
        )
    return {
        'samples': len(leaf_ids),
        'method': settings.get('method') or 'kmeans',
        'min_samples': least,
        'notes': _notes(levels, captions, types, least),
        'levels': levels,
        'nodes': [_facts(tree, node_id) for node_id in range(len(tree.nodes))],
    }


def _agreement(groups: np.ndarray, labels: Sequence[str], kind: str) -> dict[str, float | None]:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    numbers = _numbers(labels)
    several = numbers.max() > 0  # one label agrees with every clustering, or with none
    return {
        f'purity_by_{kind}': purity(groups, labels),
        f'nmi_by_{kind}': float(normalized_mutual_info_score(numbers, groups)) if several else None,
        f'ari_by_{kind}': float(adjusted_rand_score(numbers, groups)) if several else None,
    }


def _silhouette(embeddings: np.ndarray, groups: np.ndarray) -> float | None:
    from sklearn.metrics import silhouette_score

    if not 1 < len(np.unique(groups)) < len(groups):
        return None
    return float(silhouette_score(embeddings, groups))


def _stability(
    tree: DegradationTree, embeddings: np.ndarray, leaf_ids: np.ndarray, seed: int, settings: Mapping
) -> list[float | None]:
    """Cluster random parts again with other seeds; return each level's mean adjusted Rand index with the tree."""
    from sklearn.metrics import adjusted_rand_score

    scores: list[list[float]] = [[] for _ in range(tree.num_levels)]
    for trial in range(1, settings.get('stability_seeds', 3) + 1):
        order = np.random.default_rng([seed, trial]).permutation(len(leaf_ids))
        rows = np.sort(order[: int(min(MAX_RESAMPLED, RESAMPLE * len(leaf_ids)))])
        part = np.asarray(embeddings[rows], np.float32)
        try:
            other, other_ids = build_tree(
                part,
                [''] * len(rows),
                tree.level_sizes,
                seed + trial,
                method=settings.get('method') or 'kmeans',
                prepare=settings.get('prepare'),
            )
        except DataError:  # too few samples for so many nodes
            continue
        for level, own in enumerate(scores):
            own.append(adjusted_rand_score(tree.paths[leaf_ids[rows], level], other.paths[other_ids, level]))
    return [float(np.mean(own)) if own else None for own in scores]


def _notes(levels: Sequence[Mapping], captions: Sequence[str], types: Sequence[str], least: int) -> list[str]:
    notes = []
    if len(set(captions)) == 1:
        notes.append(f"All samples are called '{captions[0]}', so purity, NMI and ARI say nothing.")
    elif len(set(types)) == 1:
        notes.append(f"All samples are of type '{types[0]}', so purity, NMI and ARI by type say nothing.")
    for level in levels:
        if level['starved']:
            notes.append(
                f'Level {level["level"]} has nodes with fewer than {least} samples ({", ".join(level["starved"])}); '
                'their experts will learn little: write smaller level_sizes, or add data.'
            )
    return notes


def _facts(tree: DegradationTree, node_id: int) -> dict:
    node = tree.nodes[node_id]
    return {
        'name': node.name,
        'parent': tree.nodes[node.parent].name if node.parent >= 0 else None,
        'count': node.count,
        'radius': node.radius,
        'labels': node.labels,
        'captions': node.captions,
    }


def report_table(report: Mapping) -> str:
    """Format a quality report as Markdown."""
    heads = [key.replace('_', ' ').replace('nmi', 'NMI').replace('ari ', 'ARI ') for key in COLUMNS]
    lines = [
        f'| level | nodes | smallest | largest | starved | {" | ".join(heads)} |',
        '|---|---:|---:|---:|---:|' + '---:|' * len(COLUMNS),
    ]
    for row in report['levels']:
        values = ['-' if row[key] is None else f'{row[key]:.3f}' for key in COLUMNS]
        lines.append(
            f'| {row["level"]} | {row["nodes"]} | {min(row["counts"])} | {max(row["counts"])} | '
            f'{len(row["starved"])} | {" | ".join(values)} |'
        )
    lines += ['', *(f'- {note}' for note in report['notes'])]
    lines += [''] * bool(report['notes']) + ['| node | parent | samples | captions |', '|---|---|---:|---|']
    for node in report['nodes']:
        commonest = '; '.join(f'{caption} {count}' for caption, count in list(node['captions'].items())[:4])
        lines.append(f'| {node["name"]} | {node["parent"] or ""} | {node["count"]} | {commonest} |')
    return '\n'.join(lines) + '\n'
