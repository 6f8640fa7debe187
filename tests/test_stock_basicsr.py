"""BasicSR's own commands in a linked checkout: train and test our parts, and find the checkout clean after unlink."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from basicsr_unirestorer.cli import main
from tests.pipeline_fixtures import metric_options, stage_options, write_options

WRITTEN_BY_RUNS = {'experiments', 'results', 'tb_logger'}


def hashes(root: Path) -> dict[str, str | None]:
    """SHA-256 of every file, target of every link, None for a folder; without what runs write by themselves."""
    found = {}
    for path in sorted(root.rglob('*')):
        parts = path.relative_to(root).parts
        if parts[0] in WRITTEN_BY_RUNS or ('__pycache__' in parts and not path.name.startswith('unirestorer_')):
            continue
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found['/'.join(parts)] = content if content is None else hashlib.sha256(content).hexdigest()
    return found


def stock(checkout: Path, script: str, *args: str | Path) -> str:
    """Run ``python basicsr/<script>`` in the checkout, as its README says; returns what it logged."""
    env = {**os.environ, 'PYTHONPATH': str(checkout), 'PYTHONDONTWRITEBYTECODE': '', 'PYTHONPYCACHEPREFIX': ''}
    command = [sys.executable, f'basicsr/{script}', *map(str, args)]
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def test_stock_commands_train_and_test_and_unlink_leaves_no_trace(checkout, smoke_demo, tmp_path):
    before = hashes(checkout)
    assert main(['link', str(checkout)]) == 0
    assert hashes(checkout).keys() > before.keys()

    changes = {'datasets.train.expert_batch.experts': ['l0_00', 'l1_00'], 'train.total_iter': 2}
    changes |= {'datasets.train.expert_batch.steps_per_level': [1, 1, 1], 'logger.save_checkpoint_freq': 1}
    training = write_options(tmp_path, stage_options(smoke_demo, 'experts', changes), 'training')
    log = stock(checkout, 'train.py', '-opt', training)
    assert 'Model [UniRestorerExpertsModel] is created.' in log and 'End of training' in log
    models = checkout / 'experiments' / 'demo_experts' / 'models'
    trained = {'net_l0_00_latest.pth', 'net_l1_00_latest.pth'}
    assert {path.name for path in models.iterdir()} == trained
    assert set(torch.load(models / 'net_l1_00_latest.pth', weights_only=True)) == {'params', 'params_ema'}

    log = stock(checkout, 'test.py', '-opt', write_options(tmp_path, metric_options(smoke_demo), 'testing'))
    assert len(re.findall(r'# psnr: \d+\.\d+', log)) == 2 and 'Experts chosen on cbsd68_mix' in log
    assert list((checkout / 'results' / 'tiny_test').glob('*.log'))

    assert main(['unlink', str(checkout)]) == 0
    assert hashes(checkout) == before
    assert {path.name for path in checkout.iterdir()} - {'basicsr', 'options'} <= WRITTEN_BY_RUNS
