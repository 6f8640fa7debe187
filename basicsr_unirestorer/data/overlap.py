"""Clean training pictures that the test set also holds: found by number and by look, dropped or told."""

from __future__ import annotations

from pathlib import PurePosixPath

from basicsr_unirestorer.data.layouts import Family
from basicsr_unirestorer.data.picture_hash import MAX_DISTANCE, near_pairs
from basicsr_unirestorer.data.precheck import Facts
from basicsr_unirestorer.data.samples import Collected, Sample, Source
from basicsr_unirestorer.errors import DataError

MODES = ('drop', 'warn', 'keep')


def remove_overlap(family: Family, collected: Collected, facts: dict[Source, Facts], mode: str | None = None) -> int:
    """Compare the clean pictures of training and test subsets, and drop or tell what is in both.

    Two pictures are the same if their perceptual hashes (64 bit) differ in at most ``MAX_DISTANCE`` bits (those of
    pictures without contrast mean nothing) or, in families that say so, if their numbers are equal.

    Args:
        family: States the usual mode and whether numbers mean anything.
        collected: Changed in place: all samples of a dropped clean picture go.
        facts: Of every picture.
        mode: ``'drop'``, ``'warn'`` or ``'keep'`` (does not compare); None takes the family's.

    Returns:
        The number of clean training pictures that are also in the test set.

    Raises:
        DataError: They are to be dropped and there is no test set to compare with.
    """
    mode = mode or family.overlap
    train = _clean_pictures(collected.samples, 'train')
    test = _clean_pictures(collected.samples, 'test')
    if not train or mode == 'keep':
        return 0
    if not test:
        if mode == 'drop':
            raise DataError(
                f'{family.title} shares pictures between its training and test sets, and no test set was found to '
                'compare with: give its folder as a further input, or pass --overlap keep.'
            )
        return 0
    same = _same_look(train, test, facts)
    if family.same_ids:
        same.update(_same_number(train, test))  # the plainer reason counts
    if same and mode == 'drop':
        _drop(collected, same)
    elif same:
        source, reason = min(same.items(), key=lambda item: item[0].name)
        sentence = (
            f'{len(same)} of {len(train)} clean training pictures are also in the test set (first: {source.name} '
            f'{reason}); pass --overlap drop to leave them out.'
        )
        collected.notes.append(('train', sentence))
    return len(same)


def _clean_pictures(samples: list[Sample], unit: str) -> list[Source]:
    return list({sample.gt: None for sample in samples if sample.unit == unit})


def _same_look(train: list[Source], test: list[Source], facts: dict[Source, Facts]) -> dict[Source, str]:
    train, test = ([source for source in side if facts[source].dhash is not None] for side in (train, test))
    hashes = [[facts[source].dhash for source in side] for side in (train, test)]
    nearest: dict[Source, tuple[int, str]] = {}
    for ours, theirs, distance in near_pairs(*hashes, MAX_DISTANCE):
        candidate = (distance, test[theirs].name)
        nearest[train[ours]] = min(candidate, nearest.get(train[ours], candidate))
    return {
        source: f'looks like the test picture {name} (hash distance {distance})'
        for source, (distance, name) in nearest.items()
    }


def _same_number(train: list[Source], test: list[Source]) -> dict[Source, str]:
    numbered = {_number(source): source.name for source in reversed(test)}
    return {
        source: f'has the number of the test picture {numbered[_number(source)]}'
        for source in train
        if _number(source) in numbered
    }


def _number(source: Source) -> int | str:
    name = PurePosixPath(source.name).stem
    return int(name) if name.isdecimal() else name.casefold()


def _drop(collected: Collected, same: dict[Source, str]) -> None:
    kept = []
    for sample in collected.samples:
        if sample.unit == 'train' and sample.gt in same:
            collected.drop(sample, f'has the clean picture {sample.gt.name}, which {same[sample.gt]}', bad=False)
        else:
            kept.append(sample)
    dropped = len(collected.samples) - len(kept)
    by_number = sum(reason.startswith('has the number') for reason in same.values())
    sentence = (
        f'{len(same)} clean training pictures are also in the test set ({by_number} by number, {len(same) - by_number} '
        f'by look only): {dropped} samples are left out.'
    )
    collected.notes.append(('train', sentence))
    collected.samples = kept
