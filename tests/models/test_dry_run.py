"""``train --dry-run``: costs of a step, and plans for numbers of processes, without data and without files written."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from basicsr_unirestorer import train as train_door
from basicsr_unirestorer.clustering.tree import DegradationTree, Node
from basicsr_unirestorer.option_files import options_dir
from basicsr_unirestorer.preflight import read_options
from tests.pipeline_fixtures import assert_one_sentence, change, write_options

SMALL = {'type': 'NAFNetExpert', 'width': 4, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]}


def small_options(**changes) -> dict:
    """The experts stage for a CPU with a network of next to nothing."""
    opt = yaml.safe_load((options_dir() / 'tiny' / 'unirestorer_experts.yml').read_text())
    return change(opt, {'experts.default': SMALL, 'datasets.train.gt_size': 16, **changes})


def dry(folder, capsys, opt: dict, *args: str) -> str:
    """Run it; returns what it printed, and checks that nothing was written."""
    options = write_options(folder, opt)
    before = set(folder.rglob('*'))
    assert train_door.main(['-opt', str(options), '--dry-run', *args], root=folder) == 0
    assert set(folder.rglob('*')) == before
    return capsys.readouterr().out


def test_thirty_experts_of_the_release_are_balanced(tmp_path, capsys, registered):
    """The full-size networks on small crops: what a step costs in proportion, and so the plan, hardly changes."""
    opt = read_options(options_dir() / 'unirestorer_experts.yml')
    opt = json.loads(json.dumps(change(opt, {'datasets.train.gt_size': 32})))
    result = json.loads(dry(tmp_path, capsys, opt, '--ranks', '1,4,8', '--json'))
    restormer, retinex = result['networks']
    assert (restormer['network'], retinex['network']) == ('RestormerExpert', 'RetinexFormerExpert')
    assert len(restormer['used_by']) + len(retinex['used_by']) == 30 and restormer['parameters'] == 26_126_644
    assert restormer['macs'] > 5 * retinex['macs'] and restormer['seconds'] > retinex['seconds'] > 0
    assert [plan['ranks'] for plan in result['plans']] == [1, 4, 8]
    for plan in result['plans']:
        assert plan['balance_by_macs'] <= 1.10
        trained = {e['name']: e['steps'] for process in plan['processes'] for e in process['experts']}
        assert len(trained) == 30 and sum(trained.values()) == opt['train']['total_iter']
    ends = [plan['end'] for plan in result['plans']]
    assert ends[0] / ends[1] > 4 / 1.2 and ends[0] / ends[2] > 8 / 1.2
    assert 'no experiments/02_Tree' in ' '.join(result['notes']) and 'low_light' in ' '.join(result['notes'])


def test_text_says_what_json_says(tmp_path, capsys, registered):
    opt = small_options()
    text = dry(tmp_path, capsys, opt, '--ranks', '2,1')
    result = json.loads(dry(tmp_path, capsys, opt, '--ranks', '2,1', '--json'))
    cost = result['networks'][0]
    assert cost['weights'] == cost['gradients'] == cost['ema'] == 4 * cost['parameters']
    assert 8 * cost['parameters'] <= cost['optimizer'] <= 9 * cost['parameters']  # two moments, and step counters
    assert cost['peak'] is None and cost['samples'] == 1
    assert 'tree of the release (1, 7, 22)' in text and '30 nodes, l0_00 ...' in text
    assert text.index('1 process: ') < text.index('2 processes: ')
    assert 'l0_00 3,000 with rank 1, l1_00 1,000' in text.replace('\n', ' ')


def test_lora_trains_few_parameters(tmp_path, capsys, registered):
    opt = small_options(**{'experts.default': {**SMALL, 'width': 32}, 'experts.lora': {'rank': 1}})
    full, lora = json.loads(dry(tmp_path, capsys, opt, '--json'))['networks']
    assert (full['used_by'], len(lora['used_by'])) == (['l0_00'], 29)
    assert lora['network'] == 'NAFNetExpert + LoRA 1' and lora['macs'] == full['macs']
    assert lora['trainable'] < full['trainable'] / 3 and lora['optimizer'] < full['optimizer'] / 3


def test_own_tree_chosen_experts_and_what_is_done(tmp_path, capsys, registered):
    """With --auto_resume only what is left of the experiment is planned."""
    nodes = [Node('l0_00', 0, -1), *(Node(f'l1_{i:02d}', 1, 0) for i in range(3))]
    DegradationTree(tuple(nodes), np.zeros((4, 1), np.float32)).save(tmp_path / 'degradation_tree.json')
    opt = small_options(
        **{
            'datasets.train.tree': str(tmp_path / 'degradation_tree.json'),
            'datasets.train.expert_batch.steps_per_level': [30, 20],
            'train.experts': ['l0_00', 'l1_01', 'l1_02'],
        }
    )
    models = tmp_path / 'experiments' / opt['name'] / 'models'
    models.mkdir(parents=True)
    (models / 'net_l0_00_latest.pth').touch()
    for args, left in (((), ['l0_00', 'l1_01', 'l1_02']), (('--auto_resume',), ['l1_01', 'l1_02'])):
        result = json.loads(dry(tmp_path, capsys, opt, '--json', *args))
        assert [e['name'] for e in result['plans'][0]['processes'][0]['experts']] == left
        assert not any('tree' in note for note in result['notes'])


@pytest.mark.parametrize('stage', ['encoder', 'routing'])
def test_other_stages_are_measured_too(stage, tmp_path, capsys, registered):
    opt = yaml.safe_load((options_dir() / 'tiny' / f'unirestorer_{stage}.yml').read_text())
    opt['datasets']['train'] |= {'gt_size': 32, 'batch_size_per_gpu': 4}
    result = json.loads(dry(tmp_path, capsys, opt, '--json'))
    costs = {cost['used_by'][0]: cost for cost in result['networks']}
    assert costs['network_g']['seconds'] > 0 and costs['network_g']['optimizer'] > costs['network_g']['gradients'] > 0
    if stage == 'routing':
        frozen = costs['experts.default']
        assert frozen['seconds'] is None and frozen['trainable'] == 0 and frozen['macs'] > 0


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'datasets.train.expert_batch.steps_per_level': [1, 2]}, 'steps_per_level has 2 numbers'),
        ({'train.experts': ['l1_77']}, "no node 'l1_77'"),
        ({'train.experts': 'l1_00'}, 'give a list of nodes'),
        ({'train.experts': ['l1_00'], 'datasets.train.expert_batch.experts': ['l1_01']}, 'write one'),
    ],
)
def test_wrong_options_end_in_a_sentence(changes, message, tmp_path, capsys, registered):
    options = write_options(tmp_path, small_options(**changes))
    assert train_door.main(['-opt', str(options), '--dry-run'], root=tmp_path) == 1
    assert_one_sentence(capsys.readouterr().err, message)
