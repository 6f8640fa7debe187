"""LMDBs that are damaged, half copied or of another tool are told apart in one sentence."""

from __future__ import annotations

import os
import pickle

import lmdb
import numpy as np
import pytest

from basicsr_unirestorer.data.lmdb_reader import LMDBPictures, read_keys
from basicsr_unirestorer.errors import DataError
from tests.data.samples import make_lmdb, noise_pictures

PICTURES = noise_pictures(3)


@pytest.fixture
def root(tmp_path) -> str:
    return make_lmdb(tmp_path / 'x.lmdb', PICTURES)


def test_it_reads_what_is_there(root, tmp_path):
    (tmp_path / 'link.lmdb').symlink_to(root)
    readers = [LMDBPictures(root), LMDBPictures(tmp_path / 'link.lmdb')]  # LMDB opens a database once a process
    readers.append(pickle.loads(pickle.dumps(readers[0])))
    for reader in readers:
        assert len(reader) == 3 and 'p1' in reader and 'p9' not in reader
        assert reader.shapes['p1'] == (40, 48, 3)
        assert all(np.array_equal(reader.read(key), picture) for key, picture in PICTURES)


def test_a_database_closes_with_its_last_reader(root):
    reader = LMDBPictures(root)
    reader.read('p0')
    del reader
    lmdb.open(root, readonly=True, lock=False).close()  # LMDB would refuse to open it a second time


def test_making_a_reader_leaves_the_database_to_the_workers(root):
    reader = LMDBPictures(root)
    lmdb.open(root, readonly=True, lock=False).close()
    assert reader.read('p0').shape == (40, 48, 3)


def spoil(root: str, meta: str) -> None:
    with open(f'{root}/meta_info.txt', 'w') as file:
        file.write(meta)


@pytest.mark.parametrize(
    ('meta', 'message'),
    [
        ('p0.png (40,48,3) 1\np0.1.png (40,48,3) 1\n', "lists the key 'p0' twice .*first dot"),
        ('p0.png (40,48,3)\n', "has the line 'p0.png .40,48,3.', expected 'NAME.png"),
        ('p0.png 40x48 1\n', 'expected .NAME.png'),
        ('', 'lists no pictures'),
        ('p0.png (40,48,3) 1\n', 'holds 3 pictures but its meta_info.txt lists 1: it is half copied'),
        ('q0.png (40,48,3) 1\n', "lists 'q0' in its meta_info.txt but has no such key: it comes from another tool"),
    ],
)
def test_wrong_meta_files(root, meta, message):
    spoil(root, meta)
    with pytest.raises(DataError, match=message):
        LMDBPictures(root)


def test_another_tools_database_is_refused(tmp_path):
    root = make_lmdb(tmp_path / 'x.lmdb', PICTURES, suffix='.png')
    with pytest.raises(DataError, match="lists 'p0' in its meta_info.txt but has no such key: it comes from another t"):
        LMDBPictures(root)


@pytest.mark.parametrize(('part', 'message'), [('data.mdb', 'it is no LMDB'), ('meta_info.txt', 'other tools lack it')])
def test_missing_parts(root, part, message):
    os.remove(f'{root}/{part}')
    with pytest.raises(DataError, match=f'{part} does not exist: .*{message}'):
        read_keys(root)


def test_what_is_no_database(root):
    with open(f'{root}/data.mdb', 'wb') as file:
        file.write(bytes(8192))
    with pytest.raises(DataError, match='cannot be opened as an LMDB .* damaged or half copied'):
        LMDBPictures(root)


def test_what_is_no_picture(tmp_path):
    root = make_lmdb(tmp_path / 'x.lmdb', PICTURES)
    with lmdb.open(root) as environment, environment.begin(write=True) as transaction:
        transaction.put(b'p1', b'no picture')
    reader = LMDBPictures(root)
    with pytest.raises(DataError, match="holds 'p1' as something that is no readable picture"):
        reader.read('p1')
    with pytest.raises(DataError, match="lists 'p7' but holds no picture of it"):
        reader.read('p7')


def test_a_database_in_use_by_another_is_named(root):
    environment = lmdb.open(root, readonly=True, lock=False)
    try:
        with pytest.raises(DataError, match="is open in this process already, most likely in one of BasicSR's own"):
            LMDBPictures(root)
    finally:
        environment.close()
