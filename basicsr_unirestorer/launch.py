"""What the two doors to BasicSR, ``train.py`` and ``test.py``, have in common."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

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
        Exit code: 0 done, 1 failed, 130 interrupted. Wrong usage leaves through ``SystemExit(2)``, as argparse does.
    """
    try:
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


def _parser(stage: Stage) -> argparse.ArgumentParser:
    """The arguments of ``basicsr/utils/options.py``, which parses them once more."""
    verb = {'train': 'Train what an option file describes', 'test': 'Test what an option file describes'}[stage]
    parser = argparse.ArgumentParser(
        prog=f'unirestorer {stage}',
        description=f'{verb}, with the trainer and the option files of BasicSR.',
        epilog=f'example: unirestorer {stage} -opt options/'
        + ('tiny/unirestorer_experts.yml --auto_resume' if stage == 'train' else 'tiny/unirestorer_test.yml')
        + '   (several GPUs: torchrun --nproc_per_node=4 -m '
        f'basicsr_unirestorer.{stage} -opt ... --launcher pytorch)',
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
