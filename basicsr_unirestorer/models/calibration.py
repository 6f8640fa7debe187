"""What is fitted to a router after its training: how far its probabilities can be believed, and how far it can see."""

from __future__ import annotations

import math

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.archs.router_arch import RouterOutput, distances_to_nodes
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.models.routing_table import RoutingTable

REACH_QUANTILE = 0.99  # share of a node's own samples that are not too far from its centre ...
REACH_MARGIN = 1.25  # ... times this


def fitted_temperature(logits: Tensor, target: Tensor) -> float:
    """Return the temperature at which a softmax gives the truth the highest likelihood (Guo et al., ICML 2017).

    Args:
        logits: Shape (n, choices), of samples that were not trained on.
        target: The right choices, shape (n,).

    Returns:
        Between 1/20 and 20; 1 where there is nothing to fit to.
    """
    if not len(target):
        return 1.0
    logits = logits.double()
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
        target: The right choices, shape (n,).
        bins: Bins of equal width.
    """
    confidence, choice = probs.max(dim=1)
    place = (confidence * bins).long().clamp(max=bins - 1)
    right = (choice == target).double()
    gaps = [
        (right[place == b].mean() - confidence[place == b].mean()).abs() * (place == b).sum() for b in place.unique()
    ]
    return float(sum(gaps) / max(1, len(target)))


def level_target(out: RouterOutput, table: RoutingTable, paths: Tensor) -> Tensor:
    """Return the best level, shape (n,), on the path of a sample's leaf or, where it has none, of the chosen one."""
    leaf = torch.where(table.leaf >= 0, table.leaf, out.leaf_logits.argmax(dim=1))
    return table.psnr.gather(1, paths[leaf]).argmax(dim=1)


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
        reach.append(REACH_MARGIN * float(own.quantile(REACH_QUANTILE)) if len(own) else math.inf)
    return reach
