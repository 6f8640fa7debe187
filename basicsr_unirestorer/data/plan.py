"""From checked samples to what is written: jobs for LMDBs, files of test folders, lines of ``pairs.txt``, manifests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from basicsr_unirestorer.data.layouts import SPLIT, Family, Found
from basicsr_unirestorer.data.manifest import label_counts, manifest_bytes, sha1_of_lines
from basicsr_unirestorer.data.pairs import Pair
from basicsr_unirestorer.data.precheck import Facts, common_size
from basicsr_unirestorer.data.samples import Collected, Sample, Source
from basicsr_unirestorer.data.write_jobs import Cut, WriteJob, windows
from basicsr_unirestorer.errors import OptionError

SCHEMES = ('unique', 'basicsr')


@dataclass(frozen=True)
class PrepareOptions:
    """How a data set is prepared.

    Attributes:
        crop, step: Side of the sub-images of training pictures and distance between them, in pixels; None: whole.
        compress_level: PNG compression of the LMDBs, 0-9.
        scheme: ``'unique'`` writes every clean picture once, ``'basicsr'`` once for every degraded one and under its
            key, which BasicSR's own ``PairedImageDataset`` needs.
        min_side: Leave out samples with a shorter side, in pixels.
        subset: Prepare only ``'train'`` or ``'test'``; also says what folders are for that do not tell.
        overlap: See ``overlap.remove_overlap``.
        degraded_half: See ``samples.collect``.
        measure_strength: Give pairs whose names tell no strength a measured one, see ``strength.label_strengths``.
        skip_bad: Leave out what is wrong with the download instead of stopping.
        workers: Processes; None takes every core there is.
    """

    crop: int | None = None
    step: int | None = None
    compress_level: int = 1
    scheme: str = 'unique'
    min_side: int = 0
    subset: str | None = None
    overlap: str | None = None
    degraded_half: str = 'auto'
    measure_strength: bool = False
    skip_bad: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        Cut(self.crop, self.step)  # refuses what has no meaning
        if self.workers is not None and self.workers < 1:
            raise OptionError(f'--workers is {self.workers}, but it counts processes: give 1 or more.')


@dataclass(frozen=True)
class FileJob:
    """One picture of a test folder.

    Attributes:
        target: Path below the unit's folder, with ``/``.
        source: The picture file.
        cut: The part of it that is wanted, re-encoded as PNG; None copies the file as it is.
    """

    target: str
    source: Source
    cut: Cut | None = None


@dataclass
class Unit:
    """The folder ``train`` or ``test`` of a prepared data set, before it is written.

    Attributes:
        name: ``'train'`` or ``'test'``.
        lmdbs: Jobs by LMDB name (``'lq'``, ``'gt'``); empty for test folders.
        entries: Keys that each LMDB will hold.
        files: What test folders hold.
        links: Path of a repeated picture -> path of the one it repeats.
        pairs: Lines of each ``pairs.txt`` by the folder it stands in (``''`` for the unit's own).
        manifest: Bytes of ``manifest.json``.
        dropped: Lines of ``dropped.txt``.
    """

    name: str
    lmdbs: dict[str, list[WriteJob]] = field(default_factory=dict)
    entries: dict[str, list[str]] = field(default_factory=dict)
    files: list[FileJob] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    manifest: bytes = b''
    dropped: list[str] = field(default_factory=list)


def plan(
    family: Family, founds: Sequence[Found], collected: Collected, facts: dict[Source, Facts], options: PrepareOptions
) -> list[Unit]:
    """Lay down exactly what preparing writes, training before test; nothing is read or written here."""
    units = []
    for name in ('train', 'test'):
        samples = [sample for sample in collected.samples if sample.unit == name]
        if not samples:
            continue
        unit = Unit(name, dropped=sorted(entry.line for entry in collected.left_out if entry.unit == name))
        if name == 'train':
            _fill_lmdbs(unit, samples, facts, options)
        else:
            _fill_folders(unit, samples, facts)
        unit.manifest = manifest_bytes(_manifest(family, founds, collected, unit, samples, facts, options))
        units.append(unit)
    return units


# ------------------------------------------------------------------------------------------ training: LMDBs


def _fill_lmdbs(unit: Unit, samples: list[Sample], facts: dict[Source, Facts], options: PrepareOptions) -> None:
    clean: dict[str, WriteJob] = {}
    unit.lmdbs = {'lq': [], 'gt': []} if samples[0].lq is not None else {'gt': []}
    unit.entries = {name: [] for name in unit.lmdbs}
    for sample in samples:
        size = common_size(sample, facts)
        gt_key = sample.lq_key if options.scheme == 'basicsr' or sample.lq is None else sample.gt_key
        job = _job(gt_key, sample.gt, size, facts, options)
        if clean.get(gt_key, job) != job:  # its partners have several sizes: one clean picture for each
            job = replace(job, key=f'{gt_key}-{size[1]}x{size[0]}')
        gt = _entries(job.key, size, options)
        if job.key not in clean:
            clean[job.key] = job
            unit.lmdbs['gt'].append(job)
            unit.entries['gt'] += gt
        if sample.lq is not None:
            lq = _entries(sample.lq_key, size, options)
            unit.lmdbs['lq'].append(_job(sample.lq_key, sample.lq, size, facts, options))
            unit.entries['lq'] += lq
            pairs = unit.pairs.setdefault('', [])
            pairs += [Pair(*keys, sample.types, sample.words) for keys in zip(lq, gt, strict=True)]


def _job(
    key: str, source: Source, size: tuple[int, int], facts: dict[Source, Facts], options: PrepareOptions
) -> WriteJob:
    centre = None if facts[source].size == size else size
    return WriteJob(key, source.path, Cut(options.crop, options.step, source.half, centre))


def _entries(key: str, size: tuple[int, int], options: PrepareOptions) -> list[str]:
    """Keys that the writer gives the entries of a picture of this (height, width)."""
    if options.crop is None:
        return [key]
    rows, columns = (len(windows(side, options.crop, options.step or options.crop)) for side in size)
    return [f'{key}_s{number:03d}' for number in range(1, rows * columns + 1)]


# ------------------------------------------------------------------------------------------ test: folders


def _fill_folders(unit: Unit, samples: list[Sample], facts: dict[Source, Facts]) -> None:
    """Partners get one name, suffix included, as BasicSR's folder mode wants it; a repeated picture becomes a link."""
    first: dict[tuple[Source, tuple[int, int], str], str] = {}
    for sample in samples:
        size = common_size(sample, facts)
        both = {'lq': sample.lq, 'gt': sample.gt} if sample.lq is not None else {'gt': sample.gt}
        whole = {source: source.half is None and facts[source].size == size for source in both.values()}
        suffixes = {source.path.suffix.lower() for source in both.values()}
        suffix = suffixes.pop() if all(whole.values()) and len(suffixes) == 1 else '.png'
        below = sample.subset.removeprefix('test').lstrip('/')
        for side, source in both.items():
            target = str(PurePosixPath(below, side, sample.lq_key + suffix))
            if (source, size, suffix) in first:
                unit.links[target] = first[source, size, suffix]
                continue
            first[source, size, suffix] = target
            as_it_is = whole[source] and source.path.suffix.lower() == suffix
            cut = None if as_it_is else Cut(half=source.half, centre=None if facts[source].size == size else size)
            unit.files.append(FileJob(target, source, cut))
        if sample.lq is not None:
            unit.pairs.setdefault(below, []).append(Pair(sample.lq_key, sample.lq_key, sample.types, sample.words))


# ------------------------------------------------------------------------------------------ manifest


def _manifest(
    family: Family,
    founds: Sequence[Found],
    collected: Collected,
    unit: Unit,
    samples: list[Sample],
    facts: dict[Source, Facts],
    options: PrepareOptions,
) -> dict:
    ours = [found for found in founds if found.subset == SPLIT or found.subset.split('/')[0] == unit.name]
    left_out = sorted((e.name, e.reason, e.bad) for e in collected.left_out if e.unit == unit.name)
    pairs = [pair for lines in unit.pairs.values() for pair in lines]
    sources = sorted({s for x in samples for s in (x.lq, x.gt) if s is not None}, key=lambda s: (s.name, s.half or ''))
    training = unit.name == 'train'
    return {
        'dataset': family.name,
        'title': family.title,
        'task': family.task,
        'role': unit.name,
        'sources': [
            {'lq': None if f.lq is f.gt and not f.part.clean and not f.halves else f.lq.name, 'gt': f.gt.name}
            | {'layout': f.part.layout, 'rule': f.rule, 'subset': f.subset}
            for f in ours
        ],
        'samples': dict(sorted(Counter(sample.subset for sample in samples).items())),
        'expected': {s: list(n) for s, n in family.expected.items() if s.split('/')[0] == unit.name},
        'clean_pictures': len({sample.gt for sample in samples}),
        'entries': {name: len(keys) for name, keys in unit.entries.items()},
        'colour': 'BGR, 8 bit, PNG in LMDB' if training else 'picture files',
        'crop': options.crop if training else None,
        'step': (options.step or options.crop) if training else None,
        'pairs_scheme': options.scheme if training else 'equal names',
        'min_side': options.min_side,
        'overlap': options.overlap or family.overlap,
        'labels': label_counts(pairs),
        'strength_edges': collected.strength_edges,
        'dropped': [{'file': name, 'reason': reason, 'bad': bad} for name, reason, bad in left_out],
        'notes': [*family.notes, *(sentence for owner, sentence in collected.notes if owner == unit.name)],
        'keys_sha1': sha1_of_lines(sorted({f'{s.subset} {s.lq_key} {s.gt_key}' for s in samples})),
        'content_sha1': sha1_of_lines(f'{s.name} {s.half} {facts[s].sha1}' for s in sources),
    }
