"""The tables and pictures of a study, from the tests of its seeds."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from basicsr_unirestorer.clustering.quality_pictures import new_figure, write_figure
from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.inference.journal import write_aside
from basicsr_unirestorer.study import Stage

ROUTED, BEST = 'routed', 'best node'


@dataclass(frozen=True)
class Row:
    """One row of the table: the pictures of one test, seed by seed, and which of its columns is meant."""

    name: str
    column: str
    pictures: dict[int, list[dict]]  # seed -> rows of pictures.csv
    best: dict[int, dict[tuple[str, str], float]]  # seed -> (test set, sample) -> PSNR of its best expert

    def over_seeds(self, value: Callable[[dict, int], float | None], sets: Sequence[str]) -> list[float]:
        """Return the mean of a value over the pictures of some test sets, for each seed; None values are left out."""
        means = []
        for seed, pictures in self.pictures.items():
            values = [value(picture, seed) for picture in pictures if picture['dataset'] in sets]
            values = [v for v in values if v is not None]
            if values:
                means.append(float(np.mean(values)))
        return means

    def psnr(self, picture: dict, seed: int) -> float:
        return float(picture[self.column])

    def regret(self, picture: dict, seed: int) -> float:
        """PSNR of the picture's best expert minus what was reached."""
        return self.best[seed][picture['dataset'], picture['sample_id']] - float(picture[self.column])


def read_pictures(results: Path, name: str) -> list[dict]:
    """Read the rows of a finished benchmark; raises DataError where there is none."""
    path = results / name / 'pictures.csv'
    try:
        with open(path, newline='', encoding='utf-8') as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f'{path} cannot be read ({error.strerror}); run `unirestorer study` again.') from error


def read_rows(opt: Mapping, stages: Sequence[Stage], results: Path) -> list[Row]:
    """Read what the rows of a study's table are made of; rows of tests that were run for no seed are left out."""
    tests = {opt['reference'], *(test for test, _ in opt['rows'].values())}
    pictures: dict[str, dict[int, list[dict]]] = {test: {} for test in tests}
    for stage in stages:
        if stage.name in tests:
            pictures[stage.name][stage.seed] = read_pictures(results, stage.options['name'])

    def best_of(test: str) -> dict[int, dict[tuple[str, str], float]]:
        tried_all = all(BEST in rows[0] for rows in pictures[test].values())
        source = pictures[test if tried_all else opt['reference']]
        if not all(BEST in rows[0] for rows in source.values()):
            raise DataError(f"The test '{opt['reference']}' tried no expert; write oracle: all in its option file.")
        return {
            seed: {(row['dataset'], row['sample_id']): float(row[BEST]) for row in rows}
            for seed, rows in source.items()
        }

    rows = []
    for name, (test, column) in opt['rows'].items():
        if not pictures[test]:  # run for none of these seeds
            continue
        first = next(iter(pictures[test].values()))[0]
        if column not in first:
            raise DataError(f"Row '{name}' wants the column '{column}' of {test}, which has: {', '.join(first)}.")
        rows.append(Row(name, column, pictures[test], best_of(test)))
    return rows


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Write mean and standard deviation over seeds; the mean alone of a single seed."""
    if not values:
        return '-'
    mean = f'{np.mean(values):.{digits}f}'
    return f'{mean} ± {np.std(values, ddof=1):.{digits}f}' if len(values) > 1 else mean


def percent(values: Sequence[float]) -> str:
    return f'{np.mean(values):.0%}' if values else '-'


def is_pair(picture: Mapping) -> bool:
    return '+' in picture['labels']


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = ['| ' + ' | '.join(head) + ' |', '|---|' + '---:|' * (len(head) - 1)]
    return '\n'.join([*rows, *('| ' + ' | '.join(line) + ' |' for line in lines)])


def seeds_note(rows: Sequence[Row], seeds: Sequence[int], missing: Sequence[str]) -> str:
    """Say what the numbers are, and which rows have fewer seeds or none."""
    note = f'Seeds {", ".join(map(str, seeds))}: mean ± standard deviation over seeds of the mean over pictures.'
    fewer = [row.name for row in rows if len(row.pictures) < len(seeds)]
    note += f' Of fewer seeds: {"; ".join(fewer)}.' if fewer else ''
    return note + (f' Not run: {"; ".join(missing)}.' if missing else '')


def psnr_table(rows: Sequence[Row], sets: Sequence[str]) -> str:
    lines = [[row.name, *(spread(row.over_seeds(row.psnr, [name])) for name in sets)] for row in rows]
    return markdown_table(['PSNR in dB', *sets], lines)


def finest_level(row: Row) -> int:
    """Return the level of the leaves of a row's tree; nodes are called ``l<level>_<number>``."""
    return max(int(p['leaf'][1:].partition('_')[0]) for pictures in row.pictures.values() for p in pictures)


def right_leaf(picture: dict, seed: int) -> float | None:
    """Tell whether the leaf has the picture's degradation; None for pairs."""
    return None if is_pair(picture) else float(picture['leaf_labels'] == picture['labels'])


def routing_table(rows: Sequence[Row], sets: Sequence[str]) -> str:
    """Tell regret, leaf accuracy, and how many pictures go to which level, of every row that routes."""
    first = sets[0]
    lines = []
    for row in rows:
        if row.column != ROUTED:
            continue
        lines.append(
            [
                row.name,
                *(spread(row.over_seeds(row.regret, [name])) for name in sets),
                percent(row.over_seeds(right_leaf, [first])),
                *(level_shares(row, name) for name in sets),
            ]
        )
    head = ['routed by', *(f'regret, {name}' for name in sets), f'leaf of the right type, singles {first}']
    return markdown_table([*head, *(f'levels chosen, {name}' for name in sets)], lines)


def level_shares(row: Row, name: str, pair: bool | None = None) -> str:
    """Write the share of a test set's pictures (of pairs alone, of singles alone, or of both) sent to every level."""
    parts = []
    for level in range(finest_level(row) + 1):

        def goes_there(p: dict, seed: int, level: int = level) -> float | None:
            return float(int(p['level']) == level) if pair in (None, is_pair(p)) else None

        shares = row.over_seeds(goes_there, [name])
        if shares and np.mean(shares) > 0.005:
            parts.append(f'{level}: {np.mean(shares):.0%}')
    return ', '.join(parts) or '-'


def fallback_table(row: Row, sets: Sequence[str]) -> str:
    """Tell how often pictures go to a coarser expert than their leaf's: singles and pairs of every test set."""
    finest, lines = finest_level(row), []
    for name in sets:
        for pair, what in ((False, 'one degradation'), (True, 'two degradations')):

            def coarser(p: dict, seed: int, pair: bool = pair) -> float | None:
                return float(int(p['level']) < finest) if is_pair(p) == pair else None

            values = row.over_seeds(coarser, [name])
            if values:
                lines.append([f'{name}, {what}', percent(values), level_shares(row, name, pair)])
    return markdown_table(['', 'coarser than the leaf', 'levels'], lines)


def degradation_table(rows: Sequence[Row], chosen: Row, name: str) -> str:
    """Tell every row's PSNR, and the chosen row's regret and levels, by degradation types of one test set."""
    kinds = sorted({p['labels'] for p in next(iter(chosen.pictures.values())) if p['dataset'] == name}, key=kind_order)
    lines = []
    for kind in kinds:
        parts = [narrowed(row, kind) for row in rows]
        mine = narrowed(chosen, kind)
        lines.append(
            [
                kind.replace('+', ' + ').replace('_', ' '),
                *(f'{np.mean(part.over_seeds(part.psnr, [name])):.2f}' for part in parts),
                spread(mine.over_seeds(mine.regret, [name])),
                level_shares(mine, name),
            ]
        )
    return markdown_table([name, *(row.name for row in rows), 'regret', 'levels chosen'], lines)


def kind_order(kind: str) -> tuple[bool, str]:
    return '+' in kind, kind


def narrowed(row: Row, kind: str) -> Row:
    """Return a row of the pictures with these degradation types alone."""
    pictures = {seed: [p for p in rows if p['labels'] == kind] for seed, rows in row.pictures.items()}
    return Row(row.name, row.column, pictures, row.best)


def draw_gains(path: Path, rows: Sequence[Row], sets: Sequence[str]) -> None:
    """Draw every row's PSNR above the input's, with the seeds as dots."""
    base = rows[0]
    drawing = new_figure(4.2 * len(sets), 0.38 * len(rows) + 1.2)
    for place, name in enumerate(sets, start=1):
        axis = drawing.add_subplot(1, len(sets), place)
        zero = np.asarray(base.over_seeds(base.psnr, [name]))
        for y, row in enumerate(reversed(rows[1:])):
            gains = np.asarray(row.over_seeds(row.psnr, [name])) - zero.mean()
            colour = '#2a7' if row.name.startswith('oracle') else '#38c' if row.column == ROUTED else '#999'
            axis.barh(y, gains.mean(), color=colour, height=0.7)
            axis.plot(gains, [y] * len(gains), 'k.', markersize=4)
        axis.set_yticks(range(len(rows) - 1), [row.name for row in reversed(rows[1:])] if place == 1 else [])
        axis.set_title(name, fontsize=10)
        axis.set_xlabel('dB above the input')
        axis.axvline(0, color='k', linewidth=0.6)
    write_figure(drawing, path)


def draw_degradations(path: Path, rows: Sequence[Row], name: str) -> None:
    """Draw the PSNR above the input's by degradation types of one test set."""
    base, others = rows[0], rows[1:]
    kinds = sorted({p['labels'] for p in next(iter(base.pictures.values())) if p['dataset'] == name}, key=kind_order)
    drawing = new_figure(1.0 * len(kinds) + 2, 4.2)
    axis = drawing.add_subplot()
    width = 0.8 / len(others)
    for number, row in enumerate(others):
        gains = [
            np.mean(narrowed(row, kind).over_seeds(row.psnr, [name]))
            - np.mean(narrowed(base, kind).over_seeds(base.psnr, [name]))
            for kind in kinds
        ]
        axis.bar(np.arange(len(kinds)) + (number - (len(others) - 1) / 2) * width, gains, width, label=row.name)
    axis.set_xticks(range(len(kinds)), [kind.replace('+', '\n+ ').replace('_', ' ') for kind in kinds], fontsize=8)
    axis.set_ylabel('dB above the input')
    axis.set_title(name, fontsize=10)
    axis.axhline(0, color='k', linewidth=0.6)
    axis.legend(fontsize=8)
    write_figure(drawing, path)


def write_report(opt: Mapping, stages: Sequence[Stage], results: Path, folder: Path) -> None:
    """Write ``study.md``, ``study.json`` and the pictures of a finished study.

    Args:
        opt: The study's options.
        stages: Its stages.
        results: Folder of the benchmarks' results.
        folder: Where to write.

    Raises:
        DataError: A test's results are missing, or lack the column of a row.
    """
    seeds = list(dict.fromkeys(stage.seed for stage in stages))
    rows = read_rows(opt, stages, results)
    of_test = [row for row in rows if opt['rows'][row.name][0] == opt['reference']]
    reference = next(row for row in of_test if row.column == ROUTED)
    missing = [name for name in opt['rows'] if name not in {row.name for row in rows}]
    sets = list(dict.fromkeys(p['dataset'] for p in next(iter(reference.pictures.values()))))
    parts = [
        f'# {opt["name"]}',
        seeds_note(rows, seeds, missing),
        psnr_table(rows, sets),
        f'![PSNR above the input](psnr.png)\n\n## How pictures are routed\n\n{routing_table(rows, sets)}',
        f'## {reference.name}: when it falls back to coarser experts\n\n{fallback_table(reference, sets)}',
        *(f'## {name}, by degradation\n\n{degradation_table(of_test, reference, name)}' for name in sets),
        '![by degradation](degradations.png)',
    ]
    write_aside(folder / 'study.md', '\n\n'.join(parts) + '\n')
    numbers = {
        row.name: {
            name: {
                'psnr': row.over_seeds(row.psnr, [name]),
                **({'regret': row.over_seeds(row.regret, [name])} if row.column == ROUTED else {}),
            }
            for name in sets
        }
        for row in rows
    }
    write_aside(folder / 'study.json', json.dumps({'seeds': seeds, 'rows': numbers}, indent=1) + '\n')
    draw_gains(folder / 'psnr.png', rows, sets)
    draw_degradations(folder / 'degradations.png', of_test, sets[0])
