"""The router: parity with golden outputs, the choice of a node, batches of one, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from basicsr_unirestorer.archs.router_arch import UniRestorerRouter, distances_to_nodes, node_probs, pick_node
from basicsr_unirestorer.clustering.tree import DegradationTree, Node
from basicsr_unirestorer.errors import TreeMismatchError
from basicsr_unirestorer.losses.router_loss import LoadBalancingLoss
from tests.parity.golden import Golden

NAMES = {'mu': 'degradation_head', 'sigma': 'granularity_head', 'lf_gate.0': 'leaf_gate', 'layer_gate.0': 'level_gate'}


@pytest.fixture(scope='module')
def golden() -> Golden:
    return Golden('router_release')


@pytest.fixture(scope='module')
def router(golden) -> UniRestorerRouter:
    """The released router's shape with the golden weights, under our names."""
    state = {}
    for key, value in golden.state_dict().items():
        prefix = next((prefix for prefix in NAMES if key.startswith(f'{prefix}.')), None)
        if prefix:  # the other entries take no part in the forward pass
            state[NAMES[prefix] + key[len(prefix) :]] = value
    net = UniRestorerRouter(num_leaves=22, num_levels=3)
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith('num_batches_tracked') for key in missing)
    return net.eval()


def release_tree(expert_indices: list[list[int]]) -> DegradationTree:
    """The released table of paths as a tree: rows are leaves, entries are nodes of the pool."""
    parents = {}
    for path in expert_indices:
        for parent, child in zip([-1, *path], path, strict=False):
            parents[child] = parent
    level = {child: next(path.index(child) for path in expert_indices if child in path) for child in parents}
    nodes = tuple(Node(f'n{i}', level[i], parents[i]) for i in sorted(parents))
    return DegradationTree(nodes, np.zeros((len(nodes), 512), np.float32))


def test_outputs_and_choices_equal_the_golden_ones(golden, router):
    stored = golden.arrays
    with torch.no_grad():
        out = router(torch.from_numpy(stored['features']))
    for ours, theirs in (
        (out.e_d, 'mu'),
        (out.e_g, 'sigma_head'),
        (out.leaf_logits, 'lf_logits'),
        (out.level_logits, 'layer_logits'),
    ):
        assert (ours - torch.from_numpy(stored[theirs])).abs().max() < 2e-5, theirs
    chosen = pick_node(out.leaf_logits, out.level_logits, release_tree(golden.facts['expert_indices']))
    assert chosen.tolist() == stored['expert'].tolist()
    assert len(set(chosen.tolist())) == 30  # the fixture visits the whole pool


@pytest.mark.parametrize(
    ('name', 'rows'),
    [('all64', slice(None)), ('first4', slice(4)), ('first1', slice(1)), ('rows_10_to_17', slice(10, 18))],
)
def test_load_balancing_loss_equals_the_golden_one(golden, router, name, rows):
    with torch.no_grad():
        out = router(torch.from_numpy(golden.arrays['features'][rows]))
    loss = LoadBalancingLoss(0.01)(out.level_logits.softmax(1)).item()
    assert loss == pytest.approx(golden.facts['aux_loss'][name], rel=1e-3)


def test_pick_node_takes_the_ancestor_at_the_chosen_level():
    tree = DegradationTree.star(num_leaves=2)
    leaf_logits = torch.tensor([[0.0, 9.0], [0.0, 9.0], [9.0, 0.0]])
    level_logits = torch.tensor([[9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
    assert pick_node(leaf_logits, level_logits, tree).tolist() == [0, 2, 1]


def test_a_router_of_another_tree_is_refused():
    with pytest.raises(TreeMismatchError, match='knows 3 leaves and 2 levels, but the tree has 2 and 2'):
        pick_node(torch.zeros(1, 3), torch.zeros(1, 2), DegradationTree.star(num_leaves=2))
    with pytest.raises(TreeMismatchError, match='built on 8-d embeddings'):
        UniRestorerRouter(DegradationTree.star(2, embed_dim=8), embed_dim=16)


def test_a_training_batch_of_one_works():
    router = UniRestorerRouter(num_leaves=2, num_levels=2, embed_dim=8)
    assert torch.isfinite(router(torch.rand(1, 8)).leaf_logits).all()


def test_gate_noise_is_drawn_from_the_given_generator():
    router = UniRestorerRouter(num_leaves=4, num_levels=2, embed_dim=8)
    embedding = torch.rand(5, 8)
    first, again, other = (router(embedding, torch.Generator().manual_seed(seed)).leaf_logits for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(router(embedding).leaf_logits, router(embedding).leaf_logits)  # no generator, no noise
    assert torch.equal(router.eval()(embedding).leaf_logits, router(embedding).leaf_logits)


def test_gradient_reaches_every_parameter():
    router = UniRestorerRouter(num_leaves=3, num_levels=2, embed_dim=8)
    for gate in (router.leaf_gate, router.level_gate):
        torch.nn.init.normal_(gate.weight)  # at their initial zero the gates block the heads' gradient, by design
    out = router(torch.rand(6, 8), torch.Generator().manual_seed(0))
    (out.leaf_logits.square().sum() + out.level_logits.square().sum()).backward()
    assert not [name for name, p in router.named_parameters() if p.grad is None or not p.grad.abs().sum()]


def test_node_probabilities_sum_over_shared_ancestors():
    tree = DegradationTree.star(num_leaves=2)
    probs = node_probs(torch.tensor([[0.25, 0.75]]), torch.tensor([[0.4, 0.6]]), torch.as_tensor(tree.paths))
    torch.testing.assert_close(probs, torch.tensor([[0.4, 0.15, 0.45]]))


def test_temperatures_soften_probabilities_and_change_no_choice():
    options = {'num_leaves': 4, 'num_levels': 2, 'embed_dim': 8}
    sharp = UniRestorerRouter(**options).eval()
    for gate in (sharp.leaf_gate, sharp.level_gate):
        torch.nn.init.normal_(gate.weight, generator=torch.Generator().manual_seed(0))
    soft = UniRestorerRouter(**options, leaf_temperature=2.0, level_temperature=4.0).eval()
    soft.load_state_dict(sharp.state_dict())  # strict: they are no weights
    embedding = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(soft(embedding).leaf_logits * 2, sharp(embedding).leaf_logits)
    torch.testing.assert_close(soft(embedding).level_logits * 4, sharp(embedding).level_logits)


def test_distances_to_the_centres_of_nodes():
    tree = DegradationTree(DegradationTree.star(1).nodes, np.asarray([[0, 0], [3, 4]], np.float32))
    torch.testing.assert_close(distances_to_nodes(torch.tensor([[0.0, 0.0]]), tree), torch.tensor([[0.0, 5.0]]))
