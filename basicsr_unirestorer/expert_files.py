"""The files of the experts stage: which expert of an experiment is finished, and from where another one goes on.

``models/net_<node>_latest.pth`` is a finished expert, ``models/net_<node>_<step>.pth`` one after so many of its own
steps (``params``, ``params_ema``), and ``training_states/<node>_<step>.state`` what else its training needs. The state
is written last: a checkpoint without one is not complete.
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from basicsr_unirestorer.errors import DataError, OptionError


@dataclass(frozen=True)
class ExpertFiles:
    """The files of one experiment's experts.

    Attributes:
        root: ``experiments/<name>``.
    """

    root: Path

    def finished(self, name: str) -> Path:
        """Return the file of a finished expert, whether it is there or not."""
        return self.root / 'models' / f'net_{name}_latest.pth'

    def weights(self, name: str, step: int) -> Path:
        """Return the file of an expert's weights after so many of its steps."""
        return self.root / 'models' / f'net_{name}_{step}.pth'

    def state(self, name: str, step: int) -> Path:
        """Return the file of what else an expert's training needs after so many of its steps."""
        return self.root / 'training_states' / f'{name}_{step}.state'

    def checkpoints(self, name: str) -> list[int]:
        """Return the steps of an expert's checkpoints, latest first, whether they can be read or not."""
        paths = (self.root / 'training_states').glob(f'{name}_*.state')
        found = (re.fullmatch(rf'{re.escape(name)}_(\d+)', path.stem) for path in paths)
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def progress(self, steps: Mapping[str, int], check: bool = True) -> dict[str, int]:
        """Return how many of its steps each expert is done with, by name.

        Args:
            steps: Steps of each expert.
            check: Read the checkpoints through: a damaged one is told on stderr, and the one before counts. Without,
                what the names of the files say.
        """
        done = {}
        for name, total in steps.items():
            if self.finished(name).is_file() and (not check or _sound(self.finished(name), 'it is trained again')):
                done[name] = total
                continue
            files = ((step, (self.weights(name, step), self.state(name, step))) for step in self.checkpoints(name))
            sound = (
                step
                for step, pair in files
                if step <= total and (not check or all(_sound(p, 'the checkpoint before it is taken') for p in pair))
            )
            done[name] = next(sound, 0)
        return done

    def prune(self, name: str, keep: int | None) -> None:
        """Remove all but the ``keep`` latest checkpoints of an expert; None keeps all."""
        for step in self.checkpoints(name)[keep:] if keep is not None else ():
            self.state(name, step).unlink(missing_ok=True)
            self.weights(name, step).unlink(missing_ok=True)


def _sound(path: Path, otherwise: str) -> bool:
    """Whether a torch file is there and whole; says on stderr where it is not."""
    try:
        if path.is_file() and zipfile.ZipFile(path).testzip() is None:
            return True
    except (zipfile.BadZipFile, OSError, EOFError):
        pass
    print(f'{path} is missing or damaged; {otherwise}.', file=sys.stderr, flush=True)
    return False


def join_experiment(opt: Mapping) -> dict | None:
    """Return what BasicSR's loop takes for a resumed state of an experts stage; None for a training from the start.

    With ``--auto_resume`` a run joins the experiment as it is, even one that has only just begun: the single experts
    hold their own state, so jobs that train different experts can share one experiment.

    Raises:
        OptionError: ``path.resume_state`` names a single state.
    """
    if not opt['auto_resume']:
        if opt['path'].get('resume_state'):
            raise OptionError(
                f"path.resume_state is '{opt['path']['resume_state']}', but the experts of an experiment resume "
                'together: leave it empty and use --auto_resume.'
            )
        return None
    for folder in ('experiments_root', 'models', 'training_states', 'visualization'):
        os.makedirs(opt['path'][folder], exist_ok=True)
    return {'epoch': 0, 'iter': 0, 'optimizers': [], 'schedulers': []}


def read_checkpoint(path: Path) -> dict:
    """Read the state of an expert's training onto the CPU; raises DataError for a damaged one."""
    import torch

    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
        raise DataError(
            f'Training state {path} cannot be read ({type(error).__name__}); remove it, and --auto_resume goes on '
            'from the one before.'
        ) from error
