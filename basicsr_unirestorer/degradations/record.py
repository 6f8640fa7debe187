"""What was done to a sample, and its caption."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from basicsr_unirestorer.degradations.registry import DEGRADATION_TYPES, UNNAMED
from basicsr_unirestorer.degradations.resizing import resize_reach
from basicsr_unirestorer.errors import DataError, did_you_mean

CLEAN = 'clean'
SEPARATOR = ', '
MAX_PHRASES = 4  # the text encoder of CLIP reads no more than 77 tokens
QUANTIZE = ('end', 'each', 'off')


@dataclass(frozen=True)
class Operation:
    """One degradation with its parameters.

    Attributes:
        type: A key of ``DEGRADATION_TYPES``.
        params: What the operator takes; plain Python numbers and words, fit for JSON.
        strength: The type's measure of these parameters.
        word: The strength in words.
        clip: Whether the result is clipped to [0, 1] before the next operation.
    """

    type: str
    params: dict[str, Any] = field(hash=False)
    strength: float
    word: str
    clip: bool = True

    @property
    def label(self) -> str:
        """The type it counts as in captions and labels."""
        return DEGRADATION_TYPES[self.type].label or self.type

    @property
    def phrase(self) -> str:
        """Words of the caption, e.g. ``'large noise'``."""
        return DEGRADATION_TYPES[self.type].phrase.format(word=self.word)


def _severity(operation: Operation) -> float:
    return DEGRADATION_TYPES[operation.type].severity(operation.word)


WAY_BACK = Operation('resize', {'scale': 1.0, 'filter': 'bicubic', 'antialias': True}, 1.0, UNNAMED)


@dataclass(frozen=True)
class DegradationRecord:
    """Exactly what is applied to one sample, enough to redo it but for the realisation (noise field, drops, flakes).

    A chain may apply a type several times; captions and labels then mention it once, at the place and with the word of
    its strongest occurrence (of equally strong ones, the last).

    Attributes:
        operations: In order of application; none for a clean sample.
        quantize: When values are rounded to the 256 levels of a file: ``'end'``, after ``'each'`` operation, or
            ``'off'``: never, and the result is not clipped to [0, 1] either.
    """

    operations: tuple[Operation, ...] = ()
    quantize: str = 'end'

    @property
    def caption(self) -> str:
        """Phrases in order of application, e.g. ``'small rain, thick haze'``; ``'clean'`` without any.

        Of more than four labels the four most severe are kept (by the place of the word among the words of its type,
        so all that are ``'large'`` come before all that are ``'small'``; of equals, the later applied).
        """
        named = self._named()
        places = sorted(range(len(named)), key=lambda place: (_severity(named[place]), place))[-MAX_PHRASES:]
        return SEPARATOR.join(named[place].phrase for place in sorted(places)) or CLEAN

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, each once, in the order of their strongest occurrences."""
        return tuple(operation.label for operation in self._named())

    def _named(self) -> list[Operation]:
        """The strongest operation of each label, in order of application."""
        strongest: dict[str, int] = {}
        for place, operation in enumerate(self.operations):
            rival = strongest.get(operation.label)
            if operation.word != UNNAMED and (
                rival is None or _severity(operation) >= _severity(self.operations[rival])
            ):
                strongest[operation.label] = place
        return [self.operations[place] for place in sorted(strongest.values())]

    @property
    def margin(self) -> int:
        """Pixels of context, a multiple of 8, that a crop needs on each side to come out as it would in its picture.

        It adds up the reaches of all operators, each on the pixel grid that it works on. It cannot make random fields
        equal (noise, drops and flakes belong to the realisation), and JPEG's colour interpolation leaks a trace from
        further off.
        """
        reach, scale = 0.0, 1.0
        for operation in self.steps:
            kind = DEGRADATION_TYPES[operation.type]
            if kind.grid:
                reach += resize_reach(operation.params, scale)
                scale = kind.grid(operation.params)
            else:
                reach += kind.reach(operation.params) / scale
        return math.ceil(round(reach / 8, 6)) * 8

    @property
    def steps(self) -> tuple[Operation, ...]:
        """All that ``degrade`` does: the operations and, where they end on another pixel grid, the way back."""
        grids = [kind.grid(step.params) for step in self.operations if (kind := DEGRADATION_TYPES[step.type]).grid]
        return self.operations if not grids or grids[-1] == 1 else (*self.operations, WAY_BACK)

    def to_dict(self) -> dict:
        """Return a copy made of dicts, lists, numbers and strings."""
        return {'operations': [asdict(operation) for operation in self.operations], 'quantize': self.quantize}

    @classmethod
    def from_dict(cls, values: Mapping) -> DegradationRecord:
        """Undo ``to_dict``.

        Raises:
            DataError: A field is missing, a type unknown or a parameter missing or superfluous.
        """
        try:
            operations = tuple(
                Operation(
                    str(entry['type']),
                    dict(entry['params']),
                    float(entry['strength']),
                    str(entry['word']),
                    bool(entry.get('clip', True)),
                )
                for entry in values['operations']
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f'A degradation record needs a list of operations, each with type, params, strength and '
                f'word; got {values!r}.'
            ) from error
        for operation in operations:
            _check_operation(operation)
        quantize = values.get('quantize', 'end')
        if quantize not in QUANTIZE:
            raise DataError(f"A record has quantize '{quantize}', expected one of {', '.join(QUANTIZE)}.")
        return cls(operations, quantize)


def _check_operation(operation: Operation) -> None:
    kind = DEGRADATION_TYPES.get(operation.type)
    if kind is None:
        raise DataError(
            f"A record has the unknown degradation '{operation.type}'."
            f'{did_you_mean(operation.type, DEGRADATION_TYPES)} Known: {", ".join(DEGRADATION_TYPES)}.'
        )
    if set(operation.params) != set(kind.parameters):
        raise DataError(
            f"A record gives '{operation.type}' the parameters {', '.join(sorted(operation.params))}, "
            f'expected {", ".join(sorted(kind.parameters))}; draw the record again with this version.'
        )
    if operation.word not in kind.words:
        raise DataError(f"A record calls '{operation.type}' '{operation.word}', expected {', '.join(kind.words)}.")


def phrase_of(label: str, word: str | None) -> str:
    """Words of a caption: ``'thick haze'``, or plain ``'haze'`` and ``'low light'`` where the strength is unknown."""
    return DEGRADATION_TYPES[label].phrase.format(word=word or '').strip() or label.replace('_', ' ')


@cache
def _phrases() -> dict[str, tuple[str, str]]:
    """Every phrase there is and its (word, label)."""
    plain = {phrase_of(kind.name, None): ('', kind.name) for kind in DEGRADATION_TYPES.values() if not kind.label}
    return plain | {
        kind.phrase.format(word=word): (word, kind.label or kind.name)
        for kind in DEGRADATION_TYPES.values()
        for word in kind.words
        if word != UNNAMED
    }


def parse_caption(caption: str) -> list[tuple[str, str]]:
    """Read a caption back: the inverse of ``DegradationRecord.caption``.

    A description of the picture before a colon (``'a red house: large noise'``) is ignored.

    Returns:
        (word, label) of each phrase, in order; the word is empty where the phrase tells no strength, as those of real
        pairs may. Empty for ``'clean'``.

    Raises:
        DataError: A phrase that no caption contains.

    Example:
        >>> parse_caption('small rain, thick haze')
        [('small', 'rain'), ('thick', 'haze')]
    """
    text = caption.rpartition(': ')[2].strip()
    if text == CLEAN:
        return []
    known = _phrases()
    for phrase in text.split(SEPARATOR):
        if phrase not in known:
            raise DataError(
                f"The caption '{caption}' has the unknown phrase '{phrase}'.{did_you_mean(phrase, known)} "
                f"Write 'clean', or phrases such as 'small rain{SEPARATOR}thick haze'."
            )
    return [known[phrase] for phrase in text.split(SEPARATOR)]
