"""``manifest.json``: what a prepared set holds and what it was made of; the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable

from basicsr_unirestorer import __version__
from basicsr_unirestorer.data.pairs import Pair

NAME = 'manifest.json'
FORMAT = 1


def sha1_of_lines(lines: Iterable[str]) -> str:
    return hashlib.sha1(''.join(f'{line}\n' for line in lines).encode()).hexdigest()


def label_counts(pairs: Iterable[Pair]) -> dict[str, int]:
    """Count samples by task and word as ``pairs.txt`` writes them, e.g. ``{'haze normal': 4}``."""
    counts = Counter(' '.join(pair.line.split()[2:]) for pair in pairs)
    return dict(sorted(counts.items()))


def manifest_bytes(facts: dict) -> bytes:
    """Serialise a manifest: sorted, indented, with the format and the version that wrote it.

    Args:
        facts: Plain values; no times and no absolute paths, or the same input would give different bytes.
    """
    whole = {'format': FORMAT, 'tool': f'basicsr_unirestorer {__version__}', **facts}
    return (json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=True) + '\n').encode('ascii')


def digest(content: bytes) -> str:
    """Return the hash that is printed for a manifest and compared between runs: the first 16 digits of SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]
