"""Parameters: what is drawn, what takes numbers from the generator, what is refused, and the words that can occur."""

from __future__ import annotations

import math

import numpy as np
import pytest

from basicsr_unirestorer.degradations import DEGRADATION_TYPES, sample_rng
from basicsr_unirestorer.degradations.parameter import Parameter
from basicsr_unirestorer.errors import OptionError
from tests.degradations.samples import make_record

FIRST_RELEASE = ('low_light', 'rain', 'snow', 'haze', 'motion_blur', 'blur', 'low_resolution', 'poisson_noise', 'noise')


def state_after(parameter, given):
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    parameter.draw(given, 'x', rng)
    return rng.bit_generator.state == before


def test_a_fixed_value_takes_nothing_from_the_generator():
    assert state_after(Parameter(1, 0, 9), 3) and state_after(Parameter(1, 0, 9), [3, 3])
    assert state_after(Parameter(1, 0, 9, integer=True), 3)
    assert state_after(Parameter('a', choices=('a', 'b')), 'b') and state_after(Parameter('', folder=True), 'x')
    assert not state_after(Parameter(1, 0, 9), [3, 4]) and not state_after(Parameter(1, 0, 9, first=True), 3)


@pytest.mark.parametrize('name', FIRST_RELEASE)
def test_later_parameters_leave_the_samples_of_the_first_release_alone(name):
    """With defaults, only parameters of the first release take numbers, as they always did."""
    kind = DEGRADATION_TYPES[name]
    rng, old = np.random.default_rng(5), np.random.default_rng(5)
    kind.draw({}, rng)
    for parameter in kind.parameters.values():
        drawn_then = parameter.first or parameter.default == ['S', 'M', 'L'] or parameter.default == [0, 2**31 - 1]
        if drawn_then and (parameter.needs is None or parameter.first):
            parameter.draw(parameter.default, name, old)
    assert rng.random() == old.random()


def test_log_parameters_spread_over_their_decades():
    shots = [DEGRADATION_TYPES['camera_noise'].draw({'shot': [1e-4, 1e-2]}, sample_rng(v))['shot'] for v in range(400)]
    assert 1e-4 <= min(shots) and max(shots) <= 1e-2
    assert np.median(shots) == pytest.approx(1e-3, rel=0.3)
    even = [DEGRADATION_TYPES['camera_noise'].draw({'shot': [0, 0.16]}, sample_rng(v))['shot'] for v in range(400)]
    assert np.median(even) == pytest.approx(0.08, rel=0.15)  # CBDNet's range, from 0
    assert DEGRADATION_TYPES['camera_noise'].draw({'shot': 0}, sample_rng(0))['shot'] == 0


def test_parameters_without_meaning_stay_idle():
    line, shaken = (
        make_record(('motion_blur', {'path': path})).operations[0].params for path in ('line', 'trajectory')
    )
    assert line['path_seed'] == 0 and line['angle_deg'] != -180
    assert shaken['path_seed'] > 0 and shaken['angle_deg'] == -180
    mixed = [DEGRADATION_TYPES['low_light'].draw({'mode': ['gamma', 'linear']}, sample_rng(v)) for v in range(20)]
    assert {params['mode'] for params in mixed} == {'gamma', 'linear'}
    assert all((params['ratio'] > 1) == (params['mode'] == 'linear') for params in mixed)
    assert all((params['gamma'] > 1) == (params['mode'] == 'gamma') for params in mixed)


@pytest.mark.parametrize(
    'name, ranges, message',
    [
        ('motion_blur', {'path_seed': 3}, r'motion_blur\.path_seed has an effect only where path is trajectory'),
        ('low_light', {'ratio': 4}, r'low_light\.ratio has an effect only where mode is linear; set that too, or drop'),
        ('rain', {'mask': 4}, r'rain\.mask has an effect only where mask_dir names a folder'),
        ('haze', {'depth': 'file'}, r'haze\.depth_dir is missing: where depth is file, it must name a folder'),
        ('haze', {'depth': ['ramp', 'file']}, r'haze\.depth_dir is missing'),
        ('haze', {'depth_box': 22}, r'haze\.depth_box has an effect only where depth is file'),
        ('rain', {'mask_dir': 3}, r'rain\.mask_dir is 3, expected the path of a folder'),
        ('blur', {'kernel': 'box'}, r'kernel is box, expected one of gaussian, generalized, plateau'),
    ],
)
def test_settings_without_effect_and_missing_folders_are_named(name, ranges, message):
    with pytest.raises(OptionError, match=message):
        DEGRADATION_TYPES[name].check(ranges)


@pytest.mark.parametrize('name', DEGRADATION_TYPES)
def test_defaults_written_out_are_accepted_and_draw_the_same(name):
    kind = DEGRADATION_TYPES[name]
    kind.check(kind.ranges)
    assert kind.draw(kind.ranges, sample_rng(4)) == kind.draw({}, sample_rng(4))


@pytest.mark.parametrize(
    'name, ranges',
    [(name, {}) for name in DEGRADATION_TYPES]
    + [
        ('low_light', {'mode': ['retinex', 'linear'], 'gamma': [1.2, 1.6], 'ratio': [10, 40]}),
        ('poisson_noise', {'scale': 1, 'photons': [40, 2000]}),
        ('camera_noise', {'shot': [1e-3, 0.02], 'read': [0.01, 0.05]}),
        ('blur', {'sigma_px': [0.5, 3], 'across_px': [0.5, 1.5]}),
        ('blur', {'sigma_px': [0.5, 3], 'kernel': ['gaussian', 'generalized', 'plateau'], 'radius_px': [3, 10]}),
    ],
)
def test_possible_words_are_those_that_are_drawn(name, ranges):
    kind = DEGRADATION_TYPES[name]
    drawn = {kind.word(kind.strength(kind.draw(ranges, sample_rng(v)))) for v in range(1500)}
    assert set(kind.possible_words(ranges)) == drawn


@pytest.mark.parametrize(
    'name, edge, below, above',
    [
        ('raindrop', 0.03, 'few', 'several'),
        ('raindrop', 0.08, 'several', 'many'),
        ('defocus_blur', 4, 'small', 'large'),
        ('speckle_noise', 20, 'small', 'medium'),
        ('camera_noise', 40, 'medium', 'large'),
        ('ringing', math.pi / 2, 'heavy', 'light'),
        ('webp', 25, 'heavy', 'medium'),
        ('webp', 50, 'medium', 'light'),
    ],
)
def test_edges_of_the_later_types_belong_above(name, edge, below, above):
    kind = DEGRADATION_TYPES[name]
    assert (kind.word(np.nextafter(edge, 0)), kind.word(edge)) == (below, above)


def test_a_cut_kernel_is_called_by_what_it_does():
    """Sigma 3 within 7 x 7 pixels blurs like sigma 1.8; a generalised one of shape 0.5 like three times its sigma."""
    assert make_record(('blur', {'sigma_px': 3, 'radius_px': 3})).caption == 'small blur'
    assert make_record(('blur', {'sigma_px': 1.3, 'kernel': 'generalized', 'shape': 0.5})).caption == 'large blur'
    assert make_record(('blur', {'sigma_px': 1.3})).caption == 'small blur'
