"""The door of ``unirestorer degrade``: degrade pictures by a recipe, to look at it or to make a test set."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from basicsr_unirestorer import __version__
from basicsr_unirestorer.errors import DataError, OptionError, UniRestorerError

if TYPE_CHECKING:
    import numpy as np

    from basicsr_unirestorer.degradations import DegradationRecipe, DegradationRecord

RECORDS = 'records.json'
SHEET = 'contact_sheet.png'
SHEET_CELLS, SHEET_COLUMNS, SHEET_SIDE, SHEET_TEXT = 200, 6, 300, 240  # what one can still look at; sides in pixels


@dataclass(frozen=True)
class DegradeJob:
    """One virtual sample of a picture, and where it goes.

    Attributes:
        source: The clean picture.
        key: Its name in the random streams, the same as its key in an LMDB of the folder.
        variant: Number of the sample among those of its picture.
        target: File to write, relative to the output folder.
    """

    source: Path
    key: str
    variant: int
    target: Path


@dataclass
class DegradeReport:
    """What was done: an entry for each picture written, and a sentence for each file that was left out."""

    pictures: list[dict] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def plan(source: Path, variants: int, report: DegradeReport) -> list[DegradeJob]:
    """List what is to be made of a picture or of every picture below a folder.

    Files that would share a key are dropped but for the first.

    Raises:
        DataError: There is no such picture or folder, or no picture in it.
    """
    from basicsr_unirestorer.image_files import find_pictures, safe_key

    if not source.is_dir() and not source.is_file():
        raise DataError(f'{source} does not exist; give a picture or a folder of pictures.')
    files = find_pictures(source) if source.is_dir() else [source]
    seen: dict[str, Path] = {}
    jobs = []
    for path in files:
        relative = path.relative_to(source) if source.is_dir() else Path(path.name)
        key = safe_key(relative)
        if key in seen:
            report.dropped.append(f"{path} has the same key '{key}' as {seen[key]}; rename one of them.")
            continue
        seen[key] = path
        for variant in range(variants):
            suffix = f'_v{variant}' if variants > 1 else ''
            jobs.append(DegradeJob(path, key, variant, relative.with_name(f'{relative.stem}{suffix}.png')))
    return jobs


def realise(picture: np.ndarray, record: DegradationRecord, seed: int, key: str, variant: int) -> np.ndarray:
    """Apply a record to a whole picture: the sample that a test dataset of the same recipe and seed serves.

    Args:
        picture: RGB, uint8, (h, w, 3).
        record: What to apply.
        seed, key, variant: Decide the realisation (noise field, drops, flakes); ``records.json`` states them.

    Returns:
        RGB, uint8, (h, w, 3).
    """
    import numpy as np

    from basicsr_unirestorer.degradations import Window, degrade, sample_rng

    window = Window.whole(*picture.shape[:2], key)
    lq = degrade(picture.astype(np.float32) / 255, record, sample_rng(seed, key, variant, 'realise', 'test'), window)
    return np.rint(np.clip(lq, 0, 1) * 255).astype(np.uint8)


def run(
    jobs: Iterable[DegradeJob], folder: Path, recipe: DegradationRecipe, seed: int, grid: bool, report: DegradeReport
) -> None:
    """Degrade pictures into a folder; a bad one ends in ``report.dropped`` and does not stop the others."""
    import cv2

    from basicsr_unirestorer.degradations import sample_rng
    from basicsr_unirestorer.image_files import read_picture

    groups: list[list[tuple]] = []
    for source, group in groupby(jobs, key=lambda job: job.source):
        tiles: list[tuple] = []
        try:
            clean = read_picture(source)[..., ::-1]
            for job in group:
                record = recipe.draw(sample_rng(seed, job.key, job.variant, 'params'))
                lq = realise(clean, record, seed, job.key, job.variant)
                (folder / job.target).parent.mkdir(parents=True, exist_ok=True)
                (folder / job.target).write_bytes(cv2.imencode('.png', lq[..., ::-1])[1].tobytes())
                report.pictures.append(entry(job, record))
                if grid:
                    tiles.append((thumbnail(lq), *two_lines(record.caption)))
        except UniRestorerError as error:
            report.dropped.append(str(error) if str(source) in str(error) else f'{source}: {error}')
        if tiles and sum(map(len, groups)) < SHEET_CELLS:
            groups.append([(thumbnail(clean), 'clean', source.name), *tiles])
    if groups:
        cv2.imwrite(str(folder / SHEET), sheet(groups)[..., ::-1])


def sheet(groups: Sequence[Sequence[tuple]]) -> np.ndarray:
    """Lay out groups of (picture, headline, detail), each from the start of a row. Returns RGB, uint8, (h, w, 3)."""
    import numpy as np

    from basicsr_unirestorer.degradations.contact_sheet import lay_out

    h, w = (max(cell[0].shape[axis] for group in groups for cell in group) for axis in (0, 1))
    columns = min(SHEET_COLUMNS, max(map(len, groups)))
    blank = (np.empty((0, 0, 3), np.uint8), '', '')
    cells = []
    for group in groups:
        for picture, *words in (*group, *[blank] * (-len(group) % columns)):
            room = np.full((h, max(w, SHEET_TEXT), 3), 255, np.uint8)
            room[: picture.shape[0], : picture.shape[1]] = picture
            cells.append((room, *(text.encode('ascii', 'replace').decode() for text in words)))  # all its font has
    return lay_out(cells, columns)


def two_lines(caption: str) -> tuple[str, str]:
    """Split a caption after its second phrase, so that four phrases fit below a picture."""
    phrases = caption.split(', ')
    return ', '.join(phrases[:2]), ', '.join(phrases[2:])


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """Shrink a picture, RGB, uint8, to fit into a square of the sheet; a smaller one stays as it is."""
    import cv2

    h, w = picture.shape[:2]
    ratio = min(1, SHEET_SIDE / max(h, w))
    size = (max(1, round(w * ratio)), max(1, round(h * ratio)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def entry(job: DegradeJob, record: DegradationRecord) -> dict:
    """Return what ``records.json`` says of one sample."""
    return {
        'picture': str(job.source),
        'file': job.target.as_posix(),
        'key': job.key,
        'variant': job.variant,
        'caption': record.caption,
        'labels': list(record.labels),
        'record': record.to_dict(),
    }


def check_output(source: Path, target: Path, overwrite: bool) -> None:
    """Refuse an output folder that would mix with the input or destroy what this command did not write.

    Raises:
        DataError: The output lies inside the input or the other way round, exists, or is not to be overwritten.
    """
    inside, outside = target.resolve(), source.resolve()
    if source.is_dir() and inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise DataError(f'The output {target} and the input {source} lie one inside the other; choose a folder beside.')
    if target.is_file():
        raise DataError(f'The output {target} is a file; give a folder.')
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise DataError(f'The output {target} exists; add --overwrite to replace it, or choose another folder.')
    if not (target / RECORDS).is_file():
        raise DataError(
            f'The output {target} has no {RECORDS}, so it holds something else than degraded pictures and is not '
            'replaced; choose another folder.'
        )


def write(source: Path, target: Path, recipe: DegradationRecipe, args: argparse.Namespace) -> DegradeReport:
    """Degrade into a folder beside the target and rename it when complete. Raises DataError where nothing is left."""
    report = DegradeReport()
    jobs = plan(source, args.variants, report)
    twin = next((job.source for job in jobs if args.grid and job.target == Path(SHEET)), None)
    if twin:
        raise DataError(f'{twin} has the name of the sheet that --grid writes; rename it, or leave out --grid.')
    if args.dry_run:
        from basicsr_unirestorer.degradations import sample_rng

        report.pictures += [
            entry(job, recipe.draw(sample_rng(args.seed, job.key, job.variant, 'params'))) for job in jobs
        ]
        return report
    from tqdm import tqdm

    scratch = target.with_name(target.name + '.part')
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        progress = tqdm(jobs, desc='degrading', unit='picture', disable=len(jobs) < 2)
        run(progress, scratch, recipe, args.seed, args.grid, report)
        if not report.pictures:
            raise DataError(f'No picture of {source} could be degraded; the first: {report.dropped[0]}')
        (scratch / RECORDS).write_text(json.dumps(summary(report, recipe, args.seed), indent=1))
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
    except OSError as error:
        raise DataError(
            f'The pictures could not be written to {target} ({error}); make room or choose another folder.'
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return report


def summary(report: DegradeReport, recipe: DegradationRecipe, seed: int) -> dict:
    """Return the content of ``records.json``."""
    return {
        'version': __version__,
        'recipe': recipe.to_dict(),
        'seed': seed,
        'pictures': report.pictures,
        'dropped': report.dropped,
    }


def main(argv: list[str]) -> int:
    """Run ``unirestorer degrade``; returns 0, or 1 where a picture was left out."""
    parser = argparse.ArgumentParser(
        prog='unirestorer degrade',
        description='Degrade a picture or a folder of pictures by a recipe, as training would.',
        epilog='example: unirestorer degrade photos/ degraded/ --recipe universal --variants 5 --grid',
    )
    parser.add_argument('input', type=Path, help='clean picture or folder')
    parser.add_argument('output', type=Path, help=f'folder to write: PNG files and {RECORDS}')
    parser.add_argument('-r', '--recipe', default='universal', help='packaged name or .yml file (default: universal)')
    parser.add_argument('--variants', type=int, default=1, help='degraded versions of each picture (default: 1)')
    parser.add_argument('--seed', type=int, default=0, help='same seed, same pictures (default: 0)')
    parser.add_argument('--grid', action='store_true', help=f'also write {SHEET}: clean and degraded side by side')
    parser.add_argument('--json', action='store_true', help=f'print what {RECORDS} holds')
    parser.add_argument('--overwrite', action='store_true', help='replace an earlier output of this command')
    parser.add_argument('--dry-run', action='store_true', help='say what would be written')
    args = parser.parse_args(argv)
    if args.variants < 1:
        raise OptionError(f'--variants is {args.variants}, expected at least 1.')

    from basicsr_unirestorer.degradations import DegradationRecipe

    recipe = DegradationRecipe.load(args.recipe)
    check_output(args.input, args.output, args.overwrite)
    report = write(args.input, args.output, recipe, args)
    if args.json:
        print(json.dumps(summary(report, recipe, args.seed), indent=1))
    else:
        for item in report.pictures:
            print(f'{args.output / item["file"]}: {item["caption"]}')
        print(f'{len(report.pictures)} pictures {"would be " if args.dry_run else ""}written to {args.output}')
    for sentence in report.dropped:
        print(f'left out: {sentence}', file=sys.stderr)
    return 1 if report.dropped else 0
