"""Every backbone as an expert: a short training lowers its loss, and one that was interrupted ends the same."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.archs.building import load_into, load_params, seeded_network
from tests.pipeline_fixtures import assert_same_weights, interrupted_after, latest_weights, stage_options, train
from tests.release_fixtures import TOY_EXPERTS

NAFNET = {'type': 'NAFNetExpert', 'width': 4, 'enc_blk_nums': [1, 1], 'dec_blk_nums': [1, 1]}
BACKBONES = [NAFNET, *TOY_EXPERTS]
STEPS = 12


def name_of(network: dict) -> str:
    return network['type'] + network.get('LayerNorm_type', '')


@pytest.fixture(scope='module')
def left_alone(smoke_demo, tmp_path_factory):
    """Return the folder of a root expert trained without interruption, each backbone once."""

    @functools.cache
    def folder(number: int):
        path = tmp_path_factory.mktemp('backbone')
        assert train(path, options(smoke_demo, BACKBONES[number])) == 0
        return path

    return folder


def options(demo, network: dict) -> dict:
    return stage_options(
        demo,
        'experts',
        {
            'experts.default': network,
            'datasets.train.expert_batch.experts': ['l0_00'],
            'datasets.train.expert_batch.steps_per_level': [STEPS, 0, 0],
            'datasets.train.num_worker_per_gpu': 0,
            'train.total_iter': STEPS,
            'train.optim_g.lr': 2e-3,
            'logger.save_checkpoint_freq': 1,
        },
    )


@pytest.fixture(scope='module')
def batch(smoke_demo, registered):
    """Sixteen crops of the training samples."""
    from basicsr.data import build_dataset

    data = stage_options(smoke_demo, 'experts')['datasets']['train']
    data = {key: value for key, value in data.items() if key not in ('expert_batch', 'tree', 'assignments')}
    dataset = build_dataset({**data, 'phase': 'train', 'scale': 1})
    items = [dataset[index] for index in range(16)]
    return torch.stack([item['lq'] for item in items]), torch.stack([item['gt'] for item in items])


@pytest.mark.parametrize('number', range(len(BACKBONES)), ids=map(name_of, BACKBONES))
def test_training_lowers_the_loss(smoke_demo, left_alone, batch, number):
    opt = options(smoke_demo, BACKBONES[number])
    lq, gt = batch
    net = seeded_network(BACKBONES[number], opt['manual_seed'], 'l0_00')
    trained = load_params(left_alone(number) / 'experiments/demo_experts/models/net_l0_00_latest.pth', 'params')
    with torch.no_grad():
        before = F.l1_loss(net(lq), gt).item()
        after = F.l1_loss(load_into(net, trained, 'training')(lq), gt).item()
    assert after < 0.95 * before


@pytest.mark.parametrize('number', range(len(BACKBONES)), ids=map(name_of, BACKBONES))
def test_interrupted_training_ends_like_one_left_alone(smoke_demo, left_alone, tmp_path, number):
    opt = options(smoke_demo, BACKBONES[number])
    with interrupted_after(opt['model_type'], 7):
        assert train(tmp_path, opt) == 130
    assert train(tmp_path, opt, '--auto_resume') == 0
    assert_same_weights(latest_weights(tmp_path, 'demo_experts'), latest_weights(left_alone(number), 'demo_experts'))
