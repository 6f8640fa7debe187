"""pairs.txt: what is written is read back, and what is wrong is told."""

from __future__ import annotations

import pytest

from basicsr_unirestorer.data.pairs import Pair, parse_pair, read_pairs, write_pairs
from basicsr_unirestorer.degradations.record import parse_caption
from basicsr_unirestorer.errors import DataError

PAIRS = [
    Pair('0025_0p8_0p04', '0025', ('haze',), ('normal',)),
    Pair('0025_1_0p2', '0025', ('haze',), ('thick',)),
    Pair('dark', 'dark', ('low_light', 'rain'), ('very dark', None)),
    Pair('mixed', 'mixed', ('low_light', 'rain', 'haze')),
    Pair('a', 'b'),
]


def test_pairs_come_back_as_written_and_in_order(tmp_path):
    write_pairs(tmp_path / 'pairs.txt', PAIRS)
    assert read_pairs(tmp_path / 'pairs.txt') == PAIRS
    assert [path.name for path in tmp_path.iterdir()] == ['pairs.txt']
    lines = (tmp_path / 'pairs.txt').read_text().splitlines()
    assert lines[0] == '0025_0p8_0p04 0025 haze normal'
    assert lines[2:] == [
        'dark dark low_light+rain very_dark+-',
        'mixed mixed low_light+rain+haze -',
        'a b - -',
    ]


def test_a_caption_needs_every_word_and_is_one_the_records_use():
    assert [pair.caption for pair in PAIRS] == ['normal haze', 'thick haze', None, None, None]
    assert [pair.plain_caption for pair in PAIRS[1:]] == [
        'thick haze',
        'very dark, rain',
        'low light, rain, haze',
        None,
    ]
    both = Pair('a', 'a', ('low_light', 'rain'), ('dark', 'small'))
    assert parse_caption(both.caption) == [('dark', 'low_light'), ('small', 'rain')]


@pytest.mark.parametrize(
    ('line', 'sentence'),
    [
        ('a b haze', "f, line 2 is 'a b haze', expected 'lq_key gt_key task word'"),
        ('a b hase thick', "unknown degradation 'hase'. Did you mean 'haze'"),
        ('a b haze large', "calls 'haze' 'large', expected normal, thick"),
        ('a b haze+rain thick', 'has 2 types and 1 words'),
        ('a b - thick', 'has 0 types and 1 words'),
    ],
)
def test_a_malformed_line_is_told(line, sentence):
    with pytest.raises(DataError) as error:
        parse_pair(line, 'f, line 2')
    assert sentence in str(error.value)


def test_a_missing_or_empty_file_and_double_keys_are_told(tmp_path):
    with pytest.raises(DataError, match='There is no'):
        read_pairs(tmp_path / 'pairs.txt')
    (tmp_path / 'pairs.txt').write_text('\n')
    with pytest.raises(DataError, match='holds no pairs'):
        read_pairs(tmp_path / 'pairs.txt')
    (tmp_path / 'pairs.txt').write_text('a b - -\na c - -\n')
    with pytest.raises(DataError, match="lists the lq key 'a' twice"):
        read_pairs(tmp_path / 'pairs.txt')
    with pytest.raises(DataError, match="lists the lq key 'a' twice"):
        write_pairs(tmp_path / 'other.txt', [Pair('a', 'b'), Pair('a', 'c')])
