"""Write one unit of a prepared data set, the folder ``train`` or ``test``: aside, resumable, renamed when complete."""

from __future__ import annotations

import logging
import os
import shutil
from functools import partial
from pathlib import Path

import cv2
from tqdm import tqdm

from basicsr_unirestorer.data import manifest
from basicsr_unirestorer.data.lmdb_writer import write_lmdb
from basicsr_unirestorer.data.pairs import write_pairs
from basicsr_unirestorer.data.parallel import available_cores, in_order
from basicsr_unirestorer.data.plan import FileJob, PrepareOptions, Unit
from basicsr_unirestorer.data.write_jobs import WriteJob, load
from basicsr_unirestorer.errors import DataError

PLAN = 'plan.txt'  # hash of what a half-written folder is going to be
log = logging.getLogger(__name__)


def write_unit(output: Path, unit: Unit, options: PrepareOptions) -> bool:
    """Write ``output/train`` or ``output/test``; a killed run goes on where it was.

    Returns:
        Whether anything was written: False where the same unit stands there already.

    Raises:
        DataError: Another unit stands there, a picture cannot be read any more, the disk is full.
    """
    final, scratch = output / unit.name, output / f'{unit.name}.part'
    if final.exists():
        (final / PLAN).unlink(missing_ok=True)  # what a kill right after the renaming leaves
        there = final / manifest.NAME
        if there.is_file() and there.read_bytes() == unit.manifest:
            return False
        raise DataError(
            f'{final} exists already and was made from other pictures or with other options; remove it first, or '
            'choose another output.'
        )
    try:
        _begin(scratch, unit, options)
        for name, jobs in unit.lmdbs.items():
            path = scratch / f'{name}.lmdb'
            report = write_lmdb(path, jobs, options.compress_level, options.workers, keep_finished=True)
            if list(report.shapes) != unit.entries[name]:
                raise DataError(f'{path} holds other entries than planned: pictures have changed; run it again.')
        _write_files(scratch, unit, options.workers or available_cores())
        for below, pairs in unit.pairs.items():
            write_pairs(scratch / below / 'pairs.txt', pairs)
        if unit.dropped:
            (scratch / 'dropped.txt').write_text(''.join(f'{line}\n' for line in unit.dropped), encoding='utf-8')
        (scratch / manifest.NAME).write_bytes(unit.manifest)
        scratch.rename(final)
        (final / PLAN).unlink()
    except OSError as error:
        raise DataError(
            f'{scratch} could not be written ({error}). Free some disk space or mend the cause, then run the same '
            'command again: it goes on where it stopped.'
        ) from error
    return True


def _begin(scratch: Path, unit: Unit, options: PrepareOptions) -> None:
    """Make the scratch folder; one that a stopped run over other pictures or with other options left is emptied."""
    files = (f'{job.target} {job.cut}' for job in unit.files)
    mark = manifest.sha1_of_lines([unit.manifest.decode('ascii'), f'{options.compress_level}', *files])
    if scratch.exists() and not ((scratch / PLAN).is_file() and (scratch / PLAN).read_text() == mark):
        log.warning('%s holds a stopped run over other pictures or with other options; it starts anew.', scratch)
        shutil.rmtree(scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / PLAN).write_text(mark)


def _write_files(scratch: Path, unit: Unit, workers: int) -> None:
    todo = [job for job in unit.files if not (scratch / job.target).exists()]
    for folder in {(scratch / target).parent for target in [*(job.target for job in todo), *unit.links]}:
        folder.mkdir(parents=True, exist_ok=True)
    done = in_order(partial(write_file, folder=scratch), todo, min(workers, len(todo)))
    for _ in tqdm(done, desc='test pictures', total=len(todo), unit='file', disable=len(todo) < 500):
        pass
    for target, first in unit.links.items():
        _link(scratch / first, scratch / target)


def write_file(job: FileJob, folder: Path) -> None:
    """Copy a picture, or cut it and encode it as PNG, aside first."""
    target = folder / job.target
    scratch = target.with_name(target.name + '.part')
    if job.cut is None:
        shutil.copyfile(job.source.path, scratch)
    else:
        ((_, picture),) = load(WriteJob('picture', job.source.path, job.cut))
        scratch.write_bytes(cv2.imencode('.png', picture)[1].tobytes())
    scratch.replace(target)


def _link(first: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        os.link(first, target)
    except OSError:  # a file system without hard links
        scratch = target.with_name(target.name + '.part')
        shutil.copyfile(first, scratch)
        scratch.replace(target)
