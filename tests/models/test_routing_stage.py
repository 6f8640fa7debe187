"""The routing stage: what the two objectives learn, what is measured when, and what the bundle gets beside weights."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
import yaml

from basicsr_unirestorer.archs.unirestorer_arch import UniRestorer
from tests.pipeline_fixtures import assert_same_weights, interrupted_after, latest_weights, stage_options, train

QUICK = {
    'datasets.train.gt_size': 32,
    'datasets.train.num_worker_per_gpu': 0,
    'encoder.crop_size': 32,
    'encoder.num_crops': 1,
    'network_g.depth': 1,
    'train.total_iter': 2,
    'logger.print_freq': 1,
}
PAPER = {
    **QUICK,
    'train.objective': 'paper',
    'datasets.train.type': 'MixedDegradationLMDBDataset',
    'datasets.train.route_also': None,
    'datasets.train.batch_size_per_gpu': 4,
    'train.total_iter': 4,
    'train.scheduler.periods': [4],
    'logger.save_checkpoint_freq': 1,
}


def log_of(folder) -> str:
    return '\n'.join(path.read_text() for path in sorted((folder / 'experiments' / 'demo_routing').glob('*.log')))


@pytest.fixture
def measured(monkeypatch, registered) -> list[int]:
    """How many samples each call of a test measured."""
    from basicsr_unirestorer.models.routing_table import Measurement

    counts: list[int] = []
    stock = Measurement.__call__

    def call(self, batches):
        counts.append(sum(len(batch['leaf']) for batch in batches))
        return stock(self, batches)

    monkeypatch.setattr(Measurement, '__call__', call)
    return counts


def test_regret_measures_once_and_then_needs_no_expert(smoke_demo, tmp_path, measured):
    opt = stage_options(smoke_demo, 'routing', QUICK)
    assert train(tmp_path, opt) == 0
    assert measured == [50]  # 40 with a leaf, 10 without
    log = log_of(tmp_path)
    assert '50 samples measured, 10 of them without leaf' in log and 'Held out, ' in log
    first = latest_weights(tmp_path, 'demo_routing')
    time.sleep(1.1)  # BasicSR names the experiment that it sets aside by the second
    opt['train']['optim_g']['lr'] = 1e-4  # another training on the same table
    assert train(tmp_path, opt) == 0
    assert measured == [50]
    second = latest_weights(tmp_path, 'demo_routing')
    key = 'leaf_gate.weight'
    assert not torch.equal(first['net_g_latest.pth']['params'][key], second['net_g_latest.pth']['params'][key])
    time.sleep(1.1)
    opt['train']['expert_size'] = 8
    assert train(tmp_path, opt) == 0
    assert measured == [50, 50]
    assert len(list((tmp_path / 'experiments' / 'routing_tables').iterdir())) == 2


def test_regret_learns_the_leaf_and_lowers_the_regret(smoke_demo, tmp_path):
    changes = {
        **QUICK,
        'datasets.train.batch_size_per_gpu': 16,
        'train.total_iter': 80,
        'train.scheduler.periods': [80],
    }
    assert train(tmp_path, stage_options(smoke_demo, 'routing', changes)) == 0
    lines = [line for line in log_of(tmp_path).splitlines() if 'l_regret: ' in line]
    for name, part in (('l_leaf', 0.6), ('l_level', 0.95), ('l_regret', 0.85)):
        losses = [float(line.split(f'{name}: ')[1].split()[0]) for line in lines]
        assert np.mean(losses[-15:]) < part * np.mean(losses[:5]), name


def test_the_bundle_knows_temperatures_and_reach(smoke_demo):
    content = yaml.safe_load((smoke_demo / 'bundle' / 'bundle.yml').read_text())
    router = content['router']
    assert 0 < router['leaf_temperature'] <= 20 and 0 < router['level_temperature'] <= 20
    assert len(router['reach']) == 16
    net = UniRestorer(smoke_demo / 'bundle')
    assert net.router.leaf_temperature == router['leaf_temperature'] and net.router.reach == tuple(router['reach'])


def test_paper_objective_ends_alike_when_interrupted(smoke_demo, tmp_path):
    opt = stage_options(smoke_demo, 'routing', PAPER)
    (tmp_path / 'alone').mkdir()
    assert train(tmp_path / 'alone', opt) == 0
    with interrupted_after(opt['model_type'], 3):
        assert train(tmp_path, opt) == 130
    assert train(tmp_path, opt, '--auto_resume') == 0
    assert_same_weights(latest_weights(tmp_path, 'demo_routing'), latest_weights(tmp_path / 'alone', 'demo_routing'))
    log = log_of(tmp_path)
    assert 'l_pix: ' in log and 'l_dg: ' in log and 'l_balance: ' in log
    bundle = yaml.safe_load((tmp_path / 'experiments/demo_routing/bundle/bundle.yml').read_text())
    assert set(bundle['router']) == {'type', 'embed_dim', 'depth'}  # nothing is fitted


def test_experts_leave_memory_under_a_small_budget(smoke_demo, tmp_path, monkeypatch, registered):
    from basicsr_unirestorer.inference.expert_bank import ExpertBank

    held = []
    stock = ExpertBank.get

    def get(self, name, device='cpu'):
        net = stock(self, name, device)
        held.append(len(self.cached))
        return net

    monkeypatch.setattr(ExpertBank, 'get', get)
    opt = stage_options(smoke_demo, 'routing', {**QUICK, 'experts.cache_mb': 0})
    assert train(tmp_path, opt) == 0
    assert held and set(held) == {1}
