"""Chains: choices, probabilities, shuffles, repeated types, and what records and captions make of them."""

from __future__ import annotations

import json
import pickle
from collections import Counter

import numpy as np
import pytest
import yaml

from basicsr_unirestorer.degradations import (
    DegradationRecipe,
    DegradationRecord,
    degrade,
    parse_caption,
    sample_rng,
)
from basicsr_unirestorer.errors import DataError, OptionError
from tests.degradations.samples import make_record, scene

NOISE, BLUR, JPEG = ({'type': name} for name in ('noise', 'blur', 'jpeg'))


def records(chain, number=300, seed=0, **more):
    recipe = DegradationRecipe.load({'chain': chain, **more})
    return [recipe.draw(sample_rng(seed, 'key', v, 'params')) for v in range(number)]


def types(record):
    return tuple(step.type for step in record.operations)


def test_steps_happen_in_the_order_written_and_as_often():
    drawn = records([JPEG, [NOISE, {'steps': [BLUR]}], NOISE])
    assert {types(record) for record in drawn} == {('jpeg', 'noise', 'blur', 'noise')}


def test_probability_of_a_step_and_of_a_group():
    drawn = records([{**NOISE, 'p': 0.3}, {'steps': [BLUR, JPEG], 'p': 0.6}, {**BLUR, 'p': 0}], 3000)
    count = Counter(types(r) for r in drawn)
    assert set(count) == {(), ('noise',), ('blur', 'jpeg'), ('noise', 'blur', 'jpeg')}
    assert sum('noise' in kinds for kinds in count.elements()) / 3000 == pytest.approx(0.3, abs=0.03)
    assert sum('blur' in kinds for kinds in count.elements()) / 3000 == pytest.approx(0.6, abs=0.03)
    assert count[('noise', 'blur', 'jpeg')] / 3000 == pytest.approx(0.18, abs=0.03)  # independent


def test_one_of_follows_its_weights():
    choice = {'one_of': [{'weight': 3, **NOISE}, {**BLUR}, {'weight': 0, **JPEG}, []]}
    count = Counter(types(r) for r in records([choice], 3000))
    assert count[('noise',)] / 3000 == pytest.approx(0.6, abs=0.03)
    assert count[('blur',)] / 3000 == pytest.approx(0.2, abs=0.03)
    assert count[()] / 3000 == pytest.approx(0.2, abs=0.03)
    assert len(count) == 3


def test_every_order_of_a_shuffle_is_equally_likely():
    count = Counter(types(r) for r in records([{'shuffle': [NOISE, BLUR, JPEG]}], 3000))
    assert len(count) == 6 and min(count.values()) > 400


def test_keep_order_keeps_types_and_names_and_stays_uniform():
    steps = [{**NOISE, 'sigma_255': 1}, JPEG, {**NOISE, 'sigma_255': 2}, {'one_of': [BLUR], 'name': 'optics'}]
    for keep, allowed in ((['noise'], 12), (['noise', 'optics'], 4), ([], 24)):
        drawn = records([{'shuffle': steps, 'keep_order': keep}], 2400)
        names = [[step.strength if step.type == 'noise' else step.type for step in r.operations] for r in drawn]
        orders = Counter(map(tuple, names))
        assert len(orders) == allowed
        assert min(orders.values()) > 0.65 * 2400 / allowed
        if keep:
            assert all(order.index(1.0) < order.index(2.0) for order in orders)


def test_yml_anchors_and_merge_keys_work(tmp_path):
    (tmp_path / 'mine.yml').write_text(
        'chain:\n  - &n {type: noise, sigma_255: 5}\n  - {<<: *n, sigma_255: 50}\n  - *n\n'
    )
    (record,) = {DegradationRecipe.load(tmp_path / 'mine.yml').draw(sample_rng(0)) for _ in range(1)}
    assert [step.params['sigma_255'] for step in record.operations] == [5, 50, 5]


def test_to_dict_spells_out_everything_and_survives_json():
    chain = [
        {'one_of': [{'weight': 2, **NOISE, 'edges': [10, 20]}, [BLUR, {'type': 'resize', 'clip': False}]], 'p': 0.5},
        {'shuffle': [{'name': 'a', **JPEG}, BLUR], 'keep_order': ['a', 'blur']},
    ]
    recipe = DegradationRecipe.load({'chain': chain, 'quantize': 'each', 'name': 'mine'})
    full = json.loads(json.dumps(recipe.to_dict(), sort_keys=True))
    again = DegradationRecipe.load(full)
    assert again.to_dict() == recipe.to_dict()
    assert set(full) == {'name', 'quantize', 'chain'} and full['chain'][0]['one_of'][0]['edges'] == [10, 20]
    rngs = [sample_rng(0, v) for v in range(100)], [sample_rng(0, v) for v in range(100)]
    assert [again.draw(rng) for rng in rngs[0]] == [recipe.draw(rng) for rng in rngs[1]]
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_a_given_default_equals_an_absent_one():
    short, long = records([BLUR, NOISE], 20), records([{**BLUR, 'radius_px': 0, 'p': 1}, {**NOISE, 'clip': True}], 20)
    assert short == long


def test_record_survives_json():
    record = records([{**NOISE, 'clip': False}, {'type': 'resize'}], 1, quantize='off')[0]
    again = DegradationRecord.from_dict(json.loads(json.dumps(record.to_dict())))
    assert again == record and again.quantize == 'off' and not again.operations[0].clip


# ------------------------------------------------------------------------------- captions


def test_a_repeated_type_is_mentioned_once_where_it_is_strongest():
    weak, strong = ('noise', {'sigma_255': 10}), ('noise', {'sigma_255': 50})
    record = make_record(weak, ('jpeg', {'quality_pct': 10}), strong, ('jpeg', {'quality_pct': 80}))
    assert record.caption == 'heavy jpeg artifacts, large noise'
    assert record.labels == ('jpeg', 'noise')


def test_of_equally_strong_ones_the_last_counts():
    record = make_record(('noise', {'sigma_255': 10}), ('haze', {'beta': 2}), ('noise', {'sigma_255': 12}))
    assert record.caption == 'thick haze, small noise'


def test_more_than_four_phrases_keep_the_most_severe_in_order():
    record = make_record(
        ('rain', {'value': 10}), ('haze', {'beta': 2}), ('blur', {'sigma_px': 1}), ('noise', {'sigma_255': 50}),
        ('jpeg', {'quality_pct': 80}), ('ringing', {'cutoff': 1.2}), ('poisson_noise', {'scale': 3}),
    )  # fmt: skip
    assert record.caption == 'thick haze, large noise, heavy ringing, large poisson noise'
    assert record.labels == ('rain', 'haze', 'blur', 'noise', 'jpeg', 'ringing', 'poisson_noise')


def test_resize_counts_as_low_resolution():
    record = make_record(('low_resolution', {'factor': 2}), ('resize', {'scale': 0.2}), ('resize', {'scale': 1}))
    assert record.caption == 'severe low resolution' and record.labels == ('low_resolution',)
    assert make_record(('resize', {'scale': 1.4})).caption == 'clean'
    assert make_record(('resize', {'scale': 1.4})).labels == ()
    recipe = DegradationRecipe.load({'chain': [{'type': 'resize', 'scale': [0.4, 1.2]}]})
    assert recipe.cells() == [('slight', 'low_resolution'), ('medium', 'low_resolution')]
    assert recipe.types == ('low_resolution',)


def test_captions_of_chains_are_read_back():
    chain = [[{'one_of': [NOISE, BLUR, {'type': 'resize'}, {'type': 'ringing'}, JPEG, {'type': 'haze'}]}] * 8]
    for record in records(chain, 200):
        parsed = parse_caption(record.caption)
        labels = [label for _, label in parsed]
        assert 1 <= len(parsed) <= 4 and len(set(labels)) == len(labels)
        assert [label for label in record.labels if label in labels] == labels
        assert len(parsed) == min(4, len(record.labels))
        assert all(any((step.word, step.label) == cell for step in record.operations) for cell in parsed)


# ------------------------------------------------------------------------------- rounding and clipping


def test_quantize_each_end_and_off():
    image = scene()
    steps = [{**NOISE, 'sigma_255': 60}, {**BLUR, 'sigma_px': 1}]
    results = {}
    for mode in ('end', 'each', 'off'):
        (record,) = records(steps[::-1] if mode == 'off' else steps, 1, quantize=mode)
        results[mode] = degrade(image, record, sample_rng(1))
    for mode in ('end', 'each'):
        levels = results[mode] * 255
        assert np.abs(levels - np.rint(levels)).max() < 1e-4
    assert not np.array_equal(results['end'], results['each'])
    assert np.abs(results['end'] - results['each']).max() < 2 / 255
    assert results['off'].min() < -0.1 and results['off'].max() > 1.1  # noise comes last there, and is not clipped


def test_an_unknown_quantize_is_named():
    with pytest.raises(OptionError, match="quantize is 'ends', expected one of end, each, off"):
        degrade(scene(), DegradationRecord(), sample_rng(0), quantize='ends')


def test_a_bare_off_in_yml_means_off():
    options = yaml.safe_load('{quantize: off, chain: [{type: noise}]}')
    assert DegradationRecipe.load(options).draw(sample_rng(0)).quantize == 'off'
    mixture = DegradationRecipe.load({'quantize': 'off', 'degradations': {'noise': None}})
    assert mixture.quantize == mixture.draw(sample_rng(0)).quantize == 'off'


def test_without_clipping_the_next_operation_sees_values_above_one():
    image = np.full((32, 32, 3), 0.9, np.float32)
    wet, hazy = {'type': 'rain', 'value': 300, 'brightness': 1}, {'type': 'haze', 'beta': 0.5, 'airlight': 0.5}
    results = [
        degrade(image, records([{**wet, 'clip': clip}, hazy], 1)[0], sample_rng(2), quantize='off')
        for clip in (True, False)
    ]
    assert results[0].max() < results[1].max() and results[1].max() > 0.96


@pytest.mark.parametrize('name', ['poisson_noise', 'camera_noise', 'jpeg', 'webp', 'low_light', 'haze', 'raindrop'])
def test_operators_stand_values_that_are_not_clipped(name):
    (record,) = records([{**NOISE, 'sigma_255': 100, 'clip': False}, {'type': name}], 1)
    assert np.isfinite(degrade(scene(), record, sample_rng(0))).all()


# ------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    'chain, message',
    [
        ([], r'bad\.yml\.chain never does anything'),
        ([{'type': 'noise', 'p': 0}], r'bad\.yml\.chain never does anything'),
        ({'type': 'noise'}, r'bad\.yml\.chain is .*expected a list of steps'),
        (['noise'], r'bad\.yml\.chain\.0 is noise, expected a step with exactly one of type, one_of, shuffle, steps'),
        ([{'typ': 'noise'}], r"bad\.yml\.chain\.0 is .*Did you mean 'type'"),
        ([{'type': 'noise', 'steps': []}], r'chain\.0 is .*exactly one of'),
        ([{'type': 'niose'}], r"chain\.0 has the unknown type 'niose'\. Did you mean 'noise'"),
        ([NOISE, {'type': 'noise', 'sigma': 3}], r"chain\.1\.sigma'\. Did you mean 'sigma_255'"),
        ([{'type': 'noise', 'sigma_255': [9, 3]}], r'chain\.0\.sigma_255 is the empty range'),
        ([{'type': 'noise', 'p': 1.5}], r'chain\.0\.p is 1\.5, expected a number from 0 to 1'),
        ([{'type': 'noise', 'p': True}], r'chain\.0\.p is True'),
        ([{'type': 'noise', 'clip': 'no'}], r'chain\.0\.clip is no, expected true or false'),
        ([{'type': 'noise', 'weight': 2}], r'chain\.0\.weight means something inside one_of only'),
        ([{'one_of': []}], r'chain\.0\.one_of is \[\], expected a list of steps'),
        ([{'one_of': [{'weight': 0, 'type': 'noise'}]}], r'chain\.0\.one_of has only weights of 0'),
        ([{'one_of': [{'weight': -1, 'type': 'noise'}]}], r'chain\.0\.one_of\.0\.weight is -1'),
        ([{'one_of': [{'type': 'noise'}], 'keep_order': ['noise']}], r"chain\.0\.keep_order'"),
        ([{'shuffle': [NOISE, BLUR], 'keep_order': ['niose']}], r"keep_order has 'niose'.*Did you mean 'noise'"),
        ([{'shuffle': [NOISE, BLUR], 'keep_order': ['noise']}], r"keep_order names a single step, 'noise'"),
        ([{'shuffle': [NOISE, BLUR], 'keep_order': 'noise'}], r'keep_order is noise, expected a list'),
        ([[{'type': 'resize', 'scale': 0}]], r'chain\.0\.steps\.0\.scale is 0, expected values from 0\.05 to 4'),
    ],
)
def test_faulty_chains_are_named_by_place(chain, message, tmp_path):
    path = tmp_path / 'bad.yml'
    path.write_text(yaml.safe_dump({'chain': chain}, sort_keys=False))
    with pytest.raises(OptionError, match=message):
        DegradationRecipe.from_yaml(path)


@pytest.mark.parametrize(
    'options, message',
    [
        ({'chain': [NOISE], 'count': {1: 1.0}}, 'has both chain and count'),
        ({'chain': [NOISE], 'degradations': {'noise': None}}, 'has both chain and degradations'),
        ({'chain': [NOISE], 'order': 'physical'}, 'has both chain and order'),
        ({'chian': [NOISE]}, r"recipe\.chian'\. Did you mean 'chain'"),
        ({'degradations': {'resize': None}}, 'resize, which changes the pixel grid and so belongs in a chain only'),
        ({'chain': [NOISE], 'quantize': 'ends'}, r"quantize is 'ends', expected .*off\. Did you mean 'end'"),
    ],
)
def test_keys_that_exclude_each_other(options, message):
    with pytest.raises(OptionError, match=message):
        DegradationRecipe.from_dict(options)


def test_a_record_with_an_unknown_quantize_is_named():
    with pytest.raises(DataError, match="quantize 'never', expected one of end, each, off"):
        DegradationRecord.from_dict({'operations': [], 'quantize': 'never'})
