"""Several sources in one dataset: ids, counts, pairs of many to one, purity, bad input."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from basicsr_unirestorer import compat
from basicsr_unirestorer.clustering.assignments import write_assignments
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.data.mixed_degradation_lmdb_dataset import MixedDegradationLMDBDataset
from basicsr_unirestorer.data.source_options import quotas
from basicsr_unirestorer.errors import DataError, OptionError
from tests.data.samples import equal, make_lmdb, noise_pictures, options

SCENES = noise_pictures(3, name='scene')
HAZY = [(f'scene{i}_{j}', 255 - SCENES[i][1] // (j + 1)) for i in range(3) for j in range(4)]
PAIRS = ''.join(f'{key} {key[:6]} haze {"normal" if key.endswith(("0", "1")) else "thick"}\n' for key, _ in HAZY)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Clean pictures, hazy pairs of four to one, rainy pairs of one to one; keys p0 and p1 are in two of them."""
    folder = tmp_path_factory.mktemp('sources')
    make_lmdb(folder / 'clean.lmdb', noise_pictures(5))
    make_lmdb(folder / 'haze' / 'gt.lmdb', SCENES)
    make_lmdb(folder / 'haze' / 'lq.lmdb', HAZY)
    (folder / 'haze' / 'pairs.txt').write_text(PAIRS)
    make_lmdb(folder / 'rain' / 'gt.lmdb', noise_pictures(2, seed=1))
    make_lmdb(folder / 'rain' / 'lq.lmdb', noise_pictures(2, seed=2))
    return folder


def clean(folder, **changes) -> dict:
    return {'name': 'clean', 'dataroot_gt': str(folder / 'clean.lmdb'), 'recipe': 'tiny', 'variants': 4, **changes}


def pairs(folder, name: str, **changes) -> dict:
    roots = {f'dataroot_{role}': str(folder / name / f'{role}.lmdb') for role in ('gt', 'lq')}
    more = {'pairs': str(folder / 'haze' / 'pairs.txt')} if name == 'haze' else {'caption': 'large rain'}
    return {'name': name, **roots, **more, **changes}


def mixture(folder, **changes) -> MixedDegradationLMDBDataset:
    sources = [clean(folder), pairs(folder, 'haze', max_samples=3), pairs(folder, 'rain', enlarge=4.5)]
    return MixedDegradationLMDBDataset(options(sources=sources, **changes))


def flat(source: dict, **changes) -> dict:
    return options(**{key: value for key, value in source.items() if key != 'name'}, **changes)


def members(dataset: MixedDegradationLMDBDataset, epoch: int) -> list[str]:
    """Sample ids of an epoch, in the order of training."""
    return [dataset.sample_id(dataset.draw(*divmod(i, len(dataset)))[0]) for i in dataset.epoch_order(epoch)]


# ------------------------------------------------------------------------------------------------- what there is


def test_ids_are_unique_across_sources(folder):
    dataset = mixture(folder)
    ids = dataset.sample_ids()
    assert len(set(ids)) == len(ids) == dataset.num_samples == 5 * 4 + 12 + 2
    assert ids[0] == 'clean/p0#0' and ids[20] == 'haze/scene0_0' and ids[-1] == 'rain/p1'
    assert [dataset.sample_id(number) for number in range(len(ids))] == ids
    names = [dataset.item(number)['lq_path'] for number in range(len(ids))]
    assert len(set(names)) == len(names) and names[-1] == 'rain.p1.png'


@pytest.mark.parametrize('name', ['clean', 'haze', 'rain'])
def test_a_single_listed_source_is_the_flat_one(folder, name):
    source = clean(folder) if name == 'clean' else pairs(folder, name)
    listed = MixedDegradationLMDBDataset(options(sources=[source]))
    plain = MixedDegradationLMDBDataset(flat(source))
    assert listed.sample_ids() == plain.sample_ids()
    assert listed.fingerprint == plain.fingerprint
    assert all(equal(listed[i], plain[i]) for i in range(2 * len(plain)))


def test_a_list_in_a_file_is_the_list(folder, tmp_path):
    sources = [clean(folder), pairs(folder, 'haze', max_samples=3), pairs(folder, 'rain', enlarge=4.5)]
    (tmp_path / 'list.yml').write_text(yaml.safe_dump(sources))
    listed = MixedDegradationLMDBDataset(options(sources=str(tmp_path / 'list.yml')))
    assert equal(listed[25], mixture(folder)[25])
    assert listed.fingerprint == mixture(folder).fingerprint


def test_fingerprints_of_the_first_release_hold(folder):
    """An assignment belongs to a fingerprint: what was clustered then must be trainable now."""
    types = 'low_light rain snow haze motion_blur blur low_resolution poisson_noise noise jpeg'.split()
    recipe = {'name': 'all', 'count': {1: 0.5, 2: 0.5}, 'degradations': dict.fromkeys(types)}
    for source, fingerprint in (
        (clean(folder, recipe=recipe), '74f2048d7612d59e'),
        (pairs(folder, 'rain'), '1987936e52687a23'),
        (pairs(folder, 'rain', caption=None), '21e01c82e8648a80'),
    ):
        assert MixedDegradationLMDBDataset(flat(source)).fingerprint == fingerprint
    spelt_out = {'clip': True, 'channels': 'rgb'}
    recipe = {**recipe, 'quantize': 'end', 'degradations': {**recipe['degradations'], 'noise': spelt_out}}
    assert MixedDegradationLMDBDataset(flat(clean(folder, recipe=recipe))).fingerprint == '74f2048d7612d59e'


def test_fingerprints_know_what_the_samples_are_and_not_how_often_they_come(folder):
    reference = mixture(folder).fingerprint
    sources = [clean(folder), pairs(folder, 'haze'), pairs(folder, 'rain')]

    def fingerprint(*changed: dict, **changes) -> str:
        return MixedDegradationLMDBDataset(options(sources=list(changed), **changes)).fingerprint

    assert fingerprint(*sources) == reference
    assert fingerprint(*({**source, 'weight': 2} for source in sources), epoch_samples=7) == reference
    assert fingerprint(*sources[:2]) != reference
    assert fingerprint(*sources, seed=1) != reference
    assert fingerprint(clean(folder, variants=5), *sources[1:]) != reference
    assert fingerprint(*sources[:2], pairs(folder, 'rain', caption='small rain')) != reference


def test_equal_keys_in_two_sources_are_different_samples(folder):
    two = [clean(folder), clean(folder, name='again')]
    dataset = MixedDegradationLMDBDataset(options(sources=two))
    half = dataset.num_samples // 2
    assert any(dataset.record(i) != dataset.record(half + i) for i in range(half))


# ------------------------------------------------------------------------------------------------- many to one


def test_many_degraded_pictures_share_a_clean_one(folder):
    dataset = MixedDegradationLMDBDataset(flat(pairs(folder, 'haze'), use_hflip=False, use_rot=False, gt_size=None))
    assert dataset.sample_ids() == [key for key, _ in HAZY]
    for number, (key, lq) in enumerate(HAZY):
        item = dataset[number]
        gt = dict(SCENES)[key[:6]]
        for tensor, bgr in ((item['lq'], lq), (item['gt'], gt)):
            assert np.array_equal(tensor.permute(1, 2, 0).numpy(), bgr[..., ::-1].astype(np.float32) / 255)
        assert item['caption'] == ('normal haze' if key.endswith(('0', '1')) else 'thick haze')
        assert (item['labels'], item['lq_path'], item['gt_path']) == ('haze', f'{key}.png', f'{key[:6]}.png')
        assert dataset.record(number) is None


def test_crops_of_a_pair_match(folder, tmp_path):
    roots = {
        'dataroot_gt': make_lmdb(tmp_path / 'gt.lmdb', SCENES),
        'dataroot_lq': make_lmdb(tmp_path / 'lq.lmdb', [(k, 255 - p) for k, p in SCENES]),
    }
    dataset = MixedDegradationLMDBDataset(options(**roots, gt_size=44))  # higher than the pictures: mirrored
    item = dataset[1]
    assert item['lq'].shape == (3, 44, 44)
    assert torch.allclose(item['lq'] + item['gt'], torch.ones(3, 44, 44), atol=1e-6)


def test_labels_follow_the_caption_where_pairs_have_none(folder):
    assert MixedDegradationLMDBDataset(flat(pairs(folder, 'rain')))[0]['labels'] == 'rain'
    assert MixedDegradationLMDBDataset(flat(pairs(folder, 'rain', caption=None)))[0]['labels'] == ''


# ------------------------------------------------------------------------------------------------- counts


def test_an_epoch_has_the_stated_counts(folder):
    dataset = mixture(folder)
    assert len(dataset) == 20 + 3 + 9
    seen = []
    for epoch in range(8):
        drawn = members(dataset, epoch)
        assert Counter(sample_id.split('/')[0] for sample_id in drawn) == {'clean': 20, 'haze': 3, 'rain': 9}
        seen += [sample_id for sample_id in drawn if sample_id.startswith('haze')]
    assert Counter(seen[:12]) == dict.fromkeys(dataset.sample_ids()[20:32], 1)  # all were seen before one came twice
    assert Counter(seen) == dict.fromkeys(dataset.sample_ids()[20:32], 2)


def test_an_enlarged_source_is_realised_anew_each_time(folder):
    dataset = mixture(folder)
    drawn = [dataset[i] for epoch in range(2) for i in dataset.epoch_order(epoch)]
    rain = [item for item in drawn if item['sample_id'] == 'rain/p0']
    assert len(rain) == 9
    assert len({item['gt'].numpy().tobytes() for item in rain}) > 5  # crops and flips of 9 x 17 x 8 possible ones


@pytest.mark.parametrize(
    ('sources', 'epoch_samples', 'expected'),
    [
        ([{}, {}], None, [200, 1000]),
        ([{'enlarge': 120}, {'max_samples': 300}], None, [24000, 300]),
        ([{'enlarge': 120, 'max_samples': 5000}, {'enlarge': 0.25}], None, [5000, 250]),
        ([{'enlarge': 0.001}, {}], None, [1, 1000]),
        ([{'weight': 1}, {'weight': 3}], None, [300, 900]),
        ([{'weight': 1}, {'weight': 2}], 100, [33, 67]),
        ([{'weight': 1}, {'weight': 1, 'max_samples': 10}], 100, [50, 10]),
        ([{'weight': 1}, {'weight': 1e6}], 100, [1, 100]),
    ],
)
def test_quotas(sources, epoch_samples, expected):
    assert quotas([200, 1000], sources, epoch_samples) == expected


def test_a_test_takes_no_sample_twice(folder):
    dataset = mixture(folder, phase='test')
    ids = [dataset[i]['sample_id'] for i in range(len(dataset))]
    assert len(set(ids)) == len(ids) == 20 + 3 + 2
    assert [dataset[i]['sample_id'] for i in range(len(dataset))] == ids
    assert dataset[0]['lq'].shape == (3, 40, 48)


def test_flat_options_may_be_capped_and_enlarged_too(folder):
    assert len(MixedDegradationLMDBDataset(flat(clean(folder), max_samples=7))) == 7
    assert len(MixedDegradationLMDBDataset(flat(clean(folder), enlarge=3))) == 60


# ------------------------------------------------------------------------------------------------- purity


@pytest.mark.parametrize(('workers', 'start'), [(1, 'fork'), (4, 'fork'), (2, 'spawn')])
def test_workers_change_nothing(folder, workers, start):
    dataset = mixture(folder)
    order = dataset.epoch_order(0) + dataset.epoch_order(1)
    alone = [dataset[i] for i in order]
    loader = DataLoader(mixture(folder), None, sampler=order, num_workers=workers, multiprocessing_context=start)
    for mine, theirs in zip(alone, loader, strict=True):
        assert equal(mine, theirs)


def test_records_and_items_survive_pickling_and_any_order(folder):
    one, other = mixture(folder), pickle.loads(pickle.dumps(mixture(folder)))
    numbers = range(one.num_samples)
    backwards = {number: other.record(number) for number in reversed(numbers)}
    assert all(one.record(number) == backwards[number] for number in numbers)
    items = {i: other[i] for i in reversed(range(2 * len(one)))}
    assert all(equal(one[i], items[i]) for i in items)


@pytest.mark.parametrize('workers', [0, 1, 4])
def test_a_resumed_epoch_goes_on_with_the_same_items(folder, workers, registered):
    from basicsr.data.data_sampler import EnlargedSampler

    def epoch(done: int) -> list[dict]:
        dataset = mixture(folder, batch_size_per_gpu=4)
        sampler = EnlargedSampler(dataset, 1, 0, ratio=2)  # 64 samples, 16 batches an epoch
        if done:
            compat.note_resume(epoch=1, iteration=16 + done)
        sampler.set_epoch(1)
        return list(DataLoader(dataset, 4, sampler=sampler, num_workers=workers, drop_last=True))

    try:
        whole, rest = epoch(0), epoch(13)
    finally:
        compat.forget_resume()
    assert (len(whole), len(rest)) == (16, 3)
    assert all(equal(a, b) for a, b in zip(whole[13:], rest, strict=True))


def test_expert_batches_draw_from_the_union_at_the_sources_rates(folder, tmp_path):
    dataset = mixture(folder)
    tree = DegradationTree.star(2)
    object.__setattr__(tree, 'build', {'data_fingerprint': dataset.fingerprint})
    tree.save(tmp_path / 'degradation_tree.json')
    write_assignments(
        tmp_path, tree, dataset.sample_ids(), np.arange(dataset.num_samples) % 2, dataset.shapes()
    )  # both leaves hold samples of all sources
    batch = {'batch_size': 8, 'steps_per_level': [8, 1]}
    files = {'tree': str(tmp_path), 'assignments': str(tmp_path / 'assignments.csv')}
    planned = mixture(folder, **files, expert_batch=batch)
    items = [planned[i] for i in range(8)]
    assert {item['node'] for item in items} == {'l0_00'}
    ids = [sample_id for item in items for sample_id in item['sample_id']]
    assert Counter(sample_id.split('/')[0] for sample_id in ids) == {'clean': 40, 'haze': 6, 'rain': 18}  # two epochs
    assert mixture(folder, **files)[0]['leaf'] == 0


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'variant': 2}, r"'datasets.train.sources.1.variant'. Did you mean 'variants'\?"),
        ({'name': 'clean'}, "Two sources of datasets.train have the name 'clean'"),
        ({'name': 'a.b'}, "sources.1.name' is 'a.b', expected a name of letters"),
        ({'name': None}, "sources.1.name' is None"),
        ({'recipe': 'tiny'}, r'sources.1 \(rain\) needs either .* has both'),
        ({'dataroot_lq': None, 'caption': None}, r'sources.1 \(rain\) needs either .* has neither'),
        ({'dataroot_gt': None}, 'lacks dataroot_gt'),
        ({'variants': 4}, 'has variants, which only clean pictures with a recipe take'),
        ({'weight': 2}, "Source 'clean' of datasets.train has no weight but others have"),
        ({'enlarge': -1}, 'enlarge is -1, expected a number above 0'),
        ({'enlarge': '2'}, "enlarge is '2', expected a number above 0"),
        ({'max_samples': 0}, 'max_samples is 0, expected a whole number from 1'),
        ({'max_samples': 1.5}, 'max_samples is 1.5, expected a whole number from 1'),
    ],
)
def test_wrong_sources_are_refused_before_any_file_is_read(folder, change, message):
    with pytest.raises(OptionError, match=message):
        MixedDegradationLMDBDataset.check_options(
            options(sources=[clean(folder), {**pairs(folder, 'rain'), **change}]), 'datasets.train'
        )


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'sources': []}, r"sources' is \[\], expected a list of sources"),
        ({'sources': {'name': 'x'}}, 'expected a list of sources'),
        ({'sources': 'paper_sevn'}, r"no list that comes with the package. Did you mean 'paper_seven'\?"),
        ({'sources': 'nowhere.yml'}, "'nowhere.yml', which is no file"),
        ({'sources': [{'name': 'a'}], 'recipe': 'tiny'}, "'datasets.val.recipe' stands beside datasets.val.sources"),
        ({'dataroot_gt': 'x', 'recipe': 'tiny', 'weight': 2}, "Unknown option 'datasets.val.weight'"),
        ({'dataroot_gt': 'x', 'recipe': 'tiny', 'caption': 'clean'}, 'has caption, which only pairs'),
        ({'sources': [{'name': 'a', 'dataroot_gt': 'x', 'recipe': 'tiny', 'weight': 1, 'enlarge': 2}]}, 'has both wei'),
        ({'dataroot_gt': 'x', 'recipe': 'tiny', 'epoch_samples': 9}, 'epoch_samples needs sources with weights'),
    ],
)
def test_wrong_mixtures_are_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        MixedDegradationLMDBDataset.check_options(options(**changes), 'datasets.val')


def test_an_impossible_recipe_names_what_is_impossible(folder):
    recipe = {'exclusive': [['rain', 'snow']], 'degradations': {'rain': {}, 'snow': {}}, 'count': {2: 1.0}}
    with pytest.raises(OptionError, match='asks for 2 at once, but recipe.exclusive leaves no such combination'):
        MixedDegradationLMDBDataset(flat(clean(folder, recipe=recipe)))


def broken_pairs(folder, tmp_path, lines: str) -> MixedDegradationLMDBDataset:
    (tmp_path / 'pairs.txt').write_text(lines)
    return MixedDegradationLMDBDataset(flat(pairs(folder, 'haze', pairs=str(tmp_path / 'pairs.txt'))))


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        ('scene0_0 scene9 haze thick\n', r"gt.lmdb lacks 1 of 1 .*pairs.txt \(first: 'scene9'\); .* other LMDBs"),
        ('scene9_0 scene0 haze thick\n', r"lq.lmdb lacks 1 of 1 .*pairs.txt \(first: 'scene9_0'\)"),
        ('scene0_0 scene0 hazy thick\n', "unknown degradation 'hazy'. Did you mean 'haze'"),
        ('scene0_0 scene0\n', 'expected .lq_key gt_key task word'),
    ],
)
def test_wrong_pairs_are_refused(folder, tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        broken_pairs(folder, tmp_path, lines)


def test_pairs_of_unknown_strength_have_the_caption_of_their_source_or_a_plain_one(folder, tmp_path):
    lines = 'scene0_0 scene0 low_light+haze -\nscene0_1 scene0 haze thick\n'
    captions = ['low light, haze', 'thick haze']
    (tmp_path / 'pairs.txt').write_text(lines)
    source = pairs(folder, 'haze', pairs=str(tmp_path / 'pairs.txt'), caption=None)
    dataset = MixedDegradationLMDBDataset(flat(source))
    assert [dataset.caption(number) for number in range(2)] == captions
    assert dataset[0]['labels'] == 'low_light,haze'
    named = MixedDegradationLMDBDataset(flat({**source, 'caption': 'dark, normal haze'}))
    assert [named.caption(number) for number in range(2)] == ['dark, normal haze', 'thick haze']


def test_a_forgotten_pairs_file_is_pointed_at(folder):
    with pytest.raises(DataError, match='partners have other names, so write pairs: .*haze/pairs.txt'):
        MixedDegradationLMDBDataset(flat(pairs(folder, 'haze', pairs=None)))


def test_pairs_of_different_sizes_are_found_before_training(folder, tmp_path):
    roots = {
        'dataroot_gt': make_lmdb(tmp_path / 'gt.lmdb', noise_pictures(2)),
        'dataroot_lq': make_lmdb(tmp_path / 'lq.lmdb', noise_pictures(2, size=(40, 44))),
    }
    with pytest.raises(DataError, match="'p0' is 44x40 in .*lq.lmdb but 48x40 in .*gt.lmdb; pairs need equal sizes"):
        MixedDegradationLMDBDataset(options(**roots))


def test_a_caption_that_is_none_is_refused(folder):
    with pytest.raises(DataError, match="unknown phrase 'huge rain'"):
        MixedDegradationLMDBDataset(flat(pairs(folder, 'rain', caption='huge rain')))
