"""Stage 1: train the degradation encoder against fine-grained degradation captions."""

from __future__ import annotations

from collections import OrderedDict
from itertools import chain

import torch
import torch.distributed as dist
from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from basicsr_unirestorer import stopping
from basicsr_unirestorer.archs.building import load_into, load_params
from basicsr_unirestorer.models.training_util import check_train_options, require_finite, stop_if_asked


@MODEL_REGISTRY.register()
class DegradationEncoderModel(SRModel):
    """Pull crops towards the embedding of their degradation caption (``network_g``: encoder, ``network_t``: captions).

    ``train.contrastive_opt`` is the loss. Validation reports ``caption_accuracy`` and ``type_accuracy``: how many whole
    pictures are nearest to their own caption, or to one with the same degradation types.
    """

    train_options = ('contrastive_opt',)

    def init_training_settings(self) -> None:
        check_train_options(self.opt, self.train_options)
        stopping.install()
        self.net_g.train()
        self.net_t = build_network(self.opt['network_t']).to(self.device)
        if any(p.requires_grad for p in self.net_t.parameters()):  # a frozen one has nothing to share among ranks
            self.net_t = self.model_to_device(self.net_t)
        load_path = self.opt['path'].get('pretrain_network_t')
        if load_path is not None:
            self.load_network(self.net_t, load_path, True, 'params')
        self.cri_contrastive = build_loss(self.opt['train']['contrastive_opt']).to(self.device)
        self.setup_optimizers()
        self.setup_schedulers()

    def model_to_device(self, net: torch.nn.Module) -> torch.nn.Module:
        return super().model_to_device(net.to(memory_format=torch.channels_last))  # before DDP looks at the weights

    def load_network(self, net, load_path, strict=True, param_key='params') -> None:  # noqa: ANN001
        """Load weights as ``load_into`` does, which knows how to take a part of published weights."""
        load_into(self.get_bare_model(net), load_params(load_path, param_key), load_path)
        get_root_logger().info(f'Loaded {type(net).__name__} from {load_path}')

    def setup_optimizers(self) -> None:
        optim = dict(self.opt['train']['optim_g'])
        params = [p for p in chain(self.net_g.parameters(), self.net_t.parameters()) if p.requires_grad]
        self.optimizer_g = self.get_optimizer(optim.pop('type'), params, **optim)
        self.optimizers.append(self.optimizer_g)

    def feed_data(self, data: dict) -> None:
        self.lq = data['lq'].to(self.device, memory_format=torch.channels_last)
        self.caption = list(data['caption'])

    def optimize_parameters(self, current_iter: int) -> None:
        self.optimizer_g.zero_grad()
        embeddings, captions = self._of_all_ranks(self.net_g(self.lq), self.caption)
        l_caption = self.cri_contrastive(embeddings, captions, self.net_t)
        require_finite(l_caption, f'the encoder at iteration {current_iter}')
        l_caption.backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict(OrderedDict(l_caption=l_caption))
        stop_if_asked(self, current_iter)

    def _of_all_ranks(self, embeddings: Tensor, captions: list[str]) -> tuple[Tensor, list[str]]:
        """Gather the batch of all processes, with gradients.

        A picture is told apart from the others of its batch, so n processes of b pictures each shall see n x b of them,
        as one process would. Each computes the whole loss; the gradients that come back to a process's own pictures
        add up over processes, and DDP's mean over processes makes them those of the whole batch.
        """
        if not self.opt['dist']:
            return embeddings, captions
        told = [None] * self.opt['world_size']
        dist.all_gather_object(told, captions)
        return _Gathered.apply(embeddings), [caption for part in told for caption in part]

    @torch.no_grad()
    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img) -> None:  # noqa: ANN001
        self.net_g.eval()
        encoder = self.get_bare_model(self.net_g)
        embeddings, captions = [], []
        for data in dataloader:
            embeddings.append(encoder.embed(data['lq'].to(self.device)))
            captions += data['caption']
        self.net_g.train()
        distinct = sorted(set(captions))
        captioner = self.get_bare_model(self.net_t)  # the other ranks do not take part
        nearest = (torch.cat(embeddings) @ captioner(distinct).T).argmax(dim=1).tolist()
        guesses = [distinct[i] for i in nearest]
        pairs = list(zip(guesses, captions, strict=True))
        results = {
            'caption_accuracy': sum(a == b for a, b in pairs) / len(pairs),
            'type_accuracy': sum(_types(a) == _types(b) for a, b in pairs) / len(pairs),
        }
        name = dataloader.dataset.opt['name']
        get_root_logger().info(f'Validation {name}: ' + ', '.join(f'{k} {v:.4f}' for k, v in results.items()))
        for key, value in results.items():
            if tb_logger:
                tb_logger.add_scalar(f'metrics/{name}/{key}', value, current_iter)

    def save(self, epoch: int, current_iter: int) -> None:
        self.save_network(self.net_g, 'net_g', current_iter)
        self.save_network(self.net_t, 'net_t', current_iter)
        self.save_training_state(epoch, current_iter)


class _Gathered(torch.autograd.Function):
    """Tensors of one shape from all processes, one after another; gradients from all of them add up."""

    @staticmethod
    def forward(ctx, own: Tensor) -> Tensor:  # noqa: ANN001
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # noqa: ANN001
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def _types(caption: str) -> frozenset[str]:
    from basicsr_unirestorer.degradations import parse_caption

    return frozenset(label for _, label in parse_caption(caption))
