"""``train --gpus`` and ``--nproc``: torchrun started, signals passed on; ``train.experts``; Slurm."""

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

from basicsr_unirestorer import processes
from basicsr_unirestorer import train as train_door
from basicsr_unirestorer.clustering.expert_plan import take_chosen_experts
from basicsr_unirestorer.errors import OptionError
from basicsr_unirestorer.option_files import options_dir
from tests.pipeline_fixtures import assert_one_sentence, latest_weights, stage_options, train, write_options

# ------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--gpus', '0', '--launcher', 'pytorch'], '--gpus and --launcher exclude each other'),
        (['--nproc', '2', '--launcher', 'slurm'], '--nproc and --launcher exclude each other'),
        (['--nproc', '2', '--gpus', '0'], 'not allowed with argument'),
        (['--nproc', '0'], "'0' is no whole number from 1"),
        (['--ranks', '4'], 'belong to --dry-run'),
        (['--dry-run', '--ranks', '4,x'], "'x' is no whole number from 1"),
    ],
)
def test_wrong_usage_is_told(args, message, capsys):
    with pytest.raises(SystemExit) as error:
        train_door.main(['-opt', 'x.yml', *args])
    assert error.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ('gpus', 'message'),
    [
        ('', r"--gpus is ''"),
        ('0,,1', "--gpus is '0,,1'"),
        ('0,0', 'different numbers'),
        ('1,2,5', 'asks for GPU 2, 5, but this machine has GPUs 0 to 1'),
    ],
)
def test_gpus_that_make_no_sense_are_told(gpus, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    assert train_door.main(['-opt', 'x.yml', '--gpus', gpus]) == 1
    assert_one_sentence(capsys.readouterr().err, message)


def test_without_gpus_the_way_to_cpus_is_told(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    assert train_door.main(['-opt', 'x.yml', '--gpus', '0']) == 1
    assert_one_sentence(capsys.readouterr().err, 'no GPU that torch finds; for the CPU write --nproc 2')


def test_processes_get_only_what_basicsr_takes(monkeypatch):
    started = []
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.setattr(processes, 'start', lambda *given: started.append(given) or 0)
    assert train_door.main(['-opt', '/x.yml', '--gpus', '1,3', '--auto_resume', '--force_yml', 'a:b=1']) == 0
    assert train_door.main(['-opt', '/x.yml', '--nproc', '3', '--debug']) == 0
    assert started == [
        (['-opt', '/x.yml', '--auto_resume', '--force_yml', 'a:b=1', 'num_gpu=1'], None, [1, 3], 2),
        (['-opt', '/x.yml', '--debug', '--force_yml', 'num_gpu=0'], None, None, 3),
    ]


def test_environment_of_the_processes(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,6,7')
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(8)), raising=False)
    env = processes.environment([0, 2], 2)
    assert (env['CUDA_VISIBLE_DEVICES'], env['OMP_NUM_THREADS']) == ('4,7', '4')
    assert processes.environment(None, 3)['CUDA_VISIBLE_DEVICES'] == ''
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    monkeypatch.setenv('OMP_NUM_THREADS', '5')
    env = processes.environment([1, 3], 2)
    assert (env['CUDA_VISIBLE_DEVICES'], env['OMP_NUM_THREADS']) == ('1,3', '5')


# ------------------------------------------------------------------------------------------------- real processes


def test_a_killed_process_ends_the_others_with_a_sentence(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text("import os, time\nos.kill(os.getpid(), 9) if os.environ['RANK'] == '1' else time.sleep(60)\n")
    command = [sys.executable, '-m', 'basicsr_unirestorer.processes', '--standalone', '--nproc_per_node=2', str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, 'OMP_NUM_THREADS': '1'}
    )
    assert done.returncode == 1
    assert_one_sentence(done.stderr, 'the process of rank 1 ended with exit code -9')


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_stopped_processes_save_and_end_without_a_traceback(number, code, smoke_demo, tmp_path):
    """The checkpoint is that of the step at hand, and nothing but sentences is left on stderr."""
    long = {'datasets.train.expert_batch.steps_per_level': [100000, 2, 2], 'train.total_iter': 100030}
    long |= {'datasets.train.num_worker_per_gpu': 0, 'logger.print_freq': 1}
    options, log = write_options(tmp_path, stage_options(smoke_demo, 'experts', long)), tmp_path / 'log.txt'
    command = [sys.executable, '-m', 'basicsr_unirestorer.train', '-opt', str(options), '--nproc', '2']
    with open(log, 'w') as file:
        child = subprocess.Popen(command, cwd=tmp_path, stdout=file, stderr=file)
    deadline = time.monotonic() + 240
    while 'l_pix' not in log.read_text() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    child.send_signal(number)
    assert child.wait(timeout=120) == code, log.read_text()[-3000:]
    text = log.read_text()
    assert 'Traceback' not in text and text.count('Stopped and saved') == 2
    assert len(list((tmp_path / 'experiments/demo_experts/training_states').glob('l0_00_*.state'))) == 1


# ------------------------------------------------------------------------------------------------- single experts


def test_train_experts_is_the_place_to_choose_nodes(smoke_demo, tmp_path):
    """``total_iter`` may stay that of the whole tree, so that a job array changes one option alone."""
    opt = stage_options(smoke_demo, 'experts', {'datasets.train.num_worker_per_gpu': 0, 'train.experts': ['l1_01']})
    opt['path']['pretrain_network_experts'] = str(smoke_demo / 'experiments' / 'demo_experts' / 'models')
    assert train(tmp_path, opt) == 0
    assert list(latest_weights(tmp_path, 'demo_experts')) == ['net_l1_01_latest.pth']


def test_chosen_experts_reach_the_data():
    opt = {'datasets': {'train': {'expert_batch': {'batch_size': 8}}}, 'train': {'experts': ['l1_03']}}
    take_chosen_experts(opt)
    take_chosen_experts(opt)  # once more does no harm
    assert opt['datasets']['train']['expert_batch'] == {'batch_size': 8, 'experts': ['l1_03']}
    with pytest.raises(OptionError, match='write one'):
        take_chosen_experts({**opt, 'train': {'experts': ['l1_04']}})
    with pytest.raises(OptionError, match='needs datasets.train.expert_batch'):
        take_chosen_experts({'datasets': {'train': {}}, 'train': {'experts': ['l1_03']}})
    for none in ([], 'l1_03', [3]):
        with pytest.raises(OptionError, match='give a list of nodes'):
            take_chosen_experts({**opt, 'train': {'experts': none}})


def test_every_door_takes_chosen_experts(registered, tmp_path, monkeypatch):
    """BasicSR's train.py holds the parser by name; run as a script, it takes the one of the module."""
    import basicsr.train
    import basicsr.utils.options

    path = tmp_path / 'x.yml'
    batch = 'datasets: {train: {expert_batch: {batch_size: 8}}}'
    path.write_text(f"name: x\nnum_gpu: 0\n{batch}\npath: {{}}\nlogger: {{}}\ntrain: {{experts: ['l1_03']}}\n")
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(path)])
    for parse_options in (basicsr.train.parse_options, basicsr.utils.options.parse_options):
        opt, _ = parse_options(str(tmp_path))
        assert opt['datasets']['train']['expert_batch']['experts'] == ['l1_03']


# ------------------------------------------------------------------------------------------------- Slurm


@pytest.mark.parametrize('path', sorted((options_dir() / 'slurm').glob('*.sbatch')), ids=lambda path: path.name)
def test_slurm_scripts_are_bash_and_name_what_exists(path):
    assert subprocess.run(['bash', '-n', str(path)], capture_output=True).returncode == 0
    text = path.read_text()
    assert '--auto_resume' in text and re.search(r'#SBATCH --signal=B:TERM@\d+', text) and 'scontrol requeue' in text
    named = re.findall(r'options/[\w/]+\.(?:yml|sbatch)', text)
    assert named and all((options_dir().parent / name).is_file() for name in named)


def test_slurm_starts_on_a_machine_without_gpus(tmp_path, registered):
    """``srun`` of one task, with a stand-in for Slurm's ``scontrol``."""
    if torch.cuda.is_available():
        pytest.skip('about machines without GPUs')
    (tmp_path / 'scontrol').write_text('#!/bin/sh\necho 127.0.0.1\n')
    (tmp_path / 'scontrol').chmod(0o755)
    code = (
        'from basicsr_unirestorer import compat; compat.apply()\n'
        'from basicsr.utils.dist_util import init_dist\n'
        'import os, socket, torch\n'
        'free = socket.create_server(("127.0.0.1", 0)); port = free.getsockname()[1]; free.close()\n'
        'init_dist("slurm", backend="nccl", port=port)\n'
        'print(torch.distributed.get_backend(), torch.distributed.get_world_size(), os.environ["LOCAL_RANK"])\n'
        'assert torch.cuda.device_count() == 0\n'
    )
    env = {**os.environ, 'SLURM_PROCID': '0', 'SLURM_NTASKS': '1', 'SLURM_NODELIST': 'node1'}
    env['PATH'] = f'{tmp_path}:{env["PATH"]}'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ['gloo', '1', '0']


def test_examples_in_the_array_script_are_the_levels_of_the_release():
    text = Path(options_dir(), 'slurm', 'experts_array.sbatch').read_text()
    assert re.findall(r'--array=(\S+)', text)[:3] == ['0', '0-6', '0-21']
