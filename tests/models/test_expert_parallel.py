"""Several processes train the experts of one tree: who trains what, with what result, and after any stop."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.expert_files import ExpertFiles
from tests.pipeline_fixtures import assert_same_weights, latest_weights, stage_options, train, write_options

STOPPED = str(Path(__file__).with_name('stopped_training.py'))
ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(Path(__file__).parents[2])}


def torchrun(ranks: int, *command: str | Path) -> list[str]:
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={ranks}']
    return [*launcher, *map(str, command)]


def run(folder: Path, *command: str | Path) -> str:
    """Run a command to its end in ``folder``; returns its log."""
    done = subprocess.run(list(map(str, command)), cwd=folder, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Compute here as the processes do: sums over several threads differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def family(smoke_demo) -> list[str]:
    """The root, three of its children and the first child of two of these."""
    tree = DegradationTree.load(smoke_demo / 'experiments' / 'demo_clustering')
    parents = tree.children(0)[:3]
    nodes = [0, *parents, *(tree.children(parent)[0] for parent in parents[:2])]
    return [tree.nodes[node].name for node in nodes]


@pytest.fixture(scope='module')
def options(smoke_demo, family):
    """Options that train the family; the root has 3 steps, the others 2 each."""

    def make(**changes) -> dict:
        own = {'datasets.train.expert_batch.experts': family, 'train.total_iter': 13, 'logger.print_freq': 1}
        own |= {
            'datasets.train.num_worker_per_gpu': 0,
            'logger.save_checkpoint_freq': 100,
            'logger.use_tb_logger': True,
        }
        return stage_options(smoke_demo, 'experts', {**own, 'train.share_experts': False, **changes})

    return make


@pytest.fixture(scope='module')
def alone(options, tmp_path_factory) -> dict:
    """The weights that one process trains."""
    folder = tmp_path_factory.mktemp('alone')
    assert train(folder, options()) == 0
    return latest_weights(folder, 'demo_experts')


def test_two_processes_train_what_one_trains_bit_for_bit(options, alone, tmp_path):
    door = ('-m', 'basicsr_unirestorer.train', '-opt', write_options(tmp_path, options()), '--launcher', 'pytorch')
    log = run(tmp_path, *torchrun(2, *door))
    assert_same_weights(latest_weights(tmp_path, 'demo_experts'), alone)
    by_rank = [len(re.findall(rf'\[rank {rank}\] Expert \S+ is finished', log)) for rank in (0, 1)]
    assert sum(by_rank) == 6 and min(by_rank) >= 2  # the root and five others, which begin when it is done
    own = tmp_path / 'experiments' / 'demo_experts' / 'train_rank1.log'
    assert 'samples/s eta' in own.read_text()
    assert all(list((tmp_path / 'tb_logger' / 'demo_experts' / f'rank{rank}').iterdir()) for rank in (0, 1))


def test_three_processes_share_the_root_and_nothing_else(options, alone, family, tmp_path):
    """Sharing adds up gradients in another order; a child then is what its own process alone makes of that root."""
    opt = options(**{'train.share_experts': True, 'train.optim_g.lr': 1e-4})
    door = ('-m', 'basicsr_unirestorer.train', '-opt', write_options(tmp_path, opt), '--launcher', 'pytorch')
    log = run(tmp_path, *torchrun(3, *door))
    assert 'Expert l0_00 (1 of' in log and 'shared with rank' in log
    shared = latest_weights(tmp_path, 'demo_experts')
    single = tmp_path / 'single'
    single.mkdir()
    small = {'train.optim_g.lr': 1e-4, 'datasets.train.expert_batch.experts': ['l0_00'], 'train.total_iter': 3}
    assert train(single, options(**small)) == 0
    root = latest_weights(single, 'demo_experts')['net_l0_00_latest.pth']['params']
    for key, value in shared['net_l0_00_latest.pth']['params'].items():
        torch.testing.assert_close(value, root[key], rtol=0, atol=2e-5)
    child = next(name for name in family[1:4] if not re.search(rf'Expert {name} .*shared', log))
    small |= {'datasets.train.expert_batch.experts': [child], 'train.total_iter': 2, 'name': 'child'}
    small |= {'path.pretrain_network_experts': str(tmp_path / 'experiments/demo_experts/models')}
    assert train(single, options(**small)) == 0
    file = f'net_{child}_latest.pth'
    assert_same_weights(latest_weights(single, 'child'), {file: shared[file]})


def test_any_stop_and_another_number_of_processes(options, alone, family, tmp_path):
    """SIGTERM to two processes, SIGKILL while one of three saves, then one process: as if nothing had happened."""
    file = write_options(tmp_path, options(**{'logger.save_checkpoint_freq': 1}))
    files = ExpertFiles(tmp_path / 'experiments' / 'demo_experts')
    steps = dict.fromkeys(family, 2) | {'l0_00': 3}

    two = subprocess.Popen(torchrun(2, STOPPED, file, 'hold', 'l0_00', 2), cwd=tmp_path, env=ENV,
                           stderr=subprocess.PIPE, text=True)  # fmt: skip
    while not (tmp_path / 'held').exists():
        assert two.poll() is None, two.stderr.read()[-3000:]
        time.sleep(0.05)
    two.send_signal(signal.SIGTERM)  # torchrun hands it on
    assert two.communicate()[1].count('Stopped and saved') == 2
    assert files.progress(steps) == dict.fromkeys(family, 0) | {'l0_00': 2}

    three = subprocess.run(torchrun(3, STOPPED, file, 'kill', family[2], 1), cwd=tmp_path, env=ENV, capture_output=True)
    assert three.returncode and files.finished('l0_00').is_file()
    assert not files.finished(family[2]).exists() and not files.checkpoints(family[2])

    log = run(tmp_path, sys.executable, '-m', 'basicsr_unirestorer.train', '-opt', file, '--auto_resume')
    assert 'Expert l0_00' not in log  # a finished expert is never trained again
    assert_same_weights(latest_weights(tmp_path, 'demo_experts'), alone)
    assert not list(files.root.glob('training_states/*.state'))


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_single_process_saves_when_it_is_stopped(options, alone, tmp_path, number, code):
    """The signal goes to the loader's worker, too, as a batch system sends it."""
    file = write_options(tmp_path, options(**{'datasets.train.num_worker_per_gpu': 1}))
    process = subprocess.Popen([sys.executable, STOPPED, str(file), 'hold', 'l0_00', '1'], cwd=tmp_path, env=ENV,
                               start_new_session=True, stderr=subprocess.PIPE, text=True)  # fmt: skip
    while not (tmp_path / 'held').exists():
        assert process.poll() is None, process.stderr.read()[-3000:]
        time.sleep(0.05)
    os.killpg(process.pid, number)
    err = process.communicate()[1]
    assert process.returncode == code and 'Traceback' not in err and '--auto_resume' in err, err[-2000:]
    assert ExpertFiles(tmp_path / 'experiments' / 'demo_experts').checkpoints('l0_00') == [1]
    assert train(tmp_path, options(), '--auto_resume') == 0
    assert_same_weights(latest_weights(tmp_path, 'demo_experts'), alone)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(options, alone, tmp_path, capfd):
    opt = options(**{'logger.save_checkpoint_freq': 1, 'datasets.train.expert_batch.experts': ['l0_00']})
    file = write_options(tmp_path, opt | {'train': {**opt['train'], 'total_iter': 3}})
    process = subprocess.Popen([sys.executable, STOPPED, str(file), 'hold', 'l0_00', '2'], cwd=tmp_path, env=ENV)
    while not (tmp_path / 'held').exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    files = ExpertFiles(tmp_path / 'experiments' / 'demo_experts')
    assert files.checkpoints('l0_00') == [2, 1]
    whole = files.weights('l0_00', 2).read_bytes()
    files.weights('l0_00', 2).write_bytes(whole[:-100])
    capfd.readouterr()
    assert files.progress({'l0_00': 3}) == {'l0_00': 1}
    assert 'net_l0_00_2.pth is missing or damaged; the checkpoint before it is taken' in capfd.readouterr().err
    assert train(tmp_path, options(), '--auto_resume') == 0
    assert_same_weights(latest_weights(tmp_path, 'demo_experts'), alone)
