"""The encoder and the router on two processes (gloo, CPU): shared gradients, shared samples, one set of files."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from basicsr_unirestorer.archs.unirestorer_arch import UniRestorer
from tests.pipeline_fixtures import assert_same_weights, latest_weights, stage_options, train, write_options

# Two processes a training, forked from one that has done the imports, which take longer than all the rest. Beside what
# the stages write, each process notes what its router was fed, and the sum of the router's weights at the end.
SCRIPT = """
import json, os, socket, sys
from multiprocessing import get_context
from pathlib import Path
from basicsr_unirestorer import register, train
register()
from basicsr_unirestorer.models.unirestorer_routing_model import UniRestorerRoutingModel as Router
feed, save = Router.feed_data, Router.save
rows = []
def feed_data(self, data):
    rows.append(data['row'].tolist() if 'row' in data else list(data['sample_id']))
    feed(self, data)
def noted_save(self, epoch, current_iter):
    save(self, epoch, current_iter)
    if current_iter == -1:
        weights = float(sum(p.double().abs().sum() for p in self.net_g.parameters()))
        note = Path(self.opt['path']['experiments_root']).parents[1] / f'rank{self.opt["rank"]}.json'
        note.write_text(json.dumps({'rows': rows, 'weights': weights}))
Router.feed_data, Router.save = feed_data, noted_save
def run(rank, port, option_file, root, *more):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    sys.exit(train.main(['-opt', option_file, '--launcher', 'pytorch', *more], root=Path(root)))
for training in json.loads(sys.argv[1]):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    ranks = [get_context('fork').Process(target=run, args=(rank, port, *training)) for rank in range(2)]
    [rank.start() for rank in ranks]
    [rank.join() for rank in ranks]
    assert not any(rank.exitcode for rank in ranks), training
"""
ITERS = 4
COMMON = {
    'datasets.train.num_worker_per_gpu': 0,
    'train.total_iter': ITERS,
    'train.scheduler.periods': [ITERS],
    'train.optim_g': {'type': 'SGD', 'lr': 0.1},  # Adam's first steps would blow rounding up to the learning rate
    'logger.save_checkpoint_freq': 2,
}
ENCODER = {**COMMON, 'datasets.train.max_pictures': 40, 'datasets.train.gt_size': 32}
ROUTER = {
    **COMMON,
    'datasets.train.gt_size': 32,
    'datasets.train.batch_size_per_gpu': 8,
    'network_g.depth': 1,
    'encoder.crop_size': 32,
    'encoder.num_crops': 1,
}
PAPER = {
    'train.objective': 'paper',
    'datasets.train.type': 'MixedDegradationLMDBDataset',
    'datasets.train.route_also': None,
    'datasets.train.batch_size_per_gpu': 2,
}


@pytest.fixture(scope='module')
def both(smoke_demo, tmp_path_factory):
    """A folder with what two processes trained: each stage at one go, and stopped half way and resumed."""
    folder = tmp_path_factory.mktemp('two')
    stages = {
        'encoder': stage_options(smoke_demo, 'encoder', {**ENCODER, 'datasets.train.batch_size_per_gpu': 4}),
        'router': stage_options(smoke_demo, 'routing', ROUTER),
        'paper': stage_options(smoke_demo, 'routing', {**ROUTER, **PAPER}),
    }
    half = f'train:total_iter={ITERS // 2}'
    runs = []
    for stage, opt in stages.items():
        for way in ('alone', 'resumed'):
            (folder / f'{stage}_{way}').mkdir()
        options = str(write_options(folder, opt, stage))
        runs.append((options, str(folder / f'{stage}_alone')))
        if stage != 'paper':
            runs.append((options, str(folder / f'{stage}_resumed'), '--force_yml', half))
            runs.append((options, str(folder / f'{stage}_resumed'), '--auto_resume'))
    (folder / 'script.py').write_text(SCRIPT)
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [sys.executable, str(folder / 'script.py'), json.dumps(runs)],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_two_encoders_of_half_a_batch_equal_one_of_the_whole(both, smoke_demo, tmp_path):
    """Gradients, loss and samples are the same: two processes of four pictures each, one process of eight."""
    opt = stage_options(smoke_demo, 'encoder', {**ENCODER, 'datasets.train.batch_size_per_gpu': 8})
    assert train(tmp_path, opt) == 0
    one, two = latest_weights(tmp_path, 'demo_encoder'), latest_weights(both / 'encoder_alone', 'demo_encoder')
    start = {key: value['params'] for key, value in two.items()}
    assert set(start) == {'net_g_latest.pth', 'net_t_latest.pth'}
    for file, params in start.items():
        for key, value in params.items():
            torch.testing.assert_close(value, one[file]['params'][key], rtol=1e-4, atol=2e-6, msg=f'{file} {key}')


def test_a_batch_of_half_the_size_is_another_training(both, smoke_demo, tmp_path):
    """So that the test above means something."""
    opt = stage_options(smoke_demo, 'encoder', {**ENCODER, 'datasets.train.batch_size_per_gpu': 4})
    assert train(tmp_path, opt) == 0
    one, two = latest_weights(tmp_path, 'demo_encoder'), latest_weights(both / 'encoder_alone', 'demo_encoder')
    key = 'words.weight'
    difference = one['net_t_latest.pth']['params'][key] - two['net_t_latest.pth']['params'][key]
    assert difference.abs().max() > 1e-4


@pytest.mark.parametrize(('stage', 'name'), [('encoder', 'demo_encoder'), ('router', 'demo_routing')])
def test_resumed_processes_end_like_ones_left_alone(both, stage, name):
    alone, resumed = (latest_weights(both / f'{stage}_{way}', name) for way in ('alone', 'resumed'))
    assert_same_weights(alone, resumed)


@pytest.mark.parametrize('run', ['router_alone', 'router_resumed', 'paper_alone'])
def test_one_bundle_is_written_and_it_restores(both, run):
    experiment = both / run / 'experiments' / 'demo_routing'
    assert not list(both.rglob('*.part')) and not list(both.rglob('*_archived_*'))
    assert len(list(experiment.glob('train_*.log'))) == (2 if run == 'router_resumed' else 1)
    lq = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(UniRestorer(experiment / 'bundle')(lq)).all()


@pytest.mark.parametrize('run', ['router_alone', 'paper_alone'])
def test_processes_take_other_samples_and_hold_the_same_router(both, run):
    notes = [json.loads((both / run / f'rank{rank}.json').read_text()) for rank in range(2)]
    assert notes[0]['weights'] == notes[1]['weights'] and len(notes[0]['rows']) == len(notes[1]['rows']) == ITERS
    first = [{row for batch in note['rows'][:2] for row in batch} for note in notes]
    assert all(len(rows) > 2 for rows in first) and not first[0] & first[1]


def test_the_table_is_measured_once_by_both(both):
    files = list((both / 'router_alone' / 'experiments' / 'routing_tables').rglob('*.npz'))
    assert len(files) == 1  # 50 rows fill one file; test_routing_table.py shares several out
