"""Stage 4: train the router on the frozen encoder and the frozen experts, then write the bundle."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from pathlib import Path

import torch
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch.nn import functional as F  # noqa: N812

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
from basicsr_unirestorer.errors import DataError, OptionError, TreeMismatchError, check_keys
from basicsr_unirestorer.inference.bundle import write_bundle
from basicsr_unirestorer.inference.expert_bank import ExpertBank
from basicsr_unirestorer.models.training_util import check_train_options, require_finite

LEAF_TARGETS = ('assignment', 'caption', 'merit')


@MODEL_REGISTRY.register()
class UniRestorerRoutingModel(SRModel):
    """Teach ``network_g`` (a ``UniRestorerRouter``) which expert of the tree to use.

    ``train.pixel_opt``, ``dg_opt`` and ``balance_opt`` are the paper's objective: L1 of the routed picture, reaching
    the gates through a straight-through factor; L_dg; L_aux. Two direct teachers may be added:

    - ``leaf_opt: {loss_weight, target, temperature_db}``: cross entropy of the leaf logits with the leaf that
      clustering gave the sample (``target: assignment``, the default); with the leaf that holds most samples of its
      caption (``caption``), which overrules stray assignments; or with the softmax of the PSNR that the experts of its
      leaf and the siblings reach (``merit``, over ``temperature_db``), which needs crops large enough to judge by;
    - ``level_opt: {loss_weight, temperature_db}``: cross entropy of the level logits with the softmax of the PSNR that
      the experts on the chosen leaf's path reach, so that a wrong or useless leaf teaches a coarser level.

    ``train.expert_size`` lets the experts restore only a centre crop of that side; the encoder reads the whole patch.

    The end of training writes ``experiments/<name>/bundle``.
    """

    train_options = ('pixel_opt', 'dg_opt', 'balance_opt', 'leaf_opt', 'level_opt', 'expert_size')

    def __init__(self, opt: dict) -> None:
        data = opt['datasets']['train']
        if not data.get('tree') or not data.get('assignments'):
            raise OptionError(
                'UniRestorerRoutingModel needs datasets.train.tree and assignments; '
                'see options/unirestorer_routing.yml.'
            )
        check_train_options(opt, self.train_options)
        leaf_opt = opt['train'].get('leaf_opt') or {}
        check_keys(leaf_opt, ('loss_weight', 'target', 'temperature_db'), 'train.leaf_opt')
        if leaf_opt.get('target', 'assignment') not in LEAF_TARGETS:
            raise OptionError(
                f"train.leaf_opt.target is '{leaf_opt['target']}'; write one of {', '.join(LEAF_TARGETS)}."
            )
        check_keys(opt['train'].get('level_opt') or {}, ('loss_weight', 'temperature_db'), 'train.level_opt')
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
        self.bank = ExpertBank(self._load_expert)
        for node in self.tree.nodes:
            if not self._expert_file(node.name).is_file():
                raise DataError(
                    f'There is no trained expert {self._expert_file(node.name)}; run the experts stage first.'
                )

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
        return Path(weights) / f'net_{name}_latest.pth'

    def _load_expert(self, name: str) -> torch.nn.Module:
        options = expert_options(self.opt['experts'], self.tree.nodes[self.tree.node_id(name)])
        path, root = self._expert_file(name), self._expert_file(self.tree.nodes[0].name)
        net = loaded_expert(options, load_params(path), lambda: load_params(root), 'experts', path)
        return net.to(memory_format=torch.channels_last)

    def init_training_settings(self) -> None:
        train_opt = self.opt['train']
        self.net_g.train()
        self.cri_pix = build_loss(train_opt['pixel_opt']).to(self.device) if train_opt.get('pixel_opt') else None
        self.cri_dg = build_loss(train_opt['dg_opt']).to(self.device)
        self.cri_balance = build_loss(train_opt['balance_opt']).to(self.device)
        self.leaf_opt = train_opt.get('leaf_opt')
        self.level_opt = train_opt.get('level_opt')
        self.paths = torch.as_tensor(self.tree.paths, device=self.device)
        self.siblings = self._sibling_leaves()
        self.centres = torch.as_tensor(self.tree.centres[self.tree.leaves], device=self.device)
        self.setup_optimizers()
        self.setup_schedulers()

    def feed_data(self, data: dict) -> None:
        super().feed_data(data)
        # what the experts restore: all of the patch, or its centre
        h, w = self.lq.shape[-2:]
        size = self.opt['train'].get('expert_size') or max(h, w)
        top, left = max(0, (h - size) // 2), max(0, (w - size) // 2)
        centre = (..., slice(top, top + size), slice(left, left + size))
        self.expert_lq = self.lq[centre].contiguous(memory_format=torch.channels_last)
        self.expert_gt = self.gt[centre]
        self.leaf = data['leaf'].to(self.device)
        self.sample_id = data['sample_id']
        self.caption = data['caption']

    def optimize_parameters(self, current_iter: int) -> None:
        self.optimizer_g.zero_grad()
        with torch.no_grad():
            embedding = self.encoder.embed(self.lq)
        # the noise is a function of the iteration, so a resumed run draws what the run left alone draws
        noise = torch.Generator().manual_seed(self.opt['manual_seed'] * 1_000_003 + current_iter)
        out = self.net_g(embedding, noise)
        leaf, level = out.leaf_logits.argmax(dim=1), out.level_logits.argmax(dim=1)
        losses = OrderedDict(
            l_dg=self.cri_dg(out.e_d, out.e_g, self.centres[self.leaf]),
            l_balance=self.cri_balance(out.level_logits.softmax(dim=1)),
        )
        restored = self._restore_path(leaf, level)
        if self.cri_pix:
            gate = out.leaf_logits.softmax(1).gather(1, leaf[:, None]) + out.level_logits.softmax(1).gather(
                1, level[:, None]
            )  # (n, 1)
            factor = (gate / gate.detach())[..., None, None]  # one, but it carries the gradient to the gates
            chosen = torch.stack([restored[t][i] for i, t in enumerate(level.tolist())])
            losses['l_pix'] = self.cri_pix(chosen * factor, self.expert_gt)
        if self.leaf_opt:
            losses['l_leaf'] = self.leaf_opt['loss_weight'] * F.cross_entropy(out.leaf_logits, self._leaf_target())
        if self.level_opt:
            losses['l_level'] = self.level_opt['loss_weight'] * F.cross_entropy(
                out.level_logits, self._softmax_of_psnr(list(restored.values()), self.level_opt)
            )
        total = sum(losses.values())
        require_finite(total, f'the router at iteration {current_iter} (samples {", ".join(self.sample_id[:3])} ...)')
        total.backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict(losses)
        self.log_dict['leaf_accuracy'] = (leaf == self.leaf).float().mean().item()

    def _expert(self, node_id: int) -> torch.nn.Module:
        return self.bank.get(self.tree.nodes[node_id].name, self.device)

    def _restore(self, node_ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Restore the chosen rows of the batch, each with its node's expert; the other rows are zero."""
        output = torch.zeros_like(self.expert_lq)
        if rows.any():
            output[rows] = restore_by_node(self.expert_lq[rows], node_ids[rows], self._expert)
        return output

    @torch.no_grad()
    def _restore_path(self, leaf: torch.Tensor, level: torch.Tensor) -> dict[int, torch.Tensor]:
        """Restore each picture with the experts on its leaf's path: at every level, or only where it is chosen."""
        everywhere = torch.ones_like(level, dtype=torch.bool)
        return {
            t: self._restore(self.paths[leaf, t], everywhere if self.level_opt else level == t)
            for t in range(self.tree.num_levels)
        }

    def _sibling_leaves(self) -> torch.Tensor:
        """Return each leaf's family, shape (num_leaves, largest family): leaf ids, filled up with the leaf itself."""
        parents = [self.tree.nodes[node_id].parent for node_id in self.tree.leaves]
        families = [[other for other, p in enumerate(parents) if p == parent] for parent in parents]
        width = max(map(len, families))
        rows = [family + [leaf] * (width - len(family)) for leaf, family in enumerate(families)]
        return torch.tensor(rows, device=self.device)

    @torch.no_grad()
    def _leaf_target(self) -> torch.Tensor:
        """Return what the leaf gate should say, shape (n, num_leaves); rows add up to one."""
        target = self.leaf_opt.get('target', 'assignment')
        if target == 'assignment':
            return F.one_hot(self.leaf, self.tree.num_leaves).float()
        if target == 'caption':
            nodes = [self.tree.node_for_caption(caption) for caption in self.caption]
            own = self.leaf.tolist()  # what a caption without samples in the tree, the root's, falls back to
            leaves = [self.tree.leaves.index(n) if n else leaf for n, leaf in zip(nodes, own, strict=True)]
            return F.one_hot(torch.tensor(leaves, device=self.device), self.tree.num_leaves).float()
        family = self.siblings[self.leaf]  # (n, largest family)
        everywhere = torch.ones_like(self.leaf, dtype=torch.bool)
        restored = [self._restore(self.paths[column, -1], everywhere) for column in family.unbind(dim=1)]
        shares = self._softmax_of_psnr(restored, self.leaf_opt)
        # a leaf that fills up a small family stands there several times, always with the same share: one is kept
        target = torch.zeros(len(family), self.tree.num_leaves, device=self.device).scatter_(1, family, shares)
        return target / target.sum(dim=1, keepdim=True)

    def _softmax_of_psnr(self, restored: list[torch.Tensor], options: dict) -> torch.Tensor:
        """Return the merits of candidates, shape (n, candidates): the softmax of PSNR over a temperature."""
        mse = torch.stack(
            [((picture.clamp(0, 1) - self.expert_gt) ** 2).mean(dim=(1, 2, 3)) for picture in restored], 1
        )
        psnr = -10 * torch.log10(mse + 1e-8)  # (n, candidates), dB
        return (psnr / options.get('temperature_db', 0.5)).softmax(dim=1)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img) -> None:  # noqa: ANN001
        """Restore whole pictures through the router as it is now."""
        self.net_g.eval()
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
        self.net_g.train()

    @torch.no_grad()
    def test(self) -> None:
        out = self.net_g(self.encoder.embed(self.lq))
        leaf, level = out.leaf_logits.argmax(dim=1), out.level_logits.argmax(dim=1)
        self.output = restore_by_node(self.lq, self.paths[leaf, level], self._expert)

    def save(self, epoch: int, current_iter: int) -> None:
        self.save_network(self.net_g, 'net_g', current_iter)
        self.save_training_state(epoch, current_iter)
        if current_iter == -1 and self.opt['rank'] == 0:
            self._write_bundle()

    def _write_bundle(self) -> None:
        folder = Path(self.opt['path']['experiments_root']) / 'bundle'
        encoder_options = {key: value for key, value in self.opt['encoder'].items() if key != 'weights'}
        router_options = {
            key: value
            for key, value in self.opt['network_g'].items()
            if key not in ('tree', 'num_leaves', 'num_levels')
        }
        experts = {
            node.name: (expert_options(self.opt['experts'], node), partial(load_params, self._expert_file(node.name)))
            for node in self.tree.nodes
        }
        write_bundle(
            folder,
            self.tree,
            (encoder_options, self.encoder.state_dict),
            (router_options, self.get_bare_model(self.net_g).state_dict),
            experts,
        )
        get_root_logger().info(f'Bundle written to {folder}')
