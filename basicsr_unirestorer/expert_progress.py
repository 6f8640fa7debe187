"""How far the experts of an experiment are: the plan that a training writes down, and the tree drawn with it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.expert_files import ExpertFiles

if TYPE_CHECKING:
    from basicsr_unirestorer.models.division import Division

BAR = 20  # characters


def write_plan(root: Path, tree: str | Path, steps: Mapping[str, int], division: Division) -> None:
    """Write down who trains what, as ``plan.json`` of an experiment; it appears complete or not at all.

    What another run with other experts of the same tree wrote there is kept, so that jobs can share an experiment.

    Args:
        root: ``experiments/<name>``.
        tree: The tree's file.
        steps: Steps of each expert of the tree, whether this run trains it or not.
        division: What this run trains.
    """
    path, tree = root / 'plan.json', str(Path(tree).expanduser().resolve())
    old = _read(path) if path.is_file() else {}
    kept = [] if old.get('tree') != tree else [part for part in old['stints'] if part['name'] not in division.steps]
    stints = [{**asdict(stint), 'ranks': list(stint.ranks)} for stint in division.stints]
    content = {'tree': tree, 'steps': dict(steps), 'stints': kept + stints}
    scratch = path.with_name(f'plan.json.{os.getpid()}.part')
    scratch.write_text(json.dumps(content, indent=1) + '\n')
    os.replace(scratch, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        return {key: content[key] for key in ('tree', 'steps', 'stints')}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def read_progress(root: Path) -> tuple[DegradationTree, list[dict[str, Any]]]:
    """Return the tree of an experiment, and of each node its name, steps, done steps and ranks.

    Args:
        root: ``experiments/<name>``; a run may be training there meanwhile.

    Raises:
        DataError: There is no plan, or not the tree that it was made for.
    """
    plan = _read(root / 'plan.json')
    if not plan:
        raise DataError(
            f'There is no readable plan.json in {root}; give the folder of a training of experts, e.g. '
            'unirestorer tree --progress experiments/NAME.'
        )
    tree = DegradationTree.load(plan['tree'])
    if set(plan['steps']) != {node.name for node in tree.nodes}:
        raise DataError(f'{root}/plan.json was made for another tree than {plan["tree"]} is now; train anew.')
    done = ExpertFiles(root).progress(plan['steps'], check=False)
    ranks = {stint['name']: stint['ranks'] for stint in plan['stints']}
    return tree, [
        {
            'name': node.name,
            'steps': plan['steps'][node.name],
            'done': done[node.name],
            'finished': ExpertFiles(root).finished(node.name).is_file(),
            'ranks': ranks.get(node.name, []),
        }
        for node in tree.nodes
    ]


def progress_lines(tree: DegradationTree, rows: list[dict[str, Any]]) -> list[str]:
    """Draw the tree with a bar for each expert, and the sum of all steps below."""
    from basicsr_unirestorer.tree_command import drawn

    def describe(node_id: int) -> str:
        row = rows[node_id]
        indent = ' ' * 4 * (tree.num_levels - 1 - tree.nodes[node_id].level)  # the bars stand below each other
        text = f'{row["name"]}  {indent}{_bar(row["done"], row["steps"])} {row["done"]:,}/{row["steps"]:,}'
        who = f'  rank {", ".join(map(str, row["ranks"]))}' if row['ranks'] else ''
        return text + ('  finished' if row['finished'] else who)

    done, steps = (sum(row[key] for row in rows) for key in ('done', 'steps'))
    finished = sum(row['finished'] for row in rows)
    share = f'{done / steps:.0%}' if steps else 'nothing to do'
    return [
        *drawn(tree, describe),
        f'{finished} of {len(rows)} experts finished, {done:,} of {steps:,} steps ({share})',
    ]


def _bar(done: int, steps: int) -> str:
    filled = BAR * done // steps if steps else BAR
    return '[' + '#' * filled + '-' * (BAR - filled) + ']'


def print_progress(root: Path, as_json: bool) -> int:
    """Run ``unirestorer tree --progress``; steps between checkpoints are not counted yet."""
    tree, rows = read_progress(root)
    print(json.dumps(rows, indent=1) if as_json else '\n'.join(progress_lines(tree, rows)))
    return 0
