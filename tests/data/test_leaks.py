"""Finding training pictures in test sets: what must be found, what must not, and how long it may take."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from basicsr_unirestorer.data import parallel
from basicsr_unirestorer.data.leaks import (
    BLOCK,
    Fingerprint,
    Leak,
    block_hashes,
    find_leaks,
    find_parts,
    fingerprint,
    fingerprints,
    leaks_between,
    pictures_of,
)
from basicsr_unirestorer.data.lmdb_writer import Cut, write_lmdb
from basicsr_unirestorer.data.write_jobs import folder_jobs
from basicsr_unirestorer.errors import DataError


def photographs() -> dict[str, np.ndarray]:
    return {
        'cat': np.ascontiguousarray(data.chelsea()[..., ::-1]),
        'coffee': np.ascontiguousarray(data.coffee()[::2, ::2, ::-1]),
        'astronaut': np.ascontiguousarray(data.astronaut()[::2, ::2, ::-1]),
    }


@pytest.fixture(scope='module')
def photos() -> dict[str, np.ndarray]:
    return photographs()


def prints(**pictures: np.ndarray) -> list[Fingerprint]:
    return [fingerprint(key, picture) for key, picture in pictures.items()]


def test_only_copies_are_found(photos):
    cat = photos['cat']
    bright = np.clip(cat.astype(int) + 12, 0, 255).astype(np.uint8)
    small = cv2.resize(cat, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imdecode(cv2.imencode('.jpg', cat, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)
    train = prints(same=cat, bright=bright, small=small, jpeg=jpeg, coffee=photos['coffee'], mirrored=cat[:, ::-1])
    leaks = find_leaks(train, prints(cat=cat, astronaut=photos['astronaut']))
    assert leaks[0] == Leak('same', 'cat', 'identical')
    assert [(leak.train, leak.test, leak.how) for leak in leaks[1:]] == [
        (key, 'cat', 'similar') for key in ('bright', 'small', 'jpeg')
    ]
    assert all(leak.distance <= 4 for leak in leaks)


def test_pictures_without_contrast_leak_only_as_equals():
    grey, lighter = np.full((40, 40, 3), 90, np.uint8), np.full((40, 40, 3), 91, np.uint8)
    assert find_leaks(prints(a=grey), prints(b=lighter)) == []
    assert find_leaks(prints(a=grey), prints(b=grey)) == [Leak('a', 'b', 'identical')]


def test_equal_blocks_have_equal_hashes_wherever_they_are(photos):
    cat = photos['cat']
    whole = block_hashes(cat)
    assert whole.shape == (cat.shape[0] - BLOCK + 1, cat.shape[1] - BLOCK + 1)
    assert np.array_equal(block_hashes(cat[30:90, 50:110]), whole[30 : 90 - BLOCK + 1, 50 : 110 - BLOCK + 1])
    blocks = np.lib.stride_tricks.sliding_window_view(cat, (BLOCK, BLOCK), (0, 1)).reshape(-1, 3 * BLOCK * BLOCK)
    assert len(np.unique(whole)) == len(np.unique(blocks, axis=0))  # no two blocks share one


def test_sub_images_are_found_at_any_place(photos, tmp_path):
    cat = photos['cat']
    parts = prints(
        corner=cat[:64, :64], inside=cat[101:165, 77:141], coffee=photos['coffee'][:64, :64], changed=cat[:64, :64] ^ 1
    )
    for name, picture in photos.items():
        cv2.imwrite(str(tmp_path / f'{name}.png'), picture)
    found = find_parts(parts, pictures_of(tmp_path), workers=2)
    assert sorted(found) == [('coffee', 'coffee.png'), ('corner', 'cat.png'), ('inside', 'cat.png')]


def test_lmdbs_and_folders_are_compared_either_way(photos, tmp_path):
    for folder, names in (('train', ('cat', 'coffee')), ('test', ('cat', 'astronaut'))):
        (tmp_path / folder).mkdir()
        for name in names:
            cv2.imwrite(str(tmp_path / folder / f'{name}.png'), photos[name])
    (tmp_path / 'test' / 'bad.png').write_bytes(b'no picture')
    write_lmdb(tmp_path / 'whole.lmdb', folder_jobs(tmp_path / 'train'), workers=1)
    write_lmdb(tmp_path / 'subs.lmdb', folder_jobs(tmp_path / 'train', Cut(crop=100)), workers=1)
    leaks, unread = leaks_between(tmp_path / 'whole.lmdb', tmp_path / 'test', workers=2)
    assert leaks == [Leak('cat', 'cat.png', 'identical')]
    assert len(unread) == 1 and 'bad.png cannot be read' in unread[0]
    subs = leaks_between(tmp_path / 'subs.lmdb', tmp_path / 'test', workers=1)[0]
    parts = {leak.train for leak in subs if leak.how == 'part of the test picture'}
    assert parts == {f'cat_s{number:03d}' for number in range(1, 16)}  # 3 x 5 squares of 300 x 451
    assert {leak.test for leak in subs} == {'cat.png'}
    turned = leaks_between(tmp_path / 'test', tmp_path / 'subs.lmdb', workers=2)[0]
    assert {leak.test for leak in turned if leak.how == 'holds the test picture'} == parts


def test_workers_hash_after_opencv_ran_in_threads(photos, monkeypatch):
    """A forked process would have no threads of OpenCV's pool, and wait for them forever."""
    monkeypatch.setattr(parallel, 'PATIENCE', 0)
    big = cv2.resize(photos['cat'], (3000, 2000))
    cv2.GaussianBlur(big, (31, 31), 3)
    png = cv2.imencode('.png', big)[1].tobytes()
    taken, unread = fingerprints([(str(i), png) for i in range(4)], workers=2)
    assert [one.digest for one in taken] == [fingerprint('', big).digest] * 4
    assert unread == []


def test_a_large_training_set_takes_seconds():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 72_000, dtype=np.uint64)
    train = [Fingerprint(str(i), (9, 9), rng.bytes(20), int(h), False, 1, (0, 0)) for i, h in enumerate(hashes)]
    start = time.perf_counter()
    assert len(find_leaks(train, train[:500])) == 500
    assert time.perf_counter() - start < 15  # it takes under one where the machine does nothing else


def test_a_place_without_pictures_is_told(tmp_path):
    with pytest.raises(DataError, match='is no folder'):
        list(pictures_of(Path(tmp_path / 'none')))
