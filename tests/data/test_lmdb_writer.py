"""Preparing LMDBs: what BasicSR reads back, sub-images, keys, damaged input."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from basicsr.utils import FileClient

from basicsr_unirestorer.data.lmdb_reader import read_keys
from basicsr_unirestorer.data.lmdb_writer import Cut, WriteJob, WriteReport, load, read_report, write_lmdb
from basicsr_unirestorer.data.prepare import main, prepare
from basicsr_unirestorer.data.write_jobs import folder_jobs, sub_images, windows
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


def test_only_the_centre_is_kept_where_asked_for(folder, tmp_path):
    assert prepare(folder, tmp_path / 'x.lmdb', centre=10).shapes == {'a': (10, 10, 3), 'subpdir-b_c': (10, 10, 3)}
    content = FileClient('lmdb', db_paths=str(tmp_path / 'x.lmdb'), client_keys='gt').get('a', 'gt')
    assert np.array_equal(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), noise(20, 30)[5:15, 10:20])


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


def test_parts_are_cut_in_order(tmp_path):
    picture = noise(9, 13)
    cv2.imwrite(str(tmp_path / 'a.png'), picture)

    def cut(**given) -> list[tuple[str, np.ndarray]]:
        return load(WriteJob('a', tmp_path / 'a.png', Cut(**given)))

    assert [key for key, _ in cut()] == ['a']
    assert np.array_equal(cut(half='left')[0][1], picture[:, :6])
    assert np.array_equal(cut(half='right')[0][1], picture[:, 7:])
    assert np.array_equal(cut(centre=(5, 7))[0][1], picture[2:7, 3:10])
    parts = cut(half='right', centre=(8, 6), crop=4)
    assert [key for key, _ in parts] == ['a_s001', 'a_s002', 'a_s003', 'a_s004']
    assert np.array_equal(parts[1][1], picture[0:4, 9:13])  # the last window is aligned to the border
    with pytest.raises(DataError, match='is 13x9, but its 14x9 centre is wanted'):
        cut(centre=(9, 14))


@pytest.mark.parametrize(
    'given', [{'half': 'top'}, {'crop': 0}, {'step': 4}, {'crop': 4, 'step': 0}, {'centre': (0, 3)}]
)
def test_cuts_without_meaning_are_refused(given):
    with pytest.raises(OptionError):
        Cut(**given)


def test_the_bytes_are_those_of_basicsr(folder, tmp_path):
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    cv2.imwrite(str(folder / 'c.jpg'), noise(40, 50, 2))
    for level in (1, 6):
        jobs = folder_jobs(folder)
        paths = [str(job.path.relative_to(folder)) for job in jobs]
        keys = [job.key for job in jobs]
        make_lmdb_from_imgs(str(folder), str(tmp_path / f'theirs{level}.lmdb'), paths, keys, compress_level=level)
        write_lmdb(tmp_path / f'ours{level}.lmdb', jobs, level)
        theirs, ours = (
            FileClient('lmdb', db_paths=str(tmp_path / f'{whose}{level}.lmdb'), client_keys='x')
            for whose in ('theirs', 'ours')
        )
        assert all(ours.get(key, 'x') == theirs.get(key, 'x') for key in keys)
        metas = [(tmp_path / f'{whose}{level}.lmdb' / 'meta_info.txt').read_text() for whose in ('theirs', 'ours')]
        assert metas[0] == metas[1]


def test_of_two_files_with_one_key_the_first_is_kept(folder, tmp_path, capsys):
    cv2.imwrite(str(folder / 'a.jpg'), noise(9, 9))
    assert main([str(folder), str(tmp_path / 'x.lmdb'), '--skip-bad', '--workers', '1']) == 1
    assert "would share the LMDB key 'a'" in capsys.readouterr().err
    assert read_report(tmp_path / 'x.lmdb').shapes['a'] == (9, 9, 3)  # a.jpg comes before a.png
    assert 'a.png' in read_report(tmp_path / 'x.lmdb').dropped[0][0]


def test_unsafe_keys_and_those_of_sub_images_are_refused(folder, tmp_path):
    picture = folder / 'a.png'
    for key in ('a.b', 'ä', 'a b', '', 'a/b', 'k' * 501):
        with pytest.raises(DataError, match='which .*; rename it'):
            write_lmdb(tmp_path / 'x.lmdb', [WriteJob(key, picture)])
    with pytest.raises(DataError, match="share the LMDB key 'a_s001'"):
        write_lmdb(tmp_path / 'x.lmdb', [WriteJob('a_s001', picture), WriteJob('a', picture, Cut(crop=8))])


def test_what_files_lose_is_told(tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    for name, channels, depth in (
        ('g', 1, np.uint8),
        ('rgba', 4, np.uint8),
        ('deep', 3, np.uint16),
        ('fine', 3, np.uint8),
    ):
        cv2.imwrite(str(tmp_path / 'in' / f'{name}.png'), np.full((5, 6, channels), 100, depth))
    assert main([str(tmp_path / 'in'), str(tmp_path / 'x.lmdb')]) == 0
    err = capsys.readouterr().err
    for what in ('grey', 'alpha', '16 bit'):
        assert f'1 of the files: {what}; written as 8 bit colour' in err
    assert set(read_report(tmp_path / 'x.lmdb').shapes.values()) == {(5, 6, 3)}


def test_a_jpeg_that_ends_in_zeros_is_half_copied(tmp_path):
    content = cv2.imencode('.jpg', noise(64, 64))[1].tobytes()
    half = content[: len(content) // 2] + bytes(len(content) - len(content) // 2)
    with pytest.raises(DataError, match='cannot be read as a picture'):
        decode_picture(half, 'x')
    assert np.array_equal(decode_picture(content + bytes(100), 'x'), decode_picture(content, 'x'))


def test_a_file_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / 'a.png'), noise(4, 4))

    def refuse(_):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(Path, 'read_bytes', refuse)
    with pytest.raises(DataError, match=r'a.png cannot be read \(Permission denied\)'):
        read_picture(tmp_path / 'a.png')


def test_why_a_file_was_left_out_is_the_same_every_time(tmp_path):
    for content, why in ((b'', 'it is empty'), (b'text', 'its format is none that is known')):
        with pytest.raises(DataError, match=rf'x cannot be read as a picture \({why}\); replace or remove it'):
            decode_picture(content, 'x')
