"""Fixtures that several test files share."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from basicsr_unirestorer import compat, launch

compat.shim_imports()  # so that a test may import BasicSR before anything of ours


@pytest.fixture(autouse=True)
def quiet_end():
    """Close BasicSR's log: it would write into the next test, to the stderr that pytest took away with this one."""
    yield
    if 'basicsr.utils.logger' in sys.modules:
        launch._close_logger()


@pytest.fixture(scope='session')
def registered():
    """BasicSR with this package registered, imported once."""
    from basicsr_unirestorer import register

    register()
    import basicsr

    return basicsr


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder that looks like a clone of BasicSR: the installed package, and option files of its own."""
    import importlib.util

    installed = Path(importlib.util.find_spec('basicsr').origin).parent
    root = tmp_path / 'BasicSR'
    ignore = shutil.ignore_patterns('__pycache__', 'unirestorer_*.py', '.unirestorer_link.json')
    shutil.copytree(installed, root / 'basicsr', ignore=ignore)
    (root / 'options' / 'test').mkdir(parents=True)
    (root / 'options' / 'test' / 'theirs.yml').write_text('name: theirs\n')
    return root


@pytest.fixture
def work(tmp_path, registered) -> Path:
    """A folder with seven tiny pictures and option files that train and test a network of BasicSR's own on them.

    An epoch has three iterations, so that a run resumed at the fourth has to find its place within an epoch.
    """
    rng = np.random.default_rng(0)
    (tmp_path / 'gt').mkdir()
    for i in range(7):
        cv2.imwrite(str(tmp_path / 'gt' / f'{i}.png'), rng.integers(0, 255, (24, 24, 3), np.uint8))
    images = {
        'type': 'PairedImageDataset',
        'dataroot_gt': str(tmp_path / 'gt'),
        'dataroot_lq': str(tmp_path / 'gt'),
        'io_backend': {'type': 'disk'},
    }
    # whole pictures without flips: nothing in the data is random but its order
    train = {
        **images,
        'name': 'tiny',
        'gt_size': 24,
        'use_hflip': False,
        'use_rot': False,
        'num_worker_per_gpu': 0,
        'batch_size_per_gpu': 2,
        'dataset_enlarge_ratio': 1,
    }
    network = {'type': 'SRVGGNetCompact', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_conv': 1, 'upscale': 1}
    opt = {
        'name': 'tiny',
        'model_type': 'SRModel',
        'scale': 1,
        'num_gpu': 0,
        'manual_seed': 0,
        'datasets': {'train': train, 'val': {**images, 'name': 'val'}},
        'network_g': network,
        'path': {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None},
        'train': {
            'ema_decay': 0.9,
            'optim_g': {'type': 'AdamW', 'lr': 1e-3},
            'total_iter': 8,
            'warmup_iter': -1,
            'scheduler': {'type': 'MultiStepLR', 'milestones': [6], 'gamma': 0.5},
            'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'},
        },
        'val': {'val_freq': 8, 'save_img': False, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'use_tb_logger': True, 'wandb': None},
        'dist_params': {'backend': 'nccl', 'port': 29500},
    }
    (tmp_path / 'train.yml').write_text(yaml.safe_dump(opt))
    test = {key: opt[key] for key in ('name', 'model_type', 'scale', 'num_gpu', 'manual_seed', 'network_g', 'val')}
    weights = tmp_path / 'experiments' / 'tiny' / 'models' / 'net_g_latest.pth'
    test.update(datasets={'test_1': {**images, 'name': 'val'}}, path={'pretrain_network_g': str(weights)})
    (tmp_path / 'test.yml').write_text(yaml.safe_dump(test))
    return tmp_path


@pytest.fixture(scope='session')
def smoke_demo(tmp_path_factory, registered) -> Path:
    """The folder of a whole demo at its smallest scale, made once; tests read it and never write into it."""
    from basicsr_unirestorer.inference.demo import SCALES, run

    folder = tmp_path_factory.mktemp('smoke') / 'demo'
    run(folder, SCALES['smoke'], print)
    return folder
