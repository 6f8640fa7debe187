"""Which degraded file belongs to which clean one: rules on file names, and what they leave over."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from basicsr_unirestorer.errors import OptionError, did_you_mean


@dataclass(frozen=True)
class NameRule:
    r"""How the name of a clean picture follows from the name of a degraded one.

    Attributes:
        lq: Regular expression of a degraded picture's whole name: relative path with ``/``, without suffix.
        gt: Name of its clean picture, with ``\1`` or ``\g<name>`` for the groups of ``lq``.
        halves: Both lie in one file, side by side; then ``gt`` is the same file.
    """

    lq: str
    gt: str
    halves: bool = False


NAME_RULES: dict[str, NameRule] = {
    'same': NameRule(r'(.+)', r'\1'),
    'rain100': NameRule(r'rain-(\d+)', r'norain-\1'),
    'rain200_x2': NameRule(r'(norain-\d+)x2', r'\1'),
    'ddn': NameRule(r'(?P<id>\d+)_(\d+)', r'\g<id>'),
    'did_halves': NameRule(r'(.+)', r'\1', halves=True),
    'reside': NameRule(r'(?P<id>\d+)_(?P<a>[0-9.]+)(?:_(?P<beta>[0-9.]+))?', r'\g<id>'),
    'raindrop': NameRule(r'(\d+)_rain', r'\1_clean'),
    'gopro': NameRule(r'(.+)/blur/(\d+)', r'\1/sharp/\2'),
    'gopro_gamma': NameRule(r'(.+)/blur_gamma/(\d+)', r'\1/sharp/\2'),
    'lol_v2': NameRule(r'low(\d+)', r'normal\1'),
    'srf_hr': NameRule(r'(.+_SRF_\d_HR)', r'\1'),
}


def name_rule(rule: str, gt: str | None = None) -> NameRule:
    r"""Return a rule by name, or make one.

    Args:
        rule: A key of ``NAME_RULES``, a ``filename_tmpl`` of BasicSR such as ``'{}x4'``, or a regular expression.
        gt: Name of the clean picture where ``rule`` is a regular expression, ``\1`` if None.

    Raises:
        OptionError: A word that is no rule, a broken expression, or one without the groups that ``gt`` uses.
    """
    if rule in NAME_RULES:
        if gt is not None:
            raise OptionError(f"Rule '{rule}' states the clean name itself; leave out --gt-name, or write a regex.")
        return NAME_RULES[rule]
    if '{}' in rule:
        before, after = rule.split('{}', 1)
        return NameRule(f'{re.escape(before)}(.+){re.escape(after)}', r'\1')
    if re.fullmatch(r'\w+', rule):
        raise OptionError(
            f"There is no name rule '{rule}'.{did_you_mean(rule, NAME_RULES)} Known: {', '.join(NAME_RULES)}; "
            r"or write a filename_tmpl ('{}x4'), or a regex with groups ('(\d+)_rain' and --gt-name '\1_clean')."
        )
    made = NameRule(rule, r'\1' if gt is None else gt)
    try:
        re.compile(f'(?:{made.lq})|').fullmatch('').expand(made.gt)
    except (re.error, IndexError) as error:
        raise OptionError(
            f"Rule '{made.lq}' with the clean name '{made.gt}' is no usable regular expression ({error}); "
            r"an example: --rule '(\d+)_rain' --gt-name '\1_clean'."
        ) from error
    return made


@dataclass
class NamePairs:
    """What a rule makes of two lists of files.

    Attributes:
        pairs: (lq file, gt file, named groups of the rule), in the order of the lq files.
        unfit: lq files whose name the rule does not describe.
        alone: (lq file, expected gt name) where there is no such clean picture.
        unused: gt files that no pair uses.
        doubled: (``'lq'`` or ``'gt'``, file, earlier file) whose names differ in nothing but suffix or case.
    """

    pairs: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)
    alone: list[tuple[str, str]] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    doubled: list[tuple[str, str, str]] = field(default_factory=list)


def stem(file: str) -> str:
    """Return a relative path without its suffix: ``'a/0001_0.8_0.2.jpg'`` -> ``'a/0001_0.8_0.2'``."""
    return str(PurePosixPath(file).with_suffix(''))


def pair_names(lq: Iterable[str], gt: Iterable[str], rule: NameRule) -> NamePairs:
    """Pair files by name; suffix and case do not matter.

    Args:
        lq: Degraded files: paths with ``/``, relative to their folder.
        gt: Clean files, the same way; may be the same list, where both kinds lie in one folder.
        rule: States the clean name.
    """
    found = NamePairs()
    clean = _by_name('gt', gt, found.doubled)
    used, pattern = set(), re.compile(rule.lq, re.IGNORECASE)
    for file in _by_name('lq', lq, found.doubled).values():
        match = pattern.fullmatch(stem(file))
        if match is None:
            found.unfit.append(file)
            continue
        wanted = match.expand(rule.gt)
        partner = clean.get(wanted.casefold())
        if partner is None:
            found.alone.append((file, wanted))
        else:
            used.add(partner)
            groups = {key: value for key, value in match.groupdict().items() if value is not None}
            found.pairs.append((file, partner, groups))
    found.unused = [file for file in clean.values() if file not in used]
    return found


def _by_name(side: str, files: Iterable[str], doubled: list[tuple[str, str, str]]) -> dict[str, str]:
    named: dict[str, str] = {}
    for file in sorted(files):
        name = stem(file).casefold()
        if name not in named:
            named[name] = file
        else:
            doubled.append((side, file, named[name]))
    return named
