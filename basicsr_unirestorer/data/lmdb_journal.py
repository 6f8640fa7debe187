"""How far the writing of an LMDB has come: a file beside the half-written database, from which a killed run goes on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from basicsr_unirestorer.data.write_jobs import WriteJob
from basicsr_unirestorer.errors import DataError


class Done(NamedTuple):
    """What became of one job: (key, height, width) of its pictures, or the reason why there are none.

    ``state`` is the size and the time of change of its file when it was read, so that a file replaced since is noticed.
    """

    state: tuple[int, int] | None
    pictures: list[tuple[str, int, int]]
    note: str = ''
    reason: str = ''


def file_state(path: Path) -> tuple[int, int] | None:
    """Return a file's size in bytes and its time of change in nanoseconds; None where there is no file."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns


class Journal:
    """The finished jobs of one LMDB, in job order, one JSON line each below a line that identifies the jobs.

    A line is written after its pictures are safe in the database. So a journal may lag behind its database and is
    never ahead of it: going on from it writes the same entries again. Only one process holds a journal at a time.

    Args:
        path: The file; made where missing.
        identity: Hash of all that the LMDB's content follows from. A journal of another identity is emptied.
        jobs: The jobs, in order. What was read from a file that has changed since is forgotten, with all after it.

    Raises:
        DataError: Another process is at it.
    """

    def __init__(self, path: Path, identity: str, jobs: list[WriteJob]) -> None:
        path.touch()
        self._file = path.open('r+b')
        try:
            self._lock(path)
            lines = self._file.read().split(b'\n')[:-1]  # what follows the last line end is half a line
            self.replaced = bool(lines) and lines[0] != identity.encode()
            self.done = [] if self.replaced else _read(lines[1:], jobs)
            keep = 0 if self.replaced or not lines else sum(len(line) + 1 for line in lines[: len(self.done) + 1])
            self._file.truncate(keep)
            self._file.seek(keep)
            if not keep:
                self._append(identity.encode() + b'\n')
        except BaseException:
            self._file.close()
            raise

    def restart(self) -> None:
        """Forget every job, because the database no longer fits."""
        identity = self._first_line()
        self._file.truncate(len(identity))
        self._file.seek(len(identity))
        self.done = []

    def add(self, finished: Iterable[Done]) -> None:
        """Note jobs, the next ones in order; their pictures must be safe already."""
        finished = list(finished)
        self._append(b''.join(json.dumps(done).encode() + b'\n' for done in finished))
        self.done.extend(finished)

    def close(self) -> None:
        self._file.close()

    def _append(self, content: bytes) -> None:
        self._file.write(content)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _first_line(self) -> bytes:
        self._file.seek(0)
        return self._file.readline()

    def _lock(self, path: Path) -> None:
        with contextlib.suppress(ImportError):  # Windows
            import fcntl

            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise DataError(
                    f'Another process is writing {path.parent}; wait for it, or choose another output.'
                ) from error


def _read(lines: list[bytes], jobs: list[WriteJob]) -> list[Done]:
    """Read the jobs that are done, up to the first line that is damaged or whose file is another by now."""
    done = []
    for line, job in zip(lines, jobs, strict=False):
        try:
            state, pictures, note, reason = json.loads(line)
            entry = Done(state and tuple(state), [(key, h, w) for key, h, w in pictures], note, reason)
        except ValueError:
            break
        if entry.state != file_state(job.path):
            break
        done.append(entry)
    return done
