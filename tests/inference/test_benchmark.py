"""The benchmark: averages and accuracies on hand-made rows, and what it refuses."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from basicsr_unirestorer.clustering.quality import purity
from basicsr_unirestorer.clustering.tree import Node
from basicsr_unirestorer.inference import benchmark
from tests.pipeline_fixtures import assert_refused, stage_options, write_options

ROWS = [
    {'dataset': 'a', 'caption': 'large rain', 'routed': 20.0, 'level': 2, 'labels': 'rain', 'leaf_labels': 'rain'},
    {'dataset': 'a', 'caption': 'large rain', 'routed': 22.0, 'level': 0, 'labels': 'rain', 'leaf_labels': 'noise'},
    {'dataset': 'a', 'caption': 'small rain', 'routed': 30.0, 'level': 2, 'labels': 'rain', 'leaf_labels': 'rain'},
    {'dataset': 'b', 'caption': 'thick haze', 'routed': 10.0, 'level': 1, 'labels': 'haze', 'leaf_labels': ''},
]


def test_summary_averages_pictures_by_caption_then_by_test_set():
    summary = benchmark.summarise(ROWS, ['routed'])
    assert [(row['dataset'], row['caption'], row['pictures'], row['routed']) for row in summary] == [
        ('a', 'large rain', 2, 21.0),
        ('a', 'small rain', 1, 30.0),
        ('a', 'average', 3, 24.0),
        ('b', 'thick haze', 1, 10.0),
        ('b', 'average', 1, 10.0),
    ]
    assert summary[2]['levels'] == {0: pytest.approx(1 / 3), 2: pytest.approx(2 / 3)}


def test_table_is_markdown_with_one_line_a_row():
    lines = benchmark.table(benchmark.summarise(ROWS, ['routed']), ['routed']).splitlines()
    assert len(lines) == 2 + 5
    assert len({line.count('|') for line in lines}) == 1
    assert lines[2] == '| a | large rain | 2 | 21.00 | 0: 50%, 2: 50% |'
    assert lines[4] == '| a | **average** | 3 | **24.00** | 0: 33%, 2: 67% |'


def test_leaf_type_accuracy_counts_exact_matches():
    assert benchmark.leaf_type_accuracy(ROWS) == 0.5


def test_dominant_labels_are_those_of_most_samples():
    mixed = Node('l1_00', 1, 0, count=4, captions={'thick haze, large noise': 3, 'large rain': 1})
    assert benchmark.dominant_labels(mixed) == 'haze+noise'
    assert benchmark.dominant_labels(Node('l1_01', 1, 0, count=2, captions={'thick haze': 1, 'large rain': 1})) == ''


def test_purity_is_the_share_of_each_groups_commonest_label():
    assert purity(np.array([0, 0, 0, 1]), ['x', 'x', 'y', 'y']) == 0.75
    assert purity(np.array([0, 1]), ['x', 'x']) == 1


def test_to_uint8_clamps_and_rounds():
    picture = torch.tensor([-1.0, 0.5, 2.0]).reshape(1, 3, 1, 1)
    assert benchmark.to_uint8(picture).tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'orakle': 'all'}, "Unknown option 'options.orakle'. Did you mean 'oracle'"),
        ({'oracle': 'everything'}, "oracle is 'everything'; write all or caption"),
        ({'bundle': None}, "Option 'options.bundle' is missing"),
        ({'bundle': 'nowhere'}, 'nowhere is no bundle'),
        ({'mode': 'automatic'}, "There is no mode 'automatic'"),
        ({'rivals': {'x': {'network': {'type': 'NAFNetExprt'}, 'weights': 'y'}}}, "Did you mean 'NAFNetExpert'"),
        ({'rivals': {'x': {'network': {'type': 'NAFNetExpert'}, 'weights': 'y.pth'}}}, 'no weights at y.pth'),
        ({'rivals': {'x': {'network': {'type': 'NAFNetExpert'}}}}, "Option 'rivals.x.weights' is missing"),
    ],
)
def test_wrong_options_are_one_sentence(smoke_demo, tmp_path, monkeypatch, capsys, changes, message):
    monkeypatch.chdir(tmp_path)
    path = write_options(tmp_path, stage_options(smoke_demo, 'benchmark', changes))
    benchmark_log_free(capsys, path, message)
    assert [entry.name for entry in tmp_path.iterdir()] == ['options.yml']


def benchmark_log_free(capsys, path, message: str) -> None:
    assert_refused(capsys, ['benchmark', '-opt', path], message)


def test_missing_option_file_is_one_sentence(capsys):
    assert_refused(capsys, ['benchmark', '-opt', 'nowhere.yml'], 'nowhere.yml')


def test_oracle_of_the_caption_runs_fewer_experts(smoke_demo, tmp_path, registered):
    """Without ``best node``; the columns that both have agree with the demo's table."""
    opt = stage_options(smoke_demo, 'benchmark', {'oracle': 'caption', 'rivals': None})
    folder, _, rows = benchmark.run(opt, tmp_path)
    assert 'best node' not in rows[0] and 'one for all' not in rows[0]
    with open(smoke_demo / 'results' / 'demo_benchmark' / 'pictures.csv', newline='') as file:
        theirs = {row['sample_id'] + row['dataset']: row for row in csv.DictReader(file)}
    for row in rows:
        assert row['routed'] == pytest.approx(float(theirs[row['sample_id'] + row['dataset']]['routed']), abs=1e-3)
    assert json.loads((folder / 'summary.json').read_text())['oracle'] == 'caption'
