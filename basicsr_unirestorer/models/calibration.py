"""What is fitted to a router after its training: how far its probabilities can be believed, and how far it can see."""

from __future__ import annotations

import math

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.archs.router_arch import UniRestorerRouter, distances_to_nodes, pick_node
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.losses.router_loss import known_or_estimated, serving_levels
from basicsr_unirestorer.models.routing_table import RoutingTable

REACH_QUANTILE = 0.99  # share of a node's own samples that are not too far from its centre ...
REACH_MARGIN = 1.5  # ... times this; nearer ones are routed better by what the router has learnt


def fitted_temperature(logits: Tensor, target: Tensor) -> float:
    """Return the temperature at which a softmax gives the truth the highest likelihood (Guo et al., ICML 2017).

    Args:
        logits: Shape (n, choices), of samples that were not trained on.
        target: The right choices, shape (n,), or how right each choice is, shape (n, choices), rows adding up to one.

    Returns:
        Between 1/20 and 20; 1 where there is nothing to fit to.
    """
    if not len(target):
        return 1.0
    logits, target = logits.double(), target.double() if target.is_floating_point() else target
    found = minimize_scalar(
        lambda log: F.cross_entropy(logits / math.exp(log), target).item(),
        bounds=(-math.log(20), math.log(20)),
        method='bounded',
    )
    return math.exp(found.x)


def calibration_error(probs: Tensor, target: Tensor, bins: int = 10) -> float:
    """Return the expected calibration error: how far confidence and accuracy lie apart, averaged over bins.

    Args:
        probs: Shape (n, choices).
        target: As for ``fitted_temperature``.
        bins: Bins of equal width.
    """
    confidence, choice = probs.max(dim=1)
    place = (confidence * bins).long().clamp(max=bins - 1)
    right = target.gather(1, choice[:, None])[:, 0] if target.dim() == 2 else (choice == target).to(probs)
    gaps = [
        (right[place == b].mean() - confidence[place == b].mean()).abs() * (place == b).sum() for b in place.unique()
    ]
    return float(sum(gaps) / max(1, len(target)))


@torch.no_grad()
def calibrate(router: UniRestorerRouter, table: RoutingTable, tree: DegradationTree) -> tuple[dict[str, float], str]:
    """Fit the temperatures of both gates: the leaf's to the leaves taught, the level's to what serves on a leaf's path.

    Args:
        router: In evaluation mode.
        table: Samples it was not trained on, on its device.
        tree: The degradation tree.

    Returns:
        ``leaf_temperature`` and ``level_temperature``, arguments of the router; and a sentence for the log.
    """
    out, paths = router(table.embedding), torch.as_tensor(tree.paths, device=table.leaf.device)
    chosen = F.one_hot(out.leaf_logits.argmax(dim=1), tree.num_leaves).to(table.psnr)
    level = serving_levels(known_or_estimated(table.path_leaf, chosen), table.psnr, paths)
    assigned = table.leaf >= 0
    fitted, words = {}, []
    for name, logits, target in (
        ('leaf', out.leaf_logits[assigned].cpu(), table.leaf[assigned].cpu()),
        ('level', out.level_logits.cpu(), level.cpu()),
    ):
        temperature = round(fitted_temperature(logits, target), 4)
        before, after = (calibration_error((logits / t).softmax(dim=1), target) for t in (1, temperature))
        fitted[f'{name}_temperature'] = temperature
        words.append(f'{name} {temperature:.2f} (calibration error {before:.3f} -> {after:.3f})')
    node_id = pick_node(out.leaf_logits, out.level_logits, tree)
    regret = table.psnr.nan_to_num(nan=float('-inf')).amax(1) - table.psnr.gather(1, node_id[:, None])[:, 0]
    lost = f'regret where measured {regret.nanmean():.3f} dB'
    return fitted, f'Held out, {len(table)} samples: temperatures {", ".join(words)}; {lost}'


def reach_of_nodes(table: RoutingTable, tree: DegradationTree) -> list[float]:
    """Return how far from each node's centre a picture may lie and still count as one of its kind.

    Args:
        table: Measured samples; only the assigned ones count.
        tree: The degradation tree.

    Returns:
        One distance a node, root first; infinite for a node without samples.
    """
    assigned = table.leaf >= 0
    distances = distances_to_nodes(table.embedding[assigned], tree)  # (n, num_nodes)
    paths = torch.as_tensor(tree.paths)[table.leaf[assigned]]  # (n, num_levels)
    reach = []
    for node_id in range(len(tree.nodes)):
        own = distances[(paths == node_id).any(dim=1), node_id]
        reach.append(round(REACH_MARGIN * float(own.quantile(REACH_QUANTILE)), 4) if len(own) else math.inf)
    return reach
