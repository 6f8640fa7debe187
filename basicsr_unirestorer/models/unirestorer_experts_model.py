"""Stage 3: train one expert a tree node, all in one run, coarse to fine."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from basicsr.losses import build_loss
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY

from basicsr_unirestorer import compat
from basicsr_unirestorer.archs.building import check_experts, load_params
from basicsr_unirestorer.archs.node_expert import build_expert, expert_state, load_expert
from basicsr_unirestorer.clustering.expert_plan import steps_of_experts
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import DataError, OptionError, UniRestorerError
from basicsr_unirestorer.models.training_util import (
    averaged_copy,
    check_train_options,
    require_finite,
    save_atomically,
    update_average,
)


@MODEL_REGISTRY.register()
class UniRestorerExpertsModel(SRModel):
    """Train the experts of a degradation tree one after another; each batch belongs to one expert.

    The dataset (``expert_batch``) decides which expert comes when; this model holds the one at hand: network,
    EMA, optimizer, schedule and step counter of its own. An expert starts from its parent's weights where the networks
    are alike (``train.init_from_parent``, default true). A finished expert is written as ``net_<node>_latest.pth``; a
    checkpoint holds the expert at hand (``net_<node>_<iter>.pth``) and its state. Networks come from ``experts``.
    """

    train_options = ('pixel_opt', 'ema_decay', 'init_from_parent', 'grad_clip', 'channels_last')

    def __init__(self, opt: dict) -> None:
        BaseModel.__init__(self, opt)  # SRModel would build network_g; only its validation is wanted
        check_train_options(opt, self.train_options)
        data = opt['datasets']['train']
        if not data.get('expert_batch') or not data.get('tree'):
            raise OptionError(
                'UniRestorerExpertsModel needs datasets.train.tree, assignments and expert_batch; '
                'see options/unirestorer_experts.yml.'
            )
        self.tree = DegradationTree.load(data['tree'])
        check_experts(opt.get('experts') or {}, self.tree)
        self.steps = steps_of_experts(self.tree, data['expert_batch'])
        total = sum(self.steps.values())
        if int(opt['train']['total_iter']) != total:
            raise OptionError(
                f'train.total_iter is {opt["train"]["total_iter"]}, but steps_per_level asks for {total} steps '
                f'over {len(self.steps)} experts; write total_iter: {total}.'
            )
        self.ema_decay = opt['train'].get('ema_decay', 0)
        self.cri_pix = build_loss(opt['train']['pixel_opt']).to(self.device)
        self.node: str | None = None
        self.step = 0
        self.log_dict = OrderedDict()

    # ----------------------------------------------------------------- the expert at hand

    def _start(self, name: str) -> None:
        node = self.tree.nodes[self.tree.node_id(name)]
        self._hold(name, self._build(name, self.opt['train'].get('init_from_parent', True)))
        get_root_logger().info(f'Expert {name}: {self.steps[name]} steps, {node.count} samples, labels {node.labels}')

    def _build(self, name: str, init_from_parent: bool) -> torch.nn.Module:
        seed = self.opt['manual_seed']
        return build_expert(self.opt['experts'], self.tree, name, seed, self._finished_weights, init_from_parent)

    def _finished_weights(self, parent: str) -> dict[str, torch.Tensor]:
        """Read the weights of another node's finished expert: of the parent, or of the root that LoRA adapts."""
        folders = [self.opt['path']['models'], self.opt['path'].get('pretrain_network_experts')]
        for folder in filter(None, folders):
            if (Path(folder) / f'net_{parent}_latest.pth').is_file():
                return load_params(Path(folder) / f'net_{parent}_latest.pth')
        raise DataError(
            f'The expert of the node {parent} is not trained (no net_{parent}_latest.pth in '
            f'{self.opt["path"]["models"]}); train it first, or write init_from_parent: false (and lora: ~).'
        )

    def _hold(self, name: str, net: torch.nn.Module) -> None:
        """Make a network the expert at hand, with fresh EMA, optimizer and schedule."""
        train_opt = self.opt['train']
        self.node, self.step = name, 0
        self.net_g = net.to(self.device)
        if train_opt.get('channels_last', True):
            self.net_g = self.net_g.to(memory_format=torch.channels_last)
        self.net_g.train()
        self.net_g_ema = averaged_copy(self.net_g) if self.ema_decay else None
        optim = dict(train_opt['optim_g'])
        trained = [p for p in self.net_g.parameters() if p.requires_grad]  # LoRA leaves its base frozen
        self.optimizer_g = self.get_optimizer(optim.pop('type'), trained, **optim)
        self.optimizers = [self.optimizer_g]
        scheduler = dict(train_opt.get('scheduler') or {'type': 'CosineAnnealingLR'})
        kind = scheduler.pop('type')
        if kind == 'CosineAnnealingLR':
            scheduler.setdefault('T_max', self.steps[name])  # each expert anneals over its own steps
        self.scheduler = getattr(torch.optim.lr_scheduler, kind)(self.optimizer_g, **scheduler)

    def trained(self) -> torch.nn.Module:
        """Return the network to test: the EMA where there is one."""
        return self.net_g if self.net_g_ema is None else self.net_g_ema

    # ----------------------------------------------------------------- BasicSR's loop

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Do nothing: every expert follows its own schedule, stepped in ``optimize_parameters``."""

    def feed_data(self, data: dict) -> None:
        if 'node' in data:  # an expert batch; the loader added one dimension around it
            name, step = data['node'][0], int(data['step'][0])
            if name != self.node:
                self._start(name)
            if step != self.step:
                raise UniRestorerError(
                    f'Expert {name} is at step {self.step} but was handed the batch of step {step}; '
                    'resume with `unirestorer train -opt ... --auto_resume`.'
                )
            data = {'lq': data['lq'][0], 'gt': data['gt'][0]}
        self.lq = data['lq'].to(self.device)
        self.gt = data['gt'].to(self.device)
        if self.opt['train'].get('channels_last', True):
            self.lq = self.lq.contiguous(memory_format=torch.channels_last)

    def optimize_parameters(self, current_iter: int) -> None:
        self.optimizer_g.zero_grad()
        l_pix = self.cri_pix(self.net_g(self.lq), self.gt)
        require_finite(l_pix, f'expert {self.node} at its step {self.step}')
        l_pix.backward()
        if self.opt['train'].get('grad_clip'):
            torch.nn.utils.clip_grad_norm_(self.net_g.parameters(), self.opt['train']['grad_clip'])
        self.optimizer_g.step()
        self.scheduler.step()
        self.step += 1
        if self.net_g_ema is not None:
            # a short expert would keep its parent's weights in a long average: the decay grows with its own steps
            update_average(self.net_g_ema, self.net_g, min(self.ema_decay, (1 + self.step) / (10 + self.step)))
        self.log_dict = OrderedDict([('l_pix', l_pix.item()), (f'{self.node}/l_pix', l_pix.item())])
        if self.step == self.steps[self.node]:
            self._write(f'net_{self.node}_latest.pth')

    def test(self) -> None:
        with torch.no_grad():
            self.output = self.trained()(self.lq)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img) -> None:  # noqa: ANN001
        """Validate the expert at hand on the pictures whose caption belongs to its group."""
        own = self.tree.node_id(self.node)
        mine = [data for data in dataloader if self._is_mine(own, data['caption'][0])]
        if mine:
            super().nondist_validation(_Pictures(mine, dataloader.dataset), current_iter, tb_logger, save_img)

    def _is_mine(self, own: int, caption: str) -> bool:
        node = self.tree.node_for_caption(caption)
        while node >= 0:
            if node == own:
                return True
            node = self.tree.nodes[node].parent
        return False

    # ----------------------------------------------------------------- files

    def _write(self, file: str) -> None:
        content = {'params': expert_state(self.net_g)}
        if self.net_g_ema is not None:
            content['params_ema'] = expert_state(self.net_g_ema)
        save_atomically(content, Path(self.opt['path']['models']) / file)

    def save(self, epoch: int, current_iter: int) -> None:
        if current_iter == -1:
            return  # every expert was written when it was finished
        self._write(f'net_{self.node}_{current_iter}.pth')
        state = {
            'epoch': epoch,
            'iter': current_iter,
            'node': self.node,
            'step': self.step,
            'optimizers': [self.optimizer_g.state_dict()],
            'schedulers': [self.scheduler.state_dict()],
        }
        save_atomically(state, Path(self.opt['path']['training_states']) / f'{current_iter}.state')

    def resume_training(self, resume_state: dict) -> None:
        compat.note_resume(resume_state['epoch'], resume_state['iter'])
        name = resume_state['node']
        path = Path(self.opt['path']['models']) / f'net_{name}_{resume_state["iter"]}.pth'
        self._hold(name, load_expert(self._build(name, init_from_parent=False), load_params(path, 'params'), path))
        if self.net_g_ema is not None:
            load_expert(self.net_g_ema, load_params(path, 'params_ema'), path)
        self.optimizer_g.load_state_dict(resume_state['optimizers'][0])
        self.scheduler.load_state_dict(resume_state['schedulers'][0])
        self.step = resume_state['step']


class _Pictures:
    """A few batches that look like the loader they came from."""

    def __init__(self, batches: list[dict], dataset) -> None:  # noqa: ANN001
        self.batches = batches
        self.dataset = dataset

    def __iter__(self):  # noqa: ANN204
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
