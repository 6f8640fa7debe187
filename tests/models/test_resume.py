"""Stopping and resuming: a training that was killed anywhere ends with the weights of one that was left alone."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys

import pytest

from tests.pipeline_fixtures import (
    assert_same_weights,
    interrupted_after,
    latest_weights,
    stage_options,
    train,
    write_options,
)

# Every stop lies within an epoch (the encoder has 5 iterations an epoch, the router 22) or within a child expert.
STAGES = {
    'encoder': {
        'datasets.train.max_pictures': 40,
        'datasets.train.batch_size_per_gpu': 8,
        'train.total_iter': 8,
        'train.scheduler.periods': [8],
        'logger.save_checkpoint_freq': 2,
    },
    'experts': {
        'datasets.train.expert_batch.experts': ['l0_00', 'l1_00', 'l2_00'],
        'train.total_iter': 7,
        'logger.save_checkpoint_freq': 1,
    },
    'routing': {
        'datasets.train.gt_size': 32,
        'datasets.train.batch_size_per_gpu': 32,
        'encoder.crop_size': 32,  # a quicker look at each picture, with the same weights
        'encoder.num_crops': 1,
        'train.total_iter': 6,
        'train.scheduler.periods': [6],
        'logger.save_checkpoint_freq': 1,
    },
}
STOPS = {'encoder': 6, 'experts': 4, 'routing': 5}

KILL_AFTER_CHECKPOINT = """
import os, signal, sys
from basicsr_unirestorer import register, train
register()
from basicsr.utils.registry import MODEL_REGISTRY
option_file, model, stop = sys.argv[1:]
model = MODEL_REGISTRY.get(model)
stock = model.save
def save(self, epoch, current_iter):
    stock(self, epoch, current_iter)
    if current_iter == int(stop):
        os.kill(os.getpid(), signal.SIGKILL)
model.save = save
train.main(['-opt', option_file])
"""


@pytest.fixture(scope='module')
def left_alone(smoke_demo, tmp_path_factory):
    """Return the final weights of a stage that nobody interrupted; each stage is trained once."""

    @functools.cache
    def weights(stage: str) -> dict:
        folder = tmp_path_factory.mktemp(stage)
        assert train(folder, options(smoke_demo, stage)) == 0
        return latest_weights(folder, f'demo_{stage}')

    return weights


def options(demo, stage: str, **changes) -> dict:
    return stage_options(demo, stage, {**STAGES[stage], 'datasets.train.num_worker_per_gpu': 0, **changes})


@pytest.mark.parametrize('stage', STAGES)
def test_killed_training_ends_like_one_left_alone(smoke_demo, left_alone, tmp_path, stage):
    """SIGKILL in a process of its own, with a loader worker running; the resume has none."""
    opt = options(smoke_demo, stage, **{'datasets.train.num_worker_per_gpu': 1})
    command = [sys.executable, '-c', KILL_AFTER_CHECKPOINT, write_options(tmp_path, opt), opt['model_type']]
    done = subprocess.run([*command, str(STOPS[stage])], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr[-2000:]
    assert set(latest_weights(tmp_path, opt['name'])) < set(left_alone(stage))
    assert train(tmp_path, options(smoke_demo, stage), '--auto_resume') == 0
    assert_same_weights(latest_weights(tmp_path, opt['name']), left_alone(stage))


@pytest.mark.parametrize('stage', STAGES)
def test_workers_do_not_change_the_weights(smoke_demo, left_alone, tmp_path, stage):
    opt = options(smoke_demo, stage, **{'datasets.train.num_worker_per_gpu': 1})
    assert train(tmp_path, opt) == 0
    assert_same_weights(latest_weights(tmp_path, opt['name']), left_alone(stage))


@pytest.mark.parametrize('stop', range(1, 7))
def test_experts_may_stop_at_any_step(smoke_demo, left_alone, tmp_path, stop):
    """Within the root, at its end, within a child, at its end (where the next one has not started yet)."""
    opt = options(smoke_demo, 'experts')
    with interrupted_after(opt['model_type'], stop):
        assert train(tmp_path, opt) == 130
    assert train(tmp_path, opt, '--auto_resume') == 0
    weights = latest_weights(tmp_path, opt['name'])
    assert all(set(content) == {'params', 'params_ema'} for content in weights.values())
    assert_same_weights(weights, left_alone('experts'))


@pytest.mark.parametrize('stage', STAGES)
def test_weights_without_their_state_fall_back_to_the_checkpoint_before(smoke_demo, left_alone, tmp_path, stage):
    """What a kill between the two files of a checkpoint leaves."""
    opt = options(smoke_demo, stage)
    with interrupted_after(opt['model_type'], STOPS[stage]):
        assert train(tmp_path, opt) == 130
    states = tmp_path / 'experiments' / opt['name'] / 'training_states'
    max(states.glob('*.state'), key=lambda path: path.stat().st_mtime_ns).unlink()
    assert train(tmp_path, opt, '--auto_resume') == 0
    assert_same_weights(latest_weights(tmp_path, opt['name']), left_alone(stage))


def test_finished_training_may_be_resumed_and_changes_nothing(smoke_demo, left_alone, tmp_path):
    opt = options(smoke_demo, 'experts')
    for args in ([], ['--auto_resume']):
        assert train(tmp_path, opt, *args) == 0
    assert_same_weights(latest_weights(tmp_path, opt['name']), left_alone('experts'))


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@pytest.mark.parametrize('stage', ['encoder', 'routing'])
def test_a_signal_saves_first(smoke_demo, left_alone, tmp_path, monkeypatch, stage, number, code):
    """The signal comes in the middle of an iteration that saves nothing by itself."""
    from basicsr.utils.registry import MODEL_REGISTRY

    opt = options(smoke_demo, stage, **{'logger.save_checkpoint_freq': 100})
    model = MODEL_REGISTRY.get(opt['model_type'])
    stock = model.feed_data

    def feed_data(self, data: dict) -> None:
        stock(self, data)
        seen.append(1)
        if len(seen) == 3:
            os.kill(os.getpid(), number)

    seen: list[int] = []
    monkeypatch.setattr(model, 'feed_data', feed_data)
    if code:
        assert train(tmp_path, opt) == code
    else:
        with pytest.raises(SystemExit) as left:
            train(tmp_path, opt)
        assert left.value.code == 0
    assert (tmp_path / 'experiments' / opt['name'] / 'training_states' / '3.state').is_file()
    monkeypatch.undo()
    assert train(tmp_path, opt, '--auto_resume') == 0
    assert_same_weights(latest_weights(tmp_path, opt['name']), left_alone(stage))
