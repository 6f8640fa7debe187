"""What was done to a sample, and its caption."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from basicsr_unirestorer.degradations.registry import DEGRADATION_TYPES
from basicsr_unirestorer.errors import DataError, did_you_mean

CLEAN = 'clean'
SEPARATOR = ', '


@dataclass(frozen=True)
class Operation:
    """One degradation with its parameters.

    Attributes:
        type: A key of ``DEGRADATION_TYPES``.
        params: What the operator takes; plain Python numbers and words, fit for JSON.
        strength: The type's measure of these parameters.
        word: The strength in words.
    """

    type: str
    params: dict[str, Any] = field(hash=False)
    strength: float
    word: str

    @property
    def phrase(self) -> str:
        """Words of the caption, e.g. ``'large noise'``."""
        return DEGRADATION_TYPES[self.type].phrase.format(word=self.word)


@dataclass(frozen=True)
class DegradationRecord:
    """Exactly what is applied to one sample, enough to redo it but for the realisation (noise field, drops, flakes).

    Attributes:
        operations: In order of application; none for a clean sample.
    """

    operations: tuple[Operation, ...] = ()

    @property
    def caption(self) -> str:
        """Phrases in order of application, e.g. ``'small rain, thick haze'``; ``'clean'`` without any."""
        return SEPARATOR.join(operation.phrase for operation in self.operations) or CLEAN

    @property
    def labels(self) -> tuple[str, ...]:
        """Types in order of application."""
        return tuple(operation.type for operation in self.operations)

    @property
    def margin(self) -> int:
        """Pixels of context, a multiple of 8, that a crop needs on each side to come out as it would in its picture.

        It adds up the reaches of all operators. It cannot make random fields equal (noise, drops and flakes belong to
        the realisation), and JPEG's colour interpolation leaks a trace from further off.
        """
        reach = sum(DEGRADATION_TYPES[operation.type].reach(operation.params) for operation in self.operations)
        return -(-reach // 8) * 8

    def to_dict(self) -> dict:
        """Return a copy made of dicts, lists, numbers and strings."""
        return {'operations': [asdict(operation) for operation in self.operations]}

    @classmethod
    def from_dict(cls, values: Mapping) -> DegradationRecord:
        """Undo ``to_dict``.

        Raises:
            DataError: A field is missing, a type unknown or a parameter missing or superfluous.
        """
        try:
            operations = tuple(
                Operation(str(entry['type']), dict(entry['params']), float(entry['strength']), str(entry['word']))
                for entry in values['operations']
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f'A degradation record needs a list of operations, each with type, params, strength and '
                f'word; got {values!r}.'
            ) from error
        for operation in operations:
            _check_operation(operation)
        return cls(operations)


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


@cache
def _phrases() -> dict[str, tuple[str, str]]:
    """Every phrase there is and its (word, type)."""
    return {
        kind.phrase.format(word=word): (word, kind.name) for kind in DEGRADATION_TYPES.values() for word in kind.words
    }


def parse_caption(caption: str) -> list[tuple[str, str]]:
    """Read a caption back: the inverse of ``DegradationRecord.caption``.

    A description of the picture before a colon (``'a red house: large noise'``) is ignored.

    Returns:
        (word, type) of each phrase, in order; empty for ``'clean'``.

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
