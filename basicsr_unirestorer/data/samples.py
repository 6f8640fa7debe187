"""From folders found to samples: which files make a pair, under which keys and labels, and what is left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from basicsr_unirestorer.data.layouts import SPLIT, Family, Found
from basicsr_unirestorer.data.pairing import stem
from basicsr_unirestorer.data.write_jobs import safe_key
from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.image_files import read_picture

HALVES_LOOKED_AT = 9
OTHER_HALF = {'left': 'right', 'right': 'left'}


def unit_of(subset: str) -> str:
    """Return the folder that a subset is part of: ``'train'`` (also where it could not be known) or ``'test'``."""
    return 'train' if subset == SPLIT else subset.split('/')[0]


@dataclass(frozen=True)
class Source:
    """A picture of the download.

    Attributes:
        path: Its file.
        name: Its path from the given folder on, that one's name included: what reports call it.
        half: ``'left'`` or ``'right'`` where two pictures lie side by side in one file.
    """

    path: Path
    name: str
    half: str | None = None


@dataclass(frozen=True)
class Sample:
    """A picture, or a pair, that goes into a subset.

    Attributes:
        subset: ``'train'``, ``'test'``, ``'test/L'`` ...
        lq: The degraded picture; None in sets of clean pictures.
        gt: The clean one.
        lq_key, gt_key: Their keys; equal where every clean picture has one degraded one.
        types, words: Degradations, see ``Pair``.
    """

    subset: str
    lq: Source | None
    gt: Source
    lq_key: str
    gt_key: str
    types: tuple[str, ...] = ()
    words: tuple[str | None, ...] = ()

    @property
    def unit(self) -> str:
        return unit_of(self.subset)


@dataclass(frozen=True)
class LeftOut:
    """A picture or pair that is not prepared.

    Attributes:
        subset: Where it would have gone.
        name: Which file.
        reason: Why, in words that follow the name.
        bad: Whether something is wrong with the file; if not, the protocol of the data set wants it left out.
    """

    subset: str
    name: str
    reason: str
    bad: bool = True

    @property
    def unit(self) -> str:
        return unit_of(self.subset)

    @property
    def line(self) -> str:
        return f'{self.name} {self.reason}'


@dataclass
class Collected:
    """Samples in the order of subset and key, what was left out, and what a user should know: (unit, sentence)."""

    samples: list[Sample] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    strength_edges: dict[str, list[float]] = field(default_factory=dict)

    def drop(self, sample: Sample, reason: str, bad: bool = True) -> None:
        """Leave a sample out; the caller takes it off ``samples``."""
        self.left_out.append(LeftOut(sample.subset, (sample.lq or sample.gt).name, reason, bad))


def collect(family: Family, founds: Sequence[Found], degraded_half: str = 'auto') -> Collected:
    """Make the samples of every folder found.

    Args:
        family: States labels and splits.
        founds: See ``layouts.detect``.
        degraded_half: ``'left'``, ``'right'``, or ``'auto'``, which looks for the half with more detail.
    """
    made = Collected()
    for found in founds:
        half = _degraded_half(found, degraded_half, made.notes) if found.halves else None
        for lq_file, gt_file, groups in found.names.pairs:
            groups = {'file': stem(lq_file), **found.groups, **groups}
            subset = family.split(groups) if found.subset == SPLIT else found.subset
            types, words = family.label(groups)
            gt = Source(found.gt.path / gt_file, f'{found.gt.name}/{gt_file}', OTHER_HALF.get(half))
            lq = Source(found.lq.path / lq_file, f'{found.lq.name}/{lq_file}', half)
            clean_only = not found.part.clean and not found.halves
            key = safe_key(Path(found.prefix + lq_file))
            gt_key = safe_key(Path(gt_file))
            made.samples.append(Sample(subset, None if clean_only else lq, gt, key, gt_key, types, words))
        _tell_the_rest(found, made)
    for (subset, folder), unused in _unused(founds).items():
        sentence = f'{len(unused)} clean pictures in {folder} have no degraded partner and are not used.'
        made.notes.append((unit_of(subset), sentence))
    made.samples = _unique(_gt_keys(made.samples), made)
    return made


def _tell_the_rest(found: Found, made: Collected) -> None:
    names = found.names
    for file, wanted in names.alone:
        reason = f"has no partner '{wanted}' in {found.gt.name}"
        made.left_out.append(LeftOut(found.subset, f'{found.lq.name}/{file}', reason))
    for file in names.unfit:
        reason = f"has a name that the rule '{found.rule}' does not describe"
        made.left_out.append(LeftOut(found.subset, f'{found.lq.name}/{file}', reason))
    for side, file, earlier in names.doubled:
        folder = found.lq if side == 'lq' else found.gt
        made.left_out.append(LeftOut(found.subset, f'{folder.name}/{file}', f'would have the key of {earlier}'))


def _unused(founds: Sequence[Found]) -> dict[tuple[str, str], set[str]]:
    """Clean pictures that no degraded folder needs, by the subset and the folder they are in."""
    left: dict[tuple[str, str], set[str]] = {}
    for found in founds:
        if found.part.clean:
            unused, place = set(found.names.unused), (found.subset, found.gt.name)
            left[place] = left.get(place, unused) & unused
    return {folder: files for folder, files in left.items() if files}


def _gt_keys(samples: list[Sample]) -> list[Sample]:
    """Give clean pictures that are used once the key of their partner, so that both LMDBs have the same keys."""
    by_subset: dict[str, list[Sample]] = {}
    for sample in samples:
        by_subset.setdefault(sample.subset, []).append(sample)
    made = []
    for group in by_subset.values():
        used = Counter((sample.gt.path, sample.gt.half) for sample in group)
        keys = {sample.gt_key: sample.gt.path for sample in group}
        if max(used.values()) == 1:
            group = [replace(sample, gt_key=sample.lq_key) for sample in group]
        elif len(keys) < len({path for path, _ in used}):  # one name in several folders
            group = [replace(sample, gt_key=safe_key(Path(sample.gt.name))) for sample in group]
        made += sorted(group, key=lambda sample: sample.lq_key)
    return made


def _unique(samples: list[Sample], made: Collected) -> list[Sample]:
    seen: dict[tuple[str, str], Sample] = {}
    for sample in samples:
        place = (sample.subset, sample.lq_key)
        if place in seen:
            made.drop(sample, f"would have the key '{sample.lq_key}' of {(seen[place].lq or seen[place].gt).name}")
        else:
            seen[place] = sample
    return list(seen.values())


def _degraded_half(found: Found, asked: str, notes: list[tuple[str, str]]) -> str:
    if asked != 'auto':
        return asked
    step = max(1, len(found.names.pairs) // HALVES_LOOKED_AT)
    votes = Counter()
    for file, _, _ in found.names.pairs[::step][:HALVES_LOOKED_AT]:
        try:
            grey = cv2.cvtColor(read_picture(found.lq.path / file), cv2.COLOR_BGR2GRAY)
        except DataError:
            continue  # told with the other damaged pictures
        middle = grey.shape[1] // 2
        left, right = (np.abs(cv2.Laplacian(half, cv2.CV_32F)).mean() for half in (grey[:, :middle], grey[:, -middle:]))
        votes['left' if left >= right else 'right'] += 1
    half, count = votes.most_common(1)[0] if votes else ('left', 0)
    sentence = (
        f'The {half} half in {found.lq.name} is taken as degraded: it has more detail in {count} of '
        f'{sum(votes.values())} files looked at (--degraded-half left or right decides otherwise).'
    )
    notes.append((unit_of(found.subset), sentence))
    return half
