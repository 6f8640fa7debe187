"""unirestorer cluster on several sources: who shapes the tree, and that everyone gets a leaf."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from basicsr_unirestorer.cluster import rows_to_cluster, run
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.data.mixed_degradation_lmdb_dataset import MixedDegradationLMDBDataset
from basicsr_unirestorer.errors import DataError, OptionError, TreeMismatchError
from tests.data.samples import make_lmdb, noise_pictures, options

ENCODER = {
    'type': 'CompactDegradationEncoder',
    'embed_dim': 8,
    'width': 4,
    'hidden': 8,
    'crop_size': 32,
    'num_crops': 1,
}


def test_a_huge_source_shapes_the_tree_no_more_than_its_cap():
    rows = rows_to_cluster([4, 100, 10], 10, seed=0)
    assert [int(((rows >= a) & (rows < b)).sum()) for a, b in ((0, 4), (4, 104), (104, 114))] == [4, 10, 10]
    assert len(set(rows)) == 24 and rows.tolist() == sorted(rows)
    assert rows[4:14].tolist() != list(range(4, 14))
    assert rows.tolist() == rows_to_cluster([4, 100, 10], 10, seed=0).tolist()
    assert rows_to_cluster([2, 3], None, seed=0).tolist() == [0, 1, 2, 3, 4]


@pytest.fixture(scope='module')
def clustered(tmp_path_factory, registered):
    """Two sources, one of them capped in training; its tree is shaped by at most six samples of each."""
    from basicsr_unirestorer.archs.compact_encoder_arch import CompactDegradationEncoder

    folder = tmp_path_factory.mktemp('cluster')
    torch.manual_seed(0)
    encoder = CompactDegradationEncoder(**{key: value for key, value in ENCODER.items() if key != 'type'})
    torch.save({'params': encoder.state_dict()}, folder / 'encoder.pth')
    sources = [
        {'name': 'clean', 'dataroot_gt': make_lmdb(folder / 'a.lmdb', noise_pictures(5)), 'recipe': 'tiny'},
        {
            'name': 'rain',
            'dataroot_gt': make_lmdb(folder / 'gt.lmdb', noise_pictures(2, seed=1)),
            'dataroot_lq': make_lmdb(folder / 'lq.lmdb', noise_pictures(2, seed=2)),
            'caption': 'large rain',
        },
    ]
    sources[0] |= {'variants': 4, 'max_samples': 3}
    opt = {
        'name': 'tree',
        'datasets': {'train': options(sources=sources)},
        'encoder': {**ENCODER, 'weights': str(folder / 'encoder.pth')},
        'clustering': {'level_sizes': [1, 2, 3], 'num_crops': 2, 'batch_size': 8, 'max_samples_per_source': 6},
    }
    return run(opt, folder), sources, opt


def test_every_sample_of_every_source_gets_a_leaf(clustered):
    folder, sources, _ = clustered
    with open(folder / 'assignments.csv', newline='') as file:
        rows = list(csv.reader(file))[1:]
    ids = [f'clean/p{i}#{v}' for i in range(5) for v in range(4)] + ['rain/p0', 'rain/p1']
    assert [sample_id for sample_id, _ in rows] == ids
    assert DegradationTree.load(folder).nodes[0].count == 6 + 2
    assert np.load(folder / 'embeddings.npy', mmap_mode='r').shape == (22, 8)
    assert [path.name for path in folder.parent.iterdir()] == ['tree']  # nothing half-written beside it


def test_the_assignment_fits_the_training_of_the_union(clustered):
    folder, sources, _ = clustered
    files = {'tree': str(folder), 'assignments': str(folder / 'assignments.csv')}
    batch = {'batch_size': 4, 'steps_per_level': [2, 1, 1]}
    dataset = MixedDegradationLMDBDataset(options(sources=sources, **files, expert_batch=batch))
    assert len(dataset) == 2 + 2 + 3
    assert dataset[0]['lq'].shape == (4, 3, 32, 32)


def test_embeddings_of_an_earlier_run_are_clustered_again_in_another_way(clustered, tmp_path):
    folder, _, opt = clustered
    ways = {'method': 'agglomerative', 'prepare': {'centre': True, 'pca': 4}, 'level_sizes': [1, 'auto']}
    ways |= {'adaptive': {'max_nodes': 4}, 'min_samples': 2}
    again = run({**opt, 'clustering': {**opt['clustering'], **ways, 'embeddings': str(folder)}}, tmp_path)
    assert np.array_equal(np.load(again / 'embeddings.npy'), np.load(folder / 'embeddings.npy'))
    tree = DegradationTree.load(again)
    assert 2 <= tree.num_leaves <= 4 and tree.build['clustering']['method'] == 'agglomerative'
    for name in ('quality.md', 'quality.json', 'quality.png', 'tree.png'):
        assert (again / name).stat().st_size
    other = {**opt, 'clustering': {**opt['clustering'], 'embeddings': str(folder), 'num_crops': 3}}
    with pytest.raises(TreeMismatchError, match='were made with another number of crops'):
        run(other, tmp_path)
    other['clustering']['embeddings'] = str(tmp_path)
    with pytest.raises(DataError, match='There are no embeddings at'):
        run(other, tmp_path)
    assert [path.name for path in (tmp_path / 'experiments').iterdir()] == ['tree']
    assert tree.fingerprint == DegradationTree.load(again).fingerprint  # nothing was touched


def test_misspelt_settings_are_found_before_anything_is_embedded(clustered, tmp_path):
    opt = clustered[2]
    for settings, message in (({'metod': 'x'}, "Did you mean 'method'"), ({'method': 'mini-batch'}, "'mini_batch'")):
        with pytest.raises(OptionError, match=message):
            run({**opt, 'clustering': {**opt['clustering'], **settings}}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_after_embedding_leaves_nothing(clustered, tmp_path):
    opt = clustered[2]
    settings = {**opt['clustering'], 'level_sizes': [1, 'auto'], 'min_samples': 50}
    with pytest.raises(DataError, match='Level 1 cannot be finer than the 1 node above it with 50 samples a node'):
        run({**opt, 'clustering': settings}, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match='8 samples cannot fill 9 leaves'):
        run({**opt, 'clustering': {**opt['clustering'], 'level_sizes': [1, 9]}}, tmp_path)
    assert not list(tmp_path.iterdir())
