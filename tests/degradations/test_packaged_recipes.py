"""The recipes that come with the package do what their headings say."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from basicsr_unirestorer.degradations import (
    DEGRADATION_TYPES,
    DegradationRecipe,
    DegradationRecord,
    Window,
    degrade,
    parse_caption,
    sample_rng,
)
from tests.degradations.samples import scene

FOLDER = Path(__file__).resolve().parents[2] / 'options' / 'recipes'
NAMES = sorted(path.stem for path in FOLDER.glob('*.yml'))
CHAINS = ('bsrgan', 'realesrgan')


def records(recipe, number=300, seed=0):
    recipe = DegradationRecipe.load(recipe)
    return [recipe.draw(sample_rng(seed, 'key', v, 'params')) for v in range(number)]


def types(record):
    return tuple(step.type for step in record.operations)


def share(drawn, test):
    return sum(map(test, drawn)) / len(drawn)


def values(drawn, name, parameter):
    return [step.params[parameter] for record in drawn for step in record.operations if step.type == name]


def test_the_packaged_recipes_are_there():
    ours = {'tiny', 'tiny_also', 'tiny_mix', 'unirestorer7', 'universal', 'zoo', 'zoo_jpeg', 'zoo_noise'}
    ours |= {'study', 'study_also', 'study_mixes', 'study_strengths'}
    assert ours | {'cdd11', 'mioir', 'mioir_outbig', 'mio100_mixed', 'realesrgan', 'bsrgan'} == set(NAMES)


# ------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize('name', NAMES)
def test_loads_by_name_and_draws_exactly_its_cells(name):
    recipe = DegradationRecipe.load(name)
    assert recipe.name == name
    cells = {(step.word, step.label) for record in records(name, 1500) for step in record.operations}
    assert {cell for cell in cells if cell[0] != 'none'} == set(recipe.cells())
    assert {kind for _, kind in recipe.cells()} == set(recipe.types)


@pytest.mark.parametrize('name', NAMES)
def test_draws_within_its_ranges_and_in_plain_python(name):
    for record in records(name, 100):
        for step in record.operations:
            kind = DEGRADATION_TYPES[step.type]
            assert all(type(value) in (int, float, str, bool) for value in step.params.values())
            assert step.strength == pytest.approx(kind.strength(step.params))
            assert step.word in kind.words


@pytest.mark.parametrize('name', NAMES)
def test_degrades_alike_for_the_same_seed_and_another_way_for_another(name):
    image = scene(56, 72)
    for record in records(name, 4):
        once, again = (degrade(image, record, sample_rng(1)) for _ in range(2))
        assert once.shape == image.shape
        assert record.quantize == 'off' or (once.min() >= 0 and once.max() <= 1)
        np.testing.assert_array_equal(once, again)
        changed = np.abs(once - image).max() > 0.501 / 255  # more than what rounding to 8 bits does
        assert changed == bool(record.operations)
    assert records(name, 20) == records(name, 20) != records(name, 20, seed=1)


@pytest.mark.parametrize('name', NAMES)
def test_recipe_survives_dict_json_and_pickle(name):
    recipe = DegradationRecipe.load(name)
    again = DegradationRecipe.from_dict(json.loads(json.dumps(recipe.to_dict(), sort_keys=True)))
    assert again.to_dict() == recipe.to_dict()
    assert records(again, 30) == records(recipe, 30)
    assert pickle.loads(pickle.dumps(recipe)) == recipe


@pytest.mark.parametrize('name', NAMES)
def test_records_and_captions_are_read_back(name):
    for record in records(name, 60):
        assert DegradationRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
        parsed = parse_caption(record.caption)
        assert len(parsed) == min(4, len(record.labels))
        mentioned = [label for _, label in parsed]
        assert [label for label in record.labels if label in mentioned] == mentioned
        if name not in CHAINS:
            assert parsed == [(step.word, step.type) for step in record.operations]
            assert record.labels == types(record)


@pytest.mark.parametrize('name', NAMES)
def test_heading_states_source_and_what_is_ours(name):
    lines = (FOLDER / f'{name}.yml').read_text().splitlines()
    heading = ' '.join(line.strip('# ') for line in lines[: next(n for n, line in enumerate(lines) if line[0] != '#')])
    assert len(heading) > 100 and max(map(len, lines)) <= 120
    assert 'Other than there' in heading or 'our choice' in heading or heading.count('Ours') or 'never makes' in heading


@pytest.mark.parametrize('name', ['realesrgan', 'bsrgan', 'universal', 'cdd11'])
def test_a_crop_with_its_margin_equals_the_whole_picture(name):
    """Without what is random (noise, drops, flakes) and without codecs, whose colour leaks; chains keep their grids."""
    random = {'noise', 'poisson_noise', 'speckle_noise', 'camera_noise', 'rain', 'snow', 'jpeg', 'webp', 'raindrop'}
    image, (top, left, size), compared = scene(300, 330), (120, 140, 32), 0
    for record in records(name, 40):
        kept = tuple(step for step in record.operations if step.type not in random | {'low_light'})
        calm = DegradationRecord(kept, 'off')
        if not kept or calm.margin > 112:
            continue
        y, x, side = top - calm.margin, left - calm.margin, size + 2 * calm.margin
        window = Window(y, x, side, side, 300, 330)
        crop = degrade(image[y : y + side, x : x + side], calm, sample_rng(0), window)
        whole = degrade(image, calm, sample_rng(0))
        inside = np.s_[calm.margin : calm.margin + size, calm.margin : calm.margin + size]
        np.testing.assert_allclose(crop[inside], whole[top : top + size, left : left + size], rtol=0, atol=4e-3)
        compared += 1
    assert compared >= 3


# ------------------------------------------------------------------------------- one by one


def test_tiny_has_two_separated_strengths_of_five_types_equally_often():
    count = Counter(record.caption for record in records('tiny', 4000))
    assert len(count) == 10
    assert set(DegradationRecipe.load('tiny').types) == {'noise', 'blur', 'rain', 'haze', 'low_light'}
    assert all(320 < number < 480 for number in count.values()), count


def test_tiny_mix_is_always_haze_then_noise():
    assert {record.labels for record in records('tiny_mix')} == {('haze', 'noise')}


@pytest.mark.parametrize(
    'name, digest',
    [('tiny', 'd87de014457d5b39'), ('tiny_mix', 'a8c12882723c386a'), ('unirestorer7', 'f2ca39d685e2ce52')],
)
def test_draws_what_the_first_release_drew(name, digest):
    """To nine decimals, over 400 samples: trees, assignments and published numbers belong to these samples."""
    watched = 'gamma noise_255 beta horizon sigma_255 length_px width_px brightness angle_deg'.split()
    drawn = []
    for v in range(400):
        record = DegradationRecipe.load(name).draw(sample_rng(0, 'k', v, 'params'))
        drawn.append([])
        for step in record.operations:
            numbers = [f'{step.params[key]:.9f}' for key in sorted(watched) if key in step.params]
            drawn[-1].append((step.type, step.word, f'{step.strength:.9f}', *numbers))
    assert hashlib.sha256(json.dumps(drawn).encode()).hexdigest()[:16] == digest


def test_unirestorer7_has_its_seven_types_singly():
    assert {record.labels for record in records('unirestorer7')} == {
        (name,) for name in ('rain', 'haze', 'snow', 'motion_blur', 'noise', 'jpeg', 'low_light')
    }


def test_universal_has_all_types_keeps_counts_exclusions_and_physical_order():
    drawn, physical = records('universal', 4000), list(DEGRADATION_TYPES)
    assert set(DegradationRecipe.load('universal').types) == set(physical) - {'resize'}
    shares = Counter(len(record.operations) for record in drawn)
    for size, expected in {1: 0.4, 2: 0.35, 3: 0.25}.items():
        assert shares[size] / 4000 == pytest.approx(expected, abs=0.03)
    groups = yaml.safe_load((FOLDER / 'universal.yml').read_text())['exclusive']
    assert {'rain', 'snow'} in map(set, groups)
    for record in drawn:
        places = [physical.index(label) for label in record.labels]
        assert places == sorted(set(places))
        assert all(len(set(group) & set(record.labels)) <= 1 for group in groups)


CDD11 = 'low, haze, rain, snow, low_haze, low_rain, low_snow, haze_rain, haze_snow, low_haze_rain, low_haze_snow'


def test_cdd11_has_the_eleven_folders_in_their_order_equally_often():
    recipe = DegradationRecipe.load('cdd11')
    folders = ['_'.join(name.replace('low_light', 'low') for name in names) for names, _ in recipe.combinations]
    assert folders == CDD11.split(', ')
    assert {probability for _, probability in recipe.combinations} == {1 / 11}
    count = Counter(record.labels for record in records(recipe, 5500))
    assert len(count) == 11 and all(400 < number < 600 for number in count.values()), count
    assert {('low_light', 'rain', 'haze'), ('snow', 'haze')} < set(count)  # applied in another order than named


def test_cdd11_keeps_its_ranges():
    drawn = records('cdd11', 3000)
    for name, parameter, low, high in (
        ('low_light', 'gamma', 2, 3),
        ('low_light', 'noise_255', 0.03 * 255, 0.08 * 255),
        ('haze', 'airlight', 0.6, 0.9),
        ('haze', 'beta', 1, 2),
    ):
        seen = values(drawn, name, parameter)
        assert low <= min(seen) < low + 0.02 * (high - low) and high - 0.02 * (high - low) < max(seen) <= high
    assert set(values(drawn, 'haze', 'depth_cap')) == {0.7} and set(values(drawn, 'low_light', 'exposure')) == {1}
    assert set(values(drawn, 'rain', 'veil')) == {0} and set(values(drawn, 'rain', 'blend')) == {'add'}
    assert set(values(drawn, 'snow', 'brightness')) == {1} and set(values(drawn, 'snow', 'veil')) == {0}


def test_cdd11_haze_spares_a_quarter_of_the_scene():
    """With a depth of at most 0.7 the transmission stays above exp(-1.4) = 0.247."""
    for record in records('cdd11', 60):
        haze = DegradationRecord(tuple(step for step in record.operations if step.type == 'haze'), 'off')
        if haze.operations:
            black, white = (degrade(np.full((40, 40, 3), grey, np.float32), haze, sample_rng(0)) for grey in (0, 1))
            assert (white - black).min() > math.exp(-1.4) - 1e-4


def test_cdd11_follows_the_closed_form():
    """((J L^(g-1) + n) + R) t + A (1 - t) on a grey picture, where rain is not clipped before the haze."""
    record = next(r for r in records('cdd11', 200) if r.labels == ('low_light', 'rain', 'haze'))
    image = np.full((64, 64, 3), 0.5, np.float32)
    steps = [DEGRADATION_TYPES[step.type] for step in record.operations]
    rng, window = sample_rng(3), Window.whole(64, 64)
    expected = np.clip(steps[0].apply(image, record.operations[0].params, rng, window), 0, 1)
    expected = steps[1].apply(expected, record.operations[1].params, rng, window)
    expected = np.clip(steps[2].apply(expected, record.operations[2].params, rng, window), 0, 1)
    result = degrade(image, record, sample_rng(3))
    np.testing.assert_allclose(result, expected, rtol=0, atol=0.5 / 255 + 1e-5)


@pytest.mark.parametrize('name', ['mioir', 'mioir_outbig'])
def test_mioir_has_seven_single_tasks(name):
    count = Counter(record.labels for record in records(name, 3500))
    tasks = ('low_resolution', 'blur', 'noise', 'jpeg', 'rain', 'haze', 'low_light')
    assert set(count) == {(task,) for task in tasks}
    assert all(400 < number < 600 for number in count.values()), count


@pytest.mark.parametrize(
    'task, parameter, inside, outside',
    [
        ('blur', 'sigma_px', (1, 3), (3, 5)),
        ('noise', 'sigma_255', (15, 50), (50, 70)),
        ('jpeg', 'quality_pct', (30, 70), (10, 30)),
        ('rain', 'value', (50, 100), (100, 150)),
        ('haze', 'beta', (0.5, 2.5), (2.5, 3)),
        ('low_light', 'gamma', (1, 3), (3, 4)),
    ],
)
def test_mioir_ranges_meet_where_in_range_ends(task, parameter, inside, outside):
    for name, (low, high) in (('mioir', inside), ('mioir_outbig', outside)):
        seen = values(records(name, 1500), task, parameter)
        assert low <= min(seen) and max(seen) <= high and max(seen) - min(seen) > 0.9 * (high - low)


MIO100 = """rain haze|motion_blur low_resolution|low_light noise|defocus_blur jpeg|noise jpeg|rain low_resolution
motion_blur low_light|defocus_blur haze|motion_blur jpeg|haze noise|defocus_blur low_resolution|rain low_light
haze motion_blur low_resolution|rain noise low_resolution|low_light defocus_blur jpeg|motion_blur defocus_blur noise"""


def test_mio100_mixed_has_its_sixteen_combinations_as_listed():
    listed = [tuple(names.split()) for names in MIO100.replace('\n', '|').split('|')]
    recipe = DegradationRecipe.load('mio100_mixed')
    assert [names for names, _ in recipe.combinations] == listed and len(listed) == 16
    count = Counter(types(record) for record in records(recipe, 4800))
    assert set(count) == set(listed) and all(220 < number < 390 for number in count.values()), count


# ------------------------------------------------------------------------------- Real-ESRGAN


@pytest.fixture(scope='module')
def second_order():
    return records('realesrgan', 5000)


def passes(record):
    """Operations of the first pass, of the second, and of the end, told apart by noise and JPEG."""
    kinds = types(record)
    first = kinds.index('jpeg') + 1
    noise = next(n for n in range(first, len(kinds)) if kinds[n].endswith('noise')) + 1
    return record.operations[:first], record.operations[first:noise], record.operations[noise:]


def test_realesrgan_keeps_its_order(second_order):
    for record in second_order[:500]:
        first, second, last = ([step.type for step in part] for part in passes(record))
        assert first[0] in ('blur', 'ringing') and first[-1] == 'jpeg' and first[-2] in ('noise', 'poisson_noise')
        assert first[1:-2] in ([], ['resize'])
        assert second[-2] == 'resize' and second[:-2] in ([], ['blur'], ['ringing'])
        without_sinc = [kind for kind in last if kind != 'ringing']
        assert without_sinc in (['resize', 'jpeg'], ['jpeg', 'resize']) and last.count('ringing') <= 1
        assert 'ringing' not in last or last[last.index('ringing') - 1] == 'resize'
        assert record.steps == record.operations  # it ends on the picture's own grid


def kernel_shares(parts):
    """Share of each kind of kernel among blurs, as the tables name them."""
    kinds = Counter()
    for part in parts:
        for step in part:
            if step.type == 'ringing':
                kinds['sinc'] += 1
            elif step.type == 'blur':
                kinds[step.params['kernel'], step.params['across_px'] > 0] += 1
    return {kind: number / sum(kinds.values()) for kind, number in kinds.items()}


@pytest.mark.parametrize('place', [0, 1])
def test_realesrgan_kernels_follow_the_table(second_order, place):
    shares = kernel_shares(passes(record)[place] for record in second_order)
    assert shares.pop('sinc') == pytest.approx(0.1, abs=0.015)
    table = {
        ('gaussian', False): 0.45,
        ('gaussian', True): 0.25,
        ('generalized', False): 0.12,
        ('generalized', True): 0.03,
        ('plateau', False): 0.12,
        ('plateau', True): 0.03,
    }
    assert set(shares) == set(table)
    for kind, expected in table.items():
        assert shares[kind] == pytest.approx(0.9 * expected, abs=0.02)


def test_realesrgan_kernel_parameters(second_order):
    for place, widest in ((0, 3), (1, 1.5)):
        steps = [step for record in second_order for step in passes(record)[place] if step.type in ('blur', 'ringing')]
        blurs, sincs = ([s.params for s in steps if s.type == name] for name in ('blur', 'ringing'))
        assert 0.2 <= min(p['sigma_px'] for p in blurs) and 0.98 * widest < max(p['sigma_px'] for p in blurs) <= widest
        across = [p['across_px'] for p in blurs if p['across_px']]
        assert 0.2 <= min(across) and 0.95 * widest < max(across) <= widest
        assert {p['radius_px'] for p in (*blurs, *sincs)} == set(range(3, 11))  # sizes 7 to 21
        shapes = [p['shape'] for p in blurs if p['kernel'] == 'generalized']
        assert 0.5 <= min(shapes) and max(shapes) <= 4
        assert share(shapes, lambda shape: shape <= 1) == pytest.approx(0.5, abs=0.07)
        plateaus = [p['shape'] for p in blurs if p['kernel'] == 'plateau']
        assert 1 <= min(plateaus) and max(plateaus) <= 2
        for p in sincs:
            assert p['cutoff'] >= (math.pi / 3 if p['radius_px'] < 6 else math.pi / 5) - 1e-4
        assert share(second_order, lambda r, n=place: passes(r)[n][0].type in ('blur', 'ringing')) == pytest.approx(
            (1, 0.8)[place], abs=0.02
        )


def test_realesrgan_resizes_follow_the_table(second_order):
    first = [[s.params['scale'] for s in passes(r)[0] if s.type == 'resize'] for r in second_order]
    assert share(first, lambda s: s == []) == pytest.approx(0.1, abs=0.015)
    assert share(first, lambda s: s != [] and s[0] > 1) == pytest.approx(0.2, abs=0.02)
    drawn = [s[0] for s in first if s]
    assert 0.15 <= min(drawn) < 0.17 and 1.48 < max(drawn) <= 1.5
    second = [s.params['scale'] for r in second_order for s in passes(r)[1] if s.type == 'resize']
    assert share(second, lambda s: s == 1) == pytest.approx(0.3, abs=0.02)
    assert share(second, lambda s: s > 1) == pytest.approx(0.3, abs=0.02)
    assert 0.3 <= min(second) and max(second) <= 1.2
    filters = Counter(values(second_order, 'resize', 'filter'))
    assert set(filters) == {'area', 'bilinear', 'bicubic'}
    assert all(number / sum(filters.values()) == pytest.approx(1 / 3, abs=0.02) for number in filters.values())


def test_realesrgan_noise_quality_and_end_follow_the_table(second_order):
    for place, (sigma, scale) in enumerate(((30, 3), (25, 2.5))):
        noises = [s for r in second_order for s in passes(r)[place] if s.type.endswith('noise')]
        assert len(noises) == len(second_order)
        assert share(noises, lambda s: s.type == 'noise') == pytest.approx(0.5, abs=0.02)
        assert share(noises, lambda s: s.params['channels'] == 'grey') == pytest.approx(0.4, abs=0.02)
        assert 0.98 * sigma < max(s.params.get('sigma_255', 0) for s in noises) <= sigma
        assert 0.98 * scale < max(s.params.get('scale', 0) for s in noises) <= scale
    qualities = values(second_order, 'jpeg', 'quality_pct')
    assert set(qualities) == set(range(30, 96)) and len(qualities) == 2 * len(second_order)
    ends = [passes(record)[2] for record in second_order]
    assert share(ends, lambda part: part[-1].type == 'jpeg') == pytest.approx(0.5, abs=0.02)
    assert share(ends, lambda part: any(s.type == 'ringing' for s in part)) == pytest.approx(0.8, abs=0.02)
    assert {s.params['scale'] for part in ends for s in part if s.type == 'resize'} == {1.0}


# ------------------------------------------------------------------------------- BSRGAN


@pytest.fixture(scope='module')
def shuffled():
    return records('bsrgan', 6000)


def test_bsrgan_never_resizes_back_before_it_has_resized(shuffled):
    for record in shuffled:
        first, second = (step.params['scale'] for step in record.operations if step.type == 'resize')
        assert 0.5 <= first < 1 and second == 1
        assert record.operations[-1].type == 'jpeg'
        assert Counter(types(record)[:-1]) - Counter(['jpeg']) == Counter(['blur', 'blur', 'resize', 'resize', 'noise'])


def test_bsrgan_orders_are_equally_likely(shuffled):
    """Of the slots blur, blur, resize, resize, noise: 5! / (2! 2!) = 30 orders of types; with JPEG 180."""
    count = Counter(tuple(kind for kind in types(record)[:-1] if kind != 'jpeg') for record in shuffled)
    assert len(count) == 30 and all(130 < number < 280 for number in count.values()), sorted(count.values())
    with_jpeg = Counter(types(record)[:-1] for record in shuffled if types(record).count('jpeg') == 2)
    assert len(with_jpeg) == 180
    assert sum(with_jpeg.values()) / len(shuffled) == pytest.approx(0.9, abs=0.015)


def test_bsrgan_parameters_follow_the_table(shuffled):
    blurs = [s.params for r in shuffled for s in r.operations if s.type == 'blur']
    isotropic = [p['sigma_px'] for p in blurs if p['across_px'] == 0]
    assert len(isotropic) / len(blurs) == pytest.approx(0.5, abs=0.02)
    assert np.mean(isotropic) == pytest.approx(1.1, abs=0.03) and max(isotropic) <= 2.2
    variances = np.array([p['across_px'] ** 2 for p in blurs if p['across_px']])
    assert variances.mean() == pytest.approx(2.5, abs=0.1) and variances.std() == pytest.approx(5 / 12**0.5, abs=0.1)
    assert {p['radius_px'] for p in blurs} == set(range(3, 13))  # sizes 7 to 25
    channels = Counter(values(shuffled, 'noise', 'channels'))
    for kind, expected in {'rgb': 0.4, 'grey': 0.4, 'correlated': 0.2}.items():
        assert channels[kind] / 6000 == pytest.approx(expected, abs=0.02)
    assert 2 <= min(values(shuffled, 'noise', 'sigma_255')) and max(values(shuffled, 'noise', 'sigma_255')) <= 25
    assert set(values(shuffled, 'jpeg', 'quality_pct')) == set(range(30, 96))


# ------------------------------------------------------------------------------- the shipped bundle's


def test_zoo_is_a_part_of_universal_with_clean_pictures_in_between():
    zoo, universal = DegradationRecipe.load('zoo').to_dict(), DegradationRecipe.load('universal').to_dict()
    for name, settings in zoo['degradations'].items():
        wider = universal['degradations'][name]
        assert {**settings, 'weight': wider['weight']} == wider
    drawn = records('zoo', 3000)
    assert share(drawn, lambda record: not record.operations) == pytest.approx(0.08, abs=0.02)
    assert share(drawn, lambda record: len(record.operations) == 2) == pytest.approx(0.2, abs=0.03)


def test_zoo_noise_leaves_the_range_of_pictures_and_its_levels():
    image = np.zeros((40, 40, 3), np.float32)
    for record in records('zoo_noise', 20):
        noisy = degrade(image, record, sample_rng(0))
        assert noisy.min() < 0
        assert noisy.std() * 255 == pytest.approx(record.operations[0].params['sigma_255'], rel=0.05)
        assert len(np.unique(noisy)) > 4000
