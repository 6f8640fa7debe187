"""The journal of measured pictures: nothing written is lost, nothing half-written is believed."""

from __future__ import annotations

import os

import pytest

from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.inference.journal import Journal, fingerprint, write_aside


def test_rows_come_back_with_their_infinities(tmp_path):
    journal = Journal(tmp_path / 'deep' / 'journal.jsonl')
    journal.add('a', {'input': float('inf'), 'name': 'x\ny ∞'})
    journal.add('b', {'input': 1.5})
    assert Journal(journal.path).rows == {'a': {'input': float('inf'), 'name': 'x\ny ∞'}, 'b': {'input': 1.5}}


@pytest.mark.parametrize('cut', [1, 5, 20])
def test_line_cut_short_by_a_kill_is_dropped_and_the_file_goes_on(tmp_path, cut):
    journal = Journal(tmp_path / 'journal.jsonl')
    journal.add('a', {'psnr': 1.0})
    journal.add('b', {'psnr': 2.0})
    os.truncate(journal.path, journal.path.stat().st_size - cut)
    again = Journal(journal.path)
    assert list(again.rows) == ['a']
    again.add('c', {'psnr': 3.0})
    assert list(Journal(journal.path).rows) == ['a', 'c']


def test_file_of_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / 'journal.jsonl').write_text('my diary\n')
    with pytest.raises(DataError, match='cannot be used .*; remove it to measure every picture anew'):
        Journal(tmp_path / 'journal.jsonl')
    assert (tmp_path / 'journal.jsonl').read_text() == 'my diary\n'


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_no_space_is_one_sentence(tmp_path):
    (tmp_path / 'journal.jsonl').symlink_to('/dev/full')
    journal = Journal(tmp_path / 'journal.jsonl')
    with pytest.raises(DataError, match='No space left on device.; make room and start the same command again'):
        journal.add('a', {})
    assert journal.rows == {}


def test_text_is_written_whole_or_not_at_all(tmp_path):
    write_aside(tmp_path / 'a.txt', 'first')
    with pytest.raises(UnicodeEncodeError):
        write_aside(tmp_path / 'a.txt', 'second \ud800')
    assert (tmp_path / 'a.txt').read_text() == 'first' and len(list(tmp_path.iterdir())) == 1


def test_fingerprint_depends_on_values_alone():
    assert fingerprint({'a': 1, 'b': [2.0, 'x']}) == fingerprint({'b': [2.0, 'x'], 'a': 1})
    assert fingerprint({'a': 1}) != fingerprint({'a': 2})
