"""Averages, Markdown and CSV on hand-made rows."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from basicsr_unirestorer.clustering.quality import purity
from basicsr_unirestorer.inference import tables


def row(dataset: str, degradation: str, routed: float, level: int, node: str, labels: str, leaf_labels: str) -> dict:
    return {
        'dataset': dataset,
        'degradation': degradation,
        'routed': routed,
        'level': level,
        'node': node,
        'labels': labels,
        'leaf_labels': leaf_labels,
    }


ROWS = [
    row('a', 'large rain', 20.0, 2, 'l2_00', 'rain', 'rain'),
    row('a', 'large rain', 22.0, 0, 'l0_00', 'rain', 'noise'),
    row('a', 'small rain', 30.0, 2, 'l2_01', 'rain', 'rain'),
    row('b', 'thick haze', 10.0, 1, 'l1_00', 'haze', ''),
]


def test_summary_averages_pictures_by_degradation_then_by_test_set():
    summary = tables.summarise(ROWS, ['routed'])
    assert [(row['dataset'], row['degradation'], row['pictures'], row['routed']) for row in summary] == [
        ('a', 'large rain', 2, 21.0),
        ('a', 'small rain', 1, 30.0),
        ('a', 'average', 3, 24.0),
        ('b', 'thick haze', 1, 10.0),
        ('b', 'average', 1, 10.0),
    ]
    assert summary[2]['levels'] == {0: pytest.approx(1 / 3), 2: pytest.approx(2 / 3)}


def test_table_is_markdown_with_one_line_a_row():
    lines = tables.table(tables.summarise(ROWS, ['routed']), ['routed']).splitlines()
    assert len(lines) == 2 + 5
    assert len({line.count('|') for line in lines}) == 1
    assert lines[2] == '| a | large rain | 2 | 21.00 | 0: 50%, 2: 50% |'
    assert lines[4] == '| a | **average** | 3 | **24.00** | 0: 33%, 2: 67% |'


def test_missing_and_infinite_values_are_told_apart():
    rows = [{**ROWS[0], 'extra': float('inf')}, ROWS[1], {**ROWS[2], 'extra': 1.0}]
    summary = tables.summarise(rows, ['extra', 'nothing'])
    assert [row['extra'] for row in summary] == [float('inf'), 1.0, float('inf')]
    assert '| ∞ | - |' in tables.table(summary, ['extra', 'nothing'])
    assert json.loads(json.dumps(tables.plain(summary), allow_nan=False))[0]['extra'] == 'inf'


def test_routing_counts_experts_of_each_degradation():
    counts = tables.routing(ROWS)
    assert counts == {
        'a': {'large rain': {'l0_00': 1, 'l2_00': 1}, 'small rain': {'l2_01': 1}},
        'b': {'thick haze': {'l1_00': 1}},
    }
    lines = tables.routing_table(counts).splitlines()
    assert lines[0] == '| test set | degradation | l0_00 | l1_00 | l2_00 | l2_01 |'
    assert lines[2] == '| a | large rain | 50% |  | 50% |  |'


def test_leaf_type_accuracy_counts_exact_matches_of_known_types():
    assert tables.leaf_type_accuracy(ROWS) == 0.5
    assert tables.leaf_type_accuracy([{**ROWS[0], 'labels': ''}]) is None


def test_csv_holds_every_entry_of_every_row():
    text = tables.to_csv([{'a': 1, 'b': 'x,y'}, {'a': 2, 'c': float('inf')}])
    assert list(csv.DictReader(io.StringIO(text))) == [
        {'a': '1', 'b': 'x,y', 'c': ''},
        {'a': '2', 'b': '', 'c': 'inf'},
    ]


def test_purity_is_the_share_of_each_groups_commonest_label():
    assert purity(np.array([0, 0, 0, 1]), ['x', 'x', 'y', 'y']) == 0.75
    assert purity(np.array([0, 1]), ['x', 'x']) == 1
