"""How fast training samples are read: against BasicSR's paired dataset, and against degrading whole pictures.

Command: python -m tests.benchmarks.reading [--folder PICTURES] [--recipe universal] [--size 128] [--repeats 7]

Whole pictures go into LMDBs once; every way reads the same ones, each from one loader worker of its own, in turns. A
ratio above 1 says that the row takes less time than what it is compared with. The trace says where the time of a
sample goes: fetching bytes from the LMDB, decoding them, drawing the record, degrading, and the rest (crop, conversion,
flips).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from basicsr_unirestorer import register
from basicsr_unirestorer.degradations import DegradationRecipe, Window, degrade, sample_rng
from basicsr_unirestorer.image_files import find_pictures, read_picture
from tests.benchmarks.measure import Ratio, alternate, ratio

MEGAPIXEL = 2**20


class Contest(NamedTuple):
    """One row of the table: how many times as fast ``name`` is as ``other``."""

    name: str
    other: str
    needed: float
    speed: Ratio
    ms: tuple[float, float]


def sample_pictures() -> list[np.ndarray]:
    """Return scikit-image's photographs of a data set's size, BGR uint8."""
    from skimage import data

    return [np.ascontiguousarray(getattr(data, name)()[..., 2::-1]) for name in ('astronaut', 'chelsea', 'coffee')] * 8


def write_lmdbs(folder: Path, pictures: Sequence[np.ndarray], recipe: str) -> dict[str, str]:
    """Write clean pictures and one degraded copy of each; returns the two roots."""
    from basicsr_unirestorer.data.lmdb_writer import WriteJob, write_lmdb

    recipe, roots = DegradationRecipe.load(recipe), {}
    for role in ('gt', 'lq'):
        jobs = []
        for number, picture in enumerate(pictures):
            jobs.append(WriteJob(f'p{number:04d}', folder / f'{role}_{number:04d}.bmp'))
            if role == 'lq':
                rng = sample_rng(0, number)
                rgb = picture[..., ::-1].astype(np.float32) / 255
                picture = np.rint(degrade(rgb, recipe.draw(rng), rng)[..., ::-1] * 255).astype(np.uint8)
            cv2.imwrite(str(jobs[-1].path), picture)
        roots[f'dataroot_{role}'] = str(folder / f'{role}.lmdb')
        write_lmdb(roots[f'dataroot_{role}'], jobs)
        for job in jobs:
            job.path.unlink()
    return roots


def make_datasets(roots: dict[str, str], recipe: str, size: int) -> dict[str, Dataset]:
    """Return every way of reading by name."""
    from basicsr.data.paired_image_dataset import PairedImageDataset

    from basicsr_unirestorer.data import sources
    from basicsr_unirestorer.data.crops import to_float_rgb
    from basicsr_unirestorer.data.mixed_degradation_lmdb_dataset import MixedDegradationLMDBDataset

    class WholePictures(MixedDegradationLMDBDataset):
        """Degrades the whole picture and cuts the crop out of the result."""

        def item(self, number: int, lap: int = 0) -> dict:
            with patch.object(sources, 'degraded_crop', degrade_then_crop):
                return super().item(number, lap)

    def degrade_then_crop(picture, key, record, cutting, rng):  # noqa: ANN001, ANN202
        picture = cutting.pad(picture)
        h, w = picture.shape[:2]
        top, left, size_h, size_w = cutting.place(h, w, rng)
        gt = to_float_rgb(picture)
        lq = degrade(gt, record, rng, Window.whole(h, w, key))
        crop = np.s_[top : top + size_h, left : left + size_w]
        return lq[crop], gt[crop]

    def options(**changes: object) -> dict:
        common = {'phase': 'train', 'scale': 1, 'gt_size': size, 'use_hflip': True, 'use_rot': True}
        return {**common, 'io_backend': {'type': 'lmdb'}, **changes}

    clean = {'dataroot_gt': roots['dataroot_gt'], 'recipe': recipe}
    return {
        'BasicSR, pairs': PairedImageDataset(options(**roots)),
        'ours, pairs': MixedDegradationLMDBDataset(options(**roots)),
        f'ours, {recipe} on the fly': MixedDegradationLMDBDataset(options(**clean)),
        f'{recipe} on the whole picture': WholePictures(options(**clean)),
    }


def reader(dataset: Dataset, count: int) -> Callable[[], None]:
    """Return a function that takes ``count`` samples from one worker, which lives on between the calls."""
    numbers = [int(number) for number in np.random.default_rng(0).permutation(len(dataset))]
    order = (numbers * -(-count // len(numbers)))[:count]
    loader = DataLoader(dataset, 8, sampler=order, num_workers=1, persistent_workers=True)

    def run() -> None:
        for _ in loader:
            pass

    return run


def compete(datasets: dict[str, Dataset], count: int, repeats: int) -> list[Contest]:
    """Time all pairs of ways that a promise is about."""
    stock, pairs, fly, whole = datasets
    rows = []
    for name, other, needed in ((pairs, stock, 1), (fly, stock, 1 / 3), (fly, whole, 3)):
        times = alternate(reader(datasets[other], count), reader(datasets[name], count), repeats)
        ms = tuple(1000 * float(np.median(column)) / count for column in zip(*times, strict=True))
        rows.append(Contest(name, other, needed, ratio(times), ms))
    return rows


def trace(dataset: Dataset, count: int) -> dict[str, float]:
    """Return milliseconds a sample by what they are spent on, in this process."""
    from basicsr_unirestorer.data import sources
    from basicsr_unirestorer.data.lmdb_reader import LMDBPictures

    spent: Counter[str] = Counter()

    def timed(name: str, function: Callable) -> Callable:
        @wraps(function)
        def run(*args: object, **kwargs: object) -> object:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - start

        return run

    places = (
        ('read', LMDBPictures, 'content'),
        ('decode', LMDBPictures, 'decode'),
        ('draw', DegradationRecipe, 'draw'),
        ('degrade', sources, 'degrade'),
    )
    indices = [index % len(dataset) for index in range(count)]
    dataset[indices[0]]  # what is paid once
    with ExitStack() as stack:
        for name, owner, attribute in places:
            stack.enter_context(patch.object(owner, attribute, timed(name, getattr(owner, attribute))))
        start = time.perf_counter()
        for index in indices:
            dataset[index]
        total = time.perf_counter() - start
    spent['transform'] = total - sum(spent.values())
    return {name: 1000 * seconds / count for name, seconds in spent.items()}


def by_type(picture: np.ndarray, recipe: str, size: int, count: int) -> dict[str, float]:
    """Return milliseconds that each degradation of a recipe alone takes on a crop and its context."""
    from basicsr_unirestorer.data.crops import Cutting
    from basicsr_unirestorer.data.sources import degraded_crop
    from basicsr_unirestorer.degradations import DegradationRecord

    recipe, cutting, found = DegradationRecipe.load(recipe), Cutting(size), {}
    for name, ingredient in recipe.ingredients.items():
        spent = []
        for number in range(count + 1):
            rng = sample_rng(0, name, number)
            record = DegradationRecord((ingredient.draw(rng),))
            start = time.perf_counter()
            degraded_crop(picture, 'p', record, cutting, rng)
            spent.append(time.perf_counter() - start)
        found[name] = 1000 * float(np.mean(spent[1:]))
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--folder', type=Path, help="pictures to read (default: scikit-image's photographs)")
    parser.add_argument('--recipe', default='universal')
    parser.add_argument('--size', type=int, default=128, help='side of the crops')
    parser.add_argument('--count', type=int, default=200, help='samples a run')
    parser.add_argument('--repeats', type=int, default=7)
    args = parser.parse_args()
    register()
    pictures = [read_picture(path) for path in find_pictures(args.folder)] if args.folder else sample_pictures()
    pixels = sum(picture.shape[0] * picture.shape[1] for picture in pictures) / MEGAPIXEL / len(pictures)
    print(f'{len(pictures)} pictures of {pixels:.2f} Mpixel, crops of {args.size}, recipe {args.recipe}\n')
    with tempfile.TemporaryDirectory() as folder:
        datasets = make_datasets(write_lmdbs(Path(folder), pictures, args.recipe), args.recipe, args.size)
        print('| way | against | times as fast | lowest - highest | wanted | ms a sample |\n|---|---|---|---|---|---|')
        for row in compete(datasets, args.count, args.repeats):
            low, high = row.speed.low, row.speed.high
            print(
                f'| {row.name} | {row.other} | **{row.speed.median:.2f}** | {low:.2f} - {high:.2f} | {row.needed:.2f} '
                f'| {row.ms[1]:.2f} against {row.ms[0]:.2f} |'
            )
        # last: it opens the LMDBs in this process, where workers that are forked later could not open them again
        traces = {name: trace(dataset, args.count) for name, dataset in list(datasets.items())[1:]}
    parts = ('read', 'decode', 'draw', 'degrade', 'transform')
    print(f'\n| way | {" | ".join(parts)} | ms a sample |\n|{"---|" * (len(parts) + 2)}')
    for name, spent in traces.items():
        total = sum(spent.values())
        print(f'| {name} | {" | ".join(f"{spent.get(part, 0) / total:.0%}" for part in parts)} | {total:.2f} |')
    print('\n| degradation | ms on a crop with its context |\n|---|---|')
    for name, ms in by_type(pictures[0], args.recipe, args.size, 60).items():
        print(f'| {name} | {ms:.1f} |')


if __name__ == '__main__':
    main()
