"""What the training models share: frozen parts of earlier stages, option checks, atomic checkpoints."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from basicsr.models.base_model import BaseModel
from torch import Tensor

from basicsr_unirestorer import compat, stopping
from basicsr_unirestorer.errors import OptionError, UniRestorerError, check_keys

# a child of BasicSR's logger: its lines go where BasicSR's go, also in processes whose logger BasicSR silences
LOGGER = logging.getLogger('basicsr.experts')
TRAIN_KEYS = ('total_iter', 'warmup_iter', 'optim_g', 'scheduler')


def check_train_options(opt: Mapping, own: tuple[str, ...]) -> None:
    """Refuse unknown keys of the ``train`` section before anything is trained; raises OptionError."""
    check_keys(opt['train'], TRAIN_KEYS + own, 'train')
    if not opt['train'].get('optim_g'):
        raise OptionError('train.optim_g is missing; write for example optim_g: {type: AdamW, lr: !!float 1e-3}.')


def save_atomically(content: dict, path: str | Path) -> None:
    """Write a torch file aside and rename it, so that a kill never leaves half a checkpoint under its name."""
    path = Path(path)
    scratch = path.with_name(path.name + '.part')
    torch.save(content, scratch)
    os.replace(scratch, path)


def averaged_copy(net: torch.nn.Module) -> torch.nn.Module:
    """Return the copy of a network that holds the running average; frozen weights are shared, not copied."""
    shared = {id(parameter): parameter for parameter in net.parameters() if not parameter.requires_grad}
    return deepcopy(net, shared).eval().requires_grad_(False)


@torch.no_grad()
def update_average(average: torch.nn.Module, net: torch.nn.Module, decay: float) -> None:
    """Move a running average towards the trained weights; frozen ones, whose average would drift by rounding, stay."""
    averaged = dict(average.named_parameters())
    now = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    torch._foreach_mul_([averaged[name] for name in now], decay)
    torch._foreach_add_([averaged[name] for name in now], list(now.values()), alpha=1 - decay)


def stop_if_asked(model: BaseModel, current_iter: int) -> None:
    """Save and leave, after a step that all processes made, where one of them was asked to stop."""
    asked = stopping.requested()
    if model.opt['dist']:
        flag = torch.tensor(float(asked), device=model.device)
        torch.distributed.all_reduce(flag)
        asked = bool(flag)
    if asked:
        stopping.stop(lambda: model.save(compat.current_epoch(), current_iter))


def require_finite(loss: Tensor, what: str) -> None:
    """Stop with one sentence when a loss has left the numbers; raises UniRestorerError."""
    if not torch.isfinite(loss):
        raise UniRestorerError(
            f'The loss of {what} became {loss.item()}; lower train.optim_g.lr and resume from the last '
            'checkpoint with --auto_resume.'
        )
