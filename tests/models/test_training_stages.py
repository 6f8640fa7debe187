"""The training models: what an expert starts from, validation, and what they refuse before they train."""

from __future__ import annotations

import re

import pytest
import torch

from basicsr_unirestorer.archs.building import load_params
from basicsr_unirestorer.clustering.tree import DegradationTree
from tests.pipeline_fixtures import assert_one_sentence, assert_same_weights, latest_weights, stage_options, train

ONE_CHILD = {
    'datasets.train.expert_batch.experts': ['l1_00'],
    'datasets.train.num_worker_per_gpu': 0,
    'train.total_iter': 2,
}
NO_ALSO = {'datasets.train.route_also': None}
ONE_CROP = {'encoder.num_crops': 1}  # a quicker look at each picture
SHORT = {'datasets.train.num_worker_per_gpu': 0, 'train.total_iter': 1, 'train.scheduler.periods': [1]}


def child(demo, **changes) -> dict:
    """Options that train the first node below the root, whose parent was trained by the demo."""
    parents = str(demo / 'experiments' / 'demo_experts' / 'models')
    return stage_options(demo, 'experts', {**ONE_CHILD, 'path.pretrain_network_experts': parents, **changes})


def log_of(folder, name: str) -> str:
    return '\n'.join(path.read_text() for path in sorted((folder / 'experiments' / name).glob('*.log')))


# ------------------------------------------------------------------------------------------------- experts


def test_child_starts_from_its_parents_average(smoke_demo, tmp_path):
    """With a learning rate of zero a child is still what it started from."""
    opt = child(smoke_demo, **{'train.optim_g.lr': 0.0, 'train.scheduler.eta_min': 0.0})
    assert train(tmp_path, opt) == 0
    ours = load_params(tmp_path / 'experiments/demo_experts/models/net_l1_00_latest.pth', 'params')
    parent = smoke_demo / 'experiments/demo_experts/models/net_l0_00_latest.pth'
    assert all(torch.equal(ours[key], value) for key, value in load_params(parent, 'params_ema').items())
    assert any(not torch.equal(ours[key], value) for key, value in load_params(parent, 'params').items())


def test_child_may_start_afresh(smoke_demo, tmp_path):
    """A fresh start needs no trained parent."""
    fresh = {'train.init_from_parent': False, 'path.pretrain_network_experts': None}
    assert train(tmp_path, child(smoke_demo, **fresh)) == 0
    ours = load_params(tmp_path / 'experiments/demo_experts/models/net_l1_00_latest.pth', 'params')
    parent = load_params(smoke_demo / 'experiments/demo_experts/models/net_l0_00_latest.pth')
    assert any(not torch.equal(ours[key], value) for key, value in parent.items())


def test_child_with_another_network_needs_nothing_of_its_parent(smoke_demo, tmp_path):
    other = {'type': 'NAFNetExpert', 'width': 2, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]}
    assert train(tmp_path, child(smoke_demo, **{'experts.overrides': {'l1_00': other}})) == 0
    assert load_params(tmp_path / 'experiments/demo_experts/models/net_l1_00_latest.pth')['intro.weight'].shape[0] == 2


def test_expert_trained_alone_equals_the_one_trained_among_others(smoke_demo, tmp_path):
    family = {'datasets.train.expert_batch.experts': ['l0_00', 'l1_00', 'l1_01'], 'train.total_iter': 7, 'name': 'all'}
    assert train(tmp_path, child(smoke_demo, **family)) == 0
    alone = {'path.pretrain_network_experts': str(tmp_path / 'experiments' / 'all' / 'models'), 'name': 'alone'}
    alone |= {'datasets.train.expert_batch.experts': ['l1_01']}
    assert train(tmp_path, child(smoke_demo, **alone)) == 0
    among = latest_weights(tmp_path, 'all')
    assert_same_weights(latest_weights(tmp_path, 'alone'), {'net_l1_01_latest.pth': among['net_l1_01_latest.pth']})


# ------------------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize(
    ('stage', 'changes', 'reported'),
    [
        ('encoder', {'datasets.train.batch_size_per_gpu': 4}, r'caption_accuracy [01]\.\d+, type_accuracy [01]\.\d+'),
        ('experts', {**ONE_CHILD, 'datasets.train.expert_batch.experts': ['l0_00'], 'train.total_iter': 3}, 'psnr: '),
        ('routing', {'datasets.train.batch_size_per_gpu': 2, **ONE_CROP}, 'psnr: '),
    ],
)
def test_validation_on_whole_pictures_is_logged(smoke_demo, tmp_path, stage, changes, reported):
    data = stage_options(smoke_demo, 'benchmark')['datasets']['test_1']
    psnr = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}
    short = {} if stage == 'experts' else SHORT
    opt = stage_options(smoke_demo, stage, {**short, 'datasets.val': data, **changes})
    opt['val'] = {'val_freq': 10, 'save_img': False, 'metrics': psnr}
    assert train(tmp_path, opt) == 0
    assert re.search(f'Validation {data["name"]}.*{reported}', log_of(tmp_path, opt['name']), re.DOTALL)


# ------------------------------------------------------------------------------------------------- refusals


def refused(folder, capsys, opt: dict, message: str) -> None:
    capsys.readouterr()
    assert train(folder, opt) == 1
    assert_one_sentence(capsys.readouterr().err, message)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'train.total_iter': 10}, r'total_iter is 10, but .* 33 steps over 16 experts; write total_iter: 33'),
        (
            {'datasets.train.expert_batch.experts': ['l1_00'], 'train.total_iter': 2},
            r'expert of the node l0_00 is not trained \(no net_l0_00_latest.pth .*write init_from_parent: false',
        ),
        ({'datasets.train.expert_batch.experts': ['l1_0']}, "no node 'l1_0'. Did you mean 'l1_0"),
        ({'datasets.train.expert_batch.steps_per_level': [3, 2]}, 'steps_per_level has 2 numbers'),
        ({'datasets.train.expert_batch': None}, 'needs datasets.train.tree, assignments and expert_batch'),
        ({'datasets.train.batch_size_per_gpu': 2}, 'write batch_size_per_gpu: 1'),
        ({'datasets.train.seed': 5}, 'built from other samples than these'),
        ({'experts.default': {'type': 'NAFNetExprt'}}, "Did you mean 'NAFNetExpert'"),
        (
            {'experts.default': {'type': 'NAFNetExpert', 'widht': 4}},
            "Unknown option 'experts.default.widht'. Did you mean 'width'",
        ),
        ({'experts.defalt': {}}, "Unknown option 'experts.defalt'. Did you mean 'default'"),
        ({'experts.default': None}, 'experts.default is missing'),
        ({'experts': None}, 'experts.default is missing'),
        ({'experts.by_label': {'nois': {}}}, "Unknown option 'experts.by_label.nois'. Did you mean 'noise'"),
        ({'experts.overrides': {'l2_7': {}}}, "Unknown option 'experts.overrides.l2_7'. Did you mean 'l2_07'"),
        ({'experts.overrides': {'l2_07': {'type': 'Unet'}}}, "experts.overrides.l2_07.type' names 'Unet'"),
        ({'train.grad_clp': 1}, "Unknown option 'train.grad_clp'. Did you mean 'grad_clip'"),
        (
            {'train.optim_g.lr': 1e30, 'train.grad_clip': None, 'train.max_bad_steps': 1},
            r'loss of expert l0_00 at its step . became (nan|inf) \(samples .*#',
        ),
    ],
)
def test_experts_stage_refuses(smoke_demo, tmp_path, capsys, changes, message):
    opt = stage_options(smoke_demo, 'experts', {'datasets.train.num_worker_per_gpu': 0, **changes})
    refused(tmp_path, capsys, opt, message)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'encoder.weights': None}, 'encoder.weights is missing'),
        ({'encoder.weights': 'nowhere.pth'}, 'no weights at nowhere.pth'),
        ({'encoder.width': 24}, 'does not fit CompactDegradationEncoder'),
        ({'encoder.type': 'CompactDegradationEncodr'}, "Did you mean 'CompactDegradationEncoder'"),
        ({'experts.default': {'type': 'NAFNetExprt'}}, "experts.default.type' names 'NAFNetExprt'"),
        ({'experts.weights': None}, 'experts.weights is missing'),
        ({'experts.weights': 'nowhere'}, 'no trained expert nowhere/net_l0_00_latest.pth'),
        ({'network_g.embed_dim': 256}, 'built on 512-d embeddings but the router takes 256-d'),
        ({'datasets.train.assignments': None}, 'needs datasets.train.tree and assignments'),
        ({'train.ema_decay': 0.9}, "Unknown option 'train.ema_decay'"),
        ({'train.leaf_opt': {'loss_weight': 1}}, "Unknown option 'train.leaf_opt'.* Allowed: .*objective"),
        ({'train.objective': 'regrets'}, "objective is 'regrets'; write one of paper, regret"),
        (
            {'train.objective': 'paper'},
            r'objective is paper, which reads a Mixed\w+, but .* is Routing',
        ),
        ({'train.dg_opt': {'type': 'DegradationGranularityLoss'}}, 'train.dg_opt belongs to objective: paper; remove'),
        ({'datasets.train.type': 'MixedDegradationLMDBDataset', **NO_ALSO}, 'regret, which reads a RoutingSamples'),
        ({'datasets.train.route_also': 'tiny_mix'}, "route_also' is 'tiny_mix', expected a list of recipes"),
        ({'datasets.train.route_also': [{'recipes': 'tiny'}]}, "Unknown option 'datasets.train.route_also.0.recipes'"),
        ({'datasets.train.route_also': [{'variants': 2}]}, 'route_also.0 lacks a recipe'),
        ({'datasets.train.route_also': ['tiny_mux']}, "tiny_mux.*Did you mean 'tiny_mix'"),
        ({'datasets.train.expert_batch': {'batch_size': 2}}, 'expert_batch belongs to the experts stage'),
        ({'experts.cache_mbs': 3}, "Unknown option 'experts.cache_mbs'. Did you mean 'cache_mb'"),
    ],
)
def test_routing_stage_refuses(smoke_demo, tmp_path, capsys, changes, message):
    refused(tmp_path, capsys, stage_options(smoke_demo, 'routing', {**SHORT, **changes}), message)


def test_routing_refuses_another_encoder_than_the_trees(smoke_demo, tmp_path, capsys):
    params = load_params(smoke_demo / 'experiments/demo_encoder/models/net_g_latest.pth')
    torch.save({'params': {key: value + 1e-3 for key, value in params.items()}}, tmp_path / 'other.pth')
    opt = stage_options(smoke_demo, 'routing', {**SHORT, 'encoder.weights': str(tmp_path / 'other.pth')})
    refused(tmp_path, capsys, opt, 'was built with another encoder than .*other.pth')


def test_routing_refuses_a_router_of_another_tree(smoke_demo, tmp_path, capsys):
    DegradationTree.star(3, embed_dim=512).save(tmp_path / 'degradation_tree.json')
    opt = stage_options(smoke_demo, 'routing', {**SHORT, 'network_g.tree': str(tmp_path)})
    refused(tmp_path, capsys, opt, 'network_g knows 3 leaves and 2 levels, but the tree has 10 and 3')


def test_damaged_weights_are_refused(smoke_demo, tmp_path, capsys):
    (tmp_path / 'damaged.pth').write_bytes(b'PK' + bytes(100))
    opt = stage_options(smoke_demo, 'routing', {**SHORT, 'encoder.weights': str(tmp_path / 'damaged.pth')})
    refused(tmp_path, capsys, opt, 'damaged.pth cannot be read as weights')


def test_testing_model_does_not_train(smoke_demo, tmp_path, capsys):
    opt = stage_options(smoke_demo, 'encoder', {**SHORT, 'model_type': 'UniRestorerModel'})
    refused(tmp_path, capsys, opt, 'UniRestorerModel only tests')
