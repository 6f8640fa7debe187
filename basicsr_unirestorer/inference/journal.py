"""A journal of measured pictures, a line each, so that a stopped benchmark goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from basicsr_unirestorer.errors import DataError


def fingerprint(facts: Any) -> str:
    """Return a short hash of whatever JSON can hold (option dicts, lists of numbers, texts)."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Journal:
    """Rows by key, in a file that only grows. A line that a kill cut short is dropped.

    Args:
        path: The ``.jsonl`` file; its folder is made.

    Raises:
        DataError: The file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.is_file() else b''
            whole = content[: content.rfind(b'\n') + 1]
            for line in whole.splitlines():
                entry = json.loads(line)
                self.rows[entry['key']] = entry['row']
            if len(whole) < len(content):
                os.truncate(path, len(whole))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f'{path} cannot be used ({error}); remove it to measure every picture anew, or write to another folder '
                'with another name.'
            ) from error

    def add(self, key: str, row: dict) -> None:
        """Append a row; it is on disk when this returns. Raises DataError where there is no space for it."""
        line = json.dumps({'key': key, 'row': row}) + '\n'
        try:
            with open(self.path, 'ab') as file:
                file.write(line.encode())
        except OSError as error:
            raise DataError(
                f'{self.path} cannot be written ({error.strerror}); make room and start the same command again: '
                'pictures measured so far are kept.'
            ) from error
        self.rows[key] = row


def write_aside(path: Path, text: str) -> None:
    """Write a text file aside and rename it, so that it is complete or the earlier one; DataError where it fails."""
    scratch = path.with_name(f'.{path.name}.part')
    try:
        scratch.write_text(text, encoding='utf-8')
        os.replace(scratch, path)
    except OSError as error:
        raise DataError(f'{path} cannot be written ({error.strerror}); make room, or choose another folder.') from error
    finally:
        scratch.unlink(missing_ok=True)
