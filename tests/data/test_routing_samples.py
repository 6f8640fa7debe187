"""The rows that a router learns from: which samples they are, which are held out, and what tells them apart."""

from __future__ import annotations

import pytest

from basicsr_unirestorer.errors import OptionError
from tests.pipeline_fixtures import stage_options


@pytest.fixture
def options(smoke_demo) -> dict:
    opt = stage_options(smoke_demo, 'routing')['datasets']['train']
    return {**opt, 'phase': 'train', 'scale': 1, 'gt_size': 32}


def make(options: dict, **changes):
    from basicsr.data import build_dataset

    return build_dataset({**options, **changes})


def test_assigned_samples_come_first_and_the_others_have_no_leaf(registered, options):
    dataset = make(options)
    items = [dataset.realise(row) for row in range(dataset.num_rows)]
    assert [item['leaf'] >= 0 for item in items] == [True] * 40 + [False] * 10
    assert all(item['caption'].count(',') == 0 for item in items[:40])  # tiny: one degradation each
    assert len({item['sample_id'] for item in items[:40]}) == 40
    assert any(',' in item['caption'] for item in items[40:])
    assert (dataset.realise(3)['lq'] == items[3]['lq']).all()


def test_rows_are_split_by_picture(registered, options):
    dataset = make(options, variants=1, max_samples=None, route_also=['tiny_mix'])
    rows, held_out = set(dataset.rows.tolist()), set(dataset.held_out_rows.tolist())
    assert not rows & held_out and rows | held_out == set(range(dataset.num_rows))
    assert 0.02 < len(held_out) / dataset.num_rows < 0.25

    def pictures(some):
        return {dataset.realise(row)['sample_id'].partition('#')[0] for row in some}

    assert not pictures(rows) & pictures(held_out)


def test_items_are_rows_and_epochs_shuffle_them(registered, options):
    dataset = make(options)
    epochs = [[dataset[index]['row'] for index in dataset.epoch_order(epoch)] for epoch in (0, 1)]
    assert epochs[0] != epochs[1]
    assert all(sorted(epoch) == dataset.rows.tolist() for epoch in epochs)


def test_the_fingerprint_follows_what_the_rows_show(registered, options):
    fingerprints = [
        make(options, **changes).fingerprint
        for changes in (
            {},
            {'gt_size': 48},
            {'use_hflip': False},
            {'max_samples': 30},
            {'route_also': ['tiny_mix']},
            {'route_also': None},
        )
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert make(options, batch_size_per_gpu=1).fingerprint == fingerprints[0]


def test_several_sources_are_degraded_alike(registered, options):
    """Every clean source takes part, under its own name."""
    flat = {key: options.pop(key) for key in ('dataroot_gt', 'recipe', 'variants', 'max_samples')}
    del options['tree'], options['assignments']
    sources = [{'name': name, 'max_pictures': 5, **flat, 'max_samples': 4} for name in ('a', 'b')]
    dataset = make(options, sources=sources, route_also=[{'recipe': 'tiny_mix', 'max_samples': 2}])
    ids = [dataset.realise(row)['sample_id'][0] for row in range(dataset.num_rows)]
    assert ids == ['a'] * 4 + ['b'] * 4 + ['a'] * 2 + ['b'] * 2


def test_pairs_alone_cannot_be_degraded(registered, options):
    pairs = {'name': 'pairs', 'dataroot_gt': options['dataroot_gt'], 'dataroot_lq': options['dataroot_gt']}
    for key in ('dataroot_gt', 'recipe', 'variants', 'max_samples', 'tree', 'assignments'):
        del options[key]
    with pytest.raises(OptionError, match='route_also needs clean pictures with a recipe, and .* has pairs alone'):
        make(options, sources=[pairs])
