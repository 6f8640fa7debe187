"""What the two doors to BasicSR, ``train.py`` and ``test.py``, have in common."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from basicsr_unirestorer import stopping
from basicsr_unirestorer.errors import UniRestorerError

Stage = Literal['train', 'test']


def launch(stage: Stage, argv: Sequence[str] | None, root: Path | None) -> int:
    """Run one stage and turn what goes wrong on the user's side into one sentence on stderr.

    Args:
        stage: ``'train'`` or ``'test'``.
        argv: BasicSR's arguments without the program name; None takes those of this process.
        root: Folder that receives ``experiments/``, ``results/`` and ``tb_logger/``; None is the current folder.

    Returns:
        Exit code: 0 done, or saved after SIGTERM; 1 failed; 130 interrupted; 143 terminated with nothing to save.
        Wrong usage leaves through ``SystemExit(2)``, as argparse does.
    """
    try:
        args = _parser(stage).parse_args(argv)
        if stage == 'train' and args.dry_run:
            return _dry_run(args, root)
        if stage == 'train' and (args.gpus is not None or args.nproc is not None):
            return _several_processes(args, root)
        run(stage, argv, root)
    except UniRestorerError as error:
        if os.environ.get('RANK', '0') == '0':  # all processes of torchrun stumble over the same thing
            print(f'unirestorer: error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = ': the same command with --auto_resume goes on' if stage == 'train' else ''
        print(f'unirestorer: interrupted{hint}', file=sys.stderr)
        return 130
    return 0


def run(stage: Stage, argv: Sequence[str] | None = None, root: Path | None = None) -> None:
    """Check the options, then hand over to BasicSR's ``train_pipeline`` or ``test_pipeline``; see :func:`launch`.

    May be called any number of times in one process.

    Raises:
        UniRestorerError: The option file or what it names is missing or makes no sense. Nothing was touched on disk
            if the file itself is wrong.
        SystemExit: The arguments are wrong (code 2) or ask for help (code 0).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser(stage).parse_args(argv)

    from basicsr_unirestorer import register
    from basicsr_unirestorer.preflight import check_options, read_options

    opt = read_options(Path(args.opt), args.force_yml)
    register()
    check_options(opt, is_train=stage == 'train')
    if stage == 'train':
        from basicsr.train import train_pipeline as pipeline
    else:
        from basicsr.test import test_pipeline as pipeline

    stock_argv = sys.argv
    sys.argv = [f'unirestorer {stage}', *argv]  # BasicSR parses it, and copies it into the experiment folder
    _close_logger()
    try:
        pipeline(str(Path.cwd() if root is None else Path(root).resolve()))
        _leave_process_group()
    finally:
        stopping.restore()
        sys.argv = stock_argv
        _close_logger()


def _dry_run(args: argparse.Namespace, root: Path | None) -> int:
    """Print what a training will cost."""
    import json

    import torch

    from basicsr_unirestorer import register
    from basicsr_unirestorer.preflight import check_options, read_options

    opt = read_options(Path(args.opt), args.force_yml)
    register()
    here = {} if torch.cuda.is_available() or 'num_gpu' not in opt else {'num_gpu': 0}  # planned for another machine
    check_options({**opt, **here}, is_train=True)
    from basicsr_unirestorer.models.dry_run import dry_run
    from basicsr_unirestorer.models.dry_run_text import dry_run_text

    experiment = Path(root or Path.cwd(), 'experiments', opt['name']) if args.auto_resume else None
    result = dry_run(opt, args.ranks or [1], experiment)
    print(json.dumps(result, indent=1) if args.json else dry_run_text(result))
    return 0


def _several_processes(args: argparse.Namespace, root: Path | None) -> int:
    """Start torchrun with what BasicSR's own parser takes."""
    from basicsr_unirestorer.processes import gpu_numbers, start

    gpus = None if args.gpus is None else gpu_numbers(args.gpus)
    arguments = ['-opt', str(Path(args.opt).resolve())]
    arguments += [flag for flag in ('--auto_resume', '--debug') if getattr(args, flag.strip('-'))]
    arguments += ['--force_yml', *(args.force_yml or ()), f'num_gpu={int(gpus is not None)}']
    return start(arguments, root, gpus, args.nproc if gpus is None else len(gpus))


def _counts(text: str) -> list[int]:
    numbers = [_count(part) for part in text.split(',')]
    return sorted(set(numbers))


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 1")
    return int(text)


class _TrainParser(argparse.ArgumentParser):
    """Adds what ``unirestorer train`` does before BasicSR is asked; BasicSR's own parser never sees these arguments."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        several = self.add_mutually_exclusive_group()
        several.add_argument('--gpus', metavar='0,1,...', help='train with one process on each of these GPUs')
        several.add_argument('--nproc', type=_count, metavar='N', help='train with N processes on the CPU')
        several.add_argument(
            '--dry-run', action='store_true', help='run a step on random data and print memory, time and plan'
        )
        self.add_argument(
            '--ranks',
            type=_counts,
            metavar='1,4,...',
            help='processes that --dry-run plans for',
        )
        self.add_argument('--json', action='store_true', help='print what --dry-run finds as JSON')

    def parse_args(self, *given: Any) -> argparse.Namespace:
        args = super().parse_args(*given)
        for name in ('gpus', 'nproc', 'dry_run'):
            if args.launcher != 'none' and getattr(args, name):
                self.error(f'--{name.replace("_", "-")} and --launcher exclude each other: take one of them')
        if (args.ranks or args.json) and not args.dry_run:
            self.error('--ranks and --json belong to --dry-run: add it')
        return args


def _parser(stage: Stage) -> argparse.ArgumentParser:
    """The arguments of ``basicsr/utils/options.py``, which parses them once more."""
    verb = {'train': 'Train what an option file describes', 'test': 'Test what an option file describes'}[stage]
    parser = {'train': _TrainParser, 'test': argparse.ArgumentParser}[stage](
        prog=f'unirestorer {stage}',
        description=f'{verb}, with the trainer and the option files of BasicSR.',
        epilog=f'example: unirestorer {stage} -opt options/'
        + ('tiny/unirestorer_experts.yml --auto_resume' if stage == 'train' else 'tiny/unirestorer_test.yml')
        + ('   (several GPUs: --gpus 0,1,2,3)' if stage == 'train' else ''),
    )
    parser.add_argument('-opt', required=True, metavar='YML', help='option file')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm'],
        default='none',
        help='pytorch under torchrun, slurm under srun; works on CPUs as well',
    )
    parser.add_argument('--auto_resume', action='store_true', help='go on from the newest saved training state')
    parser.add_argument('--debug', action='store_true', help='validate and save every 8 iterations')
    parser.add_argument('--local_rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        '--force_yml',
        nargs='+',
        metavar='KEY=VALUE',
        help='replace options of the file: train:ema_decay=0.999 num_gpu=0',
    )
    return parser


def _close_logger() -> None:
    """Make BasicSR forget its logger, which it sets up once a process, so that each run logs into its own file."""
    from basicsr.utils import logger as basicsr_logger

    basicsr_logger.initialized_logger.pop('basicsr', None)
    logger = logging.getLogger('basicsr')
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.NOTSET)


def _leave_process_group() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
