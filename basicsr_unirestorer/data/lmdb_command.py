"""The verb ``unirestorer lmdb``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from basicsr_unirestorer.data.leaks import MAX_DISTANCE, Leak, leaks_between
from basicsr_unirestorer.data.lmdb_check import check_lmdb, check_pair

FIRST = 20
EXAMPLES = """\
for example:
  unirestorer lmdb check datasets/clean.lmdb                      every entry decodes, and is what the meta file says
  unirestorer lmdb check --lq lq.lmdb --gt gt.lmdb                both are whole and pair up, key by key, size by size
  unirestorer lmdb check --train train.lmdb --test CBSD68/        no picture of the test set is in the training set

Leaks are found by equal pixels, by a perceptual hash (64-bit dHash) and, for pictures cut into sub-images, by looking
for every smaller picture pixel by pixel in the larger ones. Not found: flipped or rotated pictures, and crops that were
resized or recompressed after cutting."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; returns 0, or 1 where something is wrong or a picture leaks."""
    parser = argparse.ArgumentParser(
        prog='unirestorer lmdb',
        description='Look after LMDBs.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check = parser.add_subparsers(dest='action', required=True).add_parser(
        'check',
        help='verify LMDBs, pairs of them, and that training and test pictures differ',
        description='Verify LMDBs, pairs of them, and that training and test pictures differ.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument('path', nargs='*', type=Path, help='LMDB folders')
    check.add_argument('--lq', type=Path, help='LMDB of degraded pictures, to compare with --gt')
    check.add_argument('--gt', type=Path, help='LMDB of clean pictures, to compare with --lq')
    check.add_argument('--pairs', type=Path, help='which lq belongs to which gt (default: pairs.txt beside both)')
    check.add_argument('--train', type=Path, help='LMDB or folder of training pictures, to compare with --test')
    check.add_argument('--test', type=Path, help='LMDB or folder of test pictures, to compare with --train')
    check.add_argument(
        '--max-distance',
        type=int,
        default=MAX_DISTANCE,
        help=f'bits of 64 by which similar pictures may differ (default: {MAX_DISTANCE})',
    )
    check.add_argument('--workers', type=int, help='number of processes (default: one a core)')
    check.add_argument('--json', action='store_true', help='print the findings as JSON')
    args = parser.parse_args(argv)
    for one, other in (('lq', 'gt'), ('train', 'test')):
        if (getattr(args, one) is None) != (getattr(args, other) is None):
            check.error(f'--{one} and --{other} are compared with each other: give both')
    if not (args.path or args.lq or args.train):
        check.error('give an LMDB, or --lq and --gt, or --train and --test')
    return _check(args)


def _check(args: argparse.Namespace) -> int:
    findings = [check_lmdb(path, args.workers) for path in args.path]
    if args.lq:
        pair = [check_lmdb(path, args.workers) for path in (args.lq, args.gt)]
        findings += [*pair, check_pair(*pair, _pairs(args))]
    leaks, unread = leaks_between(args.train, args.test, args.workers, args.max_distance) if args.train else ([], [])
    if args.json:
        facts = {'findings': [one.to_dict(FIRST) for one in findings]}
        if args.train:
            facts.update(leaks=[leak._asdict() for leak in leaks], unreadable=unread)
        print(json.dumps(facts, indent=1))
    else:
        for one in findings:
            print(one.text())
        if args.train:
            print(_told(leaks, unread, args))
    return 1 if leaks or unread or any(one.faults for one in findings) else 0


def _pairs(args: argparse.Namespace) -> list[tuple[str, str]] | None:
    """Read which pictures belong together: from the file given, or from the one that stands beside both LMDBs."""
    file = args.pairs
    if file is None and args.lq.resolve().parent == args.gt.resolve().parent:
        beside = args.lq.resolve().parent / 'pairs.txt'
        file = beside if beside.exists() else None
    if file is None:
        return None
    from basicsr_unirestorer.data.pairs import read_pairs

    return [(pair.lq, pair.gt) for pair in read_pairs(file)]


def _told(leaks: list[Leak], unread: list[str], args: argparse.Namespace) -> str:
    pictures = len({leak.train for leak in leaks})
    lines = [f'{args.train} and {args.test}: ' + (f'{pictures} training pictures leak' if leaks else 'no leak found')]
    for leak in leaks[:FIRST]:
        how = f'similar, distance {leak.distance}' if leak.how == 'similar' else leak.how
        lines.append(f'  {leak.train}  =  {leak.test}  ({how})')
    if len(leaks) > FIRST:
        lines.append(f'  ... and {len(leaks) - FIRST} more; --json lists all')
    if leaks:
        lines.append('  -> leave these out of the training set, or results on the test set mean nothing.')
    lines += [f'  not looked at: {reason}' for reason in unread[:FIRST]]
    return '\n'.join(lines)
