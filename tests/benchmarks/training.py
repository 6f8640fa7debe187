"""How fast experts are trained: one against BasicSR's SRModel, a tree by two processes against one; what they hold.

Command: python -m tests.benchmarks.training [--parts single,processes,memory,lora] [--repeats 15] [--steps 40]

``single``: a step of our model and of BasicSR's ``SRModel`` on the same batch (network, memory format, AdamW, average
and L1 alike), in turns in one process. ``processes``: eight experts, trained by one process and by two (gloo), one
thread each: steps a second from the first expert's begin to the last one's end. ``memory``: what a process holds with
one expert of its own and with eight. ``lora``: trained state of factors against that of the whole network.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from datetime import datetime
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

from basicsr_unirestorer import register
from basicsr_unirestorer.clustering.tree import DegradationTree
from tests.benchmarks.measure import Run, alternate, peak_memory, ratio
from tests.benchmarks.reading import sample_pictures

NAFNET = {
    'type': 'NAFNetExpert',
    'width': 16,
    'enc_blk_nums': [1, 1, 1],
    'middle_blk_num': 1,
    'dec_blk_nums': [1, 1, 1],
}
NETWORKS = {
    'NAFNet width 16': NAFNET,
    'NAFNet width 32': {'type': 'NAFNetExpert', 'width': 32, 'enc_blk_nums': [2, 2, 4, 8], 'middle_blk_num': 12},
    'Restormer dim 16': {'type': 'RestormerExpert', 'dim': 16, 'num_blocks': [1, 2, 2, 2], 'num_refinement_blocks': 1},
}
LEAVES = 8


def make_options(folder: Path, network: dict, steps: int, size: int, batch_size: int) -> dict:
    """Write a tree of eight leaves with data of its own, and return the options that train the leaves."""
    from basicsr_unirestorer.clustering.assignments import write_assignments
    from basicsr_unirestorer.data.lmdb_writer import WriteJob, write_lmdb
    from basicsr_unirestorer.data.mixed_degradation_lmdb_dataset import MixedDegradationLMDBDataset

    jobs = []
    for number, picture in enumerate(sample_pictures()):
        cv2.imwrite(str(folder / f'{number}.png'), picture[:256, :256])
        jobs.append(WriteJob(str(number), folder / f'{number}.png'))
    write_lmdb(folder / 'gt.lmdb', jobs, workers=1)
    data = {'name': 'train', 'type': 'MixedDegradationLMDBDataset', 'dataroot_gt': str(folder / 'gt.lmdb')}
    data |= {'recipe': 'tiny', 'gt_size': size, 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 1}
    data['io_backend'] = {'type': 'lmdb'}
    dataset = MixedDegradationLMDBDataset({**data, 'phase': 'train'})
    tree = DegradationTree.star(LEAVES)
    tree.save(folder / 'degradation_tree.json')
    leaf_ids = np.arange(dataset.num_samples) % LEAVES
    write_assignments(folder, tree, dataset.sample_ids(), leaf_ids, dataset.shapes())
    data |= {'tree': str(folder / 'degradation_tree.json'), 'assignments': str(folder / 'assignments.csv')}
    leaves = [tree.nodes[leaf].name for leaf in tree.leaves]
    data['expert_batch'] = {'batch_size': batch_size, 'steps_per_level': [0, steps], 'experts': leaves}
    train = {'ema_decay': 0.999, 'optim_g': {'type': 'AdamW', 'lr': 1e-4}, 'init_from_parent': False, 'amp': 'off'}
    train |= {'scheduler': {'type': 'CosineAnnealingLR', 'eta_min': 1e-6}, 'warmup_iter': -1}
    train |= {'total_iter': steps * LEAVES, 'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'}}
    logger = {'print_freq': 10**6, 'save_checkpoint_freq': 10**6, 'use_tb_logger': False, 'wandb': None}
    top = {'name': 'benchmark', 'model_type': 'UniRestorerExpertsModel', 'scale': 1, 'num_gpu': 0, 'manual_seed': 0}
    path = {'resume_state': None}
    return {**top, 'datasets': {'train': data}, 'experts': {'default': network}, 'path': path, 'train': train,
            'logger': logger, 'dist_params': {'backend': 'nccl'}}  # fmt: skip


# ----------------------------------------------------------------- one expert against SRModel


def one_step(network: dict, size: int, batch_size: int, ours: bool, amp: str = 'off', device: str = 'cpu') -> Run:
    """Return one training step of a network, by our model or by BasicSR's, on a batch that is always the same."""
    from basicsr.models.sr_model import SRModel

    from basicsr_unirestorer.clustering.expert_schedule import Stint
    from basicsr_unirestorer.models.division import Division
    from basicsr_unirestorer.models.unirestorer_experts_model import UniRestorerExpertsModel

    folder = Path(tempfile.mkdtemp())
    opt = make_options(folder, network, 1000, size, batch_size)
    opt |= {'dist': False, 'rank': 0, 'world_size': 1, 'is_train': True, 'root_path': str(folder)}
    opt['num_gpu'] = int(device == 'cuda')
    opt['path'] |= {'experiments_root': str(folder), 'models': str(folder), 'log': str(folder)}
    generator = torch.Generator().manual_seed(0)
    lq, gt = (torch.rand(batch_size, 3, size, size, generator=generator) for _ in range(2))
    if not ours:
        opt['network_g'] = deepcopy(network)
        opt['train'] |= {'scheduler': {'type': 'MultiStepLR', 'milestones': [10**6]}}
        model = SRModel(opt)
        model.net_g.to(memory_format=torch.channels_last)  # so that the networks compute alike
        data = {'lq': lq, 'gt': gt}
    else:
        name = 'l1_00'
        opt['train']['amp'] = amp
        opt['division'] = Division({name: 10**6}, {name: 0}, [Stint(name, (0,), 0.0, 1.0)])
        model = UniRestorerExpertsModel(opt)
        data = {'lq': lq[None], 'gt': gt[None], 'node': [name], 'sample_id': [['x']] * batch_size}

    def run() -> None:
        model.update_learning_rate(1)
        model.feed_data(data if not ours else {**data, 'step': [model.training.step if model.training else 0]})
        model.optimize_parameters(1)

    return run


def compare_single(repeats: int) -> list[str]:
    lines = ['| network, patch, batch | SRModel / ours, time a step | range |', '|---|---:|---:|']
    for name, network in NETWORKS.items():
        size, batch_size = (64, 8) if network is NAFNET else (64, 2)
        torch.manual_seed(0)
        runs = [one_step(network, size, batch_size, ours) for ours in (False, True)]
        pairs = alternate(*runs, repeats)
        found = ratio(pairs)
        lines.append(f'| {name}, {size}, {batch_size} | **{found.median:.2f}** | {found.low:.2f} - {found.high:.2f} |')
    return lines


# ----------------------------------------------------------------- two processes against one


def steps_per_second(folder: Path, options: Path, ranks: int, name: str) -> float:
    """Train the tree and return the steps of all experts a second, start of the processes aside."""
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={ranks}', '-m']
    command += ['basicsr_unirestorer.train', '-opt', str(options), '--launcher', 'pytorch']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(Path(__file__).parents[2])}
    done = subprocess.run([*command, '--force_yml', f'name={name}'], cwd=folder, env=environment, capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stderr.splitlines() if re.search(r'INFO: .*Expert ', line)]
    times = [datetime.strptime(line[:23], '%Y-%m-%d %H:%M:%S,%f') for line in lines]
    steps = yaml.safe_load(options.read_text())['train']['total_iter']
    return steps / (max(times) - min(times)).total_seconds()


def compare_processes(steps: int, turns: int = 3) -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        file = folder / 'options.yml'
        file.write_text(yaml.safe_dump(make_options(folder, NAFNET, steps, 64, 8)))
        pairs = [
            (steps_per_second(folder, file, 2, f'two{turn}'), steps_per_second(folder, file, 1, f'one{turn}'))
            for turn in range(turns)
        ]
    found = ratio(pairs)
    return [
        f'Eight experts of {steps} steps, two processes against one: **{found.median:.2f}** times the steps a second '
        f'({found.low:.2f} - {found.high:.2f}; {", ".join(f"{two:.1f} / {one:.1f}" for two, one in pairs)}).'
    ]


# ----------------------------------------------------------------- memory


def hold_experts(network: dict, count: int) -> Run:
    """Return a function that trains so many experts one after another, a step each, as one process does."""
    from basicsr_unirestorer.archs.building import seeded_network
    from basicsr_unirestorer.models.expert_training import ExpertTraining

    register()
    options = {'ema_decay': 0.999, 'amp': 'off', 'scheduler': {'type': 'CosineAnnealingLR'}}
    lq = torch.rand(2, 3, 64, 64)

    def run() -> None:
        training = None
        for number in range(count):
            del training
            net, optimizer = seeded_network(network, 0, str(number)), partial(torch.optim.AdamW, lr=1e-4)
            training = ExpertTraining('l1_00', net, 10, options, optimizer, torch.nn.L1Loss(), torch.device('cpu'))
            training.train_on(lq, lq, 2, ['x'])

    return run


def compare_memory() -> list[str]:
    lines = ['| network | peak of a process, MiB: one expert | eight of its own |', '|---|---:|---:|']
    for name in ('NAFNet width 32', 'Restormer dim 16'):
        peaks = [peak_memory(hold_experts, NETWORKS[name], count) / 2**20 for count in (1, LEAVES)]
        lines.append(f'| {name} | {peaks[0]:.0f} | {peaks[1]:.0f} |')
    return lines


def compare_lora() -> list[str]:
    from basicsr_unirestorer.archs.building import make_network
    from basicsr_unirestorer.archs.lora import add_factors

    lines = ['| network | trained, M | factors of rank 8, M | share |', '|---|---:|---:|---:|']
    for name, network in {**NETWORKS, 'Restormer dim 48': {'type': 'RestormerExpert'}}.items():
        net = make_network(network, 'benchmark')
        whole = sum(p.numel() for p in net.parameters())
        add_factors(net, rank=8, alpha=16)
        factors = sum(p.numel() for p in net.parameters() if p.requires_grad)
        lines.append(f'| {name} | {whole / 1e6:.2f} | {factors / 1e6:.2f} | {factors / whole:.1%} |')
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--parts', default='single,processes,memory,lora')
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument('--steps', type=int, default=40, help='steps of each expert')
    args = parser.parse_args()
    register()
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', os.cpu_count())))
    parts: dict[str, Callable[[], list[str]]] = {
        'single': lambda: compare_single(args.repeats),
        'processes': lambda: compare_processes(args.steps),
        'memory': compare_memory,
        'lora': compare_lora,
    }
    for part in args.parts.split(','):
        print('\n'.join(parts[part]()), end='\n\n', flush=True)


if __name__ == '__main__':
    main()
