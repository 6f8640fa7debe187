"""How good a degradation tree is: as numbers, as a table and as a picture."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from basicsr_unirestorer.clustering.tree import DegradationTree

MAX_SILHOUETTE = 2000  # the silhouette takes memory quadratic in the samples
MAX_DRAWN = 1500


def purity(groups: np.ndarray, labels: Sequence[str]) -> float:
    """Return the share of samples whose label is the commonest of their group; 1 is best."""
    hits = 0
    for group in np.unique(groups):
        hits += Counter(label for label, g in zip(labels, groups, strict=True) if g == group).most_common(1)[0][1]
    return hits / len(groups)


def quality_report(
    tree: DegradationTree,
    embeddings: np.ndarray,
    leaf_ids: np.ndarray,
    captions: Sequence[str],
    types: Sequence[str],
    seed: int = 0,
) -> list[dict]:
    """Measure each level below the root.

    Args:
        tree: The tree.
        embeddings: Shape (n, d).
        leaf_ids: Leaf of each sample, shape (n,).
        captions: Fine-grained caption of each sample.
        types: Degradation type(s) of each sample as one string.
        seed: Chooses the samples of the silhouette where there are many.

    Returns:
        A dict a level: ``level``, ``nodes``, ``counts``, ``purity_by_type``, ``purity_by_caption``, ``silhouette``.
    """
    from sklearn.metrics import silhouette_score

    rows = np.random.default_rng(seed).permutation(len(embeddings))[:MAX_SILHOUETTE]
    report = []
    for level in range(1, tree.num_levels):
        groups = tree.paths[leaf_ids, level]
        distinct = len(np.unique(groups[rows]))
        report.append(
            {
                'level': level,
                'nodes': tree.level_sizes[level],
                'counts': [node.count for node in tree.nodes if node.level == level],
                'purity_by_type': purity(groups, types),
                'purity_by_caption': purity(groups, captions),
                'silhouette': float(silhouette_score(embeddings[rows], groups[rows]))
                if 1 < distinct < len(rows)
                else None,
            }
        )
    return report


def report_table(tree: DegradationTree, report: Sequence[dict]) -> str:
    """Format a quality report and the tree's nodes as Markdown."""
    lines = [
        '| level | nodes | smallest | largest | purity by type | purity by caption | silhouette |',
        '|---|---|---|---|---|---|---|',
    ]
    for row in report:
        silhouette = '-' if row['silhouette'] is None else f'{row["silhouette"]:.3f}'
        lines.append(
            f'| {row["level"]} | {row["nodes"]} | {min(row["counts"])} | {max(row["counts"])} | '
            f'{row["purity_by_type"]:.3f} | {row["purity_by_caption"]:.3f} | {silhouette} |'
        )
    lines += ['', '| node | parent | samples | captions |', '|---|---|---|---|']
    for node in tree.nodes:
        parent = tree.nodes[node.parent].name if node.parent >= 0 else ''
        captions = ', '.join(f'{caption} {count}' for caption, count in list(node.captions.items())[:4])
        lines.append(f'| {node.name} | {parent} | {node.count} | {captions} |')
    return '\n'.join(lines) + '\n'


def draw_projection(
    path: str | Path, embeddings: np.ndarray, leaf_names: Sequence[str], captions: Sequence[str], seed: int = 0
) -> None:
    """Write a picture of the embeddings in two dimensions (t-SNE), coloured by leaf and by caption."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot
    from sklearn.manifold import TSNE

    rows = np.random.default_rng(seed).permutation(len(embeddings))[:MAX_DRAWN]
    perplexity = min(30.0, max(1.0, (len(rows) - 1) / 3))
    points = TSNE(perplexity=perplexity, random_state=seed, init='pca').fit_transform(embeddings[rows])
    figure, axes = pyplot.subplots(1, 2, figsize=(14, 6.5), layout='constrained')
    for axis, title, names in ((axes[0], 'by leaf', leaf_names), (axes[1], 'by caption', captions)):
        for i, name in enumerate(sorted(set(names))):
            mine = [k for k, row in enumerate(rows) if names[row] == name]
            axis.scatter(*points[mine].T, s=8, color=pyplot.cm.tab20(i % 20), label=name)
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.legend(fontsize=7, markerscale=2)
    scratch = Path(path).with_suffix('.part.png')
    figure.savefig(scratch, dpi=110)
    pyplot.close(figure)
    os.replace(scratch, path)
