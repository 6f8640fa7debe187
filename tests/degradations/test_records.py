"""Records, captions, strength words and generators."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from basicsr_unirestorer.degradations import (
    DEGRADATION_TYPES,
    DegradationRecipe,
    DegradationRecord,
    parse_caption,
    sample_rng,
)
from basicsr_unirestorer.errors import DataError
from tests.degradations.samples import make_record

KEYS = [('0801', 0), ('0801', 1), ('street/07', 0), ('0900', 12)]
IN_ANOTHER_PROCESS = """
import json, sys
from basicsr_unirestorer.degradations import DegradationRecipe, sample_rng
recipe = DegradationRecipe.load('universal')
keys = json.loads(sys.argv[1])
print(json.dumps([recipe.draw(sample_rng(7, key, v, 'params')).to_dict() for key, v in keys]))
"""


def draw(recipe, key, variant, seed=7):
    return DegradationRecipe.load(recipe).draw(sample_rng(seed, key, variant, 'params'))


def test_records_are_the_same_in_another_process_and_in_any_order():
    here = [draw('universal', *key).to_dict() for key in KEYS]
    answer = subprocess.run(
        [sys.executable, '-c', IN_ANOTHER_PROCESS, json.dumps(KEYS[::-1])],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONHASHSEED': '123', 'PYTHONPATH': os.pathsep.join(sys.path)},
    )
    assert json.loads(answer.stdout)[::-1] == here


def first_params(operation, number):
    """The parameters of the first release: later ones follow them."""
    return dict(list(operation.params.items())[:number])


FIRST_UNIVERSAL = {  # the mixture that the first release called universal
    'name': 'universal',
    'count': {1: 0.4, 2: 0.35, 3: 0.25},
    'exclusive': [['rain', 'snow'], ['motion_blur', 'blur'], ['poisson_noise', 'noise']],
    'degradations': {
        'low_light': {'gamma': [1.5, 3.5], 'noise_255': [0, 15]},
        'rain': {'value': [20, 150]},
        'snow': {'size': ['S', 'M', 'L']},
        'haze': {'beta': [0.5, 2.5]},
        'motion_blur': {'length_px': [5, 31]},
        'blur': {'sigma_px': [0.6, 4]},
        'low_resolution': {'factor': [1.5, 4]},
        'poisson_noise': {'scale': [0.3, 3]},
        'noise': {'sigma_255': [5, 55]},
        'jpeg': {'quality_pct': [10, 85]},
    },
}


def test_sampling_is_unchanged():
    """Assignments and published numbers belong to these very samples: a change here needs a new major version."""
    dark, snow, noise = draw(FIRST_UNIVERSAL, '0801', 5, seed=0).operations
    assert (dark.type, dark.word) == ('low_light', 'dark')
    assert first_params(dark, 3) == pytest.approx(
        {'gamma': 2.6606885471000687, 'exposure': 0.6297261736752415, 'noise_255': 10.4553759867992}, rel=1e-12
    )
    assert (snow.type, snow.word, snow.strength, snow.params['size']) == ('snow', 'small', 1.0, 'S')
    assert snow.params['density'] == pytest.approx(1.072205779380213, rel=1e-12)
    assert (noise.type, noise.word) == ('poisson_noise', 'medium')
    assert first_params(noise, 2) == pytest.approx({'scale': 0.8558810872807536, 'photons': 256}, rel=1e-12)
    assert draw(FIRST_UNIVERSAL, '0801', 2, seed=0).caption == 'medium low resolution, heavy jpeg artifacts'
    assert first_params(draw('tiny', '0801', 3, seed=0).operations[0], 3) == pytest.approx(
        {'gamma': 1.5656624017915075, 'exposure': 0.794943415295343, 'noise_255': 2}, rel=1e-12
    )


def test_sample_rng_tells_its_arguments_apart():
    lists = [
        (0,),
        (1,),
        (0, 1),
        (0, '1'),
        (0, 'a', 'b'),
        (0, 'ab'),
        (0, 'a,b'),
        (0, 'a', 1),
        (0, 'a', 1, 'params'),
        (0, 'a', 1, 'realise', 0),
        (0, 'a', 1, 'realise', 1),
        (0, 'a", "b'),
        (-1,),
        (0, 'é'),
    ]
    assert len({sample_rng(*parts).random() for parts in lists}) == len(lists)
    assert sample_rng(np.int64(5), 'a', np.int32(2)).random() == sample_rng(5, 'a', 2).random()


def test_sample_rng_refuses_other_types():
    with pytest.raises(TypeError, match='integers and strings, not 1.5 of type float'):
        sample_rng(0, 1.5)


def test_sample_rng_leaves_the_global_generator_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    draw('universal', '0801', 0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize('recipe', ['tiny', 'tiny_mix', 'unirestorer7', 'universal'])
def test_record_survives_json(recipe):
    for variant in range(20):
        record = draw(recipe, 'a', variant)
        assert DegradationRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


@pytest.mark.parametrize('recipe', ['tiny', 'tiny_mix', 'unirestorer7', 'universal'])
def test_parse_caption_inverts_the_caption(recipe):
    for variant in range(60):
        record = draw(recipe, 'b', variant)
        assert parse_caption(record.caption) == [(step.word, step.type) for step in record.operations]
        assert tuple(name for _, name in parse_caption(record.caption)) == record.labels


def test_every_phrase_is_unambiguous():
    kinds = [kind for kind in DEGRADATION_TYPES.values() if not kind.label]  # others borrow phrases, see below
    phrases = {kind.phrase.format(word=word): (word, kind.name) for kind in kinds for word in kind.words}
    assert len(phrases) == sum(len(kind.words) for kind in kinds)
    for phrase, cell in phrases.items():
        assert parse_caption(phrase) == [cell]
        assert ', ' not in phrase and ': ' not in phrase


def test_a_type_that_counts_as_another_has_its_phrases():
    resize, low_resolution = DEGRADATION_TYPES['resize'], DEGRADATION_TYPES['low_resolution']
    assert resize.label == 'low_resolution' and resize.phrase == low_resolution.phrase
    assert set(resize.words) - {'none'} == set(low_resolution.words)
    for factor in (1.5, 2, 2.01, 3, 3.01):
        assert resize.word(1 / factor) == low_resolution.word(factor)
    assert resize.word(1) == resize.word(1.5) == 'none'


def test_captions_read_as_documented():
    record = make_record(('rain', {'value': 30}), ('haze', {'beta': 2}))
    assert record.caption == 'small rain, thick haze'
    assert record.labels == ('rain', 'haze')
    assert make_record(('low_light', {'gamma': 4})).caption == 'very dark'
    assert make_record(('jpeg', {'quality_pct': 10})).caption == 'heavy jpeg artifacts'
    assert DegradationRecord().caption == 'clean'
    assert parse_caption('clean') == []
    assert parse_caption('rain, low light') == [('', 'rain'), ('', 'low_light')]
    assert parse_caption('a red house: by the sea: large noise') == [('large', 'noise')]


@pytest.mark.parametrize(
    'name, below, edge_word, edge',
    [
        ('rain', 'small', 'medium', 50),
        ('rain', 'medium', 'large', 100),
        ('noise', 'small', 'medium', 20),
        ('noise', 'medium', 'large', 40),
        ('poisson_noise', 'small', 'medium', 0.8),
        ('poisson_noise', 'medium', 'large', 1.7),
        ('blur', 'small', 'large', 2),
        ('motion_blur', 'small', 'large', 15),
        ('haze', 'normal', 'thick', 1.5),
        ('low_light', 'slightly dark', 'dark', 2),
        ('low_light', 'dark', 'very dark', 3),
        ('jpeg', 'heavy', 'medium', 25),
        ('jpeg', 'medium', 'light', 50),
    ],
)
def test_an_edge_belongs_to_the_interval_above(name, below, edge_word, edge):
    kind = DEGRADATION_TYPES[name]
    assert kind.word(np.nextafter(edge, 0)) == below
    assert kind.word(edge) == edge_word


def test_low_resolution_edges_belong_to_the_interval_below():
    word = DEGRADATION_TYPES['low_resolution'].word
    assert [word(factor) for factor in (1.5, 2, 2.01, 3, 3.01, 4)] == [
        'slight',
        'slight',
        'medium',
        'medium',
        'severe',
        'severe',
    ]


def test_strongest_rain_is_large():
    assert DEGRADATION_TYPES['rain'].word(150) == 'large'


def test_snow_class_is_its_strength():
    snow = DEGRADATION_TYPES['snow']
    assert [snow.word(snow.strength({'size': size})) for size in 'SML'] == ['small', 'medium', 'large']


def test_params_are_plain_python():
    for variant in range(30):
        for step in draw('universal', 'c', variant).operations:
            assert all(type(value) in (int, float, str, bool) for value in step.params.values())
            assert type(step.strength) is float


@pytest.mark.parametrize(
    'caption, message',
    [
        ('small rian', "unknown phrase 'small rian'. Did you mean 'small rain'"),
        ('small rain,thick haze', 'unknown phrase'),
        ('', "unknown phrase ''"),
        ('clean, small rain', "unknown phrase 'clean'"),
    ],
)
def test_bad_captions_are_named(caption, message):
    with pytest.raises(DataError, match=message):
        parse_caption(caption)


def change(**fields):
    entry = make_record(('noise', {})).to_dict()['operations'][0]
    return {'operations': [{**entry, **fields}]}


@pytest.mark.parametrize(
    'values, message',
    [
        ({}, 'needs a list of operations'),
        ({'operations': [{'type': 'noise'}]}, 'type, params, strength and word'),
        (change(type='niose'), "unknown degradation 'niose'. Did you mean 'noise'"),
        (change(params={'sigma': 3}), "gives 'noise' the parameters sigma, expected channels, sigma_255"),
        (change(word='huge'), "calls 'noise' 'huge', expected small, medium, large"),
    ],
)
def test_bad_records_are_named(values, message):
    with pytest.raises(DataError, match=message):
        DegradationRecord.from_dict(values)
