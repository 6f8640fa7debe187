"""Writing sub-images into an LMDB: ours against BasicSR's ``make_lmdb_from_imgs``, time and memory as ratios.

Command: python -m tests.benchmarks.lmdb_writing [--folder PICTURES] [--crop 160 --step 161] [--workers 2] [--repeats 5]

BasicSR packs files as they are, so its users cut sub-images into files first, with a script that is not part of the
package; ``cut`` stands for it and does the same (one process a core, OpenCV reads and writes PNG). Ours cuts while it
writes. All ways run with the same number of processes at the same compression and end with the same entries, which is
checked. Times are taken in turns in one process. Memory is that of a fresh process and all that it starts, at its peak,
beyond what it holds before: once for the pictures and once for four times as many, since only one of them should grow.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import Pool, get_context
from pathlib import Path

import cv2
import lmdb

from basicsr_unirestorer import compat
from basicsr_unirestorer.data.lmdb_writer import Cut, WriteJob, write_lmdb
from basicsr_unirestorer.data.parallel import available_cores
from basicsr_unirestorer.data.write_jobs import folder_jobs, safe_key, sub_images
from basicsr_unirestorer.image_files import find_pictures
from tests.benchmarks.measure import Ratio, Run, alternate, ratio

WAYS = ('ours, from pictures', 'ours, from sub-image files', 'make', 'make, one process', 'cut + make')
# ours / theirs, and what theirs had to be given
COMPARISONS = (
    ('from pictures', 'ours, from pictures', 'cut + make'),
    ('from pictures, theirs from sub-images cut before', 'ours, from pictures', 'make'),
    ('from sub-images cut before', 'ours, from sub-image files', 'make'),
    ('from sub-images cut before, theirs in one process', 'ours, from sub-image files', 'make, one process'),
)


def sample_pictures(folder: Path) -> Path:
    """Copy scikit-image's larger photographs into a folder as PNG, for want of a data set."""
    from basicsr_unirestorer.inference.demo import TRAIN_PICTURES, collect_pictures

    collect_pictures(folder, TRAIN_PICTURES, 512)
    return folder


def cut_one(path: Path, target: Path, crop: int, step: int, level: int) -> None:
    """Cut one picture into PNG files."""
    key = safe_key(Path(path.name))
    for number, part in enumerate(sub_images(cv2.imread(str(path)), crop, step), start=1):
        cv2.imwrite(str(target / f'{key}_s{number:03d}.png'), part, [cv2.IMWRITE_PNG_COMPRESSION, level])


def cut(folder: Path, target: Path, args: argparse.Namespace) -> None:
    """Cut every picture of a folder into PNG files of another, in several processes."""
    target.mkdir()
    with Pool(args.workers) as pool:
        one = partial(cut_one, target=target, crop=args.crop, step=args.step, level=args.compress_level)
        pool.map(one, find_pictures(folder), chunksize=1)


def make(files: Path, output: Path, args: argparse.Namespace, parallel: bool = True, times: int = 1) -> None:
    """Let BasicSR write the files of a folder, every one ``times`` times."""
    compat.shim_imports()
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    names = sorted(path.name for path in files.iterdir())
    keys = [f'again{turn}-{Path(name).stem}' if turn else Path(name).stem for turn in range(times) for name in names]
    with quiet():
        make_lmdb_from_imgs(
            str(files),
            str(output),
            names * times,
            keys,
            compress_level=args.compress_level,
            multiprocessing_read=parallel,
            n_thread=args.workers,
        )


def ours(folder: Path, output: Path, args: argparse.Namespace, cut_up: Cut, times: int = 1) -> None:
    """Write the pictures of a folder, every one ``times`` times."""
    jobs = folder_jobs(folder, cut_up)
    more = [WriteJob(f'again{turn}-{job.key}', job.path, job.cut) for turn in range(1, times) for job in jobs]
    with quiet():
        write_lmdb(output, jobs + more, args.compress_level, args.workers)


def run_of(way: str, folder: Path, scratch: Path, args: argparse.Namespace, times: int = 1) -> Run:
    """Return one way to make ``scratch/WAY.lmdb`` as a function; the sub-images are in ``scratch/subs``."""
    output, subs = scratch / f'{way}.lmdb', scratch / 'subs'

    def run() -> None:
        shutil.rmtree(output, ignore_errors=True)
        if way == 'ours, from pictures':
            ours(folder, output, args, Cut(args.crop, args.step), times)
        elif way == 'ours, from sub-image files':
            ours(subs, output, args, Cut(), times)
        elif way == 'cut + make':
            shutil.rmtree(scratch / 'again', ignore_errors=True)
            cut(folder, scratch / 'again', args)
            make(scratch / 'again', output, args)
        else:
            make(subs, output, args, parallel=way == 'make', times=times)

    return run


@contextlib.contextmanager
def quiet():
    """Send what is printed, progress bars included, nowhere; also that of C and of child processes."""
    kept = os.dup(1), os.dup(2)
    with open(os.devnull, 'w') as nowhere:
        os.dup2(nowhere.fileno(), 1), os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept[0], 1), os.dup2(kept[1], 2)
            os.close(kept[0]), os.close(kept[1])


def entries(path: Path) -> list[tuple[bytes, bytes]]:
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return [(bytes(key), bytes(value)) for key, value in transaction.cursor()]


# ------------------------------------------------------------------------------------------ memory


def tree_memory(pid: int) -> int:
    """Return the bytes that a process and its descendants hold, shared pages divided among those that share them."""
    total = 0
    with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
        lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
        total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith('Pss:'))
        for thread in Path(f'/proc/{pid}/task').iterdir():
            total += sum(map(tree_memory, map(int, (thread / 'children').read_text().split())))
    return total


def measured(pipe, prepare: Callable[..., Run], given: tuple) -> None:
    """Child of ``peak_of_tree``: prepare, report, wait for the start signal, run."""
    run = prepare(*given)
    pipe.send('ready')
    pipe.recv()
    run()


def peak_of_tree(prepare: Callable[..., Run], *given: object) -> int:
    """Return the bytes that a function and the processes it starts need at their peak, looked at every few ms."""
    context = get_context('spawn')
    pipe, other = context.Pipe()
    process = context.Process(target=measured, args=(other, prepare, given))
    process.start()
    pipe.recv()
    before, peak = tree_memory(process.pid), 0
    pipe.send('go')
    while process.is_alive():
        peak = max(peak, tree_memory(process.pid))
        time.sleep(0.005)
    if process.exitcode:
        raise RuntimeError(f'The process ended with exit code {process.exitcode}.')
    return peak - before


def warm(*given) -> Run:
    """Prepare a run for the measuring of memory: what is imported, and the threads there are, do not count."""
    compat.shim_imports()
    import basicsr.utils.lmdb_util  # noqa: F401

    return run_of(*given)


# ------------------------------------------------------------------------------------------ the table


def compare(folder: Path, scratch: Path, args: argparse.Namespace) -> None:
    """Print both tables."""
    cut(folder, scratch / 'subs', args)
    runs = {way: run_of(way, folder, scratch, args) for way in WAYS}
    for run in runs.values():
        run()
    same = [entries(scratch / f'{way}.lmdb') for way in WAYS]
    if any(other != same[0] for other in same):
        raise RuntimeError('The ways write different entries; the comparison is void.')
    size = sum(len(value) for _, value in same[0])
    print(
        f'{len(find_pictures(folder))} pictures, {len(same[0])} sub-images ({args.crop}, step {args.step}), '
        f'{size / 1e6:.0f} MB at PNG level {args.compress_level}, {args.workers} processes, '
        f'{available_cores()} cores; the same entries byte for byte.\n'
    )
    del same
    print('| work | theirs / ours, time | range | theirs, s | ours, s |\n|---|---:|---:|---:|---:|')
    for what, mine, other in COMPARISONS:
        pairs = alternate(runs[other], runs[mine], args.repeats)
        found: Ratio = ratio(pairs)
        theirs_s, ours_s = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
        print(
            f'| {what} ({other}) | **{found.median:.2f}** | {found.low:.2f} - {found.high:.2f} '
            f'| {theirs_s:.1f} | {ours_s:.1f} |',
            flush=True,
        )
    print('\n| peak memory, MiB | the pictures | four times as many |\n|---|---:|---:|')
    for way in WAYS[:4]:
        peaks = [peak_of_tree(warm, way, folder, scratch, args, times) / 2**20 for times in (1, 4)]
        print(f'| {way} | {peaks[0]:.0f} | {peaks[1]:.0f} |', flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--folder', type=Path, help="pictures (default: scikit-image's)")
    parser.add_argument('--scratch', type=Path, help='folder on the disk to write to (default: the temporary one)')
    parser.add_argument('--crop', type=int, default=160)
    parser.add_argument('--step', type=int, default=161)
    parser.add_argument('--compress-level', type=int, default=1)
    parser.add_argument('--workers', type=int, default=available_cores())
    parser.add_argument('--repeats', type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = args.folder or sample_pictures(Path(scratch) / 'pictures')
        compare(folder, Path(scratch), args)


if __name__ == '__main__':
    main()
