"""``unirestorer train --gpus 0,1`` and ``--nproc 2``: start torchrun, and pass on what stops it.

Run as a module (``python -m basicsr_unirestorer.processes``), this is torchrun itself, with its arguments, but one that
ends in a sentence instead of a traceback where a process fails.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from basicsr_unirestorer.errors import OptionError
from basicsr_unirestorer.stopping import SAVING_PROCESSES


def gpu_numbers(text: str) -> list[int]:
    """Read ``0,1,2``.

    Raises:
        OptionError: It is no list of different GPUs, or this machine lacks one of them.
    """
    import torch

    parts = [part.strip() for part in text.split(',')]
    if not all(part.isdecimal() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise OptionError(f"--gpus is '{text}'; give different numbers with commas between them, e.g. --gpus 0,1,2,3.")
    found = torch.cuda.device_count()
    missing = [part for part in parts if int(part) >= found]
    if missing:
        has = f'has GPUs 0 to {found - 1}' if found else 'has no GPU that torch finds'
        raise OptionError(
            f'--gpus asks for GPU {", ".join(missing)}, but this machine {has}; for the CPU write --nproc 2.'
        )
    return list(map(int, parts))


def environment(gpus: Sequence[int] | None, count: int) -> dict[str, str]:
    """Return the environment of ``count`` processes: the GPUs they see, and a fair share of the processor's cores."""
    env = dict(os.environ)
    seen = env.get('CUDA_VISIBLE_DEVICES', '').split(',')
    chosen = [] if gpus is None else [seen[gpu] if gpu < len(seen) and seen[gpu] else str(gpu) for gpu in gpus]
    env['CUDA_VISIBLE_DEVICES'] = ','.join(chosen)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    env.setdefault('OMP_NUM_THREADS', str(max(1, cores // count)))
    return env


def start(arguments: Sequence[str], root: Path | None, gpus: Sequence[int] | None, count: int) -> int:
    """Train with several processes.

    After SIGTERM or Ctrl-C the processes are asked to save and to end; a second one ends them at once.

    Args:
        arguments: Of ``python -m basicsr_unirestorer.train``.
        root: Where it runs.
        gpus: One a process; None trains on the CPU.
        count: Number of processes.

    Returns:
        Exit code: 0 done, or saved after SIGTERM; 130 after Ctrl-C; 143 after SIGTERM before there was something to
        save; 1 failed.
    """
    torchrun = ['--standalone', f'--nproc_per_node={count}', '-m', 'basicsr_unirestorer.train']
    command = [sys.executable, '-m', 'basicsr_unirestorer.processes', *torchrun, *arguments, '--launcher', 'pytorch']
    with tempfile.TemporaryDirectory(prefix='unirestorer_') as folder:
        env = {**environment(gpus, count), SAVING_PROCESSES: folder}
        # a session of its own: a terminal's Ctrl-C comes to us alone
        child = subprocess.Popen(command, cwd=root, env=env, start_new_session=True)
        with _passed_on(child, Path(folder), count) as received:
            code = child.wait()
    if not received:
        return code
    if received[0] == signal.SIGINT:
        print('unirestorer: interrupted: the same command with --auto_resume goes on', file=sys.stderr)
        return 130
    return 0 if code == 0 else 128 + signal.SIGTERM


@contextmanager
def _passed_on(child: subprocess.Popen, folder: Path, count: int) -> Iterator[list[int]]:
    """Pass SIGINT and SIGTERM on to torchrun's processes; yields the signals that came."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        ready = [int(path.name) for path in folder.iterdir()]  # processes that save when they are told to end
        if len(received) == 1 and len(ready) == count:
            # always SIGTERM: torchrun is content with processes that end well
            _signal(ready, signal.SIGTERM)
        else:
            _signal(ready, signal.SIGKILL)
            _signal([child.pid], signal.SIGTERM)  # it ends the others

    stock = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in stock.items():
            signal.signal(number, handler)


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def torchrun(argv: Sequence[str]) -> int:
    """Be torchrun: returns 0 where all processes end well, 1 otherwise, having said which one did not."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)  # its report of a failed process is longer than what the process has said itself
    try:
        run.run(run.parse_args(list(argv)))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode != 1:  # else it has said itself what went wrong
            print(
                f'unirestorer: error: the process of rank {rank} ended with exit code {failure.exitcode}; the same '
                'command with --auto_resume goes on.',
                file=sys.stderr,
            )
        return 1
    except SignalException:
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(torchrun(sys.argv[1:]))
