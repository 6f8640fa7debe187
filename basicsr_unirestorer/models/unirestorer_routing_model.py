"""Stage 4: train the router on the frozen encoder and the frozen experts, then write the bundle."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from basicsr.data import build_dataset
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer import stopping
from basicsr_unirestorer.archs.building import (
    build_encoder,
    check_experts,
    expert_options,
    load_params,
    weights_fingerprint,
)
from basicsr_unirestorer.archs.node_expert import loaded_expert
from basicsr_unirestorer.archs.unirestorer_arch import restore_by_node
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import DataError, OptionError, TreeMismatchError
from basicsr_unirestorer.inference.bundle import check_precision, file_hash, write_bundle
from basicsr_unirestorer.inference.expert_bank import ExpertBank
from basicsr_unirestorer.losses.router_loss import expected_regret, known_or_estimated, serving_levels
from basicsr_unirestorer.models.calibration import calibrate, reach_of_nodes
from basicsr_unirestorer.models.routing_table import Measurement, centre, measured_table, table_fingerprint
from basicsr_unirestorer.models.training_util import check_train_options, require_finite, stop_if_asked

# the paper's losses, where an option file gives no others
PAPER_LOSSES = {
    'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'},
    'dg_opt': {'type': 'DegradationGranularityLoss', 'loss_weight': 0.1},
    'balance_opt': {'type': 'LoadBalancingLoss', 'loss_weight': 0.01},
}
DATASETS = {'paper': 'MixedDegradationLMDBDataset', 'regret': 'RoutingSamplesDataset'}  # what each objective reads


@MODEL_REGISTRY.register()
class UniRestorerRoutingModel(SRModel):
    """Teach ``network_g`` (a ``UniRestorerRouter``) which expert of the tree to use.

    ``train.objective``:

    - ``paper`` (the default): L1 of the routed picture, reaching the gates through a straight-through factor; L_dg;
      L_aux (``pixel_opt``, ``dg_opt`` and ``balance_opt``, the paper's where not given).
    - ``regret``: what the experts reach on every sample is measured once, into ``experiments/routing_tables``, and the
      router trained on these numbers alone: cross entropy with the leaf that clustering gave the sample and with the
      levels that serve it, and the PSNR that the router is expected to lose against the best level. Samples of
      ``route_also`` have no leaf, so all nodes are tried; their leaf is the one that serves them best, and the expected
      loss is against the best of all nodes. ``train.try_all`` does so for every sample: its leaf stays unless another
      serves it half a dB better. Afterwards temperatures and the reach of every node are fitted, and become options
      of the bundle's router.

    ``train.expert_size`` lets the experts restore only a centre crop of that side; the encoder reads the whole patch.
    ``experts.cache_mb`` limits the memory of loaded experts.

    The end of training writes ``experiments/<name>/bundle``, its weights in ``train.bundle_precision`` (``fp32``, the
    default, or ``fp16``).
    """

    train_options = ('objective', 'expert_size', 'try_all', 'bundle_precision', *PAPER_LOSSES)

    def __init__(self, opt: dict) -> None:
        data = opt['datasets']['train']
        if not data.get('tree') or not data.get('assignments'):
            raise OptionError(
                'UniRestorerRoutingModel needs datasets.train.tree and assignments; '
                'see options/unirestorer_routing.yml.'
            )
        check_train_options(opt, self.train_options)
        check_precision(opt['train'].get('bundle_precision', 'fp32'), 'train.bundle_precision')
        self.objective = _checked_objective(opt)
        self.tree = DegradationTree.load(data['tree'])
        check_experts(opt.get('experts') or {}, self.tree)
        super().__init__(opt)
        self._check_router()
        self.encoder = build_encoder(opt['encoder']).to(self.device)
        made_for = self.tree.build.get('encoder_fingerprint')
        if made_for not in (None, weights_fingerprint(self.encoder.state_dict())):
            raise TreeMismatchError(
                f'{data["tree"]} was built with another encoder than {opt["encoder"]["weights"]}; '
                'cluster again, or give the encoder that made the tree.'
            )
        self.bank = ExpertBank(self._load_expert, int(opt['experts'].get('cache_mb', 2048) * 2**20))
        for node in self.tree.nodes:
            if not self._expert_file(node.name).is_file():
                raise DataError(
                    f'There is no trained expert {self._expert_file(node.name)}; run the experts stage first.'
                )
        if self.objective == 'regret':
            self._measure()

    def _check_router(self) -> None:
        router = self.get_bare_model(self.net_g)
        if (router.num_leaves, router.num_levels) != (self.tree.num_leaves, self.tree.num_levels):
            raise TreeMismatchError(
                f'network_g knows {router.num_leaves} leaves and {router.num_levels} levels, but the tree has '
                f'{self.tree.num_leaves} and {self.tree.num_levels}; give network_g.tree the same file as '
                'datasets.train.tree.'
            )

    def _expert_file(self, name: str) -> Path:
        weights = self.opt['experts'].get('weights')
        if weights is None:
            raise OptionError(
                'experts.weights is missing; give the folder of the experts stage, e.g. experiments/NAME/models.'
            )
        folders = [weights] if isinstance(weights, (str, Path)) else weights  # a grown tree's experts lie in several
        files = [Path(folder) / f'net_{name}_latest.pth' for folder in folders]
        return next((file for file in files if file.is_file()), files[0])

    def _load_expert(self, name: str) -> torch.nn.Module:
        options = expert_options(self.opt['experts'], self.tree.nodes[self.tree.node_id(name)])
        path, root = self._expert_file(name), self._expert_file(self.tree.nodes[0].name)
        net = loaded_expert(options, load_params(path), lambda: load_params(root), 'experts', path)
        return net.to(memory_format=torch.channels_last)

    def init_training_settings(self) -> None:
        stopping.install()
        train_opt = self.opt['train']
        self.net_g.train()
        self.paths = torch.as_tensor(self.tree.paths, device=self.device)
        if self.objective == 'paper':
            losses = {key: build_loss(train_opt.get(key) or default) for key, default in PAPER_LOSSES.items()}
            self.cri_pix, self.cri_dg, self.cri_balance = (loss.to(self.device) for loss in losses.values())
            self.centres = torch.as_tensor(self.tree.centres[self.tree.leaves], device=self.device)
        self.setup_optimizers()
        self.setup_schedulers()

    def _measure(self) -> None:
        """Give this model its table of what the experts reach, measuring only what no earlier run has measured."""
        options = self.opt['datasets']['train']
        self.samples = build_dataset(options)
        size = self.opt['train'].get('expert_size')
        encoder = f'{weights_fingerprint(self.encoder.state_dict())} {_without_weights(self.opt["encoder"])}'
        experts = {
            node.name: [expert_options(self.opt['experts'], node), file_hash(self._expert_file(node.name))]
            for node in self.tree.nodes
        }
        try_all = bool(self.opt['train'].get('try_all', False))
        fingerprint = table_fingerprint(self.samples, encoder, self.tree, experts, size, try_all)
        folder = Path(self.opt['path']['experiments_root']).parent / 'routing_tables' / fingerprint
        measure = Measurement(self.encoder, self._expert, self.tree, size, self.device, try_all)
        workers = options['num_worker_per_gpu']
        table = measured_table(folder, self.samples, measure, workers, self.opt['rank'], self.opt['world_size'])
        self.table = table.to(self.device)
        self.taught = self.table.taught(self.paths)
        get_root_logger().info(
            f'{len(table)} samples measured, {int((table.leaf < 0).sum())} of them without leaf: {folder}'
        )

    def feed_data(self, data: dict) -> None:
        if 'row' in data:
            self.batch = self.taught[data['row'].to(self.device)]
            return
        super().feed_data(data)
        self.expert_lq, self.expert_gt = (
            centre(picture, self.opt['train'].get('expert_size')) for picture in (self.lq, self.gt)
        )
        self.expert_lq = self.expert_lq.contiguous(memory_format=torch.channels_last)
        if 'leaf' in data:  # a validation set need not know it
            self.leaf = data['leaf'].to(self.device)

    def optimize_parameters(self, current_iter: int) -> None:
        self.optimizer_g.zero_grad()
        losses = self._paper_losses(current_iter) if self.objective == 'paper' else self._regret_losses()
        total = sum(losses.values())
        require_finite(total, f'the router at iteration {current_iter}')
        total.backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict(losses)
        stop_if_asked(self, current_iter)

    def _paper_losses(self, current_iter: int) -> OrderedDict[str, torch.Tensor]:
        with torch.no_grad():
            embedding = self.encoder.embed(self.lq)
        # the noise is a function of iteration and rank, so a resumed run draws what the run left alone draws
        seed = (self.opt['manual_seed'] * 1_000_003 + current_iter) * self.opt['world_size'] + self.opt['rank']
        out = self.net_g(embedding, torch.Generator().manual_seed(seed))
        leaf, level = out.leaf_logits.argmax(dim=1), out.level_logits.argmax(dim=1)
        with torch.no_grad():
            restored = restore_by_node(self.expert_lq, self.paths[leaf, level], self._expert)
        gate = out.leaf_logits.softmax(1).gather(1, leaf[:, None]) + out.level_logits.softmax(1).gather(
            1, level[:, None]
        )  # (n, 1)
        factor = (gate / gate.detach())[..., None, None]  # one, but it carries the gradient to the gates
        return OrderedDict(
            l_pix=self.cri_pix(restored * factor, self.expert_gt),
            l_dg=self.cri_dg(out.e_d, out.e_g, self.centres[self.leaf]),
            l_balance=self.cri_balance(out.level_logits.softmax(dim=1)),
        )

    def _regret_losses(self) -> OrderedDict[str, torch.Tensor]:
        out, batch = self.net_g(self.batch.embedding), self.batch
        leaf_probs = known_or_estimated(batch.path_leaf, out.leaf_logits.softmax(dim=1))
        level = serving_levels(leaf_probs.detach(), batch.psnr, self.paths)
        regret = expected_regret(leaf_probs, out.level_logits.softmax(dim=1), batch.psnr, self.paths)
        l_leaf = F.cross_entropy(out.leaf_logits, batch.leaf, ignore_index=-1, reduction='sum') / len(batch)
        return OrderedDict(l_leaf=l_leaf, l_level=F.cross_entropy(out.level_logits, level), l_regret=regret.mean())

    def _expert(self, node_id: int) -> torch.nn.Module:
        return self.bank.get(self.tree.nodes[node_id].name, self.device)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img) -> None:  # noqa: ANN001
        """Restore whole pictures through the router as it is now, on one process."""
        self.net_g.eval()
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
        self.net_g.train()

    @torch.no_grad()
    def test(self) -> None:
        out = self.get_bare_model(self.net_g)(self.encoder.embed(self.lq))  # the other ranks do not take part
        leaf, level = out.leaf_logits.argmax(dim=1), out.level_logits.argmax(dim=1)
        self.output = restore_by_node(self.lq, self.paths[leaf, level], self._expert)

    def save(self, epoch: int, current_iter: int) -> None:
        self.save_network(self.net_g, 'net_g', current_iter)
        self.save_training_state(epoch, current_iter)
        if current_iter == -1 and self.opt['rank'] == 0:
            self._write_bundle()

    def _calibration(self) -> dict:
        """Fit to the samples held out of training what the bundle's router shall know beside its weights."""
        held_out = self.samples.held_out_rows if len(self.samples.held_out_rows) else self.samples.rows
        router = self.get_bare_model(self.net_g).eval()
        fitted, sentence = calibrate(router, self.taught[torch.as_tensor(held_out, device=self.device)], self.tree)
        router.train()
        get_root_logger().info(sentence)
        return {**fitted, 'reach': reach_of_nodes(self.table.to('cpu'), self.tree)}

    def _write_bundle(self) -> None:
        folder = Path(self.opt['path']['experiments_root']) / 'bundle'
        router_options = {
            key: value
            for key, value in self.opt['network_g'].items()
            if key not in ('tree', 'num_leaves', 'num_levels')
        }
        if self.objective == 'regret':
            router_options |= self._calibration()
        experts = {
            node.name: (expert_options(self.opt['experts'], node), partial(load_params, self._expert_file(node.name)))
            for node in self.tree.nodes
        }
        write_bundle(
            folder,
            self.tree,
            (_without_weights(self.opt['encoder']), self.encoder.state_dict),
            (router_options, self.get_bare_model(self.net_g).state_dict),
            experts,
            self.opt['train'].get('bundle_precision', 'fp32'),
        )
        get_root_logger().info(f'Bundle written to {folder}')


def _without_weights(options: Mapping) -> dict:
    return {key: value for key, value in options.items() if key != 'weights'}


def _checked_objective(opt: Mapping) -> str:
    """Return ``train.objective``, checked with the options that go with it."""
    objective = opt['train'].get('objective', 'paper')
    if objective not in DATASETS:
        raise OptionError(f"train.objective is '{objective}'; write one of {', '.join(DATASETS)}.")
    given = opt['datasets']['train']['type']
    if given != DATASETS[objective]:
        raise OptionError(
            f'train.objective is {objective}, which reads a {DATASETS[objective]}, but datasets.train.type is {given}; '
            f'change one of the two.'
        )
    for key in PAPER_LOSSES if objective == 'regret' else ():
        if opt['train'].get(key) is not None:
            raise OptionError(f'train.{key} belongs to objective: paper; remove it.')
    return objective
