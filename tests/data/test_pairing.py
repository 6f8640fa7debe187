"""Name rules: the table, own expressions, and what a rule leaves over."""

from __future__ import annotations

import pytest

from basicsr_unirestorer.data.pairing import NAME_RULES, name_rule, pair_names
from basicsr_unirestorer.errors import OptionError


@pytest.mark.parametrize(
    ('rule', 'lq', 'gt'),
    [
        ('same', '0001.png', '0001.JPG'),
        ('rain100', 'rain-12.png', 'norain-12.png'),
        ('rain200_x2', 'norain-1x2.png', 'norain-1.png'),
        ('ddn', '907_14.jpg', '907.jpg'),
        ('reside', '0025_0.8_0.04.jpg', '0025.png'),
        ('reside', '1400_1.png', '1400.png'),
        ('raindrop', '0_rain.png', '0_clean.png'),
        ('gopro', 'GOPR0372_07_00/blur/000047.png', 'GOPR0372_07_00/sharp/000047.png'),
        ('gopro_gamma', 'train/GOPR0372_07_00/blur_gamma/000047.png', 'train/GOPR0372_07_00/sharp/000047.png'),
        ('lol_v2', 'low00690.png', 'normal00690.png'),
        ('{}x4', 'baby.2x4.png', 'baby.2.png'),
    ],
)
def test_rules_pair_by_stem_whatever_the_suffix_and_the_case(rule, lq, gt):
    found = pair_names([lq.upper(), 'other_name?.png'], [gt, 'lonely.png'], name_rule(rule))
    assert [pair[:2] for pair in found.pairs] == [(lq.upper(), gt)]
    assert found.unused == ['lonely.png']


def test_groups_of_a_rule_are_handed_on():
    found = pair_names(['0025_0.8_0.04.jpg'], ['0025.jpg'], NAME_RULES['reside'])
    assert found.pairs[0][2] == {'id': '0025', 'a': '0.8', 'beta': '0.04'}


def test_what_a_rule_leaves_over_is_told_apart():
    lq = ['1_rain.png', '1_RAIN.jpg', '2_rain.png', 'notes.png']
    found = pair_names(lq, ['1_clean.png', '3_clean.png'], NAME_RULES['raindrop'])
    assert [pair[:2] for pair in found.pairs] == [('1_RAIN.jpg', '1_clean.png')]
    assert found.doubled == [('lq', '1_rain.png', '1_RAIN.jpg')]
    assert found.alone == [('2_rain.png', '2_clean')]
    assert found.unfit == ['notes.png']
    assert found.unused == ['3_clean.png']


def test_own_expressions():
    rule = name_rule(r'(\d+)-wet', r'dry/\1')
    assert pair_names(['7-wet.png'], ['dry/7.bmp'], rule).pairs[0][:2] == ('7-wet.png', 'dry/7.bmp')
    rule = name_rule(r'(?P<who>\w+)_(\d)', r'\g<who>')
    assert pair_names(['a_1.png', 'a_2.png'], ['a.png'], rule).pairs[1] == ('a_2.png', 'a.png', {'who': 'a'})


@pytest.mark.parametrize(
    ('rule', 'gt', 'sentence'),
    [
        ('rain10', None, "There is no name rule 'rain10'. Did you mean 'rain100'"),
        ('same', r'\1', "Rule 'same' states the clean name itself"),
        (r'(\d+_rain', r'\1', 'no usable regular expression'),
        (r'(\d+)_rain', r'\2', 'no usable regular expression'),
        (r'\d+_rain', r'\1', 'no usable regular expression'),
        (r'(\d+)_rain', r'\g<no>', 'no usable regular expression'),
    ],
)
def test_a_rule_that_means_nothing_is_refused(rule, gt, sentence):
    with pytest.raises(OptionError) as error:
        name_rule(rule, gt)
    assert sentence in str(error.value)
