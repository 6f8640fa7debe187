"""A training that is stopped at a chosen step, as a process of its own: ``stopped_training.py OPTIONS HOW NODE STEP``.

HOW is ``hold``: wait there until somebody asks to stop; or ``kill``: be killed by SIGKILL in the middle of writing the
checkpoint of that step, or later of the same node.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from pathlib import Path

import torch

from basicsr_unirestorer import register, stopping, train
from basicsr_unirestorer.models import training_util
from basicsr_unirestorer.models.expert_training import ExpertTraining


def hold(name: str, at: int) -> None:
    stock = ExpertTraining.train_on

    def train_on(self: ExpertTraining, *args) -> float:
        loss = stock(self, *args)
        if (self.name, self.step) == (name, at):
            Path('held').touch()
            while not stopping.requested():
                time.sleep(0.05)
        return loss

    ExpertTraining.train_on = train_on


def kill(name: str, at: int) -> None:
    stock = torch.save

    def save(content: dict, path: Path) -> None:
        if content.get('node') == name and content['step'] >= at:
            whole = io.BytesIO()
            stock(content, whole)
            Path(path).write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        stock(content, path)

    training_util.torch.save = save


if __name__ == '__main__':
    options, how, node, step = sys.argv[1:5]
    register()
    {'hold': hold, 'kill': kill}[how](node, int(step))
    launcher = ['--launcher', 'pytorch'] if 'RANK' in os.environ else []
    sys.exit(train.main(['-opt', options, '--auto_resume', *launcher]))
