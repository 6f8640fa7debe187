"""The picture of the README: photographs degraded by the recipe of the shipped bundle, and what it makes of them.

Command: python -m tests.benchmarks.before_after [options/zoo/before_after.jpg]

Nothing is picked by its result: of each photograph it takes the first variant (recipe ``zoo``, seed 0, the samples that
``unirestorer degrade photos/ degraded/ --recipe zoo --variants 60`` writes) with the one degradation of its row alone.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from basicsr_unirestorer import register
from basicsr_unirestorer.degradations import DegradationRecipe, DegradationRecord, sample_rng
from basicsr_unirestorer.degrade import realise
from basicsr_unirestorer.inference.bundle import SHIPPED_BUNDLE
from basicsr_unirestorer.inference.demo import collect_pictures
from basicsr_unirestorer.inference.metrics import measure
from basicsr_unirestorer.inference.report_pictures import main_labels
from basicsr_unirestorer.inference.restorer import Restorer

# package, photograph, the degradation of its row, labels told to the program, corner (row, column) of what is shown
ROWS = (
    ('skimage', 'astronaut.png', 'noise', (), (45, 130)),
    ('skimage', 'chelsea.png', 'snow', (), (70, 120)),
    ('sklearn', 'china.jpg', 'rain', (), (110, 180)),
    ('skimage', 'coffee.png', 'low_light', (), (90, 180)),
    ('skimage', 'coffee.png', 'low_light', ('low light',), (90, 180)),
    ('skimage', 'rocket.jpg', 'motion_blur', (), (190, 170)),
)
COLUMNS = ('before', 'restored', 'original')
PART = (150, 264)  # rows and columns, shown pixel by pixel
GAP, LINE = 6, 24


def sample_of(clean: np.ndarray, key: str, wanted: str) -> tuple[np.ndarray, DegradationRecord]:
    """Degrade a picture, RGB, uint8, by the first variant that has the wanted degradation alone."""
    recipe = DegradationRecipe.load('zoo')
    for variant in range(1000):
        record = recipe.draw(sample_rng(0, key, variant, 'params'))
        if list(record.labels) == [wanted]:
            return realise(clean, record, 0, key, variant), record
    raise AssertionError(f'recipe zoo never makes {wanted} alone')


def psnr(picture: np.ndarray, clean: np.ndarray) -> float:
    """Return the PSNR of two whole pictures, RGB, uint8, in dB."""
    return measure({'psnr': {'type': 'calculate_psnr'}}, picture.astype(np.float32) / 255, clean)['psnr']


def rows(folder: Path) -> list[tuple[str, list[np.ndarray]]]:
    """Return caption and three whole pictures, RGB, uint8, of each row; the photographs are put into a new folder."""
    collect_pictures(folder, tuple(dict.fromkeys(row[:2] for row in ROWS)), max_side=640)
    made = []
    for _, name, wanted, labels, _ in ROWS:
        restorer = Restorer.from_bundle(SHIPPED_BUNDLE, 'instruction' if labels else 'auto', labels)
        key = Path(name).stem
        clean = np.asarray(Image.open(folder / f'{key}.png'))
        lq, record = sample_of(clean, key, wanted)
        restored, decision = restorer.restore(lq)
        before, after = (psnr(picture, clean) for picture in (lq, restored))
        expert = f'{decision.expert} ({", ".join(main_labels(decision.labels)[:2])})' if decision.level else 'the root'
        told = f', told "{", ".join(labels)}"' if labels else ''
        caption = f'{key}, {record.caption}: {before:.1f} → {after:.1f} dB by {expert}{told}'
        made.append((caption, [lq, restored, clean]))
    return made


def drawn(made: list[tuple[str, list[np.ndarray]]]) -> Image.Image:
    """Lay the rows out below each other, a part of each picture, with captions above."""
    height, width = PART
    sheet = Image.new('RGB', (3 * width + 2 * GAP, LINE + len(made) * (LINE + height + GAP)), 'white')
    draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(findfont('DejaVu Sans'), 14)
    for column, title in enumerate(COLUMNS):
        draw.text((column * (width + GAP) + width // 2, LINE // 2), title, 'black', font, 'mm')
    for row, (caption, pictures) in enumerate(made):
        top, (y, x) = LINE + row * (LINE + height + GAP), ROWS[row][-1]
        draw.text((2, top + LINE // 2), caption, 'black', font, 'lm')
        for column, picture in enumerate(pictures):
            part = Image.fromarray(picture[y : y + height, x : x + width])
            sheet.paste(part, (column * (width + GAP), top + LINE))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('output', type=Path, nargs='?', default=Path('options/zoo/before_after.jpg'))
    args = parser.parse_args()
    register()
    with tempfile.TemporaryDirectory() as folder:
        made = rows(Path(folder) / 'photos')
    drawn(made).save(args.output, quality=80)
    print(*(caption for caption, _ in made), f'{args.output}: {args.output.stat().st_size / 1000:.0f} kB', sep='\n')


if __name__ == '__main__':
    main()
