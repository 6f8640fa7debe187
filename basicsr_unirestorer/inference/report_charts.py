"""Drawings of the report as inline SVG: the tree with its traffic, and how sure the router was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from basicsr_unirestorer.clustering.tree import DegradationTree, Node

ROW = 34  # pixels between two leaves
THICKEST = 22  # pixels of a link that every picture takes


def knows(node: Node, most: int = 2) -> str:
    """Say what a node was trained on: its commonest degradation types, or captions where it has one type alone."""
    labels = [label.replace('_', ' ') for label, count in node.labels.items() if count >= 0.2 * node.count]
    if len(labels) == 1 and node.captions:
        captions = sorted(node.captions, key=lambda caption: -node.captions[caption])
        return captions[0] if node.captions[captions[0]] >= 0.7 * node.count else labels[0]
    more = f' +{len(labels) - most}' if len(labels) > most else ''
    return ', '.join(labels[:most]) + more if labels else 'mixed'


def through(tree: DegradationTree, chosen: Mapping[str, int]) -> list[int]:
    """Count the pictures that went to each node or below it, by node id."""
    totals = [chosen.get(node.name, 0) for node in tree.nodes]
    for node_id in reversed(range(1, len(tree.nodes))):  # children come after their parents
        totals[tree.nodes[node_id].parent] += totals[node_id]
    return totals


def tree_svg(tree: DegradationTree, chosen: Mapping[str, int], width: int, name: str) -> str:
    """Draw the tree from left to right; the thickness of a link and the size of a node say how many pictures took it.

    Args:
        tree: The tree.
        chosen: Node name -> pictures restored by its expert.
        width: Of the drawing in pixels; below 500 inner nodes show their numbers only.
        name: Unique on the page.
    """
    totals, total = through(tree, chosen), max(sum(chosen.values()), 1)
    wide, top = width >= 500, 26
    label_room = 250 if wide else 170
    step = (width - label_room - 40) / max(tree.num_levels - 1, 1)
    xs = [20 + level * step for level in range(tree.num_levels)]
    ys = _heights(tree, top)
    links, dots = [], []
    for node_id, node in enumerate(tree.nodes):
        x, y, own = xs[node.level], ys[node_id], chosen.get(node.name, 0)
        if node.parent >= 0:
            px, py, middle = xs[node.level - 1], ys[node.parent], (xs[node.level - 1] + x) / 2
            kind = 'flow' if totals[node_id] else 'idle'
            thick = max(1.5, THICKEST * totals[node_id] / total) if totals[node_id] else 1
            shape = f'M{px:.1f} {py:.1f}C{middle:.1f} {py:.1f} {middle:.1f} {y:.1f} {x:.1f} {y:.1f}'
            links.append(f'<path class="{kind}" stroke-width="{thick:.1f}" d="{shape}"/>')
        kind = 'node' if own else 'through' if totals[node_id] else 'node empty'
        radius = 5 + 9 * (own / total) ** 0.5 if own else 4
        told = f'{node.name}, {knows(node)}: {own} of {total} pictures restored here'
        dots.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{escape(told)}</title></circle>'
        )
        dots.append(_label(tree, node, x, y, radius, own, wide))
    height = max(ys) + 26
    used = sum(count > 0 for count in chosen.values())
    told = f'The degradation tree; {total} pictures went to {used} of {len(tree.nodes)} experts.'
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-labelledby="{name}"><title id="{name}">{told}</title>'
        f'{"".join(links)}{"".join(dots)}</svg>'
    )


def _heights(tree: DegradationTree, top: float) -> list[float]:
    """Place leaves below one another and every other node in the middle of its children."""
    ys = [0.0] * len(tree.nodes)
    row = 0

    def place(node_id: int) -> None:
        nonlocal row
        children = tree.children(node_id)
        for child in children:
            place(child)
        if children:
            ys[node_id] = (ys[children[0]] + ys[children[-1]]) / 2
        else:
            ys[node_id] = top + ROW * row
            row += 1

    place(0)
    return ys


def _label(tree: DegradationTree, node: Node, x: float, y: float, radius: float, own: int, wide: bool) -> str:
    count = f'{own}' if own else ''
    if node.level == tree.num_levels - 1:
        text = knows(node) if wide else _short(knows(node, 1), 17)
        soft = '' if own else ' class="soft"'
        return (
            f'<text text-anchor="end" font-weight="600" x="{x + 42:.1f}" y="{y + 4:.1f}">{count}</text>'
            f'<text{soft} x="{x + 50:.1f}" y="{y + 4:.1f}"><tspan class="soft">{escape(node.name)}</tspan> '
            f'{escape(text)}</text>'
        )
    text = (f'{node.name} {knows(node)}' if node.level else node.name) if wide else ''
    anchor, left = ('start', x - 6) if node.level == 0 else ('middle', x)
    bold = f' <tspan font-weight="600">{count}</tspan>' if count else ''
    return (
        f'<text class="soft" text-anchor="{anchor}" x="{left:.1f}" y="{y - radius - 7:.1f}">{escape(text)}{bold}</text>'
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + '…'


def histogram_svg(values: Sequence[float], right: Sequence[bool | None], name: str, axis: str) -> str:
    """Draw how many pictures the router was how sure of, in ten steps.

    Args:
        values: Confidences, [0, 1].
        right: Whether each decision named the true degradation; None where that is unknown.
        name: Unique on the page.
        axis: What lies along the bottom.
    """
    counts = [[0, 0] for _ in range(10)]
    for value, fits in zip(values, right, strict=True):
        counts[min(int(value * 10), 9)][fits is False] += 1
    most = max((sum(pair) for pair in counts), default=0) or 1
    left, bottom, width, height = 34, 178, 300, 150
    bars = [f'<line class="axis" x1="{left}" x2="{left + width}" y1="{bottom}" y2="{bottom}"/>']
    for place, (fine, wrong) in enumerate(counts):
        x, base = left + place * width / 10 + 2, float(bottom)
        for count, kind in ((fine, 'right'), (wrong, 'wrong')):
            tall = height * count / most
            base -= tall
            if count:
                shape = f'x="{x:.1f}" y="{base:.1f}" width="{width / 10 - 4:.1f}" height="{tall:.1f}"'
                bars.append(f'<rect class="{kind}" rx="2" {shape}/>')
        if fine + wrong:
            middle = x + width / 20 - 2
            bars.append(
                f'<text class="soft" text-anchor="middle" x="{middle:.1f}" y="{base - 5:.1f}">{fine + wrong}</text>'
            )
    bars += [
        f'<text class="soft" text-anchor="middle" x="{left + share * width}" y="{bottom + 17}">{share:.0%}</text>'
        for share in (0, 0.5, 1)
    ]
    bars.append(
        f'<text class="soft" text-anchor="middle" x="{left + width / 2}" y="{bottom + 36}">{escape(axis)}</text>'
    )
    sure = sum(value >= 0.9 for value in values)
    title = f'{axis}: {sure} of {len(values)} pictures at 90% or more.'
    return _plot(name, title, bars)


def scatter_svg(points: Sequence[tuple[float, float, bool | None]], name: str, x_axis: str, y_axis: str) -> str:
    """Draw one dot a picture: how sure the router was, and what came of it.

    Args:
        points: (confidence in [0, 1], dB, whether the decision named the true degradation).
        name: Unique on the page.
        x_axis, y_axis: What lies along the two sides.
    """
    left, bottom, width, height = 42, 178, 292, 150
    low, high = min(0.0, min(y for _, y, _ in points)), max(1.0, max(y for _, y, _ in points))
    marks = []
    for level in _steps(low, high):
        y = bottom - height * (level - low) / (high - low)
        marks.append(f'<line class="axis" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(f'<text class="soft" text-anchor="end" x="{left - 6}" y="{y + 4:.1f}">{level:g}</text>')
    for sure, value, fits in points:
        x, y = left + width * sure, bottom - height * (value - low) / (high - low)
        marks.append(f'<circle class="dot{" wrong" if fits is False else ""}" r="4" cx="{x:.1f}" cy="{y:.1f}"/>')
    marks += [
        f'<text class="soft" text-anchor="middle" x="{left + share * width}" y="{bottom + 17}">{share:.0%}</text>'
        for share in (0, 0.5, 1)
    ]
    marks.append(
        f'<text class="soft" text-anchor="middle" x="{left + width / 2}" y="{bottom + 36}">{escape(x_axis)}</text>'
    )
    marks.append(f'<text class="soft" x="{left - 36}" y="14">{escape(y_axis)}</text>')
    return _plot(name, f'{y_axis} against {x_axis}, {len(points)} pictures.', marks)


def _steps(low: float, high: float) -> list[float]:
    """Return at most six round numbers between two bounds."""
    step = next(size for size in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if (high - low) / size <= 5.5 or size == 100)
    first = int(low // step) + (low % step > 0)
    return [round(place * step, 1) for place in range(first, int(high // step) + 1)]


def _plot(name: str, title: str, marks: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 340 222" role="img" aria-labelledby="{name}"><title id="{name}">{escape(title)}</title>'
        f'{"".join(marks)}</svg>'
    )
