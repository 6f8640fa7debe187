"""The routed network: several experts a picture, and pictures that lie too far from every centre."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import yaml
from torch.testing import assert_close

from basicsr_unirestorer.archs.router_arch import node_probs
from basicsr_unirestorer.archs.unirestorer_arch import Route, UniRestorer, restore_by_node
from basicsr_unirestorer.errors import OptionError, TreeMismatchError


def noise(*size: int) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(0))


def bundle_with(folder, demo, **router):
    """A copy of the demo's bundle with other router options."""
    shutil.copytree(demo / 'bundle', folder / 'bundle')
    content = yaml.safe_load((folder / 'bundle' / 'bundle.yml').read_text())
    content['router'] = {key: value for key, value in {**content['router'], **router}.items() if value is not None}
    (folder / 'bundle' / 'bundle.yml').write_text(yaml.safe_dump(content))
    return folder / 'bundle'


def shared_out(rows: list[list[float]], candidates: list[list[int]], lq: torch.Tensor) -> torch.Tensor:
    def expert(node_id):
        return lambda pictures: pictures + 10.0**node_id

    return restore_by_node(lq, torch.tensor(candidates), expert, torch.tensor(rows))


def test_outputs_are_combined_by_gate():
    lq = noise(2, 3, 4, 4)
    output = shared_out([[0.75, 0.25], [0.5, 0.5]], [[1, 2], [2, 0]], lq)
    assert_close(output - lq, torch.tensor([0.75 * 10 + 0.25 * 100, 50.5])[:, None, None, None].expand(lq.shape))


def test_experts_without_a_share_do_not_run():
    ran = []

    def expert(node_id):
        ran.append(node_id)
        return lambda pictures: pictures

    lq = noise(2, 3, 4, 4)
    gate = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert_close(restore_by_node(lq, torch.tensor([[3, 1], [3, 2]]), expert, gate), lq)
    assert ran == [2, 3]


@pytest.fixture(scope='module')
def top_three(smoke_demo) -> UniRestorer:
    return UniRestorer(smoke_demo / 'bundle', top_k=3)


def test_candidates_are_the_most_probable_nodes(top_three):
    route = top_three.route(noise(4, 3, 48, 40))
    probs = node_probs(route.leaf_probs, route.level_probs, torch.as_tensor(top_three.tree.paths))
    probs = probs * top_three._reachable(route.embedding)
    best = probs.sort(dim=1, descending=True)
    assert_close(probs.gather(1, route.candidates), best.values[:, :3])
    assert_close(route.gate, best.values[:, :3] / best.values[:, :3].sum(1, keepdim=True))
    assert torch.equal(route.node_id, route.candidates[:, 0])


def test_several_experts_give_their_weighted_mean(top_three):
    lq = noise(2, 3, 48, 40)
    route = top_three.route(lq)
    output = top_three(lq, route)
    expected = torch.zeros_like(lq)
    with torch.no_grad():
        for i in range(2):
            for node_id, share in zip(route.candidates[i].tolist(), route.gate[i].tolist(), strict=True):
                expected[i] += share * top_three.expert(node_id)(lq[i : i + 1])[0]
    assert_close(output, expected, rtol=0, atol=1e-5)
    assert_close(top_three(lq[1:], route[1:]), output[1:], rtol=0, atol=1e-5)


def test_one_expert_is_the_default_and_carries_no_gate(smoke_demo):
    lq = noise(2, 3, 48, 40)
    net = UniRestorer(smoke_demo / 'bundle')
    route = net.route(lq)
    assert route.gate is None and route.candidates is None
    assert torch.equal(net(lq), UniRestorer(smoke_demo / 'bundle', top_k=1)(lq))
    gated = Route(route.node_id, route.leaf_probs, route.level_probs, route.embedding, route.node_id[:, None])
    assert torch.equal(net(lq, gated), net(lq))


@pytest.mark.parametrize('top_k', [0, 17, 1.5])
def test_impossible_numbers_of_experts_are_refused(smoke_demo, top_k):
    with pytest.raises(OptionError, match=f'top_k is {top_k}, but this tree has 16 nodes; write a whole number'):
        UniRestorer(smoke_demo / 'bundle', top_k=top_k)


def test_a_picture_far_from_everything_falls_back_to_the_root(smoke_demo, tmp_path):
    lq = noise(3, 3, 48, 40)
    net = UniRestorer(bundle_with(tmp_path, smoke_demo, reach=[0.0] * 16))
    route = net.route(lq)
    assert route.node_id.tolist() == [0, 0, 0] and route.level.tolist() == [0, 0, 0]
    assert route.level_probs[:, 1:].sum() == 0
    several = UniRestorer(net.bundle.folder, top_k=2).route(lq)
    assert several.node_id.tolist() == [0, 0, 0] and several.gate[:, 0].tolist() == [1, 1, 1]


def test_a_picture_within_reach_of_the_middle_goes_no_finer(smoke_demo, tmp_path):
    """Every leaf is out of reach, every other node within it."""
    lq = noise(3, 3, 48, 40)
    free = UniRestorer(bundle_with(tmp_path, smoke_demo, reach=None))
    wanted = free.route(lq)
    reach = [9.0] * 6 + [0.0] * 10
    content = yaml.safe_load((free.bundle.folder / 'bundle.yml').read_text())
    content['router']['reach'] = reach
    (free.bundle.folder / 'bundle.yml').write_text(yaml.safe_dump(content))
    route = UniRestorer(free.bundle.folder).route(lq)
    assert (route.level <= 1).all() and torch.equal(route.leaf_id, wanted.leaf_id)
    paths = torch.as_tensor(free.tree.paths)
    assert torch.equal(route.node_id, paths[route.leaf_id, route.level])


def test_who_names_the_degradation_is_believed(smoke_demo, tmp_path):
    lq = noise(2, 3, 48, 40)
    label = next(iter(UniRestorer(smoke_demo / 'bundle').tree.nodes[0].labels))
    near = UniRestorer(smoke_demo / 'bundle').route(lq, labels=[label])
    far = UniRestorer(bundle_with(tmp_path, smoke_demo, reach=[0.0] * 16)).route(lq, labels=[label])
    assert torch.equal(near.node_id, far.node_id)


def test_a_bundle_of_before_routes_as_it_did(smoke_demo, tmp_path):
    """Without temperatures and reach, which bundles did not have."""
    lq = noise(3, 3, 48, 40)
    old = bundle_with(tmp_path, smoke_demo, leaf_temperature=None, level_temperature=None, reach=None)
    net = UniRestorer(old)
    assert set(net.bundle.content['router']) == {'type', 'embed_dim'}
    route, now = net.route(lq), UniRestorer(smoke_demo / 'bundle').route(lq)
    assert torch.equal(route.leaf_id, now.leaf_id)  # a temperature changes no choice
    assert not torch.equal(route.leaf_probs, now.leaf_probs)


def test_the_reach_of_another_tree_is_refused(smoke_demo, tmp_path):
    with pytest.raises(TreeMismatchError, match='has a reach for 3 nodes, but its tree has 16; copy the whole bundle'):
        UniRestorer(bundle_with(tmp_path, smoke_demo, reach=[1.0, 2.0, 3.0]))


def test_a_decision_can_be_taken_apart():
    route = Route(torch.arange(3), noise(3, 4), noise(3, 2), noise(3, 5), torch.arange(6).reshape(3, 2), noise(3, 2))
    part = route[torch.tensor([2, 0])]
    assert part.node_id.tolist() == [2, 0] and part.candidates.tolist() == [[4, 5], [0, 1]]
    assert Route(torch.arange(3), noise(3, 4), noise(3, 2), noise(3, 5))[1:].gate is None
    assert np.array_equal(part.embedding, route.embedding[[2, 0]])
