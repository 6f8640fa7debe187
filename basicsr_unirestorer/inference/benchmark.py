"""``unirestorer benchmark``: one table with the honest baselines, picture by picture."""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from basicsr_unirestorer.errors import OptionError, check_keys, need_keys

KEYS = ('name', 'num_gpu', 'manual_seed', 'datasets', 'bundle', 'mode', 'labels', 'oracle', 'rivals')


def to_uint8(picture: torch.Tensor) -> np.ndarray:
    """Turn (1, 3, h, w), RGB, [0, 1] into (h, w, 3), RGB, uint8."""
    return (picture[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def measure(net, rivals: Mapping, data: dict, oracle: str, device: str) -> dict:  # noqa: ANN001
    """Restore one picture with everything that the table compares.

    Args:
        net: A ``UniRestorer``.
        rivals: Networks by name.
        data: An item of a test dataset, batched to one.
        oracle: ``all`` runs every node and keeps the best by true PSNR; ``caption`` only the node of the true caption.
        device: Where the networks run.

    Returns:
        PSNR in dB of ``input``, ``root``, every rival, ``routed``, ``by label`` and, with ``all``, ``best node``, and
        the decision.
    """
    from basicsr.metrics import calculate_psnr

    lq = data['lq'].to(device).contiguous(memory_format=torch.channels_last)
    gt = to_uint8(data['gt'])

    def psnr(picture: torch.Tensor) -> float:
        return float(calculate_psnr(to_uint8(picture), gt, crop_border=0))

    caption = data['caption'][0]
    with torch.no_grad():
        route = net.route(lq)
        chosen, labelled = int(route.node_id[0]), net.tree.node_for_caption(caption)
        wanted = range(len(net.tree.nodes)) if oracle == 'all' else sorted({0, chosen, labelled})
        by_node = {node_id: psnr(net.expert(node_id, device)(lq)) for node_id in wanted}
        row = {
            'caption': caption,
            'input': psnr(lq),
            'root': by_node[0],
            **{name: psnr(rival(lq)) for name, rival in rivals.items()},
            'routed': by_node[chosen],
            'by label': by_node[labelled],
        }
    if oracle == 'all':
        row['best node'] = max(by_node.values())
    leaf = int(route.leaf_id[0])
    row.update(
        node=net.tree.nodes[chosen].name,
        level=int(route.level[0]),
        leaf_confidence=float(route.leaf_probs[0, leaf]),
        level_confidence=float(route.level_probs[0].max()),
        leaf_labels=dominant_labels(net.tree.nodes[net.tree.leaves[leaf]]),
    )
    return row


def dominant_labels(node) -> str:  # noqa: ANN001
    """Return the degradation types that most of a node's samples have, e.g. ``rain`` or ``haze+noise``."""
    return '+'.join(sorted(label for label, count in node.labels.items() if count > node.count / 2))


def summarise(rows: Sequence[dict], columns: Sequence[str]) -> list[dict]:
    """Average rows by test set and caption, then by test set."""
    summary = []
    for dataset in dict.fromkeys(row['dataset'] for row in rows):
        mine = [row for row in rows if row['dataset'] == dataset]
        for caption in [*sorted({row['caption'] for row in mine}), None]:
            group = [row for row in mine if caption in (None, row['caption'])]
            levels = Counter(row['level'] for row in group)
            summary.append(
                {
                    'dataset': dataset,
                    'caption': caption or 'average',
                    'pictures': len(group),
                    **{column: float(np.mean([row[column] for row in group])) for column in columns},
                    'levels': {level: levels[level] / len(group) for level in sorted(levels)},
                }
            )
    return summary


def table(summary: Sequence[dict], columns: Sequence[str]) -> str:
    """Format a summary as Markdown; PSNR in dB."""
    lines = [
        '| test set | degradation | pictures | ' + ' | '.join(columns) + ' | levels chosen |',
        '|---' * (len(columns) + 4) + '|',
    ]
    for row in summary:
        levels = ', '.join(f'{level}: {share:.0%}' for level, share in row['levels'].items())
        mark = '**' if row['caption'] == 'average' else ''
        values = ' | '.join(f'{mark}{row[column]:.2f}{mark}' for column in columns)
        lines.append(f'| {row["dataset"]} | {mark}{row["caption"]}{mark} | {row["pictures"]} | {values} | {levels} |')
    return '\n'.join(lines) + '\n'


def leaf_type_accuracy(rows: Sequence[dict]) -> float:
    """Return how often the chosen leaf's dominant degradation types are the picture's own."""
    return float(np.mean([row['leaf_labels'] == row['labels'] for row in rows]))


def run(opt: dict, root: Path) -> tuple[Path, list[dict], list[dict]]:
    """Run a benchmark option file.

    Args:
        opt: Its content.
        root: Folder under which ``results/<name>`` is written; an earlier one is set aside, as BasicSR does.

    Returns:
        The results folder, the summary and the rows of all pictures.
    """
    from basicsr_unirestorer import register

    register()
    from basicsr.data import build_dataloader, build_dataset
    from basicsr.utils import mkdir_and_rename

    from basicsr_unirestorer.archs.building import frozen, load_into, load_params, make_network
    from basicsr_unirestorer.archs.unirestorer_arch import UniRestorer

    check_keys(opt, KEYS, 'options')
    need_keys(opt, ('name', 'datasets', 'bundle'), 'options')
    oracle = opt.get('oracle', 'caption')
    if oracle not in ('all', 'caption'):
        raise OptionError(f"oracle is '{oracle}'; write all or caption.")
    device = 'cuda' if opt.get('num_gpu', 0) else 'cpu'
    net = UniRestorer(opt['bundle'], opt.get('mode', 'auto'), opt.get('labels')).to(device)
    rivals = {}
    for name, rival in (opt.get('rivals') or {}).items():
        check_keys(rival, ('network', 'weights'), f'rivals.{name}')
        need_keys(rival, ('network', 'weights'), f'rivals.{name}')
        network = make_network(rival['network'], f'rivals.{name}.network')
        rivals[name] = frozen(load_into(network, load_params(rival['weights']), rival['weights']))
        rivals[name].to(device, memory_format=torch.channels_last)
    columns = ['input', 'root', *rivals, 'routed', 'by label'] + (['best node'] if oracle == 'all' else [])
    rows, start = [], time.time()
    for _, options in sorted(opt['datasets'].items()):
        dataset = build_dataset({**options, 'phase': 'test'})
        for data in tqdm(build_dataloader(dataset, dataset.opt), desc=options['name'], unit='picture'):
            rows.append(
                {
                    'dataset': options['name'],
                    'sample_id': data['sample_id'][0],
                    'labels': '+'.join(sorted(data['labels'][0].split(','))),
                    **measure(net, rivals, data, oracle, device),
                }
            )
    summary = summarise(rows, columns)
    folder = root / 'results' / opt['name']
    mkdir_and_rename(str(folder))
    text = table(summary, columns)
    (folder / 'table.md').write_text(text)
    facts = {
        'tree_fingerprint': net.tree.fingerprint,
        'seconds': round(time.time() - start, 1),
        'oracle': oracle,
        'leaf_type_accuracy': {
            name: leaf_type_accuracy([row for row in rows if row['dataset'] == name])
            for name in dict.fromkeys(row['dataset'] for row in rows)
        },
    }
    (folder / 'summary.json').write_text(json.dumps({**facts, 'table': summary}, indent=1) + '\n')
    with open(folder / 'pictures.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder, summary, rows


def main(argv: list[str]) -> int:
    """Run ``unirestorer benchmark``."""
    parser = argparse.ArgumentParser(
        prog='unirestorer benchmark',
        description='Compare routed and unrouted restoration.',
        epilog='example: unirestorer benchmark -opt options/tiny/unirestorer_benchmark.yml',
    )
    parser.add_argument('-opt', required=True, help='option file')
    parser.add_argument('--json', action='store_true', help='print the summary as JSON instead of a table')
    args = parser.parse_args(argv)
    from basicsr_unirestorer.preflight import read_options

    opt = read_options(Path(args.opt))
    folder, _, _ = run(opt, Path.cwd())
    print((folder / ('summary.json' if args.json else 'table.md')).read_text())
    print(f'Written to {folder}')
    return 0
