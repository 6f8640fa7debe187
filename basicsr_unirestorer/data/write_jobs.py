"""What is to be written into an LMDB: a key, a picture file and which part of it; keys that BasicSR can read back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from basicsr_unirestorer.errors import DataError, OptionError
from basicsr_unirestorer.image_files import find_pictures, read_picture_noted, safe_key

MAX_KEY = 500  # LMDB takes 511 bytes; the rest is left for the number of a sub-image


@dataclass(frozen=True)
class Cut:
    """What is taken of a picture, in this order: one half of it, its centre, squares.

    Args:
        crop: Side of the sub-images in pixels; None leaves the picture whole.
        step: Distance between sub-images in pixels; ``crop`` where None.
        half: ``'left'`` or ``'right'``, for two pictures side by side in one file; an odd middle column is lost.
        centre: (height, width) of the part around the middle that is kept.

    Raises:
        OptionError: A value that has no meaning.
    """

    crop: int | None = None
    step: int | None = None
    half: str | None = None
    centre: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.half not in (None, 'left', 'right'):
            raise OptionError(f"half is '{self.half}', but a picture is cut into 'left' and 'right'.")
        for name, value in (('crop', self.crop), ('step', self.step), ('centre', self.centre and min(self.centre))):
            if value is not None and value < 1:
                raise OptionError(f'{name} is {value}, but it counts pixels: give 1 or more.')
        if self.step is not None and self.crop is None:
            raise OptionError(f'step is {self.step} but there is no crop; give the side of the sub-images as crop.')


WHOLE = Cut()


@dataclass(frozen=True)
class WriteJob:
    """One picture file on its way into an LMDB.

    Args:
        key: Its key, as ``safe_key`` makes them. With ``cut.crop`` the entries are ``key_s001``, ``key_s002``, ...
        path: The picture file.
        cut: The part of it that is wanted.
    """

    key: str
    path: Path
    cut: Cut = WHOLE


class Loaded(NamedTuple):
    """The pictures of one job, and what their file lost on the way to 8 bit BGR (empty: nothing)."""

    pictures: list[tuple[str, np.ndarray]]
    note: str


def load(job: WriteJob) -> list[tuple[str, np.ndarray]]:
    """Read what a job asks for.

    Returns:
        (key, picture) pairs, pictures BGR, uint8, (h, w, 3): one, or the sub-images row by row. A picture smaller than
        ``crop`` comes whole.

    Raises:
        DataError: The file is missing, damaged, or smaller than ``cut.centre``.
    """
    return load_noted(job).pictures


def load_noted(job: WriteJob) -> Loaded:
    """Do what ``load`` does, and say what the file lost on the way, such as its alpha channel."""
    picture, note = read_picture_noted(job.path)
    picture = _part(picture, job)
    if job.cut.crop is None:
        return Loaded([(job.key, picture)], note)
    parts = sub_images(picture, job.cut.crop, job.cut.step or job.cut.crop)
    return Loaded([(f'{job.key}_s{number:03d}', part) for number, part in enumerate(parts, start=1)], note)


def _part(picture: np.ndarray, job: WriteJob) -> np.ndarray:
    if job.cut.half:
        side = picture.shape[1] // 2
        picture = picture[:, :side] if job.cut.half == 'left' else picture[:, picture.shape[1] - side :]
    if job.cut.centre:
        (h, w), (keep_h, keep_w) = picture.shape[:2], job.cut.centre
        if keep_h > h or keep_w > w:
            raise DataError(f'{job.path} is {w}x{h}, but its {keep_w}x{keep_h} centre is wanted; leave it out.')
        top, left = (h - keep_h) // 2, (w - keep_w) // 2
        picture = picture[top : top + keep_h, left : left + keep_w]
    if not picture.size:
        raise DataError(f'{job.path} is one pixel wide and has no halves; leave it out.')
    return picture


# ------------------------------------------------------------------------------------------ sub-images


def windows(length: int, size: int, step: int) -> list[int]:
    """Return the starts of windows along one axis; the last one is aligned to the border so that nothing is lost."""
    starts = list(range(0, max(length - size, 0) + 1, step))
    if starts[-1] + size < length:
        starts.append(length - size)
    return starts


def sub_images(picture: np.ndarray, crop: int, step: int) -> Iterator[np.ndarray]:
    """Cut a (h, w, c) picture into squares of side ``crop``, row by row; a smaller picture comes whole."""
    for top in windows(picture.shape[0], crop, step):
        for left in windows(picture.shape[1], crop, step):
            yield picture[top : top + crop, left : left + crop]


# ------------------------------------------------------------------------------------------ keys


def key_fault(key: str) -> str:
    """Return why BasicSR could not read a key back, or an empty string where it can."""
    if not key:
        return 'is empty'
    if '.' in key:
        return 'holds a dot, where BasicSR cuts it off'
    if not re.fullmatch(r'[!-~]+', key):
        return 'holds blanks or letters outside ASCII'
    if '/' in key or '\\' in key:
        return 'holds a slash'
    return 'is longer than LMDB takes' if len(key) > MAX_KEY + 6 else ''


def folder_jobs(folder: str | Path, cut: Cut = WHOLE) -> list[WriteJob]:
    """Return a job for every picture below a folder, in the order of their paths; raises as ``find_pictures`` does."""
    folder = Path(folder)
    return [WriteJob(safe_key(path.relative_to(folder)), path, cut) for path in find_pictures(folder)]


def split_clashes(jobs: Iterable[WriteJob]) -> tuple[list[WriteJob], list[tuple[WriteJob, str]]]:
    """Part jobs into those whose keys are safe and unique, and the rest; of those that share a key the first is kept.

    Returns:
        The good jobs in their order, and (job, one sentence) for every other.
    """
    jobs = list(jobs)
    owner: dict[str, WriteJob] = {}
    cut_up = {job.key: job for job in reversed(jobs) if job.cut.crop is not None}
    good, bad = [], []
    for job in jobs:
        fault = 'is longer than LMDB takes' if len(job.key) > MAX_KEY else key_fault(job.key)
        numbered = re.fullmatch(r'(.+)_s\d{3,}', job.key) if job.cut.crop is None else None
        other = owner.get(job.key) or (cut_up.get(numbered[1]) if numbered else None)
        if fault:
            bad.append((job, f"{job.path} has the LMDB key '{job.key}', which {fault}; rename it."))
        elif other:
            bad.append((job, f"{other.path} and {job.path} would share the LMDB key '{job.key}'; rename one of them."))
        else:
            owner[job.key] = job
            good.append(job)
    return good, bad
