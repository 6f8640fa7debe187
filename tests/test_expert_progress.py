"""``plan.json`` of an experts stage, and the tree drawn with it."""

from __future__ import annotations

import json

import pytest

from basicsr_unirestorer import cli
from basicsr_unirestorer.clustering.expert_schedule import schedule
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.expert_files import ExpertFiles
from basicsr_unirestorer.expert_progress import write_plan
from basicsr_unirestorer.models.division import Division
from tests.pipeline_fixtures import assert_refused

STEPS = {'l0_00': 40, 'l1_00': 20, 'l1_01': 20}


@pytest.fixture
def experiment(tmp_path):
    """An experiment whose root is finished, and whose first child stands at step 5 of 20."""
    DegradationTree.star(2).save(tmp_path / 'degradation_tree.json')
    files = ExpertFiles(tmp_path / 'run')
    for folder in ('models', 'training_states'):
        (files.root / folder).mkdir(parents=True)
    for path in (files.finished('l0_00'), files.weights('l1_00', 5), files.state('l1_00', 5)):
        path.touch()
    return files.root


def divided(names: list[str], ranks: int) -> Division:
    steps = {name: STEPS[name] for name in names}
    parents = {'l0_00': None, 'l1_00': 'l0_00', 'l1_01': 'l0_00'}
    return Division(steps, dict.fromkeys(names, 0), schedule({n: float(s) for n, s in steps.items()}, parents, ranks))


def test_tree_shows_bars_steps_and_ranks(experiment, capsys):
    write_plan(experiment, experiment.parent / 'degradation_tree.json', STEPS, divided(list(STEPS), 2))
    assert cli.main(['tree', '--progress', str(experiment)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        'l0_00      [####################] 40/40  finished',
        '├── l1_00  [#####---------------] 5/20  rank 0',
        '└── l1_01  [--------------------] 0/20  rank 1',
        '1 of 3 experts finished, 45 of 80 steps (56%)',
    ]
    assert cli.main(['tree', '--progress', str(experiment), '--json']) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row['done'], row['finished']) for row in rows] == [(40, True), (5, False), (0, False)]


def test_jobs_that_share_an_experiment_keep_each_others_plan(experiment):
    tree = experiment.parent / 'degradation_tree.json'
    write_plan(experiment, tree, STEPS, divided(['l1_00'], 1))
    write_plan(experiment, tree, STEPS, divided(['l1_01'], 1))
    plan = json.loads((experiment / 'plan.json').read_text())
    assert [stint['name'] for stint in plan['stints']] == ['l1_00', 'l1_01'] and plan['steps'] == STEPS
    assert [path.name for path in experiment.glob('plan*')] == ['plan.json']


def test_no_plan_or_another_tree_is_told(experiment, capsys):
    assert_refused(capsys, ['tree', '--progress', experiment], 'no readable plan.json')
    (experiment / 'plan.json').write_text('{"tree": ')
    assert_refused(capsys, ['tree', '--progress', experiment], 'no readable plan.json')
    write_plan(experiment, experiment.parent / 'degradation_tree.json', STEPS, divided(list(STEPS), 1))
    DegradationTree.star(5).save(experiment.parent / 'degradation_tree.json')
    assert_refused(capsys, ['tree', '--progress', experiment], 'made for another tree')
