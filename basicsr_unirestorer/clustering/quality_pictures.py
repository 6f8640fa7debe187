"""A degradation tree's quality as pictures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from basicsr_unirestorer.clustering.tree import DegradationTree

MAX_DRAWN = 1500
MAX_NAMES = 20  # captions with a colour, or a column, of their own
MEASURES = {
    'purity': ('purity_by_type', 'purity_by_caption'),
    'NMI': ('nmi_by_type', 'nmi_by_caption'),
    'ARI': ('ari_by_type', 'ari_by_caption'),
    'silhouette': ('silhouette', None),
    'stability': ('stability', None),
}


def new_figure(width: float, height: float):  # noqa: ANN202
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def write_figure(figure, path: str | Path) -> None:  # noqa: ANN001
    scratch = Path(path).with_suffix('.part.png')
    figure.savefig(scratch, dpi=110)
    os.replace(scratch, path)


def draw_projection(
    path: str | Path, embeddings: np.ndarray, leaf_names: Sequence[str], captions: Sequence[str], seed: int = 0
) -> None:
    """Write a picture of the embeddings in two dimensions (t-SNE), coloured by leaf and by caption.

    Args:
        path: The PNG file.
        embeddings: Shape (n, d), in memory or memory-mapped; at most 1500 random ones are drawn.
        leaf_names: Leaf of each sample.
        captions: Caption of each sample; all but the 20 commonest share a colour.
        seed: Chooses the samples, and seeds the projection.
    """
    from matplotlib import colormaps
    from sklearn.manifold import TSNE

    rows = np.random.default_rng(seed).permutation(len(embeddings))[:MAX_DRAWN]
    perplexity = min(30.0, max(1.0, (len(rows) - 1) / 3))
    some = np.asarray(embeddings[rows], np.float32)
    points = TSNE(perplexity=perplexity, random_state=seed, init='pca').fit_transform(some)
    common = {caption for caption, _ in Counter(captions).most_common(MAX_NAMES)}
    captions = [caption if caption in common else 'others' for caption in captions]
    figure = new_figure(14, 6.5)
    for place, (title, names) in enumerate((('by leaf', leaf_names), ('by caption', captions)), start=1):
        axis = figure.add_subplot(1, 2, place)
        for i, name in enumerate(sorted(set(names))):
            mine = [k for k, row in enumerate(rows) if names[row] == name]
            axis.scatter(*points[mine].T, s=8, color=colormaps['tab20'](i % 20), label=name)
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.legend(fontsize=7, markerscale=2)
    write_figure(figure, path)


def draw_quality(path: str | Path, report: Mapping, adaptive_scores: Mapping[str, Mapping] | None = None) -> None:
    """Write a picture of a quality report: what the leaves hold, samples a node, and the measures of each level.

    Args:
        path: The PNG file.
        report: See ``quality.quality_report``.
        adaptive_scores: The criterion of each number of nodes that was tried, by level, where levels were adaptive.
    """
    levels = report['levels']
    leaves = [node for node in report['nodes'] if node['name'].startswith(f'l{len(levels)}_')]
    figure = new_figure(17, max(5.5, 2 + 0.24 * max(len(leaves), len(report['nodes']))))
    panels = figure.add_gridspec(2, 3, width_ratios=(1.3, 1, 1)) if adaptive_scores else figure.add_gridspec(1, 3)
    _draw_contents(figure.add_subplot(panels[:, 0]), leaves)
    _draw_counts(figure.add_subplot(panels[:, 1]), report)
    _draw_measures(figure.add_subplot(panels[0, 2]), levels)
    if adaptive_scores:
        axis = figure.add_subplot(panels[1, 2])
        for level, scores in adaptive_scores.items():
            axis.plot(*zip(*sorted((int(n), score) for n, score in scores.items()), strict=True), 'o-')
            axis.lines[-1].set_label(f'level {level}: {levels[int(level) - 1]["nodes"]} taken')
        axis.set(title='criterion of adaptive levels', xlabel='nodes of the level')
        axis.legend(fontsize=8)
    write_figure(figure, path)


def _draw_contents(axis, leaves: Sequence[Mapping]) -> None:  # noqa: ANN001
    """Draw the captions of each leaf: rows add up to 1."""
    totals: Counter = Counter()
    for leaf in leaves:
        totals.update(leaf['captions'])
    names = sorted((caption for caption, _ in totals.most_common(MAX_NAMES)), key=lambda name: (name.split()[-1], name))
    shares = np.asarray([[leaf['captions'].get(c, 0) / max(leaf['count'], 1) for c in names] for leaf in leaves])
    axis.imshow(shares, cmap='Blues', vmin=0, vmax=1, aspect='auto')
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.01:
            colour = 'white' if share > 0.6 else 'black'
            axis.text(column, row, f'{100 * share:.0f}', ha='center', va='center', fontsize=7, color=colour)
    axis.set_xticks(range(len(names)), names, rotation=60, ha='right', fontsize=8)
    axis.set_yticks(range(len(leaves)), [leaf['name'] for leaf in leaves], fontsize=8)
    axis.set_title('captions of each leaf, percent')


def _draw_counts(axis, report: Mapping) -> None:  # noqa: ANN001
    """Draw the samples of each node below the root; starved ones in red."""
    nodes = report['nodes'][1:]
    colours = ['tab:red' if node['count'] < report['min_samples'] else 'tab:blue' for node in nodes]
    bars = axis.barh(range(len(nodes)), [node['count'] for node in nodes], color=colours)
    axis.bar_label(bars, padding=2, fontsize=7)
    axis.set_yticks(range(len(nodes)), [node['name'] for node in nodes], fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.12, y=0.01)
    axis.set_title(f'samples of each node (red: fewer than {report["min_samples"]})')


def _draw_measures(axis, levels: Sequence[Mapping]) -> None:  # noqa: ANN001
    """Draw the measures of each level; those by caption are hatched."""
    from matplotlib import colormaps

    width = 0.8 / max(2 * len(levels), 1)
    for i, level in enumerate(levels):
        for place, keys in enumerate(MEASURES.values()):
            for j, key in enumerate(keys):
                if key and level[key] is not None:
                    axis.bar(
                        place + (2 * i + j) * width,
                        level[key],
                        width,
                        color=colormaps['tab10'](i),
                        hatch='//' if j else None,
                        edgecolor='white',
                        label=f'level {level["level"]}' if (place, j) == (0, 0) else None,
                    )
    axis.set_xticks([place + 0.4 - width / 2 for place in range(len(MEASURES))], MEASURES, fontsize=8)
    axis.axhline(0, color='black', linewidth=0.6)
    axis.set_title('by type (plain) and by caption (hatched)')
    if levels:
        axis.legend(fontsize=8)


def draw_tree(path: str | Path, tree: DegradationTree) -> None:
    """Write a picture of a tree: each node with its samples and its labels as a bar; lines as thick as groups large."""
    from matplotlib import colormaps

    heights: dict[int, float] = {leaf: float(place) for place, leaf in enumerate(_leaves_in_order(tree))}
    for node_id in reversed(range(len(tree.nodes))):
        if node_id not in heights:
            own = [heights[child] for child in tree.children(node_id)]
            heights[node_id] = (min(own) + max(own)) / 2
    labels = list(tree.nodes[0].labels)
    figure = new_figure(4 * tree.num_levels + 2, max(3, 0.5 * tree.num_leaves + 1))
    axis = figure.add_subplot()
    largest = max(tree.nodes[0].count, 1)
    for node_id, node in enumerate(tree.nodes):
        x, y = node.level, heights[node_id]
        if node.parent >= 0:
            between = [x - 1 + 0.62, x - 0.25, x - 0.02]
            width = 1 + 9 * node.count / largest
            axis.plot(between, [heights[node.parent], y, y], color='0.8', linewidth=width, zorder=0)
        left, total = x, max(sum(node.labels.values()), 1)
        for label, count in node.labels.items():
            axis.barh(y, 0.6 * count / total, 0.42, left, color=colormaps['tab20'](labels.index(label) % 20))
            left += 0.6 * count / total
        axis.text(x, y - 0.27, f'{node.name}  {node.count}', fontsize=8, va='bottom')
    for i, label in enumerate(labels):
        axis.barh(0, 0, color=colormaps['tab20'](i % 20), label=label)
    axis.set(xlim=(-0.1, tree.num_levels - 0.3), ylim=(tree.num_leaves - 0.4, -0.8))
    axis.axis('off')
    if labels:
        figure.legend(loc='outside right upper', fontsize=8, title='labels')
    write_figure(figure, path)


def _leaves_in_order(tree: DegradationTree) -> list[int]:
    """Return the leaves' node ids from top to bottom, children under their parents."""

    def below(node_id: int) -> list[int]:
        children = tree.children(node_id)
        return [leaf for child in children for leaf in below(child)] if children else [node_id]

    return below(0)
