"""Read the pictures of an LMDB of BasicSR's format."""

from __future__ import annotations

import os
from pathlib import Path
from weakref import WeakValueDictionary

import cv2
import lmdb
import numpy as np

from basicsr_unirestorer.errors import DataError

ADVICE = 'make it with a script of datasets_prep/'

# LMDB may open a database once a process; every reader of it shares the environment.
_environments: WeakValueDictionary[tuple, lmdb.Environment] = WeakValueDictionary()


class LMDBPictures:
    """The pictures of one LMDB: keys and shapes from its meta file, contents from its database.

    It can be pickled and forked: the database is opened by the process that reads first, and a forked worker reads on
    through its parent's map, which is safe because the map is read-only and takes no locks.

    Args:
        root: The LMDB folder; ``~`` is expanded.

    Attributes:
        root: As given, for messages.
        keys: In the order of the meta file.
        shapes: (height, width, channels) of each key's picture.

    Raises:
        DataError: The folder or a file of it is missing, damaged or of another tool.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(Path(root).expanduser())
        entries = read_keys(self.root)
        self.keys = [key for key, _ in entries]
        self.shapes = dict(entries)
        self._environment: lmdb.Environment | None = None
        _check_database(self.root, self.keys)

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_environment': None}

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: str) -> bool:
        return key in self.shapes

    def content(self, key: str) -> bytes:
        """Return the file that the database holds under a key; raises DataError where there is none."""
        if self._environment is None:
            self._environment = _shared_environment(self.root)
        with self._environment.begin() as transaction:
            content = transaction.get(key.encode('ascii'))
        if content is None:
            raise DataError(f"{self.root} lists '{key}' but holds no picture of it; make the LMDB again.")
        return content

    def read(self, key: str) -> np.ndarray:
        """Read one picture: BGR, uint8, (h, w, 3). Raises DataError where it is missing or damaged."""
        return self.decode(key, self.content(key))

    def decode(self, key: str, content: bytes) -> np.ndarray:
        """Decode what ``content`` returned."""
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise DataError(f"{self.root} holds '{key}' as something that is no readable picture; make the LMDB again.")
        return picture


def read_keys(root: str | Path) -> list[tuple[str, tuple[int, int, int]]]:
    """Read (key, (height, width, channels)) of every picture of a BasicSR LMDB, in the order of its meta file.

    Raises:
        DataError: The folder, its database or its ``meta_info.txt`` is missing, a line is malformed or a key comes
            twice.
    """
    folder = Path(root).expanduser()
    for part, advice in (
        ('', ADVICE),
        ('data.mdb', f'it is no LMDB; {ADVICE}'),
        ('meta_info.txt', f'LMDBs of other tools lack it; {ADVICE}'),
    ):
        if not (folder / part).exists():
            raise DataError(f'{folder / part} does not exist: {advice}.')
    entries = {}
    for line in (folder / 'meta_info.txt').read_text(encoding='utf-8').splitlines():
        try:
            name, shape, _ = line.split(' ')
            h, w, c = (int(side) for side in shape.strip('()').split(','))
        except ValueError as error:
            raise DataError(
                f"{folder / 'meta_info.txt'} has the line '{line}', expected 'NAME.png (h,w,c) LEVEL'; "
                'make the LMDB again with a script of datasets_prep/.'
            ) from error
        key = name.split('.')[0]  # as BasicSR cuts it
        if key in entries:
            raise DataError(
                f"{folder / 'meta_info.txt'} lists the key '{key}' twice (BasicSR cuts names at their first dot); "
                'make the LMDB again with a script of datasets_prep/, which keeps keys unique.'
            )
        entries[key] = (h, w, c)
    if not entries:
        raise DataError(f'{folder / "meta_info.txt"} lists no pictures; make the LMDB again.')
    return list(entries.items())


def _open(root: str) -> lmdb.Environment:
    try:
        return lmdb.open(root, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        if 'already open' in str(error):
            raise DataError(
                f"{root} is open in this process already, most likely in one of BasicSR's own data sets; read it with "
                'MixedDegradationLMDBDataset there too.'
            ) from error
        raise DataError(f'{root} cannot be opened as an LMDB ({error}): it is damaged or half copied.') from error


def _shared_environment(root: str) -> lmdb.Environment:
    """Open a database, or find it open. A file written anew is opened anew, one behind two paths is opened once."""
    facts = os.stat(Path(root) / 'data.mdb')
    name = (os.path.realpath(root), facts.st_ino, facts.st_mtime_ns)
    environment = _environments.get(name)
    if environment is None:
        environment = _environments[name] = _open(root)
    return environment


def _check_database(root: str, keys: list[str]) -> None:
    """Compare a database with its meta file, and leave it closed: workers shall open their own."""
    known = any(name[0] == os.path.realpath(root) for name in list(_environments))
    environment = _shared_environment(root) if known else _open(root)
    try:
        with environment.begin() as transaction:
            count = transaction.stat()['entries']
            absent = next((key for key in (keys[0], keys[-1]) if transaction.get(key.encode()) is None), None)
    except lmdb.Error as error:
        raise DataError(f'{root} cannot be read as an LMDB ({error}): it is damaged or half copied.') from error
    finally:
        if not known:
            environment.close()
    if absent is not None:
        raise DataError(
            f"{root} lists '{absent}' in its meta_info.txt but has no such key: it comes from another tool or is half "
            f'copied; {ADVICE}.'
        )
    if count != len(keys):
        raise DataError(
            f'{root} holds {count} pictures but its meta_info.txt lists {len(keys)}: it is half copied or was changed '
            'by hand; make it again.'
        )
