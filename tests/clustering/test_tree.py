"""DegradationTree: structure, assignment, pruning, files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from basicsr_unirestorer.clustering.build import build_tree
from basicsr_unirestorer.clustering.tree import DegradationTree, Node
from basicsr_unirestorer.errors import DataError, OptionError

CAPTIONS = ('small noise', 'large noise', 'normal haze', 'thick haze')


def blobs(per_cell: int = 30, dim: int = 8, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Embeddings of four captions: two types far apart, two strengths close to each other in each."""
    rng = np.random.default_rng(seed)
    rows, captions = [], []
    for cell, caption in enumerate(CAPTIONS):
        centre = np.zeros(dim)
        centre[cell // 2] = 10
        centre[2 + cell] = 2
        rows.append(centre + 0.1 * rng.standard_normal((per_cell, dim)))
        captions += [caption] * per_cell
    order = rng.permutation(len(captions))
    return np.concatenate(rows)[order].astype(np.float32), [captions[i] for i in order]


@pytest.fixture(scope='module')
def built() -> tuple[DegradationTree, np.ndarray, np.ndarray, list[str]]:
    embeddings, captions = blobs()
    tree, leaf_ids = build_tree(embeddings, captions, [1, 2, 4])
    return tree, leaf_ids, embeddings, captions


def test_levels_find_types_then_strengths(built):
    tree, leaf_ids, _, captions = built
    assert tree.level_sizes == [1, 2, 4]
    for node in tree.nodes[1:3]:
        assert len(node.labels) == 1
    for node in tree.nodes[3:]:
        assert len(node.captions) == 1
    for caption in CAPTIONS:
        assert len({leaf for leaf, own in zip(leaf_ids, captions, strict=True) if own == caption}) == 1


def test_counts_of_children_add_up_to_the_parent(built):
    tree = built[0]
    for node_id, node in enumerate(tree.nodes):
        children = tree.children(node_id)
        assert not children or sum(tree.nodes[child].count for child in children) == node.count


def test_paths_run_from_root_to_leaf(built):
    tree = built[0]
    for leaf, path in zip(tree.leaves, tree.paths, strict=True):
        assert path[0] == 0
        assert path[-1] == leaf
        assert all(tree.nodes[child].parent == parent for parent, child in zip(path, path[1:], strict=False))


def test_assignment_of_the_training_samples_is_their_own_leaf(built):
    tree, leaf_ids, embeddings, _ = built
    assert np.array_equal(tree.assign(embeddings), leaf_ids)


def test_centres_are_the_means_of_their_groups(built):
    tree, leaf_ids, embeddings, _ = built
    for node_id in range(len(tree.nodes)):
        rows = (tree.paths[leaf_ids] == node_id).any(axis=1)
        np.testing.assert_allclose(tree.centres[node_id], embeddings[rows].mean(0), atol=1e-5)


def test_save_and_load_is_the_identity(built, tmp_path):
    tree = built[0]
    tree.save(tmp_path / 'degradation_tree.json')
    loaded = DegradationTree.load(tmp_path)
    assert loaded.nodes == tree.nodes
    assert np.array_equal(loaded.centres, tree.centres)
    assert loaded.fingerprint == tree.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ['degradation_tree.json', 'degradation_tree.npz']


def test_building_is_deterministic():
    embeddings, captions = blobs()
    first, second = (build_tree(embeddings, captions, [1, 2, 4], seed=3) for _ in range(2))
    assert first[0].fingerprint == second[0].fingerprint
    assert np.array_equal(first[1], second[1])


def test_further_children_go_where_the_spread_is():
    """One group of three captions and one of a single caption share four leaves three to one."""
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [0, 3], [3, 0], [40, 40]])
    embeddings = np.concatenate([c + 0.05 * rng.standard_normal((20, 2)) for c in centres])
    tree, _ = build_tree(embeddings, ['large noise'] * 80, [1, 2, 4])
    assert sorted(len(tree.children(node)) for node in (1, 2)) == [1, 3]


def test_leaf_mask_prunes_to_the_named_degradation(built):
    tree = built[0]
    mask = tree.leaf_mask(['haze'])
    assert mask.sum() == 2
    assert all('haze' in tree.nodes[leaf].labels for leaf, kept in zip(tree.leaves, mask, strict=True) if kept)
    assert tree.leaf_mask(['haze', 'noise']).all()  # no leaf holds both: any of them


def test_an_unknown_label_is_refused_with_the_nearest(built):
    with pytest.raises(OptionError, match=r"knows no degradation 'hase'. Did you mean 'haze'\?"):
        built[0].leaf_mask(['hase'])


def test_node_for_caption_is_its_leaf_or_the_root(built):
    tree = built[0]
    assert tree.nodes[tree.node_for_caption('thick haze')].captions == {'thick haze': 30}
    assert tree.node_for_caption('large blur') == 0


@pytest.mark.parametrize(
    ('sizes', 'message'), [([2, 4], 'levels start with 1'), ([1, 4, 2], 'never shrink'), ([], 'start')]
)
def test_level_sizes_that_are_no_tree_are_refused(sizes, message):
    with pytest.raises(OptionError, match=message):
        build_tree(*blobs(), sizes)


def test_bad_embeddings_are_refused():
    embeddings, captions = blobs(per_cell=2)
    with pytest.raises(DataError, match='8 samples cannot fill 9 leaves'):
        build_tree(embeddings, captions, [1, 9])
    with pytest.raises(DataError, match='All 8 embeddings are equal'):
        build_tree(np.ones_like(embeddings), captions, [1, 3])
    with pytest.raises(DataError, match='fewer than 3 distinct'):
        build_tree(np.tile(embeddings[:2], (4, 1)), captions, [1, 3])
    embeddings[3, 0] = np.nan
    with pytest.raises(DataError, match='1 of 8 embeddings are not finite'):
        build_tree(embeddings, captions, [1, 2])


def test_damaged_files_are_refused(built, tmp_path):
    with pytest.raises(DataError, match='No degradation tree at'):
        DegradationTree.load(tmp_path)
    built[0].save(tmp_path / 'degradation_tree.json')
    content = json.loads((tmp_path / 'degradation_tree.json').read_text())
    content['nodes'].pop()
    (tmp_path / 'degradation_tree.json').write_text(json.dumps(content))
    with pytest.raises(DataError, match='not from the same run'):
        DegradationTree.load(tmp_path)
    (tmp_path / 'degradation_tree.json').write_text('{')
    with pytest.raises(DataError, match='cannot be read as a degradation tree'):
        DegradationTree.load(tmp_path)


def test_assignment_does_not_depend_on_how_many_are_assigned_at_once(built, monkeypatch):
    tree, leaf_ids, embeddings, _ = built
    monkeypatch.setattr('basicsr_unirestorer.clustering.tree.MAX_DIFFERENCES', 40)
    assert np.array_equal(tree.assign(embeddings), leaf_ids)


def test_unknown_node_names_get_the_nearest():
    with pytest.raises(OptionError, match=r"no node 'l1_2'. Did you mean"):
        DegradationTree((Node('l0_00', 0, -1), Node('l1_02', 1, 0)), np.zeros((2, 1), np.float32)).node_id('l1_2')
