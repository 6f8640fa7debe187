"""Prepare a data set as downloaded: find its layout, pair, look, compare, write; what ``datasets_prep/`` runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from basicsr_unirestorer.data import manifest
from basicsr_unirestorer.data.layouts import Family, Found, detect, scan
from basicsr_unirestorer.data.overlap import remove_overlap
from basicsr_unirestorer.data.parallel import available_cores
from basicsr_unirestorer.data.plan import PrepareOptions, Unit, plan
from basicsr_unirestorer.data.precheck import check, look_at_all
from basicsr_unirestorer.data.samples import Collected, LeftOut, collect, unit_of
from basicsr_unirestorer.data.strength import label_strengths
from basicsr_unirestorer.data.write_unit import write_unit
from basicsr_unirestorer.errors import DataError

SHOWN = 10  # left-out pictures that are printed; dropped.txt has all


@dataclass
class Prepared:
    """What was, or would be, prepared.

    Attributes:
        units: Everything that is written.
        hashes: Hash of each unit's manifest.
        left_out: What is not prepared, and why.
        written: Units that were written now; the others stood there already, or it was a dry run.
    """

    units: list[Unit]
    hashes: dict[str, str] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    @property
    def bad(self) -> list[LeftOut]:
        """What is not prepared because something is wrong with the download."""
        return [entry for entry in self.left_out if entry.bad]


def prepare_family(
    family: Family,
    inputs: Sequence[str | Path],
    output: str | Path,
    options: PrepareOptions | None = None,
    dry_run: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """Turn a download into ``output/train`` (LMDBs) and ``output/test`` (folders), whichever of them it holds.

    Args:
        family: What it is, see ``families.FAMILIES``.
        inputs: Folders as unpacked; any folder above the known ones will do.
        output: Folder to write into.
        options: See ``PrepareOptions``.
        dry_run: Find, pair and look, but write nothing.
        tell: Gets lines about what was found, as it is found.

    Raises:
        DataError: No known layout; something is wrong with the download and ``skip_bad`` is off; another set stands in
            ``output``; nothing is left to prepare.
    """
    options = options or PrepareOptions()
    return prepare_found(family, detect(family, scan(inputs, output), options.subset), output, options, dry_run, tell)


def prepare_found(
    family: Family,
    founds: Sequence[Found],
    output: str | Path,
    options: PrepareOptions,
    dry_run: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """Do what ``prepare_family`` does with folders that are known already."""
    for line in _layout_lines(family, founds):
        tell(line)
    collected = collect(family, founds, options.degraded_half)
    if options.subset:
        _keep_to(options.subset, collected)
    facts = look_at_all(collected.samples, options.workers or available_cores())
    check(collected, facts, options.min_side)
    _compare_counts(family, collected)
    remove_overlap(family, collected, facts, options.overlap)
    _compare_kept(family, collected)
    if options.measure_strength:
        collected.strength_edges = label_strengths(collected, facts, options.workers or available_cores())
    units = [unit for unit in plan(family, founds, collected, facts, options) if options.subset in (None, unit.name)]
    left_out = [entry for entry in collected.left_out if options.subset in (None, entry.unit)]
    notes = [*family.notes, *(sentence for unit, sentence in collected.notes if options.subset in (None, unit))]
    done = Prepared(units, {unit.name: manifest.digest(unit.manifest) for unit in units}, left_out)
    for line in (*_unit_lines(units), *(f'note: {sentence}' for sentence in notes), *_left_out_lines(left_out)):
        tell(line)
    if dry_run:
        return done
    if done.bad and not options.skip_bad:
        first = done.bad[0]
        more = f', and {len(done.bad) - 1} more like it' if len(done.bad) > 1 else ''
        raise DataError(f'{first.line}{more}; mend the download, or pass --skip-bad to leave that out.')
    if not units:
        raise DataError(f'Nothing is left to prepare of {family.title}; the reasons are listed above.')
    done.written = [unit.name for unit in units if write_unit(Path(output), unit, options)]
    return done


def _keep_to(subset: str, collected: Collected) -> None:
    """Take off what the other subset has, but for the clean test pictures that training ones are compared with."""
    ours = [sample for sample in collected.samples if sample.unit == subset]
    others = [sample for sample in collected.samples if subset == 'train' and sample.unit == 'test']
    collected.samples = ours + [
        replace(sample, lq=None) for sample in {sample.gt: sample for sample in others}.values()
    ]


# ------------------------------------------------------------------------------------------ what is told


def _layout_lines(family: Family, founds: Sequence[Found]) -> list[str]:
    groups: dict[tuple[str, str, str], list[Found]] = {}
    for found in founds:
        groups.setdefault((found.subset.split('/')[0], found.part.layout, found.rule), []).append(found)
    lines = []
    for (unit, layout, rule), same in groups.items():
        more = f' and {len(same) - 1} more folders' if len(same) > 1 else ''
        lines.append(f"{family.title}, {unit}: layout '{layout}', names by rule '{rule}', in {same[0].lq.name}{more}")
    return lines


def _unit_lines(units: Sequence[Unit]) -> list[str]:
    lines = []
    for unit in units:
        pairs = sum(map(len, unit.pairs.values()))
        if unit.lmdbs:
            entries = ' and '.join(f'{len(keys)} entries in {name}.lmdb' for name, keys in unit.entries.items())
            lines.append(f'{unit.name}: {entries}')
        else:
            lines.append(f'{unit.name}: {len(unit.files)} files, {len(unit.links)} repeated ones, {pairs} pairs')
    return lines


def _left_out_lines(left_out: Sequence[LeftOut]) -> list[str]:
    for_protocol = sum(not entry.bad for entry in left_out)
    bad = [entry for entry in left_out if entry.bad]
    lines = [f'left out: {entry.line}' for entry in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f'left out: {len(bad) - SHOWN} more with something wrong')
    if for_protocol:
        lines.append(f'left out: {for_protocol} samples because the protocol or an option says so')
    return lines


# ------------------------------------------------------------------------------------------ counts


def _compare_counts(family: Family, collected: Collected) -> None:
    """Note counts that differ from the published ones, before anything is left out for the protocol."""
    counts = Counter(sample.subset for sample in collected.samples)
    counts.update(entry.subset for entry in collected.left_out if not entry.bad)
    wrong: dict[str, list[str]] = {}
    for subset, count in sorted(counts.items()):
        expected = family.expected.get(subset, ())
        if expected and count not in expected:
            sentence = f'{subset} has {count} samples, expected {" or ".join(map(str, expected))}'
            wrong.setdefault(unit_of(subset), []).append(sentence)
        clean = len({sample.gt for sample in collected.samples if sample.subset == subset})
        published = family.expected_clean.get(subset, clean)
        if published != clean:
            wrong.setdefault(unit_of(subset), []).append(f'{subset} has {clean} clean pictures, expected {published}')
    for unit, sentences in wrong.items():
        more = f', and {len(sentences) - 2} more differ' if len(sentences) > 2 else ''
        collected.notes.append((unit, f'{"; ".join(sentences[:2])}{more}: is the download complete?'))


def _compare_kept(family: Family, collected: Collected) -> None:
    for subset, expected in family.kept.items():
        count = sum(sample.subset == subset for sample in collected.samples)
        if count and count != expected:
            sentence = f'{subset} keeps {count} samples, expected {expected} without those in the test set.'
            collected.notes.append((unit_of(subset), sentence))
