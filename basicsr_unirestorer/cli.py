"""The ``unirestorer`` command: it picks the verb and hands the remaining arguments to the module that implements it."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from basicsr_unirestorer import __version__
from basicsr_unirestorer.errors import UniRestorerError, did_you_mean

# verb -> (what it does, module, function); the module is imported only when its verb is used
VERBS: dict[str, tuple[str, str, str]] = {
    'doctor': ('check this installation and name the command that repairs it', 'doctor', 'main'),
    'demo': ('run every stage on a few small pictures and show the result', 'inference.demo', 'main'),
    'degrade': ('degrade pictures by a recipe, and show what it does', 'degrade', 'main'),
    'lmdb': ('check LMDBs, pairs of them, and that no test picture is trained on', 'data.lmdb_command', 'main'),
    'cluster': ('embed degraded pictures and build the degradation tree', 'cluster', 'main'),
    'tree': ('show a degradation tree, or grow one', 'tree_command', 'main'),
    'train': ('train what an option file describes', 'train', 'main'),
    'test': ('test what an option file describes', 'test', 'main'),
    'restore': ('restore pictures', 'inference.restore_command', 'main'),
    'benchmark': ('measure quality and speed', 'inference.benchmark', 'main'),
    'study': ('train and test what a study compares, over several seeds', 'study', 'main'),
    'convert-release': ('turn published weights into a bundle', 'inference.release', 'main'),
    'link': ('make a BasicSR checkout, or the installed BasicSR, know this package', 'linking', 'link_main'),
    'unlink': ('undo link', 'linking', 'unlink_main'),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Verb and its arguments; None takes those of this process.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Help and wrong arguments of a verb leave through
        ``SystemExit``, as argparse does.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0].startswith('-'):
        parser = _parser()
        parser.parse_args(argv)  # --help and --version end here
        parser.print_help(sys.stderr)
        return 2
    verb, *rest = argv
    if verb not in VERBS:
        print(
            f"unirestorer: error: unknown verb '{verb}'.{did_you_mean(verb, VERBS)} Verbs: {', '.join(VERBS)}.",
            file=sys.stderr,
        )
        return 2
    _, module, function = VERBS[verb]
    try:
        return getattr(importlib.import_module(f'basicsr_unirestorer.{module}'), function)(rest)
    except UniRestorerError as error:
        print(f'unirestorer: error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('unirestorer: interrupted', file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more while it ends
        return 0


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, VERBS))
    verbs = '\n'.join(f'  {verb:{width}}  {text}' for verb, (text, _, _) in VERBS.items())
    parser = argparse.ArgumentParser(
        prog='unirestorer',
        usage='unirestorer VERB [ARGUMENTS]',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Universal image restoration by experts on a degradation tree, as a BasicSR plugin.',
        epilog=f"verbs:\n{verbs}\n\n'unirestorer VERB --help' explains one verb.   example: unirestorer doctor",
    )
    parser.add_argument('--version', action='version', version=f'unirestorer {__version__}')
    return parser


if __name__ == '__main__':
    sys.exit(main())
