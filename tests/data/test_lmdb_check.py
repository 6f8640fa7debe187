"""``unirestorer lmdb check``: every way an LMDB can be wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from basicsr_unirestorer.cli import main
from basicsr_unirestorer.data.lmdb_check import check_lmdb, check_pair
from tests.lmdb_fixtures import lmdb_of


def noise(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


@pytest.fixture
def good(tmp_path) -> Path:
    lmdb_of(tmp_path / 'x.lmdb', [(f'k{i}', noise(20, 30 + i, i)) for i in range(6)])
    return tmp_path / 'x.lmdb'


def put(path: Path, key: bytes, value: bytes | None) -> None:
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(key, value) if value is not None else transaction.delete(key)


def change_meta(path: Path, old: str, new: str) -> None:
    text = (path / 'meta_info.txt').read_text()
    assert old in text
    (path / 'meta_info.txt').write_text(text.replace(old, new), encoding='utf-8')


def png(picture: np.ndarray) -> bytes:
    return cv2.imencode('.png', picture)[1].tobytes()


def test_a_good_one_is_whole(good, capsys):
    assert main(['lmdb', 'check', str(good)]) == 0
    out = capsys.readouterr().out
    assert 'x.lmdb: 6 entries' in out
    assert out.strip().endswith('whole')


DAMAGES = {
    'damaged': lambda path: put(path, b'k2', png(noise(20, 32))[:-200]),
    'size': lambda path: put(path, b'k2', png(noise(20, 31))),
    'absent': lambda path: put(path, b'k2', None),
    'unlisted': lambda path: put(path, b'extra', png(noise(9, 9))),
    'meta': lambda path: change_meta(path, 'k2.png (20,32,3) 1', 'k2.png (20,32,3)'),
    'twice': lambda path: change_meta(path, 'k2.png', 'k1.png'),
    'key': lambda path: change_meta(path, 'k2.png', 'k2.5.png'),
    'kind': lambda path: put(path, b'k2', png(noise(20, 32)[..., 0])),
}
ALSO = {  # what follows from the damage
    'meta': {'unlisted'},
    'twice': {'unlisted', 'size'},
    'key': {'unlisted'},
    'kind': {'size'},
}


@pytest.mark.parametrize('kind', DAMAGES)
def test_every_damage_is_named(good, kind):
    DAMAGES[kind](good)
    found = check_lmdb(good, workers=1)
    assert found.faults.keys() == {kind} | ALSO.get(kind, set())
    assert len(found.faults[kind]) == 1
    assert ('k2' in found.faults[kind][0]) == (kind not in ('unlisted', 'twice'))
    assert f'x.lmdb: {found.entries} entries' in found.text()
    assert '->' in found.text()


@pytest.mark.parametrize(
    ('channels', 'depth', 'what'), [(4, np.uint8, 'alpha'), (3, np.uint16, '16 bit'), (1, np.uint16, 'grey, 16 bit')]
)
def test_pictures_that_are_no_8_bit_colour_are_told(good, channels, depth, what):
    put(good, b'k2', png(np.full((20, 32, channels), 100, depth)))
    assert check_lmdb(good, workers=1).faults['kind'] == [f'k2 ({what})']


@pytest.mark.parametrize(
    ('ruin', 'said'),
    [
        (lambda path: (path / 'data.mdb').write_bytes(b''), 'data.mdb is empty'),
        (lambda path: (path / 'data.mdb').write_bytes(b'something else' * 999), 'no LMDB database'),
        (lambda path: (path / 'data.mdb').write_bytes((path / 'data.mdb').read_bytes()[:9000]), 'is cut off'),
        (lambda path: (path / 'data.mdb').unlink(), 'data.mdb is missing'),
        (lambda path: (path / 'meta_info.txt').unlink(), 'of another tool'),
        (lambda path: (path / 'meta_info.txt').write_bytes(b'\xff\xfe\x00'), 'meta_info.txt is no text'),
        (lambda path: (path / 'meta_info.txt').write_text(''), 'meta_info.txt is empty'),
    ],
)
def test_a_ruined_one_is_told(good, ruin, said):
    ruin(good)
    assert said in check_lmdb(good, workers=1).faults['folder'][0]


def test_other_folders_are_told(tmp_path, good):
    assert 'there is no folder' in check_lmdb(tmp_path / 'none.lmdb').faults['folder'][0]
    (tmp_path / 'empty.lmdb').mkdir()
    assert 'this is no LMDB (it holds nothing)' in check_lmdb(tmp_path / 'empty.lmdb').faults['folder'][0]
    good.rename(tmp_path / 'x')
    assert check_lmdb(tmp_path / 'x', workers=1).faults == {
        'name': ["'x' does not end in .lmdb, so BasicSR refuses it"]
    }


def test_an_lmdb_of_another_tool_is_told(tmp_path):
    with lmdb.open(str(tmp_path / 'y.lmdb')) as environment, environment.begin(write=True) as transaction:
        transaction.put('sé.1'.encode(), b'\x80\x03]q\x00.')
    found = check_lmdb(tmp_path / 'y.lmdb', workers=1)
    assert found.faults.keys() == {'folder', 'key', 'damaged'}
    assert "no picture; begins with b'\\x80" in found.faults['damaged'][0]


def test_workers_find_the_same(good):
    DAMAGES['damaged'](good)
    assert check_lmdb(good, workers=1) == check_lmdb(good, workers=2)


def test_pairs_are_compared(tmp_path, good):
    lmdb_of(tmp_path / 'lq.lmdb', [('k0', noise(20, 30)), ('k1', noise(20, 99)), ('z', noise(9, 9))])
    lq, gt = check_lmdb(tmp_path / 'lq.lmdb', 1), check_lmdb(good, 1)
    found = check_pair(lq, gt)
    assert found.faults == {
        'only lq': ['z'],
        'only gt': ['k2', 'k3', 'k4', 'k5'],
        'pair size': ['k1: 99x20 in lq, 31x20 in gt'],
    }
    listed = check_pair(lq, gt, [('k0', 'k0'), ('z', 'k0'), ('q', 'k9')])
    assert listed.faults == {
        'pairs lq': ['q'],
        'pairs gt': ['k9'],
        'no pair lq': ['k1'],
        'no pair gt': ['k1', 'k2', 'k3', 'k4', 'k5'],
        'pair size': ['z: 9x9 in lq, 30x20 in gt'],
    }


def test_pairs_txt_beside_both_counts(tmp_path, good, capsys):
    lmdb_of(tmp_path / 'lq.lmdb', [(f'k{i}_{j}', noise(20, 30 + i, j)) for i in range(6) for j in range(2)])
    command = ['lmdb', 'check', '--lq', str(tmp_path / 'lq.lmdb'), '--gt', str(good), '--workers', '1']
    assert main(command) == 1
    (tmp_path / 'pairs.txt').write_text(''.join(f'k{i}_{j} k{i} - -\n' for i in range(6) for j in range(2)))
    assert main(command) == 0
    assert capsys.readouterr().out.strip().endswith('whole')


def test_findings_are_json_on_request(good, capsys):
    DAMAGES['damaged'](good)
    assert main(['lmdb', 'check', str(good), '--json']) == 1
    found = json.loads(capsys.readouterr().out)['findings'][0]
    assert not found['ok']
    assert found['faults']['damaged']['count'] == 1
    assert found['faults']['damaged']['first'] == ['k2 (PNG, but not all of it)']


def test_leaks_fail_the_check(tmp_path, good, capsys):
    (tmp_path / 'test').mkdir()
    cv2.imwrite(str(tmp_path / 'test' / 'new.png'), noise(40, 40, 99))
    command = ['lmdb', 'check', '--train', str(good), '--test', str(tmp_path / 'test'), '--workers', '1']
    assert main(command) == 0
    assert 'no leak found' in capsys.readouterr().out
    cv2.imwrite(str(tmp_path / 'test' / 'copy.bmp'), noise(20, 33, 3))
    assert main(command) == 1
    out = capsys.readouterr().out
    assert '1 training pictures leak' in out
    assert 'k3  =  copy.bmp  (identical)' in out
    assert main([*command, '--json']) == 1
    assert json.loads(capsys.readouterr().out)['leaks'] == [
        {'train': 'k3', 'test': 'copy.bmp', 'how': 'identical', 'distance': 0}
    ]


def test_wrong_usage_is_told(capsys):
    for words in ([], ['--lq', 'a.lmdb'], ['--train', 'a.lmdb']):
        with pytest.raises(SystemExit) as stopped:
            main(['lmdb', 'check', *words])
        assert stopped.value.code == 2
    assert 'are compared with each other: give both' in capsys.readouterr().err
