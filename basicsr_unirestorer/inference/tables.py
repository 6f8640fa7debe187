"""From rows, one a picture, to the tables of a benchmark: averages, experts chosen, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

AVERAGE = 'average'
MAIN = 'psnr'
TITLES = {
    'psnr': 'PSNR in dB',
    'ssim': 'SSIM',
    'psnr_y': 'PSNR in dB, Y channel',
    'ssim_y': 'SSIM, Y channel',
    'psnr_mean': 'PSNR in dB, mean aligned',
    'ssim_mean': 'SSIM, mean aligned',
    'ssim_win7': 'SSIM, flat window of 7',
    'lpips': 'LPIPS (lower is better)',
    'dists': 'DISTS (lower is better)',
}


def key_of(method: str, metric: str = MAIN) -> str:
    """Name the entry of a row: ``routed`` for its PSNR, ``routed ssim`` for another metric."""
    return method if metric == MAIN else f'{method} {metric}'


def groups(rows: Sequence[Mapping]) -> Iterator[tuple[str, str, list[Mapping]]]:
    """Yield (test set, degradation, rows): every degradation of a test set, then all of it as ``average``."""
    for dataset in dict.fromkeys(row['dataset'] for row in rows):
        mine = [row for row in rows if row['dataset'] == dataset]
        kinds = dict.fromkeys(row['degradation'] for row in mine)
        for kind in kinds:
            yield dataset, kind, [row for row in mine if row['degradation'] == kind]
        yield dataset, AVERAGE, mine


def summarise(rows: Sequence[Mapping], columns: Sequence[str]) -> list[dict]:
    """Average over the pictures of each test set and degradation, then of each test set.

    Args:
        rows: One a picture.
        columns: Entries to average; one that no row of a group has becomes None.

    Returns:
        ``dataset``, ``degradation``, ``pictures``, the columns, and ``levels``: level -> share of pictures sent there.
    """
    summary = []
    for dataset, kind, group in groups(rows):
        levels = Counter(row['level'] for row in group)
        summary.append(
            {
                'dataset': dataset,
                'degradation': kind,
                'pictures': len(group),
                **{column: mean([row[column] for row in group if column in row]) for column in columns},
                'levels': {level: levels[level] / len(group) for level in sorted(levels)},
            }
        )
    return summary


def mean(values: Sequence[float]) -> float | None:
    """Average, or None of nothing. One infinite PSNR (a picture left exactly as it was) makes it infinite."""
    return float(np.mean(values)) if len(values) else None


def number(value: float | None, digits: int = 2) -> str:
    """Write a value for a table."""
    if value is None or math.isnan(value):
        return '-'
    return '∞' if math.isinf(value) else f'{value:.{digits}f}'


def digits_of(metric: str) -> int:
    """Decimals that a metric is quoted with."""
    return 2 if metric.startswith('psnr') else 4


def table(summary: Sequence[Mapping], columns: Sequence[str], digits: int = 2) -> str:
    """Format a summary as Markdown."""
    lines = [
        '| test set | degradation | pictures | ' + ' | '.join(columns) + ' | levels chosen |',
        '|---|---|---:|' + '---:|' * len(columns) + '---|',
    ]
    for row in summary:
        levels = ', '.join(f'{level}: {share:.0%}' for level, share in row['levels'].items())
        mark = '**' if row['degradation'] == AVERAGE else ''
        values = ' | '.join(f'{mark}{number(row[column], digits)}{mark}' for column in columns)
        head = f'| {row["dataset"]} | {mark}{row["degradation"]}{mark} | {row["pictures"]}'
        lines.append(f'{head} | {values} | {levels} |')
    return '\n'.join(lines) + '\n'


def routing(rows: Sequence[Mapping]) -> dict[str, dict[str, dict[str, int]]]:
    """Count how often each expert was chosen: test set -> degradation -> node -> pictures."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for dataset, kind, group in groups(rows):
        if kind != AVERAGE:
            nodes = Counter(row['node'] for row in group)
            counts.setdefault(dataset, {})[kind] = {node: nodes[node] for node in sorted(nodes)}
    return counts


def routing_table(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """Format ``routing`` as Markdown: degradations down, experts that were chosen at all across, share of pictures."""
    nodes = sorted({node for kinds in counts.values() for chosen in kinds.values() for node in chosen})
    lines = ['| test set | degradation | ' + ' | '.join(nodes) + ' |', '|---|---|' + '---:|' * len(nodes)]
    for dataset, kinds in counts.items():
        for kind, chosen in kinds.items():
            total = sum(chosen.values())
            shares = ' | '.join(f'{chosen[node] / total:.0%}' if node in chosen else '' for node in nodes)
            lines.append(f'| {dataset} | {kind} | {shares} |')
    return '\n'.join(lines) + '\n'


def leaf_type_accuracy(rows: Sequence[Mapping]) -> float | None:
    """Return how often the chosen leaf's dominant degradation types are the picture's own, of pictures with any."""
    known = [row['leaf_labels'] == row['labels'] for row in rows if row['labels']]
    return float(np.mean(known)) if known else None


def to_csv(rows: Sequence[Mapping]) -> str:
    """Write rows as CSV; an entry that a row lacks stays empty."""
    file = io.StringIO(newline='')
    writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def plain(value: object) -> object:
    """Turn what JSON cannot hold, infinite numbers, into the text ``inf``."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
