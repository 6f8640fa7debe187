"""The command behind ``datasets_prep/prepare_images.py``: a folder of pictures becomes one LMDB."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from basicsr_unirestorer.data.lmdb_writer import named_pictures, write_lmdb
from basicsr_unirestorer.errors import UniRestorerError


def prepare(
    folder: str | Path,
    output: str | Path,
    crop: int | None = None,
    step: int | None = None,
    skip_bad: bool = False,
    compress_level: int = 1,
) -> tuple[int, list[str]]:
    """Write every picture below a folder to an LMDB.

    Args:
        folder: Clean pictures, any depth of sub-folders.
        output: The LMDB folder to make.
        crop: Side of the sub-images in pixels; whole pictures where None.
        step: Distance between sub-images; ``crop`` where None.
        skip_bad: Leave unreadable pictures out instead of stopping.
        compress_level: PNG compression, 0-9.

    Returns:
        The number of pictures written, and one sentence for each that was left out.

    Raises:
        DataError: See ``find_pictures``, ``read_picture`` and ``write_lmdb``.
    """
    dropped: list[str] = []
    count = write_lmdb(output, named_pictures(Path(folder), crop, step, skip_bad, dropped), compress_level)
    return count, dropped


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
    parser.add_argument('--compress-level', type=int, default=1, choices=range(10), metavar='0-9')
    parser.add_argument('--skip-bad', action='store_true', help='leave unreadable pictures out instead of stopping')
    args = parser.parse_args(argv)
    try:
        count, dropped = prepare(args.input, args.output, args.crop, args.step, args.skip_bad, args.compress_level)
    except UniRestorerError as error:
        print(f'prepare_images: error: {error}', file=sys.stderr)
        return 1
    print(f'{count} pictures written to {args.output}')
    for sentence in dropped:
        print(f'left out: {sentence}', file=sys.stderr)
    return 1 if dropped else 0


if __name__ == '__main__':
    raise SystemExit(main())
