"""The report of a finished benchmark: its rows as records, and the pictures to show restored once more."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from basicsr_unirestorer.inference.benchmark_results import Result
from basicsr_unirestorer.inference.decision import Decision
from basicsr_unirestorer.inference.journal import write_aside
from basicsr_unirestorer.inference.metrics import to_uint8
from basicsr_unirestorer.inference.protocols import Case
from basicsr_unirestorer.inference.report import report_page
from basicsr_unirestorer.inference.report_pictures import Pictures, ReportEntry
from basicsr_unirestorer.inference.restorer import Restorer
from basicsr_unirestorer.inference.tables import MAIN, key_of

MEANINGS = {
    'root': 'is the expert that was trained on everything',
    'routed': 'the expert that the router chose',
    'by label': 'the expert of the true degradation',
    'best node': 'the best of all experts for each picture by its true PSNR',
    'regret': 'what the router lost against that one',
}
SHOWN = 30  # pictures are restored again for the page


def show(restorer: Restorer, case: Case) -> Pictures:
    """Restore a picture as it was measured: before, after, clean; RGB, uint8."""
    lq, gt = case.load()
    return to_uint8(lq), to_uint8(restorer(lq)), gt


def entry_of(result: Result, case: Case, row: dict) -> ReportEntry:
    """Turn a measured row into a record of the report."""
    tree = result.contest.tree
    node = tree.nodes[tree.node_id(row['node'])]
    decision = Decision(
        row['node'], row['leaf'], row['leaf_confidence'], row['level'], row['level_confidence'], node.labels
    )
    return ReportEntry(
        case.name,
        decision,
        partial(show, result.contest.restorer, case),
        case.dataset,
        case.degradation,
        {column: row[column] for column in result.columns if column in row},
        row['leaf_labels'] == row['labels'] if row['labels'] else None,
        {metric: _values(row, result.contest.methods, metric) for metric in case.metrics if metric != MAIN},
    )


def _values(row: dict, methods: list[str], metric: str) -> dict[str, float]:
    return {method: row[key] for method in methods if (key := key_of(method, metric)) in row}


def write_benchmark_report(
    result: Result, path: Path, title: str = '', intro: str = '', tree_picture: Path | None = None
) -> None:
    """Write the page of a benchmark; raises DataError where it cannot be written."""
    facts = result.facts
    told = {protocol.title: protocol.heading.partition('Protocol:')[2] for protocol in result.protocols}
    told |= {
        'Bundle': f'{facts["bundle"]}, weights {facts["weights_fingerprint"]}, tree {facts["tree_fingerprint"]}',
        'Routing': f'mode {facts["mode"]}, {facts["top_k"]} expert(s) a picture, oracle {facts["oracle"]}',
        **{f'Rival {name}': f'weights {rival["weights_fingerprint"]}' for name, rival in facts['rivals'].items()},
        'Device': facts['device'],
        'Versions': ', '.join(f'{name} {version}' for name, version in facts['versions'].items()),
    }
    words = '; '.join(f'"{column}" {meaning}' for column, meaning in MEANINGS.items() if column in result.columns) + '.'
    records = [entry_of(result, case, row) for case, row in zip(result.cases, result.rows, strict=True)]
    tree = result.contest.tree
    title = title or f'Benchmark: {result.folder.name}'
    write_aside(path, report_page(records, title, intro or words, tree, result.columns, told, SHOWN, tree_picture))
