"""Recipe files: what they draw and what they refuse."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import yaml

from basicsr_unirestorer.degradations import DegradationRecipe, sample_rng
from basicsr_unirestorer.errors import OptionError

NOISE_HAZE = {'degradations': {'noise': None, 'haze': None}}


def records(recipe, number=300, seed=0):
    recipe = DegradationRecipe.load(recipe)
    return [recipe.draw(sample_rng(seed, 'key', v, 'params')) for v in range(number)]


def test_weights_set_the_frequency():
    recipe = {'degradations': {'noise': {'weight': 3}, 'haze': {'weight': 1}, 'rain': {'weight': 0}}}
    count = Counter(record.labels for record in records(recipe, 2000))
    assert set(count) == {('noise',), ('haze',)}
    assert count[('noise',)] / 2000 == pytest.approx(0.75, abs=0.03)
    assert DegradationRecipe.load(recipe).types == ('haze', 'noise')


def test_count_zero_makes_clean_samples():
    count = Counter(record.caption == 'clean' for record in records({**NOISE_HAZE, 'count': {0: 0.2, 1: 0.8}}, 2000))
    assert count[True] / 2000 == pytest.approx(0.2, abs=0.03)


def test_listed_order_is_kept_and_shuffle_varies_the_camera_only():
    mixture = {
        'degradations': {'noise': None, 'haze': None, 'blur': None},
        'mixtures': [{'types': ['noise', 'blur', 'haze']}],
    }
    assert {r.labels for r in records({**mixture, 'order': 'listed'}, 20)} == {('noise', 'blur', 'haze')}
    assert {r.labels for r in records({**mixture, 'order': 'physical'}, 20)} == {('haze', 'blur', 'noise')}
    assert {r.labels for r in records({**mixture, 'order': 'shuffle'}, 60)} == {
        ('haze', 'blur', 'noise'),
        ('haze', 'noise', 'blur'),
    }


def test_key_order_of_the_file_does_not_change_the_draw():
    one = {'degradations': {'rain': {'value': [10, 90], 'width_px': [2, 3]}}}
    two = {'degradations': {'rain': {'width_px': [2, 3], 'value': [10, 90]}}}
    assert records(one, 10) == records(two, 10)
    assert records({'degradations': dict(reversed(NOISE_HAZE['degradations'].items()))}) == records(NOISE_HAZE)


def test_listed_order_survives_a_dict_with_sorted_keys():
    recipe = DegradationRecipe.load(
        {
            'order': 'listed',
            'count': {2: 0.5, 1: 0.5},
            'degradations': {'noise': {'weight': 2}, 'blur': None, 'haze': None},
        }
    )
    again = DegradationRecipe.load(json.loads(json.dumps(recipe.to_dict(), sort_keys=True)))
    assert records(again) == records(recipe)
    assert {r.labels for r in records(again)} >= {('noise', 'blur'), ('noise', 'haze'), ('blur', 'haze')}


def test_counts_may_be_words_as_in_json():
    recipe = {**NOISE_HAZE, 'count': {1: 0.5, 2: 0.5}}
    again = json.loads(json.dumps(DegradationRecipe.load(recipe).to_dict()))
    assert set(again['count']) == {'1', '2'}
    assert records(again) == records(recipe)


def test_range_forms():
    recipe = {
        'degradations': {
            'noise': {'sigma_255': [[10, 12], [40, 40]], 'channels': ['rgb', 'grey']},
            'jpeg': {'quality_pct': 30},
            'low_resolution': {'antialias': [True, False]},
        }
    }
    steps = [record.operations[0] for record in records(recipe, 300)]
    sigmas = [step.params['sigma_255'] for step in steps if step.type == 'noise']
    assert all(10 <= sigma <= 12 or sigma == 40 for sigma in sigmas)
    assert 0.35 < sum(sigma == 40 for sigma in sigmas) / len(sigmas) < 0.65
    assert {step.params['channels'] for step in steps if step.type == 'noise'} == {'rgb', 'grey'}
    assert {step.params['quality_pct'] for step in steps if step.type == 'jpeg'} == {30}
    assert {step.params['antialias'] for step in steps if step.type == 'low_resolution'} == {True, False}


def test_integer_parameters_include_both_ends():
    qualities = {
        r.operations[0].params['quality_pct']
        for r in records({'degradations': {'jpeg': {'quality_pct': [10, 12]}}}, 100)
    }
    assert qualities == {10, 11, 12}


def test_own_edges_change_words_and_cells():
    recipe = DegradationRecipe.load({'degradations': {'noise': {'sigma_255': [16, 45], 'edges': [15, 50]}}})
    assert recipe.cells() == [('medium', 'noise')]
    assert {record.caption for record in records(recipe, 50)} == {'medium noise'}


def test_cells_treat_the_open_end_of_a_range_as_open():
    assert DegradationRecipe.load({'degradations': {'noise': {'sigma_255': [20, 40]}}}).cells() == [('medium', 'noise')]
    assert DegradationRecipe.load({'degradations': {'noise': {'sigma_255': 40}}}).cells() == [('large', 'noise')]
    assert DegradationRecipe.load({'degradations': {'jpeg': {'quality_pct': [20, 25]}}}).cells() == [
        ('heavy', 'jpeg'),
        ('medium', 'jpeg'),
    ]
    assert DegradationRecipe.load({'degradations': {'low_resolution': {'factor': [2, 3]}}}).cells() == [
        ('medium', 'low_resolution')
    ]


def test_load_takes_dict_path_name_and_recipe(tmp_path):
    path = tmp_path / 'mine.yml'
    path.write_text(yaml.safe_dump(NOISE_HAZE))
    recipe = DegradationRecipe.load(path)
    assert recipe.name == 'mine'
    assert DegradationRecipe.load(str(path)) == recipe
    assert DegradationRecipe.load(recipe) is recipe
    assert DegradationRecipe.load(NOISE_HAZE).combinations == recipe.combinations


@pytest.mark.parametrize(
    'change, message',
    [
        ({'ordr': 'physical'}, r"Unknown option '.*bad\.yml\.ordr'\. Did you mean 'order'"),
        ({'order': 'physcal'}, r"bad\.yml\.order is 'physcal'.*Did you mean 'physical'"),
        ({'degradations': {}}, r'bad\.yml needs a section degradations'),
        (
            {'degradations': {'niose': {}}},
            r"bad\.yml\.degradations has the unknown type 'niose'\. Did you mean 'noise'",
        ),
        ({'degradations': {'noise': 25}}, r'bad\.yml\.degradations\.noise is 25, expected parameters'),
        ({'degradations': {'noise': {'sigma': 3}}}, r"degradations\.noise\.sigma'\. Did you mean 'sigma_255'"),
        (
            {'degradations': {'noise': {'sigma_255': [20, 10]}}},
            r'bad\.yml\.degradations\.noise\.sigma_255 is the empty range \[20, 10\]; write \[10, 20\]',
        ),
        (
            {'degradations': {'noise': {'sigma_255': [-5, 10]}}},
            r'sigma_255 is \[-5, 10\], expected values from 0 to 255',
        ),
        ({'degradations': {'noise': {'sigma_255': [15, 25, 50]}}}, r'expected a number, a range'),
        ({'degradations': {'noise': {'sigma_255': []}}}, r'expected a number, a range'),
        ({'degradations': {'noise': {'sigma_255': 'high'}}}, r'sigma_255 is high, expected a number'),
        ({'degradations': {'noise': {'channels': 'bgr'}}}, r'channels is bgr, expected one of rgb, grey'),
        ({'degradations': {'low_resolution': {'antialias': 1}}}, r'antialias is 1, expected one of True, False'),
        (
            {'degradations': {'jpeg': {'quality_pct': [10.5, 20]}}},
            r'quality_pct is \[10.5, 20\], expected whole numbers',
        ),
        ({'degradations': {'noise': {'weight': -1}}}, r'noise\.weight is -1, expected a number of at least 0'),
        ({'degradations': {'noise': {'edges': [40, 20]}}}, r'noise\.edges is \[40, 20\], expected 2 rising numbers'),
        ({'degradations': {'noise': {'edges': [20]}}}, r'noise\.edges is \[20\], expected 2 rising numbers'),
        ({'count': {3: 1.0}}, r'bad\.yml\.count asks for 3 at once, but degradations has only 2'),
        ({'count': {1: 0.5}}, r'count has probabilities that add up to 0\.5, expected 1'),
        ({'count': {1: 1.5, 2: -0.5}}, r'count\.2 is -0\.5, expected a number of at least 0'),
        ({'count': 2}, r'count is 2, expected how many at once'),
        ({'count': {2: 1.0}, 'exclusive': [['noise', 'haze']]}, r'exclusive leaves no such combination of haze, noise'),
        ({'exclusive': [['noise', 'hase']]}, r"exclusive has the unknown type 'hase'\. Did you mean 'haze'"),
        ({'exclusive': ['noise', 'haze']}, r'exclusive is .*expected groups of types'),
        ({'mixtures': []}, r'mixtures is \[\], expected a list'),
        ({'mixtures': [{'types': ['noise', 'rain']}]}, r"mixtures\.0 has 'rain', which degradations does not list"),
        ({'mixtures': [{'types': ['noise', 'noise']}]}, r'mixtures\.0\.types is .*different types'),
        ({'mixtures': [{'type': ['noise']}]}, r"mixtures\.0\.type'\. Did you mean 'types'"),
        ({'mixtures': [{'types': ['noise'], 'weight': 0}]}, r'mixtures has only weights of 0'),
        ({'mixtures': [{'types': ['noise']}], 'count': {1: 1.0}}, r'has both mixtures and count'),
        (
            {'mixtures': [{'types': ['noise']}], 'degradations': {'noise': {'weight': 2}}},
            r'has both mixtures and degradations\.noise\.weight',
        ),
        (
            {'mixtures': [{'types': ['noise', 'haze']}], 'exclusive': [['noise', 'haze']]},
            r'mixtures\.0 combines noise, haze, which .*exclusive forbids',
        ),
    ],
)
def test_faulty_recipes_are_named_by_file_and_key(change, message, tmp_path):
    path = tmp_path / 'bad.yml'
    path.write_text(yaml.safe_dump({**NOISE_HAZE, **change}, sort_keys=False))
    with pytest.raises(OptionError, match=message):
        DegradationRecipe.from_yaml(path)


def test_missing_recipes_are_named(tmp_path):
    with pytest.raises(OptionError, match=r"no recipe 'universl'\. Did you mean 'universal'\? Known: .*tiny"):
        DegradationRecipe.load('universl')
    with pytest.raises(OptionError, match=r'no recipe file .*absent\.yml'):
        DegradationRecipe.load(tmp_path / 'absent.yml')
    path = tmp_path / 'torn.yml'
    path.write_text('degradations: {noise: [')
    with pytest.raises(OptionError, match=r'torn\.yml is no valid yml'):
        DegradationRecipe.load(path)
