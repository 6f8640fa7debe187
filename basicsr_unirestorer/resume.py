"""Which training state a run continues from, and how it is read."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path

from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.expert_files import join_experiment


def find_state(opt: dict) -> tuple[Path, dict] | None:
    """Find the state to continue from: the newest of the experiment under ``--auto_resume``, else the one named.

    Args:
        opt: BasicSR's options after parsing, with ``auto_resume`` and ``path``.

    Returns:
        The file and its content (``epoch``, ``iter``, ``optimizers``, ``schedulers``, ...), all tensors on the CPU;
        None for a training from the start.

    Raises:
        DataError: A state is asked for, and none can be read.
        OptionError: A single state is named for a stage of experts, which hold a state each.
    """
    if opt['datasets'].get('train', {}).get('expert_batch'):
        state = join_experiment(opt)
        return state and (Path(opt['path']['training_states']), state)
    return _newest_state(opt) if opt['auto_resume'] else _named_state(opt)


def read_state(path: Path, opt: dict) -> dict:
    """Load one training state onto the CPU (the optimizers move their part to their parameters themselves).

    Plain tensors and containers are read without unpickling objects. A state with other objects in it (those of a
    custom optimizer, say) is only trusted when it lies among the experiments of this very root.

    Args:
        path: A ``.state`` file.
        opt: BasicSR's options; ``path.experiments_root`` says where home is.

    Raises:
        DataError: The file is damaged, is no training state, or holds objects and comes from elsewhere.
    """
    import torch

    damaged = DataError(f'Training state {path} is damaged (probably the run was stopped while saving it).')
    if not zipfile.is_zipfile(path):
        raise damaged
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        trusted = Path(opt['path']['experiments_root']).resolve().parent
        if trusted not in path.resolve().parents:
            raise DataError(
                f'Training state {path} holds Python objects beyond tensors: move it below {trusted} '
                'if you trust where it comes from.'
            ) from error
        state = torch.load(path, map_location='cpu', weights_only=False)
    except (RuntimeError, EOFError, OSError) as error:
        raise damaged from error
    if not isinstance(state, dict) or not {'epoch', 'iter', 'optimizers', 'schedulers'} <= state.keys():
        raise DataError(
            f'{path} is not a training state of BasicSR: network weights belong to path:pretrain_network_g.'
        )
    return state


def _named_state(opt: dict) -> tuple[Path, dict] | None:
    """The state that ``path:resume_state`` names, or None when it names none."""
    if not opt['path'].get('resume_state'):
        return None
    path = Path(opt['path']['resume_state'])
    if not path.is_file():
        raise DataError(
            f"path:resume_state '{path}' does not exist: name a file of "
            'experiments/<name>/training_states, or use --auto_resume.'
        )
    return path, read_state(path, opt)


def _newest_state(opt: dict) -> tuple[Path, dict] | None:
    """The newest readable state of this experiment, or None when it has none at all.

    A run that was killed while saving leaves a truncated file; the one before is as good a place to continue from.
    """
    folder = Path(opt['path']['experiments_root']) / 'training_states'
    paths = sorted((p for p in folder.glob('*.state') if p.stem.isdigit()), key=lambda p: int(p.stem), reverse=True)
    for path in paths:
        try:
            return path, read_state(path, opt)
        except DataError as error:
            print(f'{error} Trying the state before it.', file=sys.stderr, flush=True)
    if paths:
        raise DataError(
            f'None of the {len(paths)} training states in {folder} can be read: start anew without --auto_resume.'
        )
    return None
