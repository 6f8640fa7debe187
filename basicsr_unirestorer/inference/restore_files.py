"""Restore many picture files: routed first, grouped by expert, read and written in threads beside the network."""

from __future__ import annotations

import errno
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from basicsr_unirestorer.archs.unirestorer_arch import Route
from basicsr_unirestorer.errors import DataError, UniRestorerError
from basicsr_unirestorer.inference.ahead import ahead
from basicsr_unirestorer.inference.decision import Decision
from basicsr_unirestorer.inference.photo import Photo, picture_size, read_photo
from basicsr_unirestorer.inference.photo_writing import FORMATS, encode_photo, write_whole
from basicsr_unirestorer.inference.restore_plan import Pair
from basicsr_unirestorer.inference.restorer import Restorer

ROUND = 1000  # pictures that are routed before the first of them is restored; bounds what is remembered of them
HELD = 2**25  # pixels that reading ahead, and writing behind, may hold each
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Record:
    """What became of one picture."""

    input: Path
    output: Path
    decision: Decision | None = None  # None where it was skipped or failed
    skipped: bool = False
    error: str = ''  # one sentence, where it failed
    note: str = ''  # what the output's format could not keep, or what is odd about the input

    def to_dict(self) -> dict:
        """Return what JSON can hold."""
        outcome = {'error': self.error} if self.error else {'skipped': self.skipped}
        note = {'note': self.note} if self.note else {}
        decision = self.decision.to_dict() if self.decision else {}
        return {'input': str(self.input), 'output': str(self.output), **outcome, **note, **decision}


@dataclass
class Job:
    """A picture on its way."""

    input: Path
    output: Path
    pixels: int
    stamp: tuple[int, int] = (0, 0)  # of the file when it was routed
    route: Route | None = None
    experts: tuple[str, ...] = ()
    photo: Photo | None = field(default=None, repr=False)


def restore_files(
    restorer: Restorer,
    files: Sequence[Pair],
    overwrite: bool = False,
    explain: bool = False,
    done: Callable[[Record], object] = lambda record: None,
) -> None:
    """Restore picture files; a bad one does not stop the others.

    Args:
        restorer: What restores them.
        files: Input and output of each.
        overwrite: Whether an output that exists is written again; else it is skipped.
        explain: Whether the decision is written beside each output, as ``<output>.json``.
        done: Called with the record of each picture once it is finished, in the order of finishing; what it keeps is
            all that grows with the number of pictures.

    Raises:
        DataError: The output cannot take more, for want of space or rights; what is finished stays.
    """
    FolderRun(restorer, overwrite, explain, done).run(files)


class FolderRun:
    """One run over files; see ``restore_files``."""

    def __init__(self, restorer: Restorer, overwrite: bool, explain: bool, done: Callable[[Record], object]) -> None:
        self.restorer = restorer
        self.bank = restorer.net.bank
        self.overwrite = overwrite
        self.explain = explain
        self.done = done
        self.restored = self.finished = 0
        self.writing: deque[tuple[Job, Future[Record]]] = deque()

    def run(self, files: Sequence[Pair]) -> None:
        self.threads = ThreadPoolExecutor(max(2, min(4, os.cpu_count() or 2)), thread_name_prefix='pictures')
        try:
            with tqdm(desc='restoring', unit='MP', unit_scale=True, total=0, disable=None) as self.bar:
                fresh = self._not_there_yet(files)
                while jobs := list(islice(fresh, ROUND)):
                    self._round(jobs, len(files))
        finally:
            while self.writing:  # restored already, so it is finished, after an interruption too
                self._wait(0)
            self.threads.shutdown(cancel_futures=True)

    def _not_there_yet(self, files: Sequence[Pair]) -> Iterator[Job]:
        for source, target in files:
            if target.exists() and not self.overwrite:
                self._finish(Record(source, target, skipped=True))
            else:
                yield Job(source, target, picture_size(source))

    def _round(self, jobs: list[Job], total: int) -> None:
        """Route some pictures, then restore them expert by expert."""
        self.bar.total += sum(job.pixels for job in jobs) / 1e6
        self.bar.set_description('routing')
        routed = list(self._routed(jobs))
        self.bar.set_description('restoring')
        self.bar.unpause()  # the time left follows from restoring alone
        ready = self.bank.cached  # experts of the round before come first
        routed.sort(key=lambda job: (not any(name in ready for name in job.experts), job.experts))
        following = experts_after(routed)
        for number, (job, loading) in enumerate(ahead(routed, self._load, lambda job: job.pixels, HELD, self.threads)):
            self._restore(job, loading, following[number])
            self.bar.set_postfix_str(f'{self.finished}/{total} pictures')
        self._wait(0)

    def _routed(self, jobs: list[Job]) -> Iterator[Job]:
        """Choose the experts of each picture; the first pictures stay in memory, so that a few are read only once."""
        kept = 0
        for job, loading in ahead(jobs, self._load, lambda job: job.pixels, HELD, self.threads):
            with self._failing_alone(job):
                job.stamp, photo = loading.result()
                job.route = self.restorer.choose(photo.pixels)
                job.experts = self.restorer.expert_names(job.route)
                kept += job.pixels
                job.photo = photo if kept <= HELD else None
            if job.route is not None:
                yield job

    def _load(self, job: Job) -> tuple[tuple[int, int], Photo]:
        return (job.stamp, job.photo) if job.photo else (stamp(job.input), read_photo(job.input))

    def _restore(self, job: Job, loading: Future, following: tuple[str, ...]) -> None:
        """Restore one picture and hand it to a thread that writes it."""
        before = self.bar.n
        with self._failing_alone(job):
            (now, photo), job.photo = loading.result(), None
            for name in job.experts:
                self.bank.get(name, self.restorer.device)
            for name in following:
                self.bank.prefetch(name, beside=len(job.experts))
            route = job.route if now == job.stamp else None  # another picture by now
            pixels, decision = self.restorer.restore(
                photo.pixels, route, lambda share: self._progress(before, share, job)
            )
            self._wait(max(HELD - job.pixels, 0))
            restored = replace(photo, pixels=pixels)
            self.writing.append((job, self.threads.submit(self._write, job, restored, decision)))
        self._progress(before, 1, job)

    def _progress(self, before: float, share: float, job: Job) -> None:
        self.bar.update(before + share * job.pixels / 1e6 - self.bar.n)

    def _write(self, job: Job, restored: Photo, decision: Decision) -> Record:
        content, note = encode_photo(restored, job.output)
        notes = [text for text in (misnamed(job.input, restored), note) if text]
        record = Record(job.input, job.output, decision, note='; '.join(notes))
        explanation = explanation_path(job.output)
        if self.explain:
            text = json.dumps(record.to_dict(), indent=1) + '\n'
            write_whole(explanation, text.encode(), self.overwrite)
        try:
            write_whole(job.output, content, self.overwrite)
        except BaseException:
            if self.explain:
                explanation.unlink(missing_ok=True)
            raise
        return record

    def _wait(self, pixels: int) -> None:
        """Wait until what is being written holds no more than so many pixels."""
        while self.writing and (
            pixels == 0 or self.writing[0][1].done() or sum(job.pixels for job, _ in self.writing) > pixels
        ):
            job, writing = self.writing.popleft()
            with self._failing_alone(job):
                self._finish(writing.result())

    def _finish(self, record: Record) -> None:
        self.finished += 1
        self.restored += record.decision is not None
        self.done(record)

    @contextmanager
    def _failing_alone(self, job: Job) -> Iterator[None]:
        """Tell an error of one picture in its record; raises DataError where it will meet every other picture, too."""
        try:
            yield
        except (UniRestorerError, OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno in DISK_IS_FULL:
                raise DataError(
                    f'{job.output} cannot be written ({error.strerror}); make room and start again: the '
                    f'{self.restored} finished pictures are skipped then.'
                ) from error
            sentence = str(error) or 'memory ran out; close other programs or cut the picture into parts.'
            named = str(job.input) in sentence or str(job.output) in sentence
            self._finish(Record(job.input, job.output, error=sentence if named else f'{job.input}: {sentence}'))


def experts_after(jobs: Sequence[Job]) -> list[tuple[str, ...]]:
    """Return, for each picture, the experts of the group after its own."""
    after: list[tuple[str, ...]] = [()] * len(jobs)
    for i in range(len(jobs) - 2, -1, -1):
        after[i] = after[i + 1] if jobs[i].experts == jobs[i + 1].experts else jobs[i + 1].experts
    return after


def misnamed(path: Path, photo: Photo) -> str:
    """Tell that a file holds another format than its suffix says, or nothing."""
    named, found = FORMATS.get(path.suffix.lower()), 'JPEG' if photo.format == 'MPO' else photo.format
    return f'{path.name} holds a picture in {found} format' if named != found else ''


def stamp(path: Path) -> tuple[int, int]:
    """Return what changes when a file is written again; zeros where it is gone."""
    try:
        status = path.stat()
    except OSError:  # reading it will say so
        return 0, 0
    return status.st_mtime_ns, status.st_size


def explanation_path(output: Path) -> Path:
    """Return the JSON file that explains a restored picture."""
    return output.with_name(output.name + '.json')
