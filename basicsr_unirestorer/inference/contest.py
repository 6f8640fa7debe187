"""Who is compared in a benchmark, and how one picture is restored by all of them and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from basicsr_unirestorer.archs.unirestorer_arch import Route
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.degradations import parse_caption
from basicsr_unirestorer.errors import OptionError, check_keys, need_keys
from basicsr_unirestorer.inference.journal import fingerprint
from basicsr_unirestorer.inference.metrics import measure
from basicsr_unirestorer.inference.protocols import Case
from basicsr_unirestorer.inference.restorer import Restorer
from basicsr_unirestorer.inference.tables import key_of
from basicsr_unirestorer.inference.tiling import to_tensor

ORACLES = ('all', 'caption', 'none')
WHOLE = 10**6  # pixels: pictures are restored as a whole; in tiles only where memory runs out, and then the row says so
OWN_COLUMNS = ('input', 'root', 'routed', 'by label', 'best node', 'regret')


@dataclass
class Contest:
    """Who is compared, on which device, and the facts that the results depend on."""

    restorer: Restorer
    rivals: dict[str, nn.Module]
    oracle: str
    facts: dict

    @property
    def tree(self) -> DegradationTree:
        return self.restorer.net.tree

    @property
    def methods(self) -> list[str]:
        """Columns of the table, in order."""
        best = ['best node'] if self.oracle == 'all' else []
        return ['input', 'root', *self.rivals, 'routed', *(['by label'] if self.oracle != 'none' else []), *best]

    def measure(self, case: Case) -> dict:
        """Restore one picture with everything that the table compares, and return its row."""
        lq, gt = case.load()
        route = self.restorer.choose(lq)
        routed, decision = self.restorer.restore(lq, route)
        outputs = {'input': lq, 'routed': routed}
        outputs |= {name: self._run_rival(rival, lq) for name, rival in self.rivals.items()}
        chosen = int(route.node_id[0]) if route.gate is None else None  # several experts together are no single node
        best = self._run_experts(lq, gt, case, route, {chosen: routed}, outputs)
        row = {
            'dataset': case.dataset,
            'degradation': case.degradation,
            'caption': case.caption or '',
            'sample_id': case.name,
            'labels': types_of(case.caption or 'clean'),
        }
        for method in self.methods:
            if method in outputs:
                values = measure(case.metrics, outputs[method], gt)
                row |= {key_of(method, metric): value for metric, value in values.items()}
        if best is not None:
            row['regret'] = 0.0 if row['best node'] == row['routed'] else row['best node'] - row['routed']
        return row | {
            'node': decision.expert,
            'leaf': decision.leaf,
            'level': self.tree.nodes[self.tree.node_id(decision.expert)].level,
            'leaf_confidence': decision.leaf_confidence,
            'level_confidence': decision.level_confidence,
            'leaf_labels': dominant_labels(self.tree.nodes[self.tree.node_id(decision.leaf)]),
            'tile': decision.tiling.tile_size or '',
            **({'best': self.tree.nodes[best].name} if best is not None else {}),
        }

    def _run_rival(self, rival: nn.Module, lq: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            restored = rival(to_tensor(lq).to(self.restorer.device))
        return restored[0].float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()

    def _run_experts(
        self,
        lq: np.ndarray,
        gt: np.ndarray,
        case: Case,
        route: Route,
        results: dict[int | None, np.ndarray],
        outputs: dict[str, np.ndarray],
    ) -> int | None:
        """Run the experts that the columns need, each once, and with oracle ``all`` every other.

        Args:
            lq, gt, case, route: The picture and its route.
            results: What is known already, by node; filled with the columns' other nodes.
            outputs: Filled with ``root``, ``by label`` and ``best node``.

        Returns:
            The best node by true PSNR with oracle ``all``, else None.
        """

        def run(node_id: int) -> np.ndarray:
            node = torch.full_like(route.node_id, node_id)
            return self.restorer.restore(lq, replace(route, node_id=node, candidates=None, gate=None))[0]

        wanted = {'root': 0}
        if self.oracle != 'none' and case.caption:
            wanted['by label'] = node_by_label(self.tree, case.caption)
        for method, node_id in wanted.items():
            results[node_id] = outputs[method] = results[node_id] if node_id in results else run(node_id)
        if self.oracle != 'all':
            return None
        best, highest = None, float('-inf')
        for node_id in range(len(self.tree.nodes)):
            output = results[node_id] if node_id in results else run(node_id)
            psnr = measure({'psnr': case.metrics['psnr']}, output, gt)['psnr']
            if psnr > highest:
                best, highest, outputs['best node'] = node_id, psnr, output
        return best


def types_of(caption: str) -> str:
    """Return the degradation types that a caption names, as ``dominant_labels`` writes them; '' for a clean picture."""
    return '+'.join(sorted({label for _, label in parse_caption(caption)}))


def dominant_labels(node) -> str:  # noqa: ANN001
    """Return the degradation types that most of a node's samples have, e.g. ``rain`` or ``haze+noise``."""
    return '+'.join(sorted(label for label, count in node.labels.items() if count > node.count / 2))


def node_by_label(tree: DegradationTree, caption: str) -> int:
    """Return the node that a caption asks for: its leaf or, where the tree knows its types but not its strengths (real
    pairs tell none), the coarsest node of (nearly) these types alone; the root where nothing fits.
    """
    if caption in tree.nodes[0].captions:
        return tree.node_for_caption(caption)
    types = types_of(caption)
    fitting = [
        node_id
        for node_id, node in enumerate(tree.nodes)
        if types and sum(n for own, n in node.captions.items() if types_of(own) == types) >= 0.8 * max(node.count, 1)
    ]
    return min(fitting, key=lambda node_id: (tree.nodes[node_id].level, -tree.nodes[node_id].count), default=0)


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
    mode, labels, oracle = opt.get('mode', 'auto'), opt.get('labels'), opt.get('oracle', 'caption')
    top_k = opt.get('top_k', 1)
    more = {key: opt[key] for key in ('level', 'self_ensemble') if opt.get(key) is not None}
    restorer = Restorer.from_bundle(opt['bundle'], mode, labels, device, top_k=top_k, tile_size=WHOLE, **more)
    bundle = restorer.net.bundle
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
        'bundle': str(bundle.folder),
        'weights_fingerprint': fingerprint(bundle.content),
        'tree_fingerprint': bundle.tree.fingerprint,
        'mode': mode,
        'labels': list(labels or ()),
        'top_k': top_k,
        **more,
        'oracle': oracle,
        'rivals': prints,
    }
    return Contest(restorer, rivals, oracle, facts)
