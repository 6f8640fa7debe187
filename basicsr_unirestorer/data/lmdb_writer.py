"""Write pictures into an LMDB that BasicSR reads: a folder with the database and its ``meta_info.txt``."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import lmdb
from tqdm import tqdm

from basicsr_unirestorer.data.lmdb_journal import Done, Journal, file_state
from basicsr_unirestorer.data.lmdb_reader import read_keys
from basicsr_unirestorer.data.parallel import available_cores, in_order
from basicsr_unirestorer.data.write_jobs import Cut, WriteJob, load, load_noted, split_clashes
from basicsr_unirestorer.errors import DataError, OptionError

__all__ = ['Cut', 'WriteJob', 'WriteReport', 'load', 'read_report', 'write_lmdb']

COMMIT_BYTES = 2**24  # a kill costs this much work at most
FIRST_MAP = 2**26
SPARE_BYTES = 2**20  # what a finished file may be too large by
META, DROPPED = 'meta_info.txt', 'dropped.txt'
LEAVE_OUT = ' It can be left out: --skip-bad, or skip_bad=True.'
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WriteReport:
    """What an LMDB holds, and what was left out of it.

    Args:
        shapes: (height, width, 3) of every entry by its key, in job order.
        dropped: (file, one sentence) for every job without an entry.
        notes: (file, what it lost: ``'grey'``, ``'alpha'``, ``'16 bit'``) for files that were no 8 bit colour pictures.
        resumed: Jobs that an earlier run, killed or stopped, had finished.
    """

    shapes: dict[str, tuple[int, int, int]]
    dropped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    resumed: int = 0


class Encoded(NamedTuple):
    """A job's result on its way from a worker to the database."""

    done: Done
    values: list[bytes]


def write_lmdb(
    path: str | Path,
    jobs: Iterable[WriteJob],
    compress_level: int = 1,
    workers: int | None = None,
    skip_bad: bool = False,
    keep_finished: bool = False,
) -> WriteReport:
    """Write pictures to ``path`` as PNG, aside first and renamed when complete.

    Several processes read, cut and compress; this one writes, and holds a few pictures at a time. A run that was
    stopped or killed goes on where it was when called again with the same jobs; with other jobs it starts anew. The
    entries and their order depend on neither. They are the bytes that BasicSR's ``make_lmdb_from_imgs`` would write.

    Args:
        path: The LMDB folder; its name must end in ``.lmdb``.
        jobs: What to write; keys as ``safe_key`` makes them.
        compress_level: PNG compression, 0-9.
        workers: Number of processes; 1 works in this one, None takes every core there is.
        skip_bad: Leave out what cannot be read, or has the key of another, instead of stopping.
        keep_finished: Take an LMDB that stands at ``path`` already for the result if its keys are those of ``jobs``.

    Returns:
        What was written and what was left out. The latter also stands in ``dropped.txt`` beside ``meta_info.txt``.

    Raises:
        DataError: The name does not end in .lmdb, ``path`` exists, two keys are the same or one is unsafe, there is no
            picture to write, or one cannot be read and ``skip_bad`` is off; the disk is full or a worker died. In the
            last three cases a later call goes on.
        OptionError: A compression level that PNG does not have.
    """
    path, scratch = _places(path)
    if compress_level not in range(10):
        raise OptionError(f'compress_level is {compress_level}, but PNG has the levels 0 to 9.')
    jobs, clashes = split_clashes(jobs)
    if path.exists():
        return _finished(path, scratch, jobs, keep_finished)
    if clashes and not skip_bad:
        more = f' ({len(clashes) - 1} more like it)' if len(clashes) > 1 else ''
        raise DataError(clashes[0][1] + more)
    journal = None
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        journal = Journal(scratch / 'progress.jsonl', _identity(jobs, compress_level), jobs)
        _match(journal, scratch)
        resumed = len(journal.done)
        _fill(scratch, jobs, journal, compress_level, workers or available_cores(), skip_bad)
        report = _report(jobs, clashes, journal.done, resumed)
        if not report.shapes:
            why = f' ({report.dropped[0][1]})' if report.dropped else ''
            raise DataError(f'No picture could be written to {path}{why}; check the input folder.')
        _finish(path, scratch, report, compress_level)
    except (OSError, lmdb.Error) as error:
        kept = f'{len(journal.done)} of {len(jobs)} files are kept in it' if journal else 'nothing is lost'
        raise DataError(
            f'{scratch} could not be written ({error}): {kept}. Free some disk space or mend the cause, then run the '
            'same command again: it goes on where it stopped.'
        ) from error
    finally:
        if journal:
            with contextlib.suppress(OSError):  # a full disk, told above
                journal.close()
    shutil.rmtree(scratch, ignore_errors=True)
    return report


def read_report(path: str | Path) -> WriteReport:
    """Read back what ``write_lmdb`` returned for a finished LMDB, but for the notes.

    Raises:
        DataError: It is none, see ``read_keys``.
    """
    folder = Path(path)
    shapes = dict(read_keys(folder))
    dropped = (folder / DROPPED).read_text().splitlines() if (folder / DROPPED).exists() else []
    return WriteReport(shapes, [tuple(line.split('\t', 1)) for line in dropped])


# ------------------------------------------------------------------------------------------ before and after


def _places(path: str | Path) -> tuple[Path, Path]:
    """Return the final folder and the one that everything is written to first."""
    path = Path(path)
    if path.suffix != '.lmdb':
        raise DataError(
            f"The LMDB folder is called '{path.name}', but BasicSR only opens folders ending in .lmdb; "
            f"write '{path.name}.lmdb'."
        )
    return path, path.with_name(path.name + '.part')


def _finished(path: Path, scratch: Path, jobs: list[WriteJob], keep: bool) -> WriteReport:
    if not keep:
        raise DataError(f'{path} exists already; remove it first, or choose another output.')
    report = read_report(path)
    left_out = {file for file, _ in report.dropped}
    wanted = {job.key: job for job in jobs}
    written = {key if key in wanted else re.sub(r'_s\d{3,}$', '', key) for key in report.shapes}
    if written - wanted.keys() or any(str(wanted[key].path) not in left_out for key in wanted.keys() - written):
        raise DataError(f'{path} exists already, with other pictures; remove it first, or choose another output.')
    if not (scratch / 'lmdb').exists():
        shutil.rmtree(scratch, ignore_errors=True)  # what a kill between the renaming and the cleaning leaves
    return report


def _identity(jobs: list[WriteJob], compress_level: int) -> str:
    """Hash all that the entries follow from, but for the content of the files."""
    digest = hashlib.sha256(f'1 {compress_level} {cv2.__version__}'.encode())
    for job in jobs:
        digest.update(repr((job.key, os.path.abspath(job.path), job.cut)).encode())
    return digest.hexdigest()


def _match(journal: Journal, scratch: Path) -> None:
    """Make database and journal fit: a database that lacks what its journal promises, or is damaged, starts anew."""
    folder = scratch / 'lmdb'
    if journal.replaced:
        log.warning('%s holds a stopped run over other pictures or another setting; it starts anew.', scratch)
    if journal.done:
        try:
            with lmdb.open(str(folder), create=False) as environment:
                entries = environment.stat()['entries']
        except lmdb.Error:
            entries = -1
        if entries < sum(len(done.pictures) for done in journal.done):
            log.warning('The database in %s does not hold what it should; it starts anew.', scratch)
            journal.restart()
    if not journal.done:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()


def _report(jobs: list[WriteJob], clashes: list[tuple[WriteJob, str]], done: list[Done], resumed: int) -> WriteReport:
    shapes = {key: (h, w, 3) for entry in done for key, h, w in entry.pictures}
    dropped = [(str(job.path), entry.reason) for job, entry in zip(jobs, done, strict=True) if entry.reason]
    notes = [(str(job.path), entry.note) for job, entry in zip(jobs, done, strict=True) if entry.note]
    return WriteReport(shapes, dropped + [(str(job.path), reason) for job, reason in clashes], notes, resumed)


def _finish(path: Path, scratch: Path, report: WriteReport, compress_level: int) -> None:
    folder = scratch / 'lmdb'
    _shrink(folder, scratch / 'compact')
    lines = (f'{key}.png ({h},{w},{c}) {compress_level}\n' for key, (h, w, c) in report.shapes.items())
    _write_text(folder / META, lines)
    if report.dropped:
        _write_text(folder / DROPPED, (f'{file}\t{reason}\n' for file, reason in report.dropped))
    folder.rename(path)


def _write_text(path: Path, lines: Iterable[str]) -> None:
    with path.open('w') as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


# ------------------------------------------------------------------------------------------ the database


def encode(job: WriteJob, compress_level: int) -> Encoded:
    """Read, cut and compress what a job asks for; a file that cannot be read becomes a reason."""
    state = file_state(job.path)
    try:
        pictures, note = load_noted(job)
    except DataError as error:
        return Encoded(Done(state, [], '', str(error)), [])
    flags = [cv2.IMWRITE_PNG_COMPRESSION, compress_level]
    values = [cv2.imencode('.png', picture, flags)[1].tobytes() for _, picture in pictures]
    return Encoded(Done(state, [(key, *picture.shape[:2]) for key, picture in pictures], note), values)


def _fill(scratch: Path, jobs: list[WriteJob], journal: Journal, level: int, workers: int, skip_bad: bool) -> None:
    """Write all jobs that the journal does not have yet."""
    first = next((done.reason for done in journal.done if done.reason), '')
    if first and not skip_bad:
        raise DataError(first + LEAVE_OUT)
    todo = jobs[len(journal.done) :]
    encoded = in_order(partial(encode, compress_level=level), todo, min(workers, len(todo)))
    bar = tqdm(total=len(jobs), initial=len(journal.done), desc='pictures', unit='file')
    with lmdb.open(str(scratch / 'lmdb'), map_size=FIRST_MAP) as environment, contextlib.closing(encoded), bar:
        batch, size = [], 0
        for result in encoded:
            if result.done.reason and not skip_bad:
                _commit(environment, journal, batch)
                raise DataError(result.done.reason + LEAVE_OUT)
            batch.append(result)
            size += sum(map(len, result.values))
            if size >= COMMIT_BYTES:
                _commit(environment, journal, batch)
                batch, size = [], 0
            bar.update()
        _commit(environment, journal, batch)
        _remove_strangers(environment, {key for done in journal.done for key, _, _ in done.pictures})


def _commit(environment: lmdb.Environment, journal: Journal, batch: list[Encoded]) -> None:
    """Make a batch safe in the database, then note it; the map grows until it fits."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for done, values in batch:
                    for (key, _, _), value in zip(done.pictures, values, strict=True):
                        transaction.put(key.encode('ascii'), value)
            break
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()['map_size'])
    journal.add(done for done, _ in batch)


def _remove_strangers(environment: lmdb.Environment, keys: set[str]) -> None:
    """Delete entries that no job has: left where a file was exchanged between a kill and its resumption."""
    if environment.stat()['entries'] == len(keys):
        return
    with environment.begin(write=True) as transaction:
        strangers = [key for key in transaction.cursor().iternext(values=False) if key.decode('ascii') not in keys]
        for key in strangers:
            transaction.delete(key)


def _shrink(folder: Path, aside: Path) -> None:
    """Write a database anew whose file is much larger than what it holds: after deletions, or grown in one go."""
    with lmdb.open(str(folder)) as environment:
        facts = environment.stat()
        pages = facts['branch_pages'] + facts['leaf_pages'] + facts['overflow_pages']
        if (folder / 'data.mdb').stat().st_size <= SPARE_BYTES + 1.25 * pages * facts['psize']:
            return
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        environment.copy(str(aside), compact=True)
    os.replace(aside / 'data.mdb', folder / 'data.mdb')
