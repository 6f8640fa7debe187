"""Errors a user can cause. Every message is one sentence: what happened, what was expected, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class UniRestorerError(Exception):
    """Base of all errors that the command line shows as one sentence, without a traceback."""


class OptionError(UniRestorerError, ValueError):
    """An option file, or an argument standing for one of its keys, asks for something that does not exist."""


class DataError(UniRestorerError, ValueError):
    """Pictures, LMDBs, recipes or bundles on disk are missing, damaged or do not fit together."""


class TreeMismatchError(UniRestorerError, ValueError):
    """A tree, an encoder, a router or an assignment comes from another run than its partner."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known word, or an empty string when nothing is close."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ''


def check_keys(given: Mapping, allowed: Iterable[str], where: str) -> None:
    """Refuse unknown option keys, so that a misspelt one never falls back to a default silently.

    Args:
        given: The options as read.
        allowed: Every key that means something here.
        where: Dotted place, e.g. ``'datasets.train'``, quoted in the message.

    Raises:
        OptionError: Naming the first unknown key, the nearest known one and all that are allowed.
    """
    allowed = list(allowed)
    for key in given:
        if key not in allowed:
            raise OptionError(
                f"Unknown option '{where}.{key}'.{did_you_mean(key, allowed)} Allowed: {', '.join(sorted(allowed))}."
            )


def need_keys(given: Mapping, needed: Iterable[str], where: str) -> None:
    """Refuse options that lack a key, or hold nothing under it; raises OptionError naming the first one."""
    for key in needed:
        if not given.get(key):
            raise OptionError(f"Option '{where}.{key}' is missing.{did_you_mean(key, given)}")


def find_registered(registry: Iterable[tuple[str, Any]], name: Any, where: str) -> Any:
    """Return what a registry of BasicSR holds under a name.

    Args:
        registry: One of ``basicsr.utils.registry``.
        name: As written in an option file.
        where: Dotted place of the name, quoted in the message.

    Raises:
        OptionError: Naming the nearest known name or, where none is near, ours.
    """
    known = {key: value for key, value in registry}  # it has keys() but no [], so dict(registry) fails
    for candidate in (name, f'{name}_basicsr'):  # BasicSR's scan files some under this suffix
        if candidate in known:
            return known[candidate]
    ours = sorted(k for k, v in known.items() if v.__module__.startswith('basicsr_unirestorer'))
    hint = did_you_mean(name, (k.removesuffix('_basicsr') for k in known))
    if not hint:
        hint = f' Ours: {", ".join(ours)}.' if ours else f' Known: {", ".join(known)}.'
    raise OptionError(f"Option '{where}' names '{name}', which neither BasicSR nor this package has.{hint}")
