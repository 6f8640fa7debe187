"""Ctrl-C and SIGTERM in a training: the step at hand is finished and saved, then the process ends.

A handler only takes a note. A training model looks at it between two steps, where everything it holds fits together.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAVING_PROCESSES = 'UNIRESTORER_SAVING_PROCESSES'  # names a folder where processes that save when told to end say so
_received: list[int] = []
_stock: dict[int, object] = {}


def install() -> None:
    """Take notes of the signals from now on; outside the main thread, where Python has no signals, do nothing."""
    _received.clear()
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if number not in _stock:
                _stock[number] = signal.signal(number, _note)
        for path in _own_file():
            path.touch()


def _own_file() -> list[Path]:
    """Return the file that tells the launcher of this process; none without such a launcher."""
    folder = os.environ.get(SAVING_PROCESSES)
    return [Path(folder, str(os.getpid()))] if folder and os.path.isdir(folder) else []


def restore() -> None:
    """Handle the signals again as before ``install``."""
    for path in _own_file():
        path.unlink(missing_ok=True)
    for number in list(_stock):
        signal.signal(number, _stock.pop(number))
    _received.clear()


def _note(number: int, frame: FrameType | None) -> None:
    if _received and number == signal.SIGINT:  # pressed again: the user does not want to wait for the step
        raise KeyboardInterrupt
    _received.append(number)


def requested() -> bool:
    """Whether somebody asked this process to stop."""
    return bool(_received)


def stop(save: Callable[[], None] | None = None) -> None:
    """Save and leave: through ``KeyboardInterrupt`` after Ctrl-C, through ``SystemExit(0)`` after SIGTERM."""
    if save is not None:
        save()
    interrupted = _received[:1] == [signal.SIGINT]
    print('Stopped and saved; the same command with --auto_resume goes on.', file=sys.stderr, flush=True)
    raise KeyboardInterrupt if interrupted else SystemExit(0)


def outlive_signals_in_worker() -> None:
    """Let a loader's worker go on when all processes of a job are signalled; only its own training may end it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
