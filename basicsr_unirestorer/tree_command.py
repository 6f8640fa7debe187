"""``unirestorer tree``: show a degradation tree, or grow one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from basicsr_unirestorer.clustering.tree import DegradationTree

MAX_CAPTIONS = 3


def main(argv: list[str]) -> int:
    """Run ``unirestorer tree [show] PATH`` or ``unirestorer tree grow``."""
    actions: dict[str, Callable[[list[str]], int]] = {'show': show_main, 'grow': grow_main}
    if argv and argv[0] in actions:
        return actions[argv[0]](argv[1:])
    return show_main(argv)


def grow_main(argv: list[str]) -> int:
    """Run ``unirestorer tree grow``."""
    from basicsr_unirestorer import grow

    return grow.main(argv)


def show_main(argv: list[str]) -> int:
    """Run ``unirestorer tree show``: draw a saved tree as text, and as a picture where one is asked for."""
    parser = argparse.ArgumentParser(
        prog='unirestorer tree',
        usage='unirestorer tree [show] PATH [OPTIONS] | unirestorer tree grow -opt FILE',
        description='Show a degradation tree, or grow one (see unirestorer tree grow --help).',
        epilog='example: unirestorer tree show experiments/tiny_clustering --picture tree.png',
    )
    parser.add_argument('path', help='degradation_tree.json, or a folder (clustering run or bundle) that holds it')
    parser.add_argument('--json', action='store_true', help='print the nodes, or the costs, as JSON')
    parser.add_argument('--picture', type=Path, metavar='FILE', help='draw the tree into a PNG, too')
    parser.add_argument('--complexity', action='store_true', help='parameters and MACs of the networks of a bundle')
    parser.add_argument('--size', type=int, default=256, help='side of the picture that MACs are counted for')
    parser.add_argument('--progress', action='store_true', help='how far the experts of an experiment (PATH) are')
    args = parser.parse_args(argv)
    if args.progress:
        from basicsr_unirestorer.expert_progress import print_progress

        return print_progress(Path(args.path), args.json)
    if args.complexity:
        return _print_complexity(args)
    tree = DegradationTree.load(args.path)
    if args.picture:
        from basicsr_unirestorer.clustering.quality_pictures import draw_tree

        draw_tree(args.picture, tree)
    print(json.dumps(_nodes(tree), indent=1) if args.json else '\n'.join(tree_lines(tree)))
    return 0


def _nodes(tree: DegradationTree) -> list[dict]:
    return [
        {
            'name': node.name,
            'parent': tree.nodes[node.parent].name if node.parent >= 0 else None,
            'count': node.count,
            'labels': node.labels,
            'captions': node.captions,
        }
        for node in tree.nodes
    ]


def _print_complexity(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from basicsr_unirestorer.inference.complexity import bundle_complexity, complexity_table

    rows = bundle_complexity(args.path, args.size)
    print(json.dumps([asdict(row) for row in rows], indent=1) if args.json else complexity_table(rows, args.size))
    return 0


def tree_lines(tree: DegradationTree) -> list[str]:
    """Draw a tree as lines of text: name, samples, labels with their shares, commonest captions."""
    return drawn(tree, lambda node_id: describe(tree, node_id))


def drawn(tree: DegradationTree, describe: Callable[[int], str]) -> list[str]:
    """Draw a tree as lines of text, each node as ``describe`` writes its id; the first word is the node's name."""

    def below(node_id: int, indent: str) -> list[str]:
        lines = []
        children = tree.children(node_id)
        for child in children:
            last = child == children[-1]
            lines.append(f'{indent}{"└── " if last else "├── "}{describe(child)}')
            lines += below(child, indent + ('    ' if last else '│   '))
        return lines

    return [describe(0), *below(0, '')]


def describe(tree: DegradationTree, node_id: int) -> str:
    """Return one node in a line, e.g. ``l1_00  35 samples: low_light 69%, blur 31% (very dark 16; ...)``."""
    node = tree.nodes[node_id]
    labels = ', '.join(f'{label} {count / max(node.count, 1):.0%}' for label, count in node.labels.items())
    captions = '; '.join(f'{caption} {count}' for caption, count in list(node.captions.items())[:MAX_CAPTIONS])
    more = len(node.captions) - MAX_CAPTIONS
    captions += f'; {more} more' if more > 0 else ''
    text = f'{labels} ({captions})' if labels and captions else captions or 'no labels'
    return f'{node.name}  {node.count} samples: {text}'
