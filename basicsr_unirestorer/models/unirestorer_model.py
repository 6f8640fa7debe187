"""Testing: a bundle in BasicSR's tester, with its metrics, and a count of the experts that were chosen."""

from __future__ import annotations

from collections import Counter

import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY

from basicsr_unirestorer.errors import OptionError


@MODEL_REGISTRY.register()
class UniRestorerModel(SRModel):
    """Restore test sets with ``network_g: {type: UniRestorer, bundle: ...}``; any mode, oracle included."""

    def __init__(self, opt: dict) -> None:
        if opt['is_train']:
            raise OptionError(
                'UniRestorerModel only tests; train with DegradationEncoderModel, UniRestorerExpertsModel '
                'and UniRestorerRoutingModel.'
            )
        super().__init__(opt)

    def print_network(self, net: torch.nn.Module) -> None:
        """Log the tree instead of every layer of encoder and router."""
        tree = self.get_bare_model(net).tree
        get_root_logger().info(f'UniRestorer: levels {tree.level_sizes}, experts load on demand')

    def feed_data(self, data: dict) -> None:
        super().feed_data(data)
        self.caption = list(data['caption']) if 'caption' in data else None

    def test(self) -> None:
        net = self.get_bare_model(self.net_g)
        route = net.route(self.lq, captions=self.caption)
        self.chosen.update(net.tree.nodes[node_id].name for node_id in route.node_id.tolist())
        self.output = net(self.lq, route)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img) -> None:  # noqa: ANN001
        self.chosen: Counter[str] = Counter()
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
        shares = ', '.join(f'{name} {count}' for name, count in self.chosen.most_common())
        get_root_logger().info(f'Experts chosen on {dataloader.dataset.opt["name"]}: {shares}')
