"""The command behind ``datasets_prep/prepare_images.py``: a folder of pictures becomes one LMDB."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from basicsr_unirestorer.data.lmdb_writer import DROPPED, WriteReport, write_lmdb
from basicsr_unirestorer.data.write_jobs import Cut, folder_jobs
from basicsr_unirestorer.errors import UniRestorerError

TOLD = 20  # pictures left out that are named on the screen; the file names all


def prepare(
    folder: str | Path,
    output: str | Path,
    crop: int | None = None,
    step: int | None = None,
    skip_bad: bool = False,
    compress_level: int = 1,
    workers: int | None = None,
    centre: int | None = None,
) -> WriteReport:
    """Write every picture below a folder to an LMDB.

    Args:
        folder: Clean pictures, any depth of sub-folders.
        output: The LMDB folder to make.
        crop: Side of the sub-images in pixels; whole pictures where None.
        step: Distance between sub-images; ``crop`` where None.
        skip_bad: Leave out what cannot be read, or would have the key of another, instead of stopping.
        compress_level: PNG compression, 0-9.
        workers: Number of processes; all cores where None.
        centre: Keep of every picture only the square of this side in its middle, before anything is cut.

    Raises:
        DataError: See ``find_pictures`` and ``write_lmdb``.
    """
    cut = Cut(crop, step, centre=None if centre is None else (centre, centre))
    return write_lmdb(output, folder_jobs(folder, cut), compress_level, workers, skip_bad)


def tell(report: WriteReport, output: str | Path) -> int:
    """Print what became of the pictures; returns the exit code, 1 where any was left out."""
    again = f' ({report.resumed} files were done before it stopped)' if report.resumed else ''
    print(f'{len(report.shapes)} pictures written to {output}{again}')
    for what, count in Counter(note for _, note in report.notes).items():
        print(f'{count} of the files: {what}; written as 8 bit colour', file=sys.stderr)
    for _, reason in report.dropped[:TOLD]:
        print(f'left out: {reason}', file=sys.stderr)
    if len(report.dropped) > TOLD:
        print(f'left out: {len(report.dropped) - TOLD} more, see {Path(output, DROPPED)}', file=sys.stderr)
    return 1 if report.dropped else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error or where pictures were left out."""
    parser = argparse.ArgumentParser(
        description='Put a folder of clean pictures into an LMDB for training.',
        epilog='example: prepare_images.py photos/ datasets/photos.lmdb --crop 160',
    )
    parser.add_argument('input', help='folder of clean pictures')
    parser.add_argument('output', help='LMDB folder to write, ending in .lmdb')
    parser.add_argument('--crop', type=int, help='cut into squares of this side')
    parser.add_argument('--step', type=int, help='distance between squares (default: no overlap)')
    parser.add_argument('--centre', type=int, metavar='SIDE', help='keep only the square in the middle')
    parser.add_argument('--compress-level', type=int, default=1, choices=range(10), metavar='0-9')
    parser.add_argument('--skip-bad', action='store_true', help='leave unreadable pictures out instead of stopping')
    parser.add_argument('--workers', type=int, help='number of processes (default: one a core)')
    args = parser.parse_args(argv)
    try:
        report = prepare(
            args.input,
            args.output,
            args.crop,
            args.step,
            args.skip_bad,
            args.compress_level,
            args.workers,
            args.centre,
        )
    except UniRestorerError as error:
        print(f'prepare_images: error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('prepare_images: stopped; the same command goes on from here', file=sys.stderr)
        return 130
    return tell(report, args.output)


if __name__ == '__main__':
    raise SystemExit(main())
