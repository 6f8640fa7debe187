"""Preparing LMDBs: what BasicSR reads back, sub-images, keys, damaged input."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from basicsr.utils import FileClient

from basicsr_unirestorer.data.lmdb_reader import read_keys
from basicsr_unirestorer.data.lmdb_writer import WriteJob, WriteReport, read_report, write_lmdb
from basicsr_unirestorer.data.prepare import main, prepare
from basicsr_unirestorer.data.write_jobs import sub_images, windows
from basicsr_unirestorer.errors import DataError, OptionError
from basicsr_unirestorer.image_files import decode_picture, find_pictures, read_picture, safe_key


def noise(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / 'in' / 'sub.dir').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'in' / 'a.png'), noise(20, 30))
    cv2.imwrite(str(tmp_path / 'in' / 'sub.dir' / 'b c.bmp'), noise(25, 25, 1))
    return tmp_path / 'in'


def test_pictures_come_back_unchanged_through_basicsr(folder, tmp_path):
    assert prepare(folder, tmp_path / 'x.lmdb') == WriteReport({'a': (20, 30, 3), 'subpdir-b_c': (25, 25, 3)})
    assert read_keys(str(tmp_path / 'x.lmdb')) == [('a', (20, 30, 3)), ('subpdir-b_c', (25, 25, 3))]
    client = FileClient('lmdb', db_paths=str(tmp_path / 'x.lmdb'), client_keys='gt')
    content = client.get('subpdir-b_c', 'gt')
    assert np.array_equal(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), noise(25, 25, 1))


def test_sub_images_cover_every_pixel():
    picture = np.arange(7 * 11 * 3, dtype=np.uint8).reshape(7, 11, 3)
    parts = list(sub_images(picture, 4, 3))
    assert all(part.shape == (4, 4, 3) for part in parts)
    assert {int(v) for part in parts for v in part.ravel()} == {int(v) for v in picture.ravel()}
    assert windows(11, 4, 4) == [0, 4, 7]
    assert windows(3, 4, 4) == [0]


def test_the_map_grows_with_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr('basicsr_unirestorer.data.lmdb_writer.FIRST_MAP', 2**16)
    cv2.imwrite(str(tmp_path / 'a.png'), noise(300, 300))
    jobs = [WriteJob(f'k{i}', tmp_path / 'a.png') for i in range(20)]
    assert len(write_lmdb(tmp_path / 'big.lmdb', jobs, compress_level=0, workers=1).shapes) == 20
    assert 20 * 270_000 < (tmp_path / 'big.lmdb' / 'data.mdb').stat().st_blocks * 512 < 6_000_000
    assert (tmp_path / 'big.lmdb' / 'data.mdb').stat().st_size < 6_000_000


def test_keys_are_safe_for_basicsr():
    assert safe_key(Path('0001_0.8_0.2.jpg')) == '0001_0p8_0p2'
    assert safe_key(Path('séq/ä b.png')) == 's_q-__b'


def test_colliding_keys_are_refused(folder, tmp_path):
    cv2.imwrite(str(folder / 'a.jpg'), noise(9, 9))
    with pytest.raises(DataError, match="would share the LMDB key 'a'"):
        prepare(folder, tmp_path / 'x.lmdb')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in']  # nothing was begun


def test_a_truncated_picture_stops_or_is_left_out(folder, tmp_path, capsys):
    cv2.imwrite(str(folder / 'bad.jpg'), noise(64, 64))
    content = (folder / 'bad.jpg').read_bytes()
    (folder / 'bad.jpg').write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r'bad.jpg cannot be read as a picture .* --skip-bad'):
        prepare(folder, tmp_path / 'x.lmdb')
    assert not (tmp_path / 'x.lmdb').exists()
    assert main([str(folder), str(tmp_path / 'x.lmdb'), '--skip-bad']) == 1
    captured = capsys.readouterr()
    assert '2 pictures written' in captured.out
    assert 'left out' in captured.err


def test_grey_alpha_and_16_bit_become_bgr_8_bit(tmp_path):
    cv2.imwrite(str(tmp_path / 'grey.png'), np.full((5, 6), 100, np.uint8))
    cv2.imwrite(str(tmp_path / 'alpha.png'), np.full((5, 6, 4), 100, np.uint8))
    cv2.imwrite(str(tmp_path / 'deep.png'), np.full((5, 6), 100 * 257, np.uint16))
    for path in tmp_path.iterdir():
        picture = read_picture(path)
        assert picture.dtype == np.uint8
        assert picture.shape == (5, 6, 3)
        assert abs(int(picture[0, 0, 0]) - 100) <= 1, path.name


def test_bad_input_is_told_in_one_sentence(tmp_path):
    with pytest.raises(DataError, match='is no folder'):
        find_pictures(tmp_path / 'none')
    with pytest.raises(DataError, match='holds no pictures'):
        find_pictures(tmp_path)
    with pytest.raises(DataError, match='There is no picture'):
        read_picture(tmp_path / 'none.png')
    with pytest.raises(DataError, match='x cannot be read as a picture'):
        decode_picture(b'', 'x')
    with pytest.raises(DataError, match=r"write 'x.lmdb'"):
        write_lmdb(tmp_path / 'x', [])
    with pytest.raises(DataError, match='No picture could be written'):
        write_lmdb(tmp_path / 'x.lmdb', [])
    cv2.imwrite(str(tmp_path / 'a.png'), noise(4, 4))
    jobs = [WriteJob('a', tmp_path / 'a.png')]
    with pytest.raises(OptionError, match='levels 0 to 9'):
        write_lmdb(tmp_path / 'x.lmdb', jobs, compress_level=10)
    written = write_lmdb(tmp_path / 'x.lmdb', jobs)
    with pytest.raises(DataError, match='exists already'):
        write_lmdb(tmp_path / 'x.lmdb', jobs)
    assert write_lmdb(tmp_path / 'x.lmdb', jobs, keep_finished=True) == written == read_report(tmp_path / 'x.lmdb')
    with pytest.raises(DataError, match='with other pictures'):
        write_lmdb(tmp_path / 'x.lmdb', [WriteJob('b', tmp_path / 'a.png')], keep_finished=True)
