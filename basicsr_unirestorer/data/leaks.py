"""Pictures of a training set that are also in a test set: the same, nearly the same, or a part of one.

Found are: equal pixels, whatever the file format; the same picture resized, recompressed, or changed a little in
brightness (64-bit difference hash at a Hamming distance of at most 4); sub-images cut out anywhere, with their pixels
unchanged, from either side. Not found are: flipped or rotated pictures, crops that were resized or recompressed after
cutting, and anything in pictures without contrast, such as a piece of clear sky, but for equal pixels.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import lmdb
import numpy as np
from tqdm import tqdm

from basicsr_unirestorer.data.parallel import available_cores, in_order
from basicsr_unirestorer.data.picture_hash import MAX_DISTANCE, dhash, near_pairs
from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.image_files import decode_picture, find_pictures, read_picture

FLAT = 8  # grey levels between the darkest and the brightest of 72 fields, below which a difference hash says nothing
BLOCK = 8  # side of the block by which a sub-image is looked for, in pixels

Source = tuple[str, Path | bytes]  # (key, picture file or its content)


class Fingerprint(NamedTuple):
    """What is kept of one picture.

    ``digest`` hashes its pixels, ``dhash`` its look (64 bit). ``flat`` says that the latter means nothing. ``anchor``
    hashes its most textured block, which begins at ``at`` (row, column).
    """

    key: str
    shape: tuple[int, int]
    digest: bytes
    dhash: int
    flat: bool
    anchor: int
    at: tuple[int, int]


class Leak(NamedTuple):
    """A training picture that shows what a test picture shows.

    ``how`` is ``'identical'``, ``'similar'``, ``'part of the test picture'`` or ``'holds the test picture'``.
    ``distance`` counts the bits in which the difference hashes differ; it is 0 for all but ``'similar'``.
    """

    train: str
    test: str
    how: str
    distance: int = 0


# ------------------------------------------------------------------------------------------ one picture


def is_flat(picture: np.ndarray) -> bool:
    """Whether a BGR uint8 (h, w, 3) picture has too little contrast for its difference hash to mean anything."""
    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_BGR2GRAY)
    return int(np.ptp(cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA))) < FLAT


def pixel_digest(picture: np.ndarray) -> bytes:
    """Hash shape and pixels: equal for equal pictures only, whatever files they came from."""
    return hashlib.sha1(repr(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()).digest()


def block_hashes(picture: np.ndarray) -> np.ndarray:
    """Hash the ``BLOCK`` x ``BLOCK`` pixels that begin at each place: uint64, (h - BLOCK + 1, w - BLOCK + 1)."""
    b, g, r = (picture[..., channel].astype(np.uint64) for channel in range(3))
    values = (b + (g << np.uint64(8)) + (r << np.uint64(16)) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    values ^= values >> np.uint64(29)
    for axis, factor in ((0, 0xC2B2AE3D27D4EB4F), (1, 0x165667B19E3779F9)):
        length = values.shape[axis] - BLOCK + 1
        total = np.zeros_like(values[:length] if axis == 0 else values[:, :length])
        for offset in range(BLOCK):  # Horner's rule, modulo 2^64
            part = values[offset : offset + length] if axis == 0 else values[:, offset : offset + length]
            total = total * np.uint64(factor) + part
        values = total
    return values


def fingerprint(key: str, picture: np.ndarray) -> Fingerprint:
    """Return what is kept of a BGR uint8 (h, w, 3) picture."""
    h, w = picture.shape[:2]
    at, anchor = (0, 0), 0
    if min(h, w) >= BLOCK:
        places = [(y, x) for y in _spread(h) for x in _spread(w)]
        at = max(places, key=lambda place: float(_block(picture, place).std()))
        anchor = int(block_hashes(_block(picture, at))[0, 0]) if _block(picture, at).std() > 0 else 0
    return Fingerprint(key, (h, w), pixel_digest(picture), dhash(picture), is_flat(picture), anchor, at)


def _spread(length: int) -> list[int]:
    return sorted({round(part * (length - BLOCK) / 4) for part in range(5)})


def _block(picture: np.ndarray, at: tuple[int, int]) -> np.ndarray:
    return picture[at[0] : at[0] + BLOCK, at[1] : at[1] + BLOCK]


# ------------------------------------------------------------------------------------------ many pictures


def pictures_of(path: str | Path) -> Iterator[Source]:
    """Yield the pictures of an LMDB or of a folder; keys of a folder are paths within it.

    Raises:
        DataError: There is neither.
    """
    path = Path(path)
    if not (path / 'data.mdb').exists():
        yield from ((str(file.relative_to(path)), file) for file in find_pictures(path))
        return
    try:
        with lmdb.open(str(path), readonly=True, lock=False, readahead=False) as environment:
            with environment.begin() as transaction:
                for key, value in transaction.cursor():
                    yield key.decode('utf-8', 'replace'), bytes(value)
    except lmdb.Error as error:
        raise DataError(f'{path} cannot be read ({error}); look at it with: unirestorer lmdb check.') from error


def read_source(source: Source) -> np.ndarray:
    """Decode one of ``pictures_of``: BGR, uint8, (h, w, 3)."""
    key, content = source
    return decode_picture(content, key) if isinstance(content, bytes) else read_picture(content)


def _print_of(source: Source) -> Fingerprint | str:
    try:
        return fingerprint(source[0], read_source(source))
    except DataError as error:
        return str(error)


def fingerprints(
    sources: Iterable[Source], workers: int | None = None, title: str = 'hashing'
) -> tuple[list[Fingerprint], list[str]]:
    """Take the fingerprints of (key, file or content) pairs, in their order.

    Args:
        sources: ``pictures_of`` a path, or anything like it.
        workers: Number of processes; all cores where None.
        title: What the progress bar says.

    Returns:
        The fingerprints, and one sentence for every picture that cannot be read.
    """
    taken = in_order(_print_of, sources, workers or available_cores())
    results = list(tqdm(taken, desc=title, unit='picture'))
    return [r for r in results if not isinstance(r, str)], [r for r in results if isinstance(r, str)]


def find_leaks(train: list[Fingerprint], test: list[Fingerprint], max_distance: int = MAX_DISTANCE) -> list[Leak]:
    """Find identical and similar pictures; 72,000 against 500 take seconds.

    Returns:
        Leaks in the order of ``train``, then of ``test``.
    """
    same = defaultdict(list)
    for number, one in enumerate(test):
        same[one.digest].append(number)
    leaks = {(i, j): Leak(a.key, test[j].key, 'identical') for i, a in enumerate(train) for j in same[a.digest]}
    told_train, told_test = ([i for i, one in enumerate(side) if not one.flat] for side in (train, test))
    hashes = [train[i].dhash for i in told_train], [test[j].dhash for j in told_test]
    for ours, theirs, distance in near_pairs(*hashes, max_distance):
        i, j = told_train[ours], told_test[theirs]
        leaks.setdefault((i, j), Leak(train[i].key, test[j].key, 'similar', distance))
    return [leaks[pair] for pair in sorted(leaks)]


# ------------------------------------------------------------------------------------------ sub-images


def find_parts(
    parts: list[Fingerprint], wholes: Iterable[Source], workers: int | None = None, title: str = 'searching'
) -> list[tuple[str, str]]:
    """Find pictures that were cut out of others, pixel for pixel, at any place.

    Args:
        parts: Fingerprints of the pictures that may be parts.
        wholes: The pictures that they may be parts of; those that cannot be read are passed over.
        workers: Number of processes; all cores where None.
        title: What the progress bar says.

    Returns:
        (key of the part, key of the whole), equal pictures not among them.
    """
    able = sorted((one for one in parts if one.anchor), key=lambda one: one.anchor)
    if not able:
        return []
    look = partial(_parts_within, able, np.array([one.anchor for one in able], np.uint64))
    found = tqdm(in_order(look, wholes, workers or available_cores()), desc=title, unit='picture')
    return [pair for pairs in found for pair in pairs]


def _parts_within(able: list[Fingerprint], anchors: np.ndarray, source: Source) -> list[tuple[str, str]]:
    try:
        whole = read_source(source)
    except DataError:
        return []
    h, w = whole.shape[:2]
    if min(h, w) < BLOCK:
        return []
    places = block_hashes(whole)
    first = np.minimum(np.searchsorted(anchors, places), len(anchors) - 1)
    found = {}
    for y, x in np.argwhere(anchors[first] == places):
        place = first[y, x]
        while place < len(able) and anchors[place] == places[y, x]:
            part = able[place]
            top, left = y - part.at[0], x - part.at[1]
            inside = top >= 0 and left >= 0 and top + part.shape[0] <= h and left + part.shape[1] <= w
            if inside and part.shape != (h, w) and part.key not in found:
                cut = whole[top : top + part.shape[0], left : left + part.shape[1]]
                if pixel_digest(cut) == part.digest:
                    found[part.key] = (part.key, source[0])
            place += 1
    return list(found.values())


def leaks_between(
    train: str | Path, test: str | Path, workers: int | None = None, max_distance: int = MAX_DISTANCE
) -> tuple[list[Leak], list[str]]:
    """Find every leak between two LMDBs or folders of pictures.

    Returns:
        The leaks, and one sentence for every picture that cannot be read.
    """
    train_prints, bad = fingerprints(pictures_of(train), workers, 'train')
    test_prints, also_bad = fingerprints(pictures_of(test), workers, 'test')
    leaks = find_leaks(train_prints, test_prints, max_distance)
    smaller = _smaller_than_any(train_prints, test_prints)
    for part, whole in find_parts(smaller, pictures_of(test), workers, 'parts of test'):
        leaks.append(Leak(part, whole, 'part of the test picture'))
    smaller = _smaller_than_any(test_prints, train_prints)
    for part, whole in find_parts(smaller, pictures_of(train), workers, 'parts of train'):
        leaks.append(Leak(whole, part, 'holds the test picture'))
    return leaks, bad + also_bad


def _smaller_than_any(parts: list[Fingerprint], wholes: list[Fingerprint]) -> list[Fingerprint]:
    shapes = {one.shape for one in wholes}
    fitting = {
        shape: any(shape[0] <= h and shape[1] <= w and shape != (h, w) for h, w in shapes)
        for shape in {one.shape for one in parts}
    }
    return [one for one in parts if fitting[one.shape]]
