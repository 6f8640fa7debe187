"""Random generators that depend on nothing but the words they are made from."""

from __future__ import annotations

import hashlib
import json
from numbers import Integral

import numpy as np


def sample_rng(seed: int, *parts: str | int) -> np.random.Generator:
    """Make the generator that belongs to a seed and a name.

    The arguments alone decide the stream: no process, worker count, order of calls or hash seed does. Numbers and
    strings stay apart, so ``(1, '2')``, ``(1, 2)`` and ``('1', 2)`` give three unrelated streams.

    Args:
        seed: Seed of the run.
        parts: What the generator is for, e.g. ``(key, variant, 'params')`` or ``(key, variant, 'realise', epoch)``.

    Raises:
        TypeError: A part is neither an integer nor a string.

    Example:
        >>> sample_rng(0, '0801', 3, 'params').random() == sample_rng(0, '0801', 3, 'params').random()
        True
    """
    # A JSON list quotes strings and escapes the quotes inside, so no two argument lists share an encoding.
    words = [part if isinstance(part, str) else _integer(part) for part in (seed, *parts)]
    digest = hashlib.blake2b(json.dumps(words).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, 'little')))


def _integer(part: int) -> int:
    if not isinstance(part, Integral):
        raise TypeError(f'sample_rng takes integers and strings, not {part!r} of type {type(part).__name__}.')
    return int(part)
