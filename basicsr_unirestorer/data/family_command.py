"""The command line of the scripts in ``datasets_prep/``: one for data sets known by name, one for any two folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields

from basicsr_unirestorer.data.families import FAMILIES
from basicsr_unirestorer.data.overlap import MODES
from basicsr_unirestorer.data.plan import SCHEMES, PrepareOptions
from basicsr_unirestorer.data.prepare_family import Prepared, prepare_family
from basicsr_unirestorer.errors import UniRestorerError


def main(
    script: str,
    choices: Mapping[str, str],
    argv: list[str] | None = None,
    option: str = 'set',
    default: str | None = None,
) -> int:
    """Run the script of a data set.

    Args:
        script: Its file name without suffix.
        choices: Value of its choosing option -> name of a family; a single entry needs no option.
        argv: Arguments; None takes those of this process.
        option: Name of the choosing option.
        default: Its value where it is not given; None requires it.

    Returns:
        0, or 1 after an error or where something wrong with the download was left out.
    """
    titles = ', '.join(FAMILIES[name].title for name in dict.fromkeys(choices.values()))
    parser = argparse.ArgumentParser(
        prog=f'{script}.py',
        description=f'Prepare {titles}: LMDBs for training, folders for testing, pairs.txt and manifest.json.',
        epilog=_example(script, choices, option, default),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('input', nargs='+', help='folder as downloaded and unpacked; several where parts lie apart')
    parser.add_argument('output', help='folder to write train/ and test/ into')
    if len(choices) > 1:
        what = {name: FAMILIES[family].title for name, family in choices.items()}
        described = ', '.join(f'{name} = {title}' for name, title in what.items())
        parser.add_argument(
            f'--{option}',
            dest='choice',
            choices=list(choices),
            default=default,
            required=default is None,
            help=described if default is None else f'{described} (default {default})',
        )
    add_options(parser, ', '.join(dict.fromkeys(FAMILIES[name].overlap for name in choices.values())))
    args = parser.parse_args(argv)
    family = FAMILIES[choices[getattr(args, 'choice', next(iter(choices)))]]
    return run(
        script, lambda tell: prepare_family(family, args.input, args.output, options(args), args.dry_run, tell), args
    )


def _example(script: str, choices: Mapping[str, str], option: str, default: str | None) -> str:
    first = next(iter(choices))
    family = FAMILIES[choices[first]]
    chosen = f' --{option} {first}' if len(choices) > 1 and default is None else ''
    target = f'datasets/unirestorer/{family.task}/{family.name}'
    return f'example: python datasets_prep/{script}.py DOWNLOADED {target}{chosen}'


def add_options(parser: argparse.ArgumentParser, overlap: str = 'warn') -> None:
    """Add what every script takes; ``options`` reads it back."""
    parser.add_argument('--crop', type=int, help='cut training pictures into squares of this side')
    parser.add_argument('--step', type=int, help='distance between squares (default: no overlap)')
    parser.add_argument('--min-side', type=int, default=0, help='leave out pictures with a shorter side, in pixels')
    parser.add_argument('--subset', choices=('train', 'test'), help='prepare only this one')
    parser.add_argument(
        '--overlap', choices=MODES, help=f'training pictures that are also in the test set (default: {overlap})'
    )
    parser.add_argument(
        '--pairs-scheme',
        dest='scheme',
        choices=SCHEMES,
        default='unique',
        help="basicsr: repeat clean pictures so that both LMDBs have equal keys, for BasicSR's own PairedImageDataset",
    )
    parser.add_argument(
        '--degraded-half', choices=('auto', 'left', 'right'), default='auto', help='where two pictures share a file'
    )
    parser.add_argument(
        '--measure-strength', action='store_true', help='words such as small rain where names tell none, in thirds'
    )
    parser.add_argument('--compress-level', type=int, default=1, choices=range(10), metavar='0-9')
    parser.add_argument('--workers', type=int, help='processes (default: one a core)')
    parser.add_argument('--skip-bad', action='store_true', help='leave out what is wrong instead of stopping')
    parser.add_argument('--dry-run', action='store_true', help='tell what was found and would be done; write nothing')


def options(args: argparse.Namespace) -> PrepareOptions:
    """Read back what ``add_options`` added."""
    return PrepareOptions(**{field.name: getattr(args, field.name) for field in fields(PrepareOptions)})


def run(script: str, prepare: Callable[[Callable[[str], None]], Prepared], args: argparse.Namespace) -> int:
    """Prepare, print what came of it and return the exit code."""
    try:
        done = prepare(print)
    except UniRestorerError as error:
        print(f'{script}: error: {error}', file=sys.stderr)
        return 1
    for name, digest in done.hashes.items():
        did = 'would be written to' if args.dry_run else 'written to' if name in done.written else 'stands already in'
        print(f'{name} {did} {args.output}/{name}, manifest {digest}')
    if done.bad:
        where = '' if args.dry_run else f'; all are listed in {args.output}/*/dropped.txt'
        print(f'{script}: {len(done.bad)} files of the download were left out{where}', file=sys.stderr)
    return 1 if done.bad else 0
