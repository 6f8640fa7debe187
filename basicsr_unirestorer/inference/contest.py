"""Who is compared in a benchmark, and how one picture is restored by all of them and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from basicsr_unirestorer.degradations import parse_caption
from basicsr_unirestorer.errors import OptionError, check_keys, need_keys
from basicsr_unirestorer.inference.journal import fingerprint
from basicsr_unirestorer.inference.metrics import measure
from basicsr_unirestorer.inference.protocols import Case
from basicsr_unirestorer.inference.tables import key_of

ORACLES = ('all', 'caption', 'none')
OWN_COLUMNS = ('input', 'root', 'routed', 'by label', 'best node', 'regret')


@dataclass
class Contest:
    """Who is compared, on which device, and the facts that the results depend on."""

    net: nn.Module  # a UniRestorer
    rivals: dict[str, nn.Module]
    oracle: str
    device: str
    facts: dict

    @property
    def methods(self) -> list[str]:
        """Columns of the table, in order."""
        best = ['best node'] if self.oracle == 'all' else []
        return ['input', 'root', *self.rivals, 'routed', *(['by label'] if self.oracle != 'none' else []), *best]

    def tensor(self, lq: np.ndarray) -> Tensor:
        """Turn RGB, float32, (h, w, 3) into (1, 3, h, w) where the networks run."""
        tensor = torch.from_numpy(np.ascontiguousarray(lq.transpose(2, 0, 1)))[None].to(self.device)
        return tensor.contiguous(memory_format=torch.channels_last)

    def measure(self, case: Case) -> dict:
        """Restore one picture with everything that the table compares, and return its row."""
        from basicsr_unirestorer.inference.restorer import Decision

        pictures, gt = case.load()
        lq, tree = self.tensor(pictures), self.net.tree
        with torch.no_grad():
            route = self.net.route(lq)
            decision = Decision.of(self.net, route)
            chosen = int(route.node_id[0])
            labelled = tree.node_for_caption(case.caption) if case.caption else None
            nodes = {'root': 0, 'routed': chosen, **({'by label': labelled} if labelled is not None else {})}
            outputs, best = self._run_experts(lq, gt, case, nodes)
            outputs |= {name: rival(lq) for name, rival in self.rivals.items()}
        row = {
            'dataset': case.dataset,
            'degradation': case.degradation,
            'caption': case.caption or '',
            'sample_id': case.name,
            'labels': '+'.join(sorted({label for _, label in parse_caption(case.caption or 'clean')})),
        }
        for method in self.methods:
            if method in outputs:
                values = measure(case.metrics, outputs[method], gt)
                row |= {key_of(method, metric): value for metric, value in values.items()}
        if self.oracle == 'all':
            row['regret'] = 0.0 if row['best node'] == row['routed'] else row['best node'] - row['routed']
        row |= {
            'node': decision.expert,
            'leaf': decision.leaf,
            'level': decision.level,
            'leaf_confidence': decision.leaf_confidence,
            'level_confidence': decision.level_confidence,
            'leaf_labels': dominant_labels(tree.nodes[tree.node_id(decision.leaf)]),
        }
        return row | ({'best': tree.nodes[best].name} if best is not None else {})

    def _run_experts(
        self, lq: Tensor, gt: np.ndarray, case: Case, nodes: Mapping[str, int]
    ) -> tuple[dict[str, Tensor], int | None]:
        """Run the experts that the columns need, each once, and with oracle ``all`` every other, to find the best."""
        wanted = {name: node for name, node in nodes.items() if name in self.methods}
        results = {node: self.net.expert(node, self.device)(lq) for node in sorted(set(wanted.values()))}
        outputs = {'input': lq, **{name: results[node] for name, node in wanted.items()}}
        if self.oracle != 'all':
            return outputs, None
        best, highest = None, float('-inf')
        for node in range(len(self.net.tree.nodes)):
            output = results[node] if node in results else self.net.expert(node, self.device)(lq)
            psnr = measure({'psnr': case.metrics['psnr']}, output, gt)['psnr']
            if psnr > highest:
                best, highest, outputs['best node'] = node, psnr, output
        return outputs, best


def dominant_labels(node) -> str:  # noqa: ANN001
    """Return the degradation types that most of a node's samples have, e.g. ``rain`` or ``haze+noise``."""
    return '+'.join(sorted(label for label, count in node.labels.items() if count > node.count / 2))


def load_rival(name: str, options: Mapping) -> tuple[nn.Module, str]:
    """Load a network that BasicSR trained, and its weights' fingerprint."""
    from basicsr_unirestorer.archs.building import frozen, load_into, load_params, make_network, weights_fingerprint

    check_keys(options, ('network', 'weights'), f'rivals.{name}')
    need_keys(options, ('network', 'weights'), f'rivals.{name}')
    network = make_network(options['network'], f'rivals.{name}.network')
    params = load_params(options['weights'])
    return frozen(load_into(network, params, options['weights'])), weights_fingerprint(params)


def make_contest(opt: Mapping, device: str) -> Contest:
    """Open the bundle and the rivals of an option file."""
    from basicsr_unirestorer.archs.unirestorer_arch import UniRestorer

    mode, labels, oracle = opt.get('mode', 'auto'), opt.get('labels'), opt.get('oracle', 'caption')
    net = UniRestorer(opt['bundle'], mode, labels).to(device)
    rivals, prints = {}, {}
    for name, options in (opt.get('rivals') or {}).items():
        if name in OWN_COLUMNS:
            raise OptionError(
                f"A rival cannot be called '{name}', which is a column of the table; choose another name."
            )
        network, weights = load_rival(name, options)
        rivals[name] = network.to(device, memory_format=torch.channels_last)
        prints[name] = {'network': dict(options['network']), 'weights_fingerprint': weights}
    facts = {
        'bundle': str(net.bundle.folder),
        'weights_fingerprint': fingerprint(net.bundle.content),
        'tree_fingerprint': net.tree.fingerprint,
        'mode': mode,
        'labels': list(labels or ()),
        'oracle': oracle,
        'rivals': prints,
    }
    return Contest(net, rivals, oracle, device, facts)
