"""Stage 3: train one expert a tree node, all in one run, coarse to fine, on any number of processes."""

from __future__ import annotations

import time
import zlib
from collections import OrderedDict
from datetime import timedelta
from pathlib import Path

import torch
from basicsr.losses import build_loss
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY
from torch import distributed as dist

from basicsr_unirestorer import stopping
from basicsr_unirestorer.archs.building import check_experts, load_params
from basicsr_unirestorer.archs.node_expert import build_expert
from basicsr_unirestorer.clustering.expert_plan import steps_of_experts
from basicsr_unirestorer.clustering.expert_schedule import stints_of
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import DataError, OptionError, UniRestorerError
from basicsr_unirestorer.expert_files import ExpertFiles, read_checkpoint
from basicsr_unirestorer.expert_progress import write_plan
from basicsr_unirestorer.models.division import Division, agreed_division
from basicsr_unirestorer.models.expert_training import ExpertTraining
from basicsr_unirestorer.models.expert_watch import ExpertWatch
from basicsr_unirestorer.models.training_util import check_train_options, save_atomically

PATIENCE = timedelta(days=30)  # processes that share an expert wait for each other; a launcher ends all when one fails


@MODEL_REGISTRY.register()
class UniRestorerExpertsModel(SRModel):
    """Train the experts of a degradation tree; each process trains its own ones, one after another.

    The experts are divided among the processes by cost (see ``clustering/expert_schedule.py``). Each batch belongs to
    one expert, and its item says to which and to which step of it; an expert with a process of its own needs no
    exchange with others. It begins when its parent is finished, from the parent's weights where the networks are alike
    (``train.init_from_parent``, default true). Files are those of ``expert_files.py``; a finished expert is never
    trained again, and a run with any number of processes goes on where another one stopped. Networks come from
    ``experts``.
    """

    train_options = (
        'pixel_opt',
        'ema_decay',
        'init_from_parent',
        'grad_clip',
        'channels_last',
        'amp',
        'compile',
        'accumulate',
        'max_bad_steps',
        'keep_checkpoints',
        'share_experts',
        'experts',
    )

    @staticmethod
    def divide(opt: dict, dataset: torch.utils.data.Dataset) -> tuple[list[int], int]:
        """Plan this process's part before BasicSR's loop begins; ``opt`` keeps the division for the model.

        Args:
            opt: BasicSR's options after parsing.
            dataset: The training set.

        Returns:
            Indices of the dataset in the order in which this process takes them, and how many steps are done already,
            by all processes, as a mean over the processes.

        Raises:
            OptionError: The options make no sense together.
        """
        if getattr(dataset, 'plan', None) is None:
            raise OptionError(
                'UniRestorerExpertsModel needs datasets.train.tree, assignments and expert_batch; '
                'see options/unirestorer_experts.yml.'
            )
        check_train_options(opt, UniRestorerExpertsModel.train_options)
        check_experts(opt.get('experts') or {}, dataset.tree)
        plan = dataset.plan
        steps = dict(zip(plan.nodes, plan.steps, strict=True))
        whole = steps_of_experts(dataset.tree, {**dataset.opt['expert_batch'], 'experts': None})
        if int(opt['train']['total_iter']) not in (plan.total, sum(whole.values())):  # of the chosen experts, or of all
            raise OptionError(
                f'train.total_iter is {opt["train"]["total_iter"]}, but steps_per_level asks for {plan.total} steps '
                f'over {len(steps)} experts; write total_iter: {plan.total}.'
            )
        division = agreed_division(opt, dataset.tree, steps)
        opt['division'] = division
        if opt['rank'] == 0:
            write_plan(Path(opt['path']['experiments_root']), dataset.opt['tree'], whole, division)
        order = []
        for stint in stints_of(division.stints, opt['rank']):
            first = plan.first_step(stint.name)
            part = (stint.ranks.index(opt['rank']), len(stint.ranks))
            own = range(division.done[stint.name], steps[stint.name])
            order += [dataset.batch_index(first + step, *part) for step in own]
        return order, sum(division.done.values()) // opt['world_size']

    def __init__(self, opt: dict) -> None:
        BaseModel.__init__(self, opt)  # SRModel would build network_g; only its validation is wanted
        self.tree = DegradationTree.load(opt['datasets']['train']['tree'])
        self.files = ExpertFiles(Path(opt['path']['experiments_root']))
        self.division: Division = opt['division']
        shared = sorted({stint.ranks for stint in self.division.stints if len(stint.ranks) > 1})
        self.groups = {ranks: dist.new_group(ranks, timeout=PATIENCE) for ranks in shared}
        self.cri_pix = build_loss(opt['train']['pixel_opt']).to(self.device)
        self.training: ExpertTraining | None = None
        self.watch = ExpertWatch(opt, self.division)
        self.log_dict = OrderedDict()
        stopping.install()

    # ----------------------------------------------------------------- the expert at hand

    def _take(self, name: str, step: int) -> None:
        """Make an expert the one at hand: as it starts, or as its checkpoint of that step left it."""
        stint, train_opt = self.division.stint(name), self.opt['train']
        from_parent = train_opt.get('init_from_parent', True) and not step
        seed = self.opt['manual_seed']
        net = build_expert(self.opt['experts'], self.tree, name, seed, self._finished_weights, from_parent)
        torch.manual_seed(zlib.crc32(f'{seed}/{name}/training'.encode()))  # for networks that draw while they train
        self.training = ExpertTraining(
            name,
            net,
            self.division.steps[name],
            train_opt,
            self._make_optimizer,
            self.cri_pix,
            self.device,
            self.groups.get(stint.ranks),
        )
        if step:
            path = self.files.weights(name, step)
            self.training.resume(read_checkpoint(path), read_checkpoint(self.files.state(name, step)), path)
        self.optimizers = [self.training.optimizer]
        self.best_metric_results = {}
        self.watch.begin(stint, self.training, self.tree.nodes[self.tree.node_id(name)])

    def _make_optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        optim = dict(self.opt['train']['optim_g'])
        return self.get_optimizer(optim.pop('type'), parameters, **optim)

    def _finished_weights(self, name: str) -> dict[str, torch.Tensor]:
        """Read the weights of another node's finished expert: of the parent, or of the root that LoRA adapts."""
        path, elsewhere = self.files.finished(name), self.opt['path'].get('pretrain_network_experts')
        if self.division.stint(name) is not None:
            self._wait_for([name])
        elif not path.is_file() and elsewhere and (Path(elsewhere) / path.name).is_file():
            path = Path(elsewhere) / path.name
        if not path.is_file():
            raise DataError(
                f'The expert of the node {name} is not trained (no {path.name} in {path.parent}); train it first, or '
                'write init_from_parent: false (and lora: ~).'
            )
        return load_params(path)

    def _wait_for(self, names: list[str]) -> None:
        """Wait until other processes have finished these experts."""
        missing = [name for name in names if not self.files.finished(name).is_file()]
        if missing:
            self.watch.waiting(missing)
        while missing:
            if stopping.requested():
                stopping.stop()
            time.sleep(0.2)
            missing = [name for name in missing if not self.files.finished(name).is_file()]

    # ----------------------------------------------------------------- BasicSR's loop

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Do nothing: every expert follows its own schedule, stepped with it."""

    def feed_data(self, data: dict) -> None:
        if 'node' in data:  # an expert batch; the loader added one dimension around it
            name, step = data['node'][0], int(data['step'][0])
            if self.training is None or name != self.training.name:
                self._take(name, step)
            if step != self.training.step:
                raise UniRestorerError(
                    f'Expert {name} is at step {self.training.step} but was handed the batch of step {step}; '
                    'resume with `unirestorer train -opt ... --auto_resume`.'
                )
            self.sample_ids = [ids[0] for ids in data['sample_id']]
            data = {'lq': data['lq'][0], 'gt': data['gt'][0]}
        self.lq, self.gt = (self.training.place(data[key]) for key in ('lq', 'gt'))

    def optimize_parameters(self, current_iter: int) -> None:
        training = self.training
        batch_size = self.opt['datasets']['train']['expert_batch']['batch_size']
        l_pix = training.train_on(self.lq, self.gt, batch_size, self.sample_ids)
        self.log_dict = OrderedDict([('l_pix', l_pix), (f'{training.name}/step', training.step)])
        self.watch.step(l_pix, batch_size)
        if training.finished:
            self._finish()
        if self._stop_requested():
            stopping.stop(self._save_checkpoint)

    def _stop_requested(self) -> bool:
        """Whether to stop now; processes that share the expert at hand decide together, after the same step."""
        if self.training.group is None:
            return stopping.requested()
        flag = torch.tensor(float(stopping.requested()), device=self.device)
        dist.all_reduce(flag, group=self.training.group)
        return bool(flag)

    def test(self) -> None:
        with torch.no_grad():
            self.output = self.training.best(self.lq)

    # ----------------------------------------------------------------- validation

    def dist_validation(self, dataloader, current_iter, tb_logger, save_img) -> None:  # noqa: ANN001
        """Validate in every process, since each holds another expert."""
        self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img) -> None:  # noqa: ANN001
        """Validate the expert at hand on the pictures whose caption belongs to its group."""
        if self.training is None or self.division.stint(self.training.name).writer != self.opt['rank']:
            return
        own = self.tree.node_id(self.training.name)
        mine = [data for data in dataloader if self._is_mine(own, data['caption'][0])]
        if mine:
            super().nondist_validation(_Pictures(mine, dataloader.dataset), current_iter, tb_logger, save_img)

    def _log_validation_metric_values(self, current_iter, dataset_name, tb_logger) -> None:  # noqa: ANN001
        super()._log_validation_metric_values(current_iter, dataset_name, None)
        self.watch.validated(dataset_name, self.metric_results)

    def _is_mine(self, own: int, caption: str) -> bool:
        node = self.tree.node_for_caption(caption)
        while node >= 0:
            if node == own:
                return True
            node = self.tree.nodes[node].parent
        return False

    # ----------------------------------------------------------------- files

    @property
    def _writes(self) -> bool:
        return self.division.stint(self.training.name).writer == self.opt['rank']

    def _finish(self) -> None:
        """Write the finished expert; its checkpoints are no longer needed."""
        name = self.training.name
        if self._writes:
            save_atomically(self.training.weights(), self.files.finished(name))
            if self.opt['train'].get('keep_checkpoints', 2) is not None:
                self.files.prune(name, 0)
        self.watch.end()

    def _save_checkpoint(self) -> None:
        training = self.training
        if training is None or training.finished or not self._writes:
            return
        save_atomically(training.weights(), self.files.weights(training.name, training.step))
        save_atomically(training.state(), self.files.state(training.name, training.step))
        self.files.prune(training.name, self.opt['train'].get('keep_checkpoints', 2))

    def save(self, epoch: int, current_iter: int) -> None:
        if current_iter != -1:
            self._save_checkpoint()
            return
        self._wait_for([stint.name for stint in self.division.stints])  # one that leaves early could end the others
        self.watch.close()
        stopping.restore()

    def resume_training(self, resume_state: dict) -> None:
        """Do nothing: each expert is resumed when its first batch comes."""


class _Pictures:
    """A few batches that look like the loader they came from."""

    def __init__(self, batches: list[dict], dataset) -> None:  # noqa: ANN001
        self.batches = batches
        self.dataset = dataset

    def __iter__(self):  # noqa: ANN204
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
