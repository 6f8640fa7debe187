"""MixedDegradationLMDBDataset: virtual samples, purity, expert batches, real pairs, bad input."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from basicsr_unirestorer.clustering.assignments import write_assignments
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.data.mixed_degradation_lmdb_dataset import MixedDegradationLMDBDataset
from basicsr_unirestorer.degradations import DegradationRecipe
from basicsr_unirestorer.errors import DataError, OptionError, TreeMismatchError
from tests.lmdb_fixtures import lmdb_of

SIZES = ((40, 48), (64, 33), (50, 50))


def pictures(seed: int = 0) -> list[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [(f'p{i}', rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for i, size in enumerate(SIZES)]


@pytest.fixture(scope='module')
def clean(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('data') / 'clean.lmdb'
    lmdb_of(path, pictures())
    return str(path)


def options(clean: str, **changes) -> dict:
    return {
        'name': 'x',
        'type': 'MixedDegradationLMDBDataset',
        'phase': 'train',
        'dataroot_gt': clean,
        'io_backend': {'type': 'lmdb'},
        'recipe': 'tiny',
        'variants': 4,
        'gt_size': 32,
        'use_hflip': True,
        'use_rot': True,
        **changes,
    }


def equal(a: dict, b: dict) -> bool:
    return all(torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a)


def test_items_are_rgb_tensors_of_the_crop(clean):
    dataset = MixedDegradationLMDBDataset(options(clean))
    assert len(dataset) == 12
    for index in range(len(dataset)):
        item = dataset[index]
        for role in ('lq', 'gt'):
            assert item[role].shape == (3, 32, 32)
            assert item[role].dtype == torch.float32
            assert 0 <= item[role].min() <= item[role].max() <= 1
        assert item['caption'] == dataset.record(index).caption
        assert item['labels'] == ','.join(dataset.record(index).labels)
        assert item['leaf'] == -1


def test_colours_are_not_swapped(clean):
    dataset = MixedDegradationLMDBDataset(options(clean, phase='test', gt_size=None))
    bgr = pictures()[0][1]
    assert torch.equal(
        (dataset[0]['gt'] * 255).round().byte(), torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1)
    )


def test_parameters_are_the_same_in_any_order_and_realisations_differ_by_epoch(clean):
    first, second = MixedDegradationLMDBDataset(options(clean)), MixedDegradationLMDBDataset(options(clean))
    backwards = {i: second.record(i) for i in reversed(range(12))}
    assert all(first.record(i) == backwards[i] for i in range(12))
    assert equal(first[5], second[5])
    assert not torch.equal(first[5]['lq'], first[12 + 5]['lq'])
    assert first[5]['caption'] == first[12 + 5]['caption']
    assert MixedDegradationLMDBDataset(options(clean, seed=1)).record(5) != first.record(5)


@pytest.mark.parametrize(('workers', 'start'), [(1, 'fork'), (4, 'fork')])
def test_workers_change_nothing(clean, workers, start):
    dataset = MixedDegradationLMDBDataset(options(clean))
    alone = [dataset[i] for i in range(24)]
    loader = DataLoader(dataset, batch_size=None, sampler=range(24), num_workers=workers, multiprocessing_context=start)
    for mine, theirs in zip(alone, loader, strict=True):
        assert equal(mine, theirs)


def test_pickled_datasets_open_their_own_lmdb(clean):
    dataset = MixedDegradationLMDBDataset(options(clean))
    item = dataset[3]
    assert equal(pickle.loads(pickle.dumps(dataset))[3], item)


def test_each_epoch_has_its_own_order_and_every_sample(clean):
    dataset = MixedDegradationLMDBDataset(options(clean))
    first, second = dataset.epoch_order(0), dataset.epoch_order(1)
    assert sorted(first) == list(range(12))
    assert sorted(second) == list(range(12, 24))
    assert [i - 12 for i in second] != first


def test_test_phase_is_the_whole_picture_and_always_the_same(clean):
    dataset = MixedDegradationLMDBDataset(options(clean, phase='test'))
    assert dataset[4]['lq'].shape == (3, *SIZES[1])
    assert equal(dataset[4], dataset[4])


def test_pictures_smaller_than_a_crop_are_mirrored(clean):
    dataset = MixedDegradationLMDBDataset(options(clean, gt_size=96))
    assert dataset[0]['gt'].shape == (3, 96, 96)


def make_assignment(clean: str, folder, **changes) -> dict:
    dataset = MixedDegradationLMDBDataset(options(clean, **changes))
    tree = DegradationTree.star(2)
    object.__setattr__(tree, 'build', {'data_fingerprint': dataset.fingerprint})
    tree.save(folder / 'degradation_tree.json')
    write_assignments(folder, tree, dataset.sample_ids(), np.arange(len(dataset)) % 2, dataset.shapes())
    return {'tree': str(folder / 'degradation_tree.json'), 'assignments': str(folder / 'assignments.csv')}


def test_expert_batches_hold_only_their_expert_s_samples(clean, tmp_path):
    files = make_assignment(clean, tmp_path)
    batch = {'batch_size': 3, 'steps_per_level': [2, 4]}
    dataset = MixedDegradationLMDBDataset(options(clean, **files, expert_batch=batch, batch_size_per_gpu=1))
    assert len(dataset) == 2 + 2 * 4
    assert dataset.epoch_order(0) == list(range(10))
    items = [dataset[i] for i in range(10)]
    assert [(item['node'], item['step']) for item in items] == [
        ('l0_00', 0),
        ('l0_00', 1),
        *(('l1_00', i) for i in range(4)),
        *(('l1_01', i) for i in range(4)),
    ]
    odd = set(dataset.sample_ids()[1::2])
    assert all(set(item['sample_id']) <= odd for item in items[6:])
    assert items[0]['lq'].shape == (3, 3, 32, 32)


def test_samples_know_their_leaf(clean, tmp_path):
    dataset = MixedDegradationLMDBDataset(options(clean, **make_assignment(clean, tmp_path)))
    assert [dataset[i]['leaf'] for i in range(4)] == [0, 1, 0, 1]


def test_assignments_of_other_samples_are_refused(clean, tmp_path):
    files = make_assignment(clean, tmp_path)
    with pytest.raises(TreeMismatchError, match='built from other samples than these'):
        MixedDegradationLMDBDataset(options(clean, **files, seed=7))


def test_real_pairs_are_read_as_they_are(clean, tmp_path):
    lq_root = tmp_path / 'lq.lmdb'
    lmdb_of(lq_root, [(key, 255 - picture) for key, picture in pictures()])
    pair = options(clean, recipe=None, dataroot_lq=str(lq_root), caption='large rain')
    pair.pop('variants')
    item = MixedDegradationLMDBDataset(pair)[1]
    assert torch.allclose(item['lq'] + item['gt'], torch.ones(3, 32, 32), atol=1e-6)  # cropped and flipped alike
    assert item['caption'] == 'large rain'
    assert item['sample_id'] == 'p1'


def test_a_missing_partner_is_named(clean, tmp_path):
    lmdb_of(tmp_path / 'lq.lmdb', pictures()[:2])
    with pytest.raises(DataError, match=r"lacks 1 of 3 pictures .*first: 'p2'"):
        MixedDegradationLMDBDataset(options(clean, recipe=None, variants=1, dataroot_lq=str(tmp_path / 'lq.lmdb')))


@pytest.mark.parametrize(
    ('changes', 'error', 'message'),
    [
        ({'gt_sice': 32}, OptionError, r"Unknown option 'datasets.train.gt_sice'. Did you mean 'gt_size'\?"),
        ({'recipe': None}, OptionError, 'needs either a recipe .* has neither'),
        ({'gt_size': None}, OptionError, 'needs gt_size'),
        ({'io_backend': {'type': 'disk'}}, OptionError, "io_backend.type is 'disk'"),
        ({'dataroot_gt': 'nowhere.lmdb'}, DataError, 'nowhere.lmdb does not exist'),
        ({'recipe': 'tinny'}, OptionError, r"no recipe 'tinny'. Did you mean 'tiny'\?"),
        (
            {'expert_batch': {'batch_size': 2, 'steps_per_level': [1]}},
            OptionError,
            'expert_batch needs tree and assignments',
        ),
        ({'assignments': 'x.csv'}, OptionError, 'assignments needs tree'),
    ],
)
def test_wrong_options_are_refused(clean, changes, error, message):
    with pytest.raises(error, match=message):
        MixedDegradationLMDBDataset(options(clean, **changes))


def test_an_lmdb_without_its_meta_file_is_refused(clean, tmp_path):
    lmdb_of(tmp_path / 'x.lmdb', pictures())
    (tmp_path / 'x.lmdb' / 'meta_info.txt').unlink()
    with pytest.raises(DataError, match='meta_info.txt does not exist: LMDBs of other tools lack it'):
        MixedDegradationLMDBDataset(options(str(tmp_path / 'x.lmdb')))


def test_records_follow_the_recipe(clean):
    dataset = MixedDegradationLMDBDataset(options(clean))
    cells = {f'{word} {kind}' for word, kind in DegradationRecipe.load('tiny').cells()}
    assert len(cells) == 10
    assert all(len(dataset.record(i).operations) == 1 for i in range(12))
