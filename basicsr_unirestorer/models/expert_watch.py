"""What a training of experts tells: progress lines of every process, and curves of every expert in TensorBoard."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from basicsr_unirestorer.clustering.expert_schedule import Stint, stints_of
from basicsr_unirestorer.clustering.tree import Node
from basicsr_unirestorer.models.division import Division
from basicsr_unirestorer.models.expert_training import ExpertTraining
from basicsr_unirestorer.models.training_util import LOGGER


class ExpertWatch:
    """Report the experts of one process.

    Curves (``<node>/l_pix``, ``<node>/lr``, ``<node>/samples_per_s``, ``<node>/<data set>/<metric>``) are drawn over
    the expert's own steps, in ``tb_logger/<name>/rank<r>``. BasicSR's log is that of the first process; each other one
    writes ``train_rank<r>.log`` beside it.

    Args:
        opt: BasicSR's options.
        division: Who trains what.
    """

    def __init__(self, opt: Mapping, division: Division) -> None:
        self.rank, self.ranks = opt['rank'], opt['world_size']
        self.every = int(opt['logger']['print_freq'])
        self.division = division
        self.names = [stint.name for stint in stints_of(division.stints, self.rank)]
        self.total = sum(division.steps[name] - division.done[name] for name in self.names)
        self.steps_here, self.started = 0, time.time()
        self.training: ExpertTraining | None = None
        self.curves = self._open_curves(opt)
        self.file = self._open_log(opt)

    def _open_curves(self, opt: Mapping):  # noqa: ANN202
        if not opt['logger'].get('use_tb_logger') or 'debug' in opt['name'] or not self.names:
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(Path(opt['root_path'], 'tb_logger', opt['name'], f'rank{self.rank}'))

    def _open_log(self, opt: Mapping) -> logging.FileHandler | None:
        LOGGER.setLevel(logging.INFO)
        if self.rank == 0:
            return None
        handler = logging.FileHandler(Path(opt['path']['log'], f'train_rank{self.rank}.log'))
        handler.setFormatter(logging.Formatter('%(asctime)s %(levelname)s: %(message)s'))
        LOGGER.addHandler(handler)
        return handler

    def _say(self, text: str) -> None:
        LOGGER.info(text if self.ranks == 1 else f'[rank {self.rank}] {text}')

    def begin(self, stint: Stint, training: ExpertTraining, node: Node) -> None:
        """An expert is now the one at hand."""
        self.training, self.since, self.samples = training, time.time(), 0
        others = [rank for rank in stint.ranks if rank != self.rank]
        shared = f', shared with rank {", ".join(map(str, others))}' if others else ''
        resumed = f' from step {training.step}' if training.step else ''
        precision = '' if training.precision == 'off' else f', {training.precision}'
        self._say(
            f'Expert {stint.name} ({self.names.index(stint.name) + 1} of {len(self.names)}): {training.steps} steps'
            f'{resumed}, {node.count} samples, labels {node.labels}{precision}{shared}'
        )

    def waiting(self, names: Sequence[str]) -> None:
        """This process has nothing to do until others have finished these experts."""
        who = {name: self.division.stint(name).ranks for name in names}
        self._say('Waiting for ' + ', '.join(f'{name} (rank {", ".join(map(str, r))})' for name, r in who.items()))

    def step(self, l_pix: float, batch_size: int) -> None:
        """One step was made; every ``logger.print_freq`` of them are reported."""
        training = self.training
        self.steps_here += 1
        self.samples += batch_size
        if training.step % self.every:
            return
        now = time.time()
        rate, self.since, self.samples = self.samples / max(now - self.since, 1e-9), now, 0
        lr = training.optimizer.param_groups[0]['lr']
        if self.curves:
            for key, value in (('l_pix', l_pix), ('lr', lr), ('samples_per_s', rate)):
                self.curves.add_scalar(f'{training.name}/{key}', value, training.step)
        if self.rank:  # the first process has BasicSR's own line
            left = (now - self.started) / self.steps_here * (self.total - self.steps_here)
            self._say(
                f'{training.name} {training.step:,}/{training.steps:,} l_pix: {l_pix:.4e} lr: {lr:.3e} '
                f'{rate:.1f} samples/s eta: {timedelta(seconds=int(left))}'
            )

    def validated(self, dataset: str, results: Mapping[str, float]) -> None:
        """The expert at hand was validated."""
        for metric, value in results.items() if self.curves else ():
            self.curves.add_scalar(f'{self.training.name}/{dataset}/{metric}', value, self.training.step)

    def end(self) -> None:
        """The expert at hand is finished."""
        self._say(f'Expert {self.training.name} is finished')

    def close(self) -> None:
        """Close curves and log."""
        if self.curves:
            self.curves.close()
        if self.file:
            LOGGER.removeHandler(self.file)
            self.file.close()
