"""A tree of LoRA experts, one of them with a network of its own: trained, resumed, bundled, restored.

Their steps follow the size of their groups, and small groups take samples of their parents.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from basicsr_unirestorer.archs.building import load_params
from basicsr_unirestorer.archs.lora import lora_layers
from basicsr_unirestorer.archs.node_expert import build_expert, load_expert
from basicsr_unirestorer.cli import main
from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.inference.bundle import Bundle, replace_expert
from tests.pipeline_fixtures import assert_same_weights, interrupted_after, latest_weights, stage_options, train

OTHER = {'type': 'NAFNetExpert', 'width': 2, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]}
LORA = {'rank': 1, 'alpha': 2}
NETWORKS = {
    'datasets.train.num_worker_per_gpu': 0,
    'experts.lora': LORA,
    'experts.overrides': {'l1_01': OTHER},
}
CHANGES = {
    **NETWORKS,
    'datasets.train.expert_batch.steps_follow': 'proportional',  # from 1 to 4 steps a leaf
    'datasets.train.expert_batch.min_steps_share': 0.5,
    'datasets.train.expert_batch.enrich': {'below': 10, 'share': 0.5},
}


@pytest.fixture(scope='module')
def trained(smoke_demo, tmp_path_factory) -> Path:
    """Experts and bundle of the smoke demo with LoRA; tests read it and never write into it."""
    folder = tmp_path_factory.mktemp('lora')
    assert train(folder, stage_options(smoke_demo, 'experts', CHANGES)) == 0
    weights = {'experts.weights': str(folder / 'experiments/demo_experts/models')}
    short = {'train.total_iter': 1, 'train.scheduler.periods': [1]}
    assert train(folder, stage_options(smoke_demo, 'routing', {**NETWORKS, **weights, **short})) == 0
    return folder


def weights_of(folder: Path, name: str) -> dict:
    return load_params(folder / 'experiments' / 'demo_experts' / 'models' / f'net_{name}_latest.pth')


def network(folder: Path, name: str) -> nn.Module:
    """A node's network around its training files, factors beside their base."""
    bundle = bundle_of(folder)
    experts = {'default': bundle.content['experts']['l0_00'], 'lora': LORA, 'overrides': {'l1_01': OTHER}}
    net = build_expert(experts, bundle.tree, name, 0, partial(weights_of, folder), init_from_parent=False)
    return load_expert(net, weights_of(folder, name), name).eval()


def bundle_of(folder: Path) -> Bundle:
    return Bundle(folder / 'experiments' / 'demo_routing' / 'bundle')


def test_files_hold_factors_alone_below_the_root(trained):
    files = latest_weights(trained, 'demo_experts')
    assert len(files) == 16
    layers = lora_layers(network(trained, 'l1_00'))
    factors = {f'{layer}.{factor}' for layer in layers for factor in ('lora_A', 'lora_B')}
    for file, content in files.items():
        assert content.keys() == {'params', 'params_ema'}
        for state in content.values():
            if file in ('net_l0_00_latest.pth', 'net_l1_01_latest.pth'):
                assert 'intro.weight' in state and not any('lora' in key for key in state)
            else:
                assert state.keys() == factors
                assert any(value.any() for key, value in state.items() if key.endswith('lora_B'))  # it was trained


@torch.no_grad()
def test_the_bundle_restores_what_the_trained_networks_restore(trained):
    bundle = bundle_of(trained)
    lq = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    outputs = []
    for name in ('l0_00', 'l1_00', 'l1_01', 'l2_00', 'l2_09'):
        outputs.append(bundle.expert(name)(lq))
        assert torch.equal(outputs[-1], network(trained, name)(lq))
    assert not any(torch.equal(outputs[0], other) for other in outputs[1:])


def test_the_bundle_stores_factors(trained):
    bundle = bundle_of(trained)
    assert bundle.content['experts']['l2_00']['lora'] == LORA
    assert 'lora' not in bundle.content['experts']['l0_00'] and 'lora' not in bundle.content['experts']['l1_01']
    size = {path.stem: path.stat().st_size for path in (bundle.folder / 'experts').iterdir()}
    assert size['l2_00'] < size['l0_00'] / 2  # of the smallest network there is


def test_complexity_counts_factors_and_fused_work(trained, capsys):
    assert main(['tree', str(bundle_of(trained).folder), '--complexity', '--size', '32', '--json']) == 0
    rows = {row['part']: row for row in json.loads(capsys.readouterr().out)}
    factors = weights_of(trained, 'l2_00')
    assert rows['l2_00']['parameters'] == sum(value.numel() for value in factors.values())
    assert rows['l2_00']['macs'] == rows['l0_00']['macs'] != rows['l1_01']['macs']
    assert rows['l2_00']['network'] == 'NAFNetExpert + LoRA 1' and rows['l0_00']['network'] == 'NAFNetExpert'


def test_the_base_of_lora_experts_is_not_replaced(trained):
    bundle = bundle_of(trained)
    part = (bundle.content['experts']['l0_00'], lambda: weights_of(trained, 'l0_00'))
    before = (bundle.folder / 'bundle.yml').read_bytes()
    with pytest.raises(DataError, match=r'l0_00 is the base of 14 LoRA experts \(first: l1_00\)'):
        replace_expert(bundle.folder, 'l0_00', part)
    assert (bundle.folder / 'bundle.yml').read_bytes() == before


def test_a_resumed_lora_expert_ends_as_if_never_stopped(trained, tmp_path, smoke_demo):
    """The stop lies within a leaf, whose factors, average and optimizer come back."""
    some = ['l0_00', 'l1_00', 'l2_00']
    few = {'datasets.train.expert_batch.experts': some, 'train.total_iter': 9, 'logger.save_checkpoint_freq': 1}
    opt = stage_options(smoke_demo, 'experts', {**CHANGES, **few})
    with interrupted_after('UniRestorerExpertsModel', 7):
        train(tmp_path, opt)
    assert train(tmp_path, opt, '--auto_resume') == 0
    left_alone = latest_weights(trained, 'demo_experts')
    files = {file: left_alone[file] for file in (f'net_{name}_latest.pth' for name in some)}
    assert_same_weights(latest_weights(tmp_path, 'demo_experts'), files)


def test_routing_with_another_experts_block_is_refused(trained, smoke_demo, tmp_path, capsys):
    weights = {
        'experts.weights': str(trained / 'experiments/demo_experts/models'),
        'experts.overrides': {'l1_01': OTHER},
    }
    short = {'datasets.train.num_worker_per_gpu': 0, 'train.total_iter': 1, 'train.scheduler.periods': [1]}
    capsys.readouterr()
    assert train(tmp_path, stage_options(smoke_demo, 'routing', {**weights, **short})) == 1
    assert 'holds LoRA factors alone, but the options make this a whole network' in capsys.readouterr().err
