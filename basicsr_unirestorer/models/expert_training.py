"""One expert in training: its network, average, optimizer, schedule, gradient scaler and step counter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from basicsr_unirestorer.archs.node_expert import expert_state, load_expert
from basicsr_unirestorer.errors import OptionError, UniRestorerError
from basicsr_unirestorer.models.training_util import LOGGER, averaged_copy, update_average

AMP = {'bf16': torch.bfloat16, 'fp16': torch.float16}


def safe_precision(net: nn.Module, wanted: str | bool | None, device: torch.device) -> str:
    """Choose the precision that a network is trained in.

    Args:
        net: The network; ``facts.precisions`` of ours says what is safe for it.
        wanted: ``bf16``, ``fp16`` or ``off``; None takes bf16 on a GPU where it is safe. Where a network is not safe in
            what is wanted, it is trained in float32, so that one option can serve a tree of several networks.
        device: Where it is trained.

    Raises:
        OptionError: Another word.
    """
    wanted = 'off' if wanted is False else wanted  # yml reads a bare off as false
    if wanted not in (None, 'off', *AMP):
        raise OptionError(f"train.amp is '{wanted}'; write bf16, fp16 or off, or leave it out for what is safe.")
    safe = getattr(getattr(net, 'facts', None), 'precisions', ())
    if wanted is None:
        return 'bf16' if device.type == 'cuda' and 'bf16' in safe and torch.cuda.is_bf16_supported() else 'off'
    if wanted != 'off' and wanted not in safe:
        LOGGER.warning(f'{type(net).__name__} is not safe in {wanted}; it is trained in float32.')
        return 'off'
    return wanted


class ExpertTraining:
    """Train one network step by step; alone, or sharing each batch with other processes.

    Args:
        name: Node name.
        net: The network, with the weights it starts from.
        steps: Steps of its whole training.
        options: The ``train`` section: ``amp``, ``channels_last``, ``compile``, ``accumulate``, ``grad_clip``,
            ``ema_decay``, ``scheduler``, ``max_bad_steps``.
        make_optimizer: Returns the optimizer of a list of parameters.
        criterion: The pixel loss of (restored, gt).
        device: Where it is trained.
        group: The processes that share its batches, each taking a part; None where it is trained by one.
    """

    def __init__(
        self,
        name: str,
        net: nn.Module,
        steps: int,
        options: Mapping,
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        criterion: nn.Module,
        device: torch.device,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.name, self.steps, self.step, self.bad_steps = name, steps, 0, 0
        self.options, self.criterion, self.device, self.group = options, criterion, device, group
        self.memory_format = torch.channels_last if options.get('channels_last', True) else torch.contiguous_format
        self.net = net.to(device).to(memory_format=self.memory_format).train()
        self.ema = averaged_copy(self.net) if options.get('ema_decay') else None
        self.trained = [p for p in self.net.parameters() if p.requires_grad]  # LoRA leaves its base frozen
        self.optimizer = make_optimizer(self.trained)
        scheduler = dict(options.get('scheduler') or {'type': 'CosineAnnealingLR'})
        kind = scheduler.pop('type')
        if kind == 'CosineAnnealingLR':
            scheduler.setdefault('T_max', steps)  # each expert anneals over its own steps
        self.scheduler = getattr(torch.optim.lr_scheduler, kind)(self.optimizer, **scheduler)
        self.precision = safe_precision(net, options.get('amp'), device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == 'fp16')
        self.forward = self.net if group is None else DistributedDataParallel(self.net, process_group=group)
        if options.get('compile'):
            self.forward = torch.compile(self.forward)

    @property
    def finished(self) -> bool:
        return self.step >= self.steps

    @property
    def best(self) -> nn.Module:
        """The network to test: the average where there is one."""
        return self.net if self.ema is None else self.ema

    def place(self, pictures: Tensor) -> Tensor:
        """Put a batch where the network wants it."""
        return pictures.to(self.device, non_blocking=True).contiguous(memory_format=self.memory_format)

    # ----------------------------------------------------------------- one step

    def train_on(self, lq: Tensor, gt: Tensor, batch_size: int, sample_ids: list[str]) -> float:
        """Make one step.

        Args:
            lq, gt: This process's part of the batch, shape (b, 3, h, w), RGB, [0, 1].
            batch_size: Samples of the whole batch.
            sample_ids: Those of this part, for messages.

        Returns:
            The loss of the whole batch. Where it is no finite number, the weights stay as they were.

        Raises:
            UniRestorerError: That happened ``max_bad_steps`` times in a row.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(self.place(lq), self.place(gt), batch_size)
        fine = bool(torch.isfinite(loss))
        if fine:
            self.scaler.unscale_(self.optimizer)
            if self.options.get('grad_clip'):
                norm = nn.utils.clip_grad_norm_(self.trained, self.options['grad_clip'])
                fine = self.scaler.is_enabled() or bool(torch.isfinite(norm))  # a scaler skips by itself
        if fine:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.bad_steps = 0
        else:
            self._skip(loss.item(), sample_ids)
        self.scheduler.step()
        self.step += 1
        if self.ema is not None and fine:
            # a short expert would keep its parent's weights in a long average: the decay grows with its own steps
            update_average(self.ema, self.net, min(self.options['ema_decay'], (1 + self.step) / (10 + self.step)))
        return loss.item()

    def _backward(self, lq: Tensor, gt: Tensor, batch_size: int) -> Tensor:
        """Accumulate the gradient of the batch's mean loss, in parts where asked to; returns that loss."""
        parts = min(self.options.get('accumulate') or 1, len(lq))
        pairs = list(zip(lq.tensor_split(parts), gt.tensor_split(parts), strict=True))
        sharing = 1 if self.group is None else dist.get_world_size(self.group)  # gradients are averaged over them
        total = torch.zeros((), device=self.device)
        for number, (part_lq, part_gt) in enumerate(pairs):
            with self._no_exchange() if number < len(pairs) - 1 else nullcontext():
                with torch.autocast(self.device.type, AMP.get(self.precision), enabled=self.precision != 'off'):
                    restored = self.forward(part_lq)
                loss = self.criterion(restored.float(), part_gt)
                if getattr(self.criterion, 'reduction', 'mean') == 'mean' and len(part_lq) != batch_size:
                    loss = loss * (len(part_lq) / batch_size)
                self.scaler.scale(loss * sharing if sharing > 1 else loss).backward()
                total += loss.detach()
        if self.group is not None:
            dist.all_reduce(total, group=self.group)
        return total

    def _no_exchange(self) -> AbstractContextManager:
        return nullcontext() if self.group is None else self.forward.no_sync()

    def _skip(self, loss: float, sample_ids: list[str]) -> None:
        """Leave a step out; every process that shares the batch does the same."""
        self.bad_steps += 1
        what = f'expert {self.name} at its step {self.step} became {loss} (samples {", ".join(sample_ids)})'
        if self.bad_steps >= self.options.get('max_bad_steps', 5):
            raise UniRestorerError(
                f'The loss of {what}, the last of {self.bad_steps} such steps in a row; lower train.optim_g.lr and '
                'resume from the last checkpoint with --auto_resume.'
            )
        LOGGER.warning(f'The loss or gradient of {what}; the step is skipped.')

    # ----------------------------------------------------------------- what is saved

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return ``params`` and, with an average, ``params_ema``, on the CPU; of a LoRA expert, the factors."""
        both = {'params': self.net} | ({} if self.ema is None else {'params_ema': self.ema})
        return {key: expert_state(net) for key, net in both.items()}

    def state(self) -> dict:
        """Return what else the training needs to go on exactly."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == 'cuda' else None
        return {
            'node': self.name,
            'step': self.step,
            'bad_steps': self.bad_steps,
            'optimizer': self.optimizer.state_dict(),
            'scheduler': self.scheduler.state_dict(),
            'scaler': self.scaler.state_dict(),
            'rng': {'cpu': torch.get_rng_state(), 'cuda': cuda},
        }

    def resume(self, weights: Mapping, state: Mapping, source: str | Path) -> None:
        """Go on from what ``weights`` and ``state`` returned; ``source`` is named where they do not fit."""
        load_expert(self.net, weights['params'], source)
        if self.ema is not None:
            load_expert(self.ema, weights.get('params_ema', weights['params']), source)
        self.step, self.bad_steps = state['step'], state['bad_steps']
        self.optimizer.load_state_dict(state['optimizer'])
        self.scheduler.load_state_dict(state['scheduler'])
        self.scaler.load_state_dict(state['scaler'])
        torch.set_rng_state(state['rng']['cpu'])
        if self.device.type == 'cuda' and state['rng']['cuda'] is not None:
            torch.cuda.set_rng_state(state['rng']['cuda'], self.device)
