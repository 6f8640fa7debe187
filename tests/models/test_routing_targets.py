"""What the router is taught: the merits of experts, measured on the sample itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from basicsr_unirestorer.clustering.tree import DegradationTree, Node

# root -> two families: leaves 0, 1 and a single leaf 2
TREE = DegradationTree(
    tuple(
        Node(name, level, parent)
        for name, level, parent in (
            ('l0_00', 0, -1),
            ('l1_00', 1, 0),
            ('l1_01', 1, 0),
            ('l2_00', 2, 1),
            ('l2_01', 2, 1),
            ('l2_02', 2, 2),
        )
    ),
    np.zeros((6, 1), np.float32),
)
QUALITY = {'l0_00': 0.30, 'l1_00': 0.20, 'l1_01': 0.20, 'l2_00': 0.40, 'l2_01': 0.05, 'l2_02': 0.10}  # error of each


class Bank:
    def get(self, name, device):
        return lambda lq: lq + QUALITY[name]


@pytest.fixture
def model(registered):
    """A routing model with experts of known error, for samples whose truth is their input."""
    from basicsr_unirestorer.models.unirestorer_routing_model import UniRestorerRoutingModel

    model = UniRestorerRoutingModel.__new__(UniRestorerRoutingModel)
    model.device, model.tree, model.bank = 'cpu', TREE, Bank()
    model.paths = torch.as_tensor(TREE.paths)
    model.leaf_opt, model.level_opt = {'loss_weight': 1, 'target': 'merit'}, {'loss_weight': 1}
    model.siblings = model._sibling_leaves()
    model.expert_lq = model.expert_gt = torch.full((3, 3, 4, 4), 0.5)
    model.leaf = torch.tensor([0, 1, 2])
    return model


def test_families_are_the_leaves_of_one_parent(model):
    assert model.siblings.tolist() == [[0, 1], [0, 1], [2, 2]]


def test_the_leaf_target_is_the_sibling_that_serves_best(model):
    target = model._leaf_target()
    torch.testing.assert_close(target.sum(1), torch.ones(3))
    assert target.argmax(1).tolist() == [1, 1, 2]  # leaf 0's own expert is the worse one
    assert target[2].tolist() == [0, 0, 1]  # a leaf without siblings stays itself
    assert target[:2, 2].tolist() == [0, 0]


def test_by_default_the_target_is_the_assigned_leaf(model):
    model.leaf_opt = {'loss_weight': 1}
    assert model._leaf_target().argmax(1).tolist() == [0, 1, 2]


def test_the_leaf_of_the_caption_overrules_a_stray_assignment(model):
    nodes = [replace(node, captions={'large noise': 9}) if node.name == 'l2_01' else node for node in TREE.nodes]
    model.tree = DegradationTree(tuple(nodes), TREE.centres)
    model.leaf_opt = {'loss_weight': 1, 'target': 'caption'}
    model.caption = ['large noise', 'large noise', 'thick haze']  # no leaf knows the last: its assignment counts
    assert model._leaf_target().argmax(1).tolist() == [1, 1, 2]


def test_the_level_target_backs_off_from_a_bad_leaf(model):
    leaf, level = torch.tensor([0, 1, 2]), torch.zeros(3, dtype=torch.int64)
    restored = list(model._restore_path(leaf, level).values())
    assert model._softmax_of_psnr(restored, model.level_opt).argmax(1).tolist() == [1, 2, 2]


def test_only_the_chosen_level_runs_when_nobody_teaches_levels(model):
    model.level_opt = None
    restored = model._restore_path(torch.tensor([0, 1, 2]), torch.tensor([0, 2, 2]))
    ran = torch.stack([restored[t].flatten(1).any(1) for t in range(3)], 1)
    assert ran.tolist() == [[True, False, False], [False, False, True], [False, False, True]]
