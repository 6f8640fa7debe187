"""What ``unirestorer lmdb check`` looks at: is an LMDB whole, and does it fit its partner?"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import lmdb
from PIL import Image
from tqdm import tqdm

from basicsr_unirestorer.data.parallel import available_cores, in_order
from basicsr_unirestorer.data.write_jobs import key_fault
from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.image_files import decode_noted

META_LINE = re.compile(r'(\S+)\.png \((\d+),(\d+),(\d+)\) (\d)')
AGAIN = 'make the LMDB again, with a script of datasets_prep/'
# kind of fault -> (what is wrong, what to do)
KINDS = {
    'folder': ('the folder', AGAIN),
    'name': ('the name of the folder', 'rename the folder so that it ends in .lmdb'),
    'meta': ('lines of meta_info.txt are not NAME.png (h,w,c) LEVEL', f'mend the lines, or {AGAIN}'),
    'twice': ('keys stand in meta_info.txt twice', f'rename the pictures and {AGAIN}'),
    'key': ('keys that BasicSR cannot read back', f'{AGAIN}, which makes safe keys'),
    'absent': (
        'keys are listed in meta_info.txt but not in the database',
        f'it is half copied: copy it anew or {AGAIN}',
    ),
    'unlisted': (
        'entries of the database are not listed in meta_info.txt, so that nobody reads them',
        f'add their lines, or {AGAIN}',
    ),
    'damaged': ('entries are no whole picture', f'{AGAIN} from whole pictures'),
    'size': ('entries have another size than meta_info.txt says', AGAIN),
    'kind': ('entries are no colour pictures of 8 bit', f'{AGAIN}, which turns every picture into one'),
    'only lq': ('keys are only in lq', 'prepare both from the same pairs'),
    'only gt': ('keys are only in gt', 'prepare both from the same pairs'),
    'pairs lq': ('keys of pairs.txt are not in lq', 'prepare the data set again'),
    'pairs gt': ('keys of pairs.txt are not in gt', 'prepare the data set again'),
    'no pair lq': ('keys of lq are in no line of pairs.txt', 'add their lines, or prepare the data set again'),
    'no pair gt': ('keys of gt are in no line of pairs.txt', 'add their lines, or prepare the data set again'),
    'pair size': ('pairs are of different sizes', 'prepare both from the same pairs, with the same cuts'),
}


@dataclass
class Findings:
    """What was looked at, and what is wrong with it: a list of places for every kind of fault in ``KINDS``."""

    path: str
    entries: int = 0
    bytes: int = 0
    shapes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, place: str) -> None:
        self.faults.setdefault(kind, []).append(place)

    def to_dict(self, first: int = 20) -> dict:
        """Return it for JSON, with the first few places of every kind."""
        faults = {
            kind: {'count': len(places), 'what': KINDS[kind][0], 'do': KINDS[kind][1], 'first': places[:first]}
            for kind, places in self.faults.items()
        }
        return {'path': self.path, 'entries': self.entries, 'bytes': self.bytes, 'ok': not faults, 'faults': faults}

    def text(self, first: int = 5) -> str:
        """Say it in lines for people."""
        lines = [f'{self.path}: {self.entries} entries, {self.bytes / 1e6:.1f} MB' + ('' if self.faults else ', whole')]
        for kind, places in self.faults.items():
            what, advice = KINDS[kind]
            lines.append(f'  {what}: {len(places)}')
            lines += [f'    {place}' for place in places[:first]]
            if len(places) > first:
                lines.append(f'    ... and {len(places) - first} more')
            lines.append(f'    -> {advice}.')
        return '\n'.join(lines)


def check_lmdb(path: str | Path, workers: int | None = None) -> Findings:
    """Look at everything in an LMDB: its files, its meta file, every key, and every picture, decoded to the last row.

    Args:
        path: The LMDB folder.
        workers: Number of processes; all cores where None.

    Returns:
        What is wrong; nothing is raised for what can be wrong with an LMDB.
    """
    folder, found = Path(path), Findings(str(path))
    if not folder.is_dir():
        found.add('folder', f'there is no folder {folder}')
        return found
    if folder.resolve().suffix != '.lmdb' and (folder / 'data.mdb').exists():
        found.add('name', f"'{folder.resolve().name}' does not end in .lmdb, so BasicSR refuses it")
    _read_meta(folder, found)
    fault = _database_fault(folder)
    if fault:
        found.add('folder', fault)
        return found
    seen = set()
    jobs = ((key, value, found.shapes.get(key)) for key, value in _entries(folder, found))
    results = in_order(_look_at, jobs, workers or available_cores())
    for key, size, faults in tqdm(results, desc=folder.name, unit='entry'):
        found.entries += 1
        found.bytes += size
        seen.add(key)
        for kind, place in faults:
            found.add(kind, place)
        if key not in found.shapes and found.shapes:
            found.add('unlisted', key)
    for key in found.shapes:
        if key not in seen and not key_fault(key):  # a key with a dot was told already
            found.add('absent', key)
    return found


def check_pair(lq: Findings, gt: Findings, pairs: Iterable[tuple[str, str]] | None = None) -> Findings:
    """Compare the keys and sizes of two LMDBs.

    Args:
        lq: What ``check_lmdb`` found in the degraded pictures.
        gt: What it found in the clean ones.
        pairs: (lq key, gt key) of each sample, as in ``pairs.txt``; equal keys belong together where None, as BasicSR's
            ``PairedImageDataset`` has it.
    """
    found = Findings(f'{lq.path} and {gt.path}', bytes=lq.bytes + gt.bytes)
    if pairs is None:
        pairs = [(key, key) for key in lq.shapes if key in gt.shapes]
        missing = {'only lq': lq.shapes.keys() - gt.shapes.keys(), 'only gt': gt.shapes.keys() - lq.shapes.keys()}
    else:
        pairs = list(pairs)
        named = {'lq': {one for one, _ in pairs}, 'gt': {other for _, other in pairs}}
        missing = {f'pairs {role}': named[role] - side.shapes.keys() for role, side in (('lq', lq), ('gt', gt))}
        missing |= {f'no pair {role}': side.shapes.keys() - named[role] for role, side in (('lq', lq), ('gt', gt))}
    for kind, keys in missing.items():
        for key in sorted(keys):
            found.add(kind, key)
    for one, other in pairs:
        (h, w), (gt_h, gt_w) = lq.shapes.get(one, (0, 0))[:2], gt.shapes.get(other, (0, 0))[:2]
        found.entries += bool(h and gt_h)
        if h and gt_h and (h, w) != (gt_h, gt_w):
            found.add('pair size', f'{one}: {w}x{h} in lq, {gt_w}x{gt_h} in gt')
    return found


def _read_meta(folder: Path, found: Findings) -> None:
    try:
        text = (folder / 'meta_info.txt').read_text(encoding='utf-8')
    except OSError:
        if (folder / 'data.mdb').exists():
            found.add('folder', 'meta_info.txt is missing: the LMDB is of another tool, or half copied')
        return
    except UnicodeDecodeError:
        found.add('folder', 'meta_info.txt is no text')
        return
    for number, line in enumerate(text.splitlines(), start=1):
        fields = META_LINE.fullmatch(line)
        if not fields:
            found.add('meta', f"line {number}: '{line[:80]}'")
            continue
        key, (h, w, c) = fields[1], (int(side) for side in fields.group(2, 3, 4))
        if key in found.shapes:
            found.add('twice', key)
        elif key_fault(key):
            found.add('key', f"'{key}' {key_fault(key)}")
        found.shapes[key] = (h, w, c)
    if not text.strip():
        found.add('folder', 'meta_info.txt is empty')


def _database_fault(folder: Path) -> str:
    """Return why a database cannot be read at all. Reading beyond the end of a cut-off one would end the process."""
    file = folder / 'data.mdb'
    if not file.exists():
        other = ', '.join(sorted(path.name for path in folder.iterdir())[:4]) or 'nothing'
        return f'data.mdb is missing: this is no LMDB (it holds {other})'
    size = file.stat().st_size
    if not size:
        return 'data.mdb is empty'
    try:
        with lmdb.open(str(folder), readonly=True, lock=False) as environment:
            needed = (environment.info()['last_pgno'] + 1) * environment.stat()['psize']
            entries = environment.stat()['entries']
    except lmdb.Error as error:
        return f'data.mdb is no LMDB database ({error})'
    if size < needed:
        return f'data.mdb is cut off: {size} of at least {needed} bytes are there'
    return '' if entries else 'the database has no entries'


def _entries(folder: Path, found: Findings) -> Iterator[tuple[str, bytes]]:
    try:
        with (
            lmdb.open(str(folder), readonly=True, lock=False, readahead=False) as environment,
            environment.begin() as transaction,
        ):
            for key, value in transaction.cursor():
                yield key.decode('utf-8', 'backslashreplace'), bytes(value)
    except lmdb.Error as error:
        found.add('folder', f'the database is damaged ({error}); what comes after was not looked at')


def _look_at(job: tuple[str, bytes, tuple[int, int, int] | None]) -> tuple[str, int, list[tuple[str, str]]]:
    """Return key, size in bytes and (kind, place) of what is wrong with one entry."""
    key, value, listed = job
    faults = []
    if key_fault(key) and listed is None:  # else its line in the meta file was told already
        faults.append(('key', f"'{key}' {key_fault(key)}"))
    try:
        picture, losses = decode_noted(value, key)
    except DataError:
        return key, len(value), [*faults, ('damaged', f'{key} ({_broken(value)})')]
    channels = _channels(value)
    if losses:
        faults.append(('kind', f'{key} ({losses})'))
    if listed and (*picture.shape[:2], channels) != listed:
        h, w = picture.shape[:2]
        faults.append(('size', f'{key}: ({h},{w},{channels}), listed as ({",".join(map(str, listed))})'))
    return key, len(value), faults


def _channels(value: bytes) -> int:
    with Image.open(io.BytesIO(value)) as picture:
        return 3 if picture.mode == 'P' else len(picture.getbands())


def _broken(value: bytes) -> str:
    if not value:
        return 'empty'
    with contextlib.suppress(Exception), Image.open(io.BytesIO(value)) as picture:
        return f'{picture.format}, but not all of it'
    return f'no picture; begins with {value[:8]!r}'
