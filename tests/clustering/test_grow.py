"""Growing: what is there stays, what is new has new names and places; branches that cannot be are refused."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr_unirestorer.clustering.build import build_tree
from basicsr_unirestorer.clustering.grow import check_branch, grow_tree, separation
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import DataError, OptionError
from basicsr_unirestorer.grow import new_rows
from tests.clustering.samples import mixture


@pytest.fixture(scope='module')
def grown() -> tuple:
    """A tree of noise and haze, and rain grown under its root."""
    embeddings, captions, cells = mixture()
    rain = cells >= 4
    old, old_ids = build_tree(
        embeddings[~rain], [c for c, new in zip(captions, rain, strict=True) if not new], [1, 2, 4]
    )
    branch, _ = build_tree(embeddings[rain], [c for c, new in zip(captions, rain, strict=True) if new], [1, 1, 2])
    return old, branch, *grow_tree(old, branch, 'l0_00'), embeddings, rain, old_ids


def test_old_names_centres_and_leaf_ids_stay(grown):
    old, _, new_tree, names, embeddings, rain, old_ids = grown
    assert names == ['l1_02', 'l2_04', 'l2_05'] and new_tree.level_sizes == [1, 3, 6]
    for node_id, node in enumerate(old.nodes):
        place = new_tree.node_id(node.name)
        assert np.array_equal(new_tree.centres[place], old.centres[node_id])
        parent = old.nodes[node.parent].name if node.parent >= 0 else None
        place_of_parent = new_tree.nodes[place].parent
        assert parent == (new_tree.nodes[place_of_parent].name if place_of_parent >= 0 else None)
    assert np.array_equal(new_tree.assign(embeddings[~rain]), old_ids)


def test_new_nodes_hang_together_and_their_samples_find_them(grown):
    _, branch, new_tree, names, embeddings, rain, _ = grown
    assert [new_tree.nodes[i].name for i in new_tree.paths[4]] == ['l0_00', 'l1_02', 'l2_04']
    assert [new_tree.nodes[i].name for i in new_tree.paths[5]] == ['l0_00', 'l1_02', 'l2_05']
    assert np.array_equal(new_tree.assign(embeddings[rain]), 4 + branch.assign(embeddings[rain]))
    assert separation(new_tree, 4, embeddings, rain) == (1.0, 0.0)
    assert separation(new_tree, 4, embeddings, ~rain) == (0.0, 1.0)


def test_the_root_knows_the_new_degradation(grown):
    old, branch, new_tree, *_ = grown
    assert new_tree.nodes[0].count == old.nodes[0].count + branch.nodes[0].count
    assert np.flatnonzero(new_tree.leaf_mask(['rain'])).tolist() == [4, 5]
    assert new_tree.leaf_mask(['large rain']).sum() == 1
    assert 'rain' not in old.nodes[0].labels


def test_a_grown_tree_can_be_saved_and_grown_again(grown, tmp_path):
    _, branch, new_tree, *_ = grown
    new_tree.save(tmp_path / 'degradation_tree.json')
    loaded = DegradationTree.load(tmp_path)
    assert loaded.nodes == new_tree.nodes and loaded.fingerprint == new_tree.fingerprint
    elsewhere = DegradationTree(branch.nodes, branch.centres + 50)
    twice, names = grow_tree(loaded, elsewhere, 'l0_00')
    assert names == ['l1_03', 'l2_06', 'l2_07'] and twice.level_sizes == [1, 4, 8]


def test_leaves_can_grow_under_an_inner_node(grown):
    old, branch, *_ = grown
    few = build_tree(100 + np.eye(16, dtype=np.float32)[:5], ['small noise'] * 5, [1, 2])[0]
    noisy = next(node.name for node in old.nodes if node.level == 1 and 'noise' in node.labels)
    tree, names = grow_tree(old, few, noisy)
    assert names == ['l2_04', 'l2_05']
    assert [tree.nodes[tree.nodes[tree.node_id(name)].parent].name for name in names] == [noisy, noisy]
    assert tree.nodes[tree.node_id(noisy)].count == 80 + 5


def test_an_old_expert_never_becomes_another_network(grown):
    """``experts: by_label`` chooses a network by what dominates a node."""
    old = grown[0]
    noisy = next(node.name for node in old.nodes if node.level == 1 and 'noise' in node.labels)
    many = build_tree(100 + np.random.default_rng(0).random((200, 16), np.float32), ['thick haze'] * 200, [1, 2])[0]
    with pytest.raises(DataError, match=f'The 200 new samples would change what dominates {noisy} \\(80 samples\\)'):
        grow_tree(old, many, noisy)


@pytest.mark.parametrize(
    ('under', 'sizes', 'message'),
    [
        ('l2_00', [1, 2], r'l2_00 is a leaf, under which nothing can grow; write under: l1_0'),
        ('l0_00', [1, 2], r'a branch under l0_00 takes 3 numbers: .* e\.g\. \[1, 1, 2\]'),
        ('l1_00', [1, 1, 2], r'a branch under l1_00 takes 2 numbers'),
        ('l1_7', [1, 2], r"no node 'l1_7'"),
    ],
)
def test_branches_that_do_not_reach_the_leaves_are_refused(grown, under, sizes, message):
    with pytest.raises(OptionError, match=message):
        check_branch(grown[0], under, sizes)


def test_a_branch_that_the_tree_has_already_is_refused(grown):
    old, branch, *_ = grown
    centres = branch.centres.copy()
    centres[-1] = old.centres[old.leaves[2]]
    with pytest.raises(DataError, match='The new data have the same centre as l2_02'):
        grow_tree(old, DegradationTree(branch.nodes, centres), 'l0_00')


def test_new_sources_are_named():
    assert new_rows([''], [3], None).tolist() == [True] * 3
    assert new_rows(['a', 'b'], [2, 1], ['b']).tolist() == [False, False, True]
    with pytest.raises(OptionError, match='grow.new is missing; name the sources of the new degradation, of a, b'):
        new_rows(['a', 'b'], [2, 1], None)
    with pytest.raises(OptionError, match="the source 'snwo'. Did you mean 'snow'"):
        new_rows(['rain', 'snow'], [2, 1], ['snwo'])
