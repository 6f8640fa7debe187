"""Finding out how a downloaded data set lies on disk: which folders hold what, under any folder above them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from basicsr_unirestorer.data.pairing import NAME_RULES, NamePairs, NameRule, pair_names
from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.image_files import SUFFIXES

Label = tuple[tuple[str, ...], tuple[str | None, ...]]  # degradation types, and a strength word or None for each
NO_LABEL: Label = ((), ())
ASK, SPLIT = '?', 'train and test'


@dataclass(frozen=True)
class Part:
    r"""A kind of folder of one layout, and where its clean partner lies.

    Attributes:
        layout: Who packed it so, e.g. ``'PReNet'``.
        subset: Where its pictures go: ``'train'``, ``'test'``, a group of the folder (``r'test/\g<size>'``), ``SPLIT``
            where the family splits by name, or ``ASK`` where the folder does not tell and the user must.
        folder: Regular expression of the end of the degraded (or only) folder's path, in any case.
        clean: Names of the clean folder, from where the match begins; the first that exists counts. Empty where there
            is nothing degraded, or where both lie in one file.
        rules: Name rules to try; the one that pairs most files counts.
        prefix: What keys begin with, from groups of the folder; needed where names repeat among folders.
        fallback: Counts only where no other part fits anything.
    """

    layout: str
    subset: str
    folder: str
    clean: tuple[str, ...] = ()
    rules: tuple[str, ...] = ('same',)
    prefix: str = ''
    fallback: bool = False


@dataclass(frozen=True)
class Family:
    """A data set as people quote it.

    Attributes:
        name: Its name in commands and manifests, e.g. ``'rain100l'``.
        title: Its name in papers.
        task: Folder among the prepared data, e.g. ``'derain'``.
        parts: All known layouts of all its subsets.
        expected: Pictures (or pairs) of a subset as published; several where releases differ.
        expected_clean: Different clean pictures of a subset, where many pairs share one.
        kept: Pairs of a subset after the overlap with the test set is removed, where that is known.
        split: ``'train'`` or ``'test'`` from the named groups of folder and rule, for parts that say ``SPLIT``.
        label: Degradation types and words from the named groups of folder and rule, and ``file``, the name itself.
        overlap: ``'drop'`` where training pictures that are also in the test set must go, ``'warn'`` elsewhere.
        same_ids: Whether the clean names of train and test number the same photographs.
        notes: What else a user should know, printed and written into the manifest.
    """

    name: str
    title: str
    task: str
    parts: tuple[Part, ...]
    expected: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    expected_clean: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)
    label: Callable[[Mapping[str, str]], Label] = lambda groups: NO_LABEL
    split: Callable[[Mapping[str, str]], str] = lambda groups: 'train'
    overlap: str = 'warn'
    same_ids: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folder:
    """A folder that holds pictures.

    Attributes:
        path: Where it is.
        name: Its path from the given folder on, that one's own name included, with ``/``.
        files: Names of its pictures, sorted.
    """

    path: Path
    name: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """A folder that fits a part, with its clean partner and their pairs; ``halves`` where both share their files."""

    part: Part
    subset: str
    prefix: str
    groups: Mapping[str, str]
    lq: Folder
    gt: Folder
    rule: str
    names: NamePairs
    halves: bool = False


def scan(roots: Iterable[str | Path], output: str | Path | None = None) -> list[Folder]:
    """List every folder with pictures below the given ones, in a fixed order; hidden ones are passed over.

    Args:
        roots: The given folders.
        output: Passed over where it lies within one of them: what is prepared there is no download.

    Raises:
        DataError: One of them is no folder, none holds a picture, or two have the same name.
    """
    found: list[Folder] = []
    roots = [Path(root) for root in roots]
    for root in roots:
        if not root.is_dir():
            raise DataError(f'{root} is no folder; unpack the download and give the folder it became.')
        found += _folders(root, set() if output is None else {os.path.realpath(output)})
    for name, count in Counter(folder.name for folder in found).items():
        if count > 1:
            raise DataError(f"Two of the given folders are called '{name}'; give the folder above them instead.")
    if not found:
        raise DataError(f'{", ".join(map(str, roots))} holds no pictures; unpack the download and give that folder.')
    return found


def _folders(root: Path, seen: set[str]) -> Iterator[Folder]:
    """Walk through links, too, but into no folder twice: links may lead in circles."""
    top = root.resolve().name
    for place, below, files in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(place))
        below[:] = sorted(
            name
            for name in below
            if not name.startswith(('.', '__MACOSX')) and os.path.realpath(os.path.join(place, name)) not in seen
        )
        pictures = sorted(name for name in files if name.lower().endswith(SUFFIXES) and not name.startswith('.'))
        if pictures:
            relative = Path(place).relative_to(root).as_posix()
            yield Folder(Path(place), top if relative == '.' else f'{top}/{relative}', tuple(pictures))


def detect(family: Family, folders: Sequence[Folder], subset: str | None = None) -> list[Found]:
    """Find the layout of each subset: the one that accounts for most pictures.

    Args:
        family: What is looked for.
        folders: See ``scan``.
        subset: Where folders go that do not tell.

    Raises:
        DataError: No layout fits; tells the known ones, and the folders that were found.
    """
    candidates: dict[str, dict[str, list[Found]]] = {}
    halfway: list[str] = []
    by_name = {folder.name.casefold(): folder for folder in folders}
    for part in sorted(family.parts, key=lambda part: part.fallback):
        if part.fallback and candidates:
            break
        for folder in folders:
            found = _fit(part, folder, by_name, subset, halfway)
            if found is not None:
                candidates.setdefault(found.subset, {}).setdefault(part.layout, []).append(found)
    if not candidates:
        raise DataError(_no_layout(family, folders, halfway))
    chosen = []
    for layouts in candidates.values():
        chosen += max(layouts.values(), key=lambda founds: sum(len(found.names.pairs) for found in founds))
    return sorted(chosen, key=lambda found: (not found.subset.startswith('train'), found.subset, found.lq.name))


def _fit(
    part: Part, folder: Folder, by_name: Mapping[str, Folder], asked: str | None, halfway: list[str]
) -> Found | None:
    match = re.fullmatch(f'(?P<at>(?:.*?/)??)(?:{part.folder})', folder.name, re.IGNORECASE)
    if match is None:
        return None
    clean = folder
    if part.clean:
        wanted = [match.expand(rf'\g<at>{name}') for name in part.clean]
        clean = next((by_name[name.casefold()] for name in wanted if name.casefold() in by_name), None)
        if clean is None:
            halfway.append(f'{folder.name} has no clean partner ({" or ".join(wanted)})')
            return None
    options = [(rule, pair_folders(NAME_RULES[rule], folder, clean)) for rule in part.rules]
    rule, names = max(options, key=lambda option: len(option[1].pairs))
    if not names.pairs:
        halfway.append(f"{folder.name} has no pair by the rule '{' or '.join(part.rules)}'")
        return None
    groups = {key: value for key, value in match.groupdict().items() if value is not None and key != 'at'}
    if part.subset == ASK and asked is None:
        halfway.append(f'{folder.name} says neither train nor test; pass --subset train or --subset test')
        return None
    subset, prefix = match.expand(part.subset).replace(ASK, asked or ''), match.expand(part.prefix)
    return Found(part, subset, prefix, groups, folder, clean, rule, names, NAME_RULES[rule].halves)


def pair_folders(rule: NameRule, lq: Folder, gt: Folder) -> NamePairs:
    """Pair the pictures of two folders, or of one that holds both kinds."""
    names = pair_names(lq.files, gt.files, rule)
    if lq is gt:  # both kinds in one folder: a name that the rule does not describe is a clean picture's
        told = {file for pair in names.pairs for file in pair[:2]} | {file for file, _ in names.alone}
        names.doubled = [entry for entry in names.doubled if entry[0] == 'lq']
        names.unused = [file for file in names.unused if file not in told]
        names.unfit = []
    return names


def _no_layout(family: Family, folders: Sequence[Folder], halfway: Sequence[str]) -> str:
    known: dict[str, list[str]] = {}
    for part in family.parts:
        partner = re.sub(r'\\g<\w+>', '...', part.clean[0]) if part.clean else ''
        places = _readable(part.folder) + (f' with {partner}' if partner else '')
        known.setdefault(part.layout, []).append(places)
    layouts = '; '.join(f'{layout}: {", ".join(places)}' for layout, places in known.items())
    there = ', '.join(folder.name for folder in folders[:6]) + (', ...' if len(folders) > 6 else '')
    near = f' Nearest: {"; ".join(halfway[:2])}.' if halfway else ''
    return (
        f'No known layout of {family.title} was found, only the folders {there}.{near} Expected one of {layouts}. '
        'Give the folder above these, or pair any two folders with datasets_prep/paired_folder.py.'
    )


def _readable(pattern: str) -> str:
    """Regular expression of a folder as people write it: ``'(?P<k>low|haze)'`` -> ``'(low|haze)'``."""
    plain = re.sub(r'\(\?<[!=][^)]*\)', '', pattern)
    return re.sub(r'\?P<\w+>|\?:', '', plain).replace('[^/]+', '*').replace('[^/]*', '*').replace('\\', '')
