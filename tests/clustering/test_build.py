"""Building a tree: methods, preparations, sizes of levels; the default against a plain reference; bad input."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from basicsr_unirestorer.clustering.build import build_tree, check_centres, check_clustering
from basicsr_unirestorer.clustering.methods import METHODS, split
from basicsr_unirestorer.clustering.points import Points
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import DataError, OptionError
from tests.clustering.samples import mixture


def reference(embeddings: np.ndarray, sizes: list[int], seed: int) -> tuple[list[list[int]], np.ndarray]:
    """Groups of the leaves and their means by K-means of ten starts, each further child where inertia falls most."""

    def fit(rows: np.ndarray, count: int) -> tuple[list[np.ndarray], float]:
        if count == 1:
            return [rows], float(((embeddings[rows] - embeddings[rows].mean(0)) ** 2).sum())
        found = KMeans(count, n_init=10, random_state=seed).fit(embeddings[rows])
        parts = sorted((rows[found.labels_ == c] for c in range(count)), key=len, reverse=True)
        return parts, found.inertia_

    groups = [np.arange(len(embeddings))]
    for size in sizes[1:]:
        counts = [1] * len(groups)
        for _ in range(size - len(groups)):
            gains = [
                fit(rows, n)[1] - fit(rows, n + 1)[1] if len(rows) > n else -1.0
                for rows, n in zip(groups, counts, strict=True)
            ]
            counts[int(np.argmax(gains))] += 1
        groups = [part for rows, n in zip(groups, counts, strict=True) for part in fit(rows, n)[0]]
    return [rows.tolist() for rows in groups], np.stack([embeddings[rows].mean(0) for rows in groups])


def test_the_default_is_the_plain_algorithm_bit_for_bit():
    rng = np.random.default_rng(5)
    embeddings = rng.standard_normal((160, 6)).astype(np.float32)
    tree, leaf_ids = build_tree(embeddings, ['small rain'] * 160, [1, 3, 7], seed=2)
    groups, centres = reference(embeddings, [1, 3, 7], seed=2)
    assert [np.flatnonzero(leaf_ids == leaf).tolist() for leaf in range(7)] == groups
    assert np.array_equal(tree.centres[tree.leaves], centres)


@pytest.mark.parametrize('method', METHODS)
def test_every_method_finds_types_then_strengths(method):
    embeddings, captions, cells = mixture()
    tree, leaf_ids = build_tree(embeddings, captions, [1, 3, 6], method=method)
    assert adjusted_rand_score(cells // 2, tree.paths[leaf_ids, 1]) == 1
    assert adjusted_rand_score(cells, leaf_ids) == 1
    for leaf, node_id in enumerate(tree.leaves):
        np.testing.assert_allclose(tree.centres[node_id], embeddings[leaf_ids == leaf].mean(0), atol=1e-4)
    assert np.array_equal(tree.assign(embeddings), leaf_ids)
    again = build_tree(embeddings, captions, [1, 3, 6], method=method)
    assert again[0].fingerprint == tree.fingerprint and np.array_equal(again[1], leaf_ids)


@pytest.mark.parametrize('method', METHODS)
def test_clusters_come_largest_first_and_their_spread_is_measured(method):
    rng = np.random.default_rng(1)
    embeddings = np.concatenate([c + 0.1 * rng.standard_normal((n, 3)) for c, n in ((0, 20), (9, 50), (30, 35))])
    points = Points(embeddings.astype(np.float32))
    labels, inertia = split(points, np.arange(105), 3, seed=0, method=method)
    assert np.bincount(labels).tolist() == [50, 35, 20]
    direct = sum(((embeddings[labels == c] - embeddings[labels == c].mean(0)) ** 2).sum() for c in range(3))
    assert inertia == pytest.approx(direct, rel=0.02)


@pytest.mark.parametrize('method', ['agglomerative', 'spectral'])
def test_methods_of_quadratic_memory_fit_some_and_send_the_others_to_the_nearest(method, monkeypatch):
    monkeypatch.setattr('basicsr_unirestorer.clustering.methods.MAX_QUADRATIC', 90)
    embeddings, captions, cells = mixture()
    _, leaf_ids = build_tree(embeddings, captions, [1, 3], method=method)
    assert adjusted_rand_score(cells // 2, leaf_ids) == 1


@pytest.mark.parametrize('dtype', [np.float16, np.float32])
def test_memory_mapped_embeddings_are_read_in_blocks(dtype, tmp_path, monkeypatch):
    """Two passes of mini-batches over a file, never more than a block of it at once."""
    embeddings, captions, cells = mixture(per_cell=150)
    np.save(tmp_path / 'e.npy', embeddings.astype(dtype))
    largest = []

    class Watched(np.memmap):
        def __getitem__(self, rows):
            result = super().__getitem__(rows)
            largest.append(len(result) if np.ndim(result) else 1)
            return result

    monkeypatch.setattr('basicsr_unirestorer.clustering.points.BLOCK', 128)
    monkeypatch.setattr('basicsr_unirestorer.clustering.points.blocks.__defaults__', (128,))
    monkeypatch.setattr('basicsr_unirestorer.clustering.methods.BLOCK', 128)
    monkeypatch.setattr('basicsr_unirestorer.clustering.methods.BATCH', 100)
    monkeypatch.setattr('basicsr_unirestorer.clustering.methods.MAX_INIT', 120)
    mapped = np.load(tmp_path / 'e.npy', mmap_mode='r').view(Watched)
    tree, leaf_ids = build_tree(mapped, captions, [1, 3, 6], method='mini_batch')
    monkeypatch.undo()
    assert max(largest) <= 128 and sum(largest) > 2 * len(embeddings)
    assert adjusted_rand_score(cells, leaf_ids) == 1
    for leaf, node_id in enumerate(tree.leaves):
        np.testing.assert_allclose(tree.centres[node_id], embeddings[leaf_ids == leaf].mean(0), atol=2e-3)
        spread = np.sqrt(((embeddings[leaf_ids == leaf] - tree.centres[node_id]) ** 2).sum(1).mean())
        assert tree.nodes[node_id].radius == pytest.approx(spread, rel=0.01)


# ------------------------------------------------------------------------------------------------- preparation


def test_normalised_embeddings_are_told_apart_by_direction_alone():
    rng = np.random.default_rng(0)
    directions = np.eye(2)[rng.integers(0, 2, 200)]
    embeddings = (directions * rng.choice([1, 20], 200)[:, None] + 0.01 * rng.standard_normal((200, 2))).astype('f4')
    truth = directions[:, 0]
    plain = build_tree(embeddings, [''] * 200, [1, 2])[1]
    prepared = build_tree(embeddings, [''] * 200, [1, 2], prepare={'normalise': True})[1]
    assert adjusted_rand_score(truth, prepared) == 1 > adjusted_rand_score(truth, plain) + 0.3


def test_centring_makes_directions_relative_to_the_mean():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    embeddings = (100 + np.where(truth, 1, -1)[:, None] + 0.2 * rng.standard_normal((200, 8))).astype('f4')
    points = Points(embeddings, {'centre': True, 'normalise': True})
    taken = points.take(np.arange(200))
    np.testing.assert_allclose(np.linalg.norm(taken, axis=1), 1, rtol=1e-5)
    assert adjusted_rand_score(truth, taken[:, 0] > 0) == 1


def test_principal_components_drop_noise_and_centres_stay_in_the_embedding_space():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 300)
    embeddings = (0.1 * rng.standard_normal((300, 64)) + np.where(truth, 1, -1)[:, None] * np.eye(64)[0]).astype('f4')
    assert Points(embeddings, {'pca': 2}).take(np.arange(300)).shape == (300, 2)
    tree, leaf_ids = build_tree(embeddings, [''] * 300, [1, 2], prepare={'pca': 2})
    assert tree.centres.shape == (3, 64)
    np.testing.assert_allclose(tree.centres[1], embeddings[leaf_ids == 0].mean(0), atol=1e-5)
    assert adjusted_rand_score(truth, leaf_ids) == 1


# ------------------------------------------------------------------------------------------------- adaptive levels


@pytest.mark.parametrize('criterion', ['silhouette', 'stability'])
def test_adaptive_levels_find_the_number_of_types_and_of_strengths(criterion):
    embeddings, captions, cells = mixture()
    adaptive = {'criterion': criterion, 'max_nodes': [1, 5, 9], 'min_samples': 10}
    tree, leaf_ids = build_tree(embeddings, captions, [1, 'auto', 'auto'], adaptive=adaptive)
    assert tree.level_sizes == [1, 3, 6]
    assert adjusted_rand_score(cells, leaf_ids) == 1
    scores = tree.build['adaptive_scores']
    assert set(scores) == {'1', '2'} and set(scores['1']) <= {'1', '2', '3', '4', '5'}


def test_an_adaptive_level_never_starves_a_node():
    embeddings, captions, _ = mixture()
    adaptive = {'min_samples': 60, 'max_nodes': 9}
    tree, _ = build_tree(embeddings, captions, [1, 'auto'], adaptive=adaptive)
    assert min(node.count for node in tree.nodes) >= 60
    with pytest.raises(DataError, match='Level 2 cannot be finer than the 3 nodes above it with 60 samples'):
        build_tree(embeddings, captions, [1, 3, 'auto'], adaptive=adaptive)


def test_a_fixed_level_below_a_wider_adaptive_one_is_refused():
    embeddings, captions, _ = mixture()
    with pytest.raises(DataError, match='Level 2 shall have 2 nodes, but the adaptive level above it has 3'):
        build_tree(embeddings, captions, [1, 'auto', 2])


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize('method', METHODS)
def test_bad_embeddings_are_refused_by_every_method(method):
    embeddings, captions, _ = mixture(per_cell=2)
    with pytest.raises(DataError, match='12 samples cannot fill 13 leaves'):
        build_tree(embeddings, captions, [1, 13], method=method)
    with pytest.raises(DataError, match='All 12 embeddings are equal'):
        build_tree(np.ones_like(embeddings), captions, [1, 3], method=method)
    twins = embeddings[[0, 1] * 6]
    with pytest.raises(DataError, match='fewer than 3 distinct embeddings'):
        build_tree(twins, captions, [1, 3], method=method)
    embeddings[3, 0] = np.nan
    with pytest.raises(DataError, match='1 of 12 embeddings are not finite'):
        build_tree(embeddings, captions, [1, 2], method=method)
    with pytest.raises(DataError, match='no embeddings'):
        build_tree(embeddings[:0], [], [1], method=method)


def test_siblings_with_equal_centres_are_refused():
    star = DegradationTree.star(3, embed_dim=2)
    star.centres[1:] = [[0, 1], [1, 0], [0, 1]]
    with pytest.raises(DataError, match='Nodes l1_00 and l1_02 have the same centre'):
        check_centres(star)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'method': 'kmean'}, "no clustering.method 'kmean'. Did you mean 'kmeans'"),
        ({'prepare': {'normalize': True}}, "Unknown option 'clustering.prepare.normalize'. Did you mean 'normalise'"),
        ({'prepare': {'pca': 0.9}}, 'clustering.prepare.pca is 0.9'),
        ({'adaptive': {'criterion': 'elbow'}}, "criterion is 'elbow'; write one of silhouette, stability"),
        ({'adaptive': {'most': 3}}, "Unknown option 'clustering.adaptive.most'"),
        ({'level_sizes': [1, 'some']}, 'levels start with 1'),
        ({'level_sizes': ['auto', 3]}, 'levels start with 1'),
        ({'level_sizes': [1, 'auto', 5, 'auto', 3]}, 'never shrink'),
    ],
)
def test_misspelt_settings_are_refused(settings, message):
    with pytest.raises(OptionError, match=message):
        check_clustering({'level_sizes': [1, 2], **settings})


def test_more_components_than_there_are_get_a_sentence():
    embeddings, captions, _ = mixture(per_cell=1)
    with pytest.raises(OptionError, match='pca is 20, but it is the number of components that are kept of 16'):
        build_tree(embeddings, captions, [1, 2], prepare={'pca': 20})
    with pytest.raises(OptionError, match='6 samples have no more than 6 components'):
        build_tree(embeddings, captions, [1, 2], prepare={'pca': 10})
