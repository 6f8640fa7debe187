"""``pairs.txt``: which degraded picture belongs to which clean one, so that many may share one clean picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from basicsr_unirestorer.degradations.record import SEPARATOR, phrase_of
from basicsr_unirestorer.degradations.registry import DEGRADATION_TYPES
from basicsr_unirestorer.errors import DataError, did_you_mean

UNKNOWN = '-'  # no task, or no word
JOIN = '+'  # between the types of a picture that suffers from several, in order of application


@dataclass(frozen=True)
class Pair:
    """One sample of a paired data set.

    Attributes:
        lq: Key of the degraded picture in ``lq.lmdb``.
        gt: Key of the clean picture in ``gt.lmdb``; several pairs may share it.
        types: Degradation types in order of application; empty where nobody knows.
        words: A strength word for each type, or None where unknown.
    """

    lq: str
    gt: str
    types: tuple[str, ...] = ()
    words: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        if len(self.words) != len(self.types):
            object.__setattr__(self, 'words', (*self.words, *[None] * (len(self.types) - len(self.words))))

    @property
    def caption(self) -> str | None:
        """Caption as of a drawn record, e.g. ``'small rain, thick haze'``; None where a type or a word is unknown."""
        if not self.types or None in self.words:
            return None
        return self.plain_caption

    @property
    def plain_caption(self) -> str | None:
        """Caption without the words that nobody knows, e.g. ``'small rain, haze'``; None where no type is known."""
        return SEPARATOR.join(map(phrase_of, self.types, self.words)) or None

    @property
    def line(self) -> str:
        """``lq_key gt_key task word``, e.g. ``0025_0p8_0p04 0025 haze normal`` or ``a a low_light+rain -+small``."""
        task = JOIN.join(self.types) or UNKNOWN
        words = [(word or UNKNOWN).replace(' ', '_') for word in self.words]
        return f'{self.lq} {self.gt} {task} {JOIN.join(words) if any(self.words) else UNKNOWN}'


def parse_pair(line: str, where: str) -> Pair:
    """Undo ``Pair.line``.

    Args:
        line: Without its end.
        where: Place quoted in errors, e.g. ``'pairs.txt, line 3'``.

    Raises:
        DataError: Not four fields, an unknown type or a word that the type does not have.
    """
    fields = line.split()
    if len(fields) != 4:
        raise DataError(
            f"{where} is '{line}', expected 'lq_key gt_key task word', with - for a task or a word that nobody knows."
        )
    lq, gt, task, word = fields
    return Pair(lq, gt, *parse_label(task, word, where))


def parse_label(task: str, word: str, where: str) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """Read task and word as they stand in ``pairs.txt``: degradation types, and a strength word or None for each.

    Raises:
        DataError: An unknown type, a word that the type does not have, or not a word for each type.
    """
    types = () if task == UNKNOWN else tuple(task.split(JOIN))
    words = tuple(None if one == UNKNOWN else one.replace('_', ' ') for one in word.split(JOIN))
    if word == UNKNOWN:
        words = (None,) * len(types)
    for kind in types:
        if kind not in DEGRADATION_TYPES:
            raise DataError(
                f"{where} names the unknown degradation '{kind}'.{did_you_mean(kind, DEGRADATION_TYPES)} "
                f'Known: {", ".join(DEGRADATION_TYPES)}; - where nobody knows.'
            )
    if len(types) != len(words):
        raise DataError(f'{where} has {len(types)} types and {len(words)} words, expected as many; {UNKNOWN} for one.')
    for kind, one in zip(types, words, strict=True):
        known = DEGRADATION_TYPES[kind].words
        if one is not None and one not in known:
            raise DataError(
                f"{where} calls '{kind}' '{one}', expected {', '.join(known)} (with _ for a blank) or {UNKNOWN}."
            )
    return types, words


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write pairs in the given order, aside first; raises DataError where two pairs have one lq key."""
    path, pairs = Path(path), list(pairs)
    _check_keys(pairs, path)
    scratch = path.with_name(path.name + '.part')
    scratch.write_text(''.join(f'{pair.line}\n' for pair in pairs), encoding='ascii')
    scratch.replace(path)


def read_pairs(path: str | Path) -> list[Pair]:
    """Read pairs in the order of the file; empty lines are skipped.

    Raises:
        DataError: The file is missing or empty, a line is malformed (see ``parse_pair``), an lq key comes twice.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f'There is no {path}; the scripts in datasets_prep/ write it beside lq.lmdb and gt.lmdb.')
    lines = path.read_text(encoding='utf-8').splitlines()
    pairs = [parse_pair(line, f'{path}, line {n}') for n, line in enumerate(lines, start=1) if line.strip()]
    if not pairs:
        raise DataError(f'{path} holds no pairs; prepare the data set again with its script in datasets_prep/.')
    _check_keys(pairs, path)
    return pairs


def _check_keys(pairs: list[Pair], path: Path) -> None:
    seen: set[str] = set()
    for pair in pairs:
        if pair.lq in seen:
            raise DataError(f"{path} lists the lq key '{pair.lq}' twice, expected once; keep one of the two lines.")
        seen.add(pair.lq)
