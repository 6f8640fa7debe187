"""What a finished benchmark leaves: tables as Markdown, JSON and CSV, and all that a reader of them must know."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from basicsr_unirestorer.inference import tables
from basicsr_unirestorer.inference.contest import Contest
from basicsr_unirestorer.inference.journal import write_aside
from basicsr_unirestorer.inference.protocols import Case, Protocol


@dataclass
class Result:
    """A finished benchmark: rows of all pictures, its tables, and what a report needs to show pictures again."""

    folder: Path
    contest: Contest
    cases: list[Case]
    rows: list[dict]
    facts: dict
    protocols: list[Protocol] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """Columns of the PSNR table: the methods, and the regret where every expert was tried."""
        return [*self.contest.methods, *(['regret'] if self.contest.oracle == 'all' else [])]

    @property
    def summary(self) -> list[dict]:
        return tables.summarise(self.rows, self.columns)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that any test set has, PSNR first."""
        return list(dict.fromkeys(name for case in self.cases for name in case.metrics))

    def table(self, metric: str = tables.MAIN) -> str:
        """Return the Markdown table of one metric, over the test sets that have it."""
        if metric == tables.MAIN:
            return tables.table(self.summary, self.columns)
        columns = [tables.key_of(method, metric) for method in self.contest.methods]
        rows = [row for row in self.rows if columns[0] in row]
        named = [
            {**row, **{method: row[key] for method, key in zip(self.contest.methods, columns, strict=True)}}
            for row in tables.summarise(rows, columns)
        ]
        return tables.table(named, self.contest.methods, tables.digits_of(metric))


def statement(protocol: Protocol, rows: Sequence[Mapping], max_pictures: int | None) -> dict:
    """State what was measured: the protocol's own words, its options, and how many pictures of how many."""
    counts = {}
    for column in protocol.options['columns']:
        found = sum(row['dataset'] == protocol.name and row['degradation'] == column for row in rows)
        counts[column] = {'pictures': found, 'published': protocol.expected(column)}
    cut = {'max_pictures': max_pictures} if max_pictures else {}
    return {'title': protocol.title, 'heading': protocol.heading, **cut, 'columns': counts, 'options': protocol.options}


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith('cuda') else f'{device} ({platform.machine()})'


def versions() -> dict[str, str]:
    """Name the versions that numbers may depend on."""
    import cv2
    from basicsr import __version__ as basicsr_version

    from basicsr_unirestorer import __version__

    names = {'basicsr_unirestorer': __version__, 'basicsr': basicsr_version, 'torch': torch.__version__}
    return {**names, 'numpy': np.__version__, 'opencv': cv2.__version__, 'python': platform.python_version()}


def write_results(result: Result) -> None:
    """Write ``table.md``, ``summary.json`` and ``pictures.csv``, each complete or as it was."""
    summary = {
        **result.facts,
        'table': result.summary,
        'metrics': {
            metric: tables.summarise(result.rows, [tables.key_of(name, metric) for name in result.contest.methods])
            for metric in result.metrics
            if metric != tables.MAIN
        },
        'routing': tables.routing(result.rows),
    }
    write_aside(result.folder / 'table.md', markdown(result))
    write_aside(result.folder / 'summary.json', json.dumps(tables.plain(summary), indent=1) + '\n')
    write_aside(result.folder / 'pictures.csv', tables.to_csv(result.rows))


def markdown(result: Result) -> str:
    """Write everything that a reader of the numbers must know as one Markdown page."""
    parts = [f'# {result.folder.name}', *(statement_lines(result))]
    for metric in result.metrics:
        parts += [f'## {tables.TITLES.get(metric, metric)}', result.table(metric)]
    parts += ['## Experts chosen', tables.routing_table(tables.routing(result.rows))]
    facts = result.facts
    mode = facts['mode'] + (f', always level {facts["level"]}' if 'level' in facts else '')
    mode += ', self-ensemble' if facts.get('self_ensemble') else ''
    accuracy = {name: value for name, value in facts['leaf_type_accuracy'].items() if value is not None}
    lines = [
        f'bundle {facts["bundle"]}, weights {facts["weights_fingerprint"]}, tree {facts["tree_fingerprint"]}',
        f'mode {mode}, {facts["top_k"]} expert(s) a picture, oracle {facts["oracle"]}, on {facts["device"]}',
        *(f'rival {name}: weights {rival["weights_fingerprint"]}' for name, rival in facts['rivals'].items()),
        ', '.join(f'{name} {version}' for name, version in facts['versions'].items()),
        *(f'{name}: the chosen leaf has the true type for {value:.1%}' for name, value in accuracy.items()),
        *tiled_note(result.rows),
        'averages are over pictures; restored pictures are rounded to 8 bit before they are compared',
    ]
    return '\n\n'.join([*parts, '## Facts', '\n'.join(f'- {line}' for line in lines)]) + '\n'


def tiled_note(rows: Sequence[Mapping]) -> list[str]:
    """Return a sentence about pictures that were not restored as a whole, if there are any."""
    tiled = sum(bool(row['tile']) for row in rows)
    return (
        [f'{tiled} pictures did not fit into memory and were restored in tiles, so compare with care'] if tiled else []
    )


def statement_lines(result: Result) -> Iterator[str]:
    """Yield a paragraph a protocol: title, what its heading says, and any count that differs from the published one."""
    for protocol in result.protocols:
        columns = result.facts['protocols'][protocol.name]['columns']
        other = [
            f'{name}: {count["pictures"]} pictures where the published set has {count["published"]}'
            for name, count in columns.items()
            if count['published'] not in (None, count['pictures'])
        ]
        words = protocol.heading.partition('Protocol:')[2] or protocol.heading
        yield f'**{protocol.title}** (`{protocol.name}`). {" ".join(words.split())} {"; ".join(other)}'.strip()
