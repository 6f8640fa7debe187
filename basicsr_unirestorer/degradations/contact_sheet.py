"""Contact sheets: what every operator, or a recipe, does to one picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from basicsr_unirestorer.degradations.pipeline import degrade
from basicsr_unirestorer.degradations.recipe import DegradationRecipe
from basicsr_unirestorer.degradations.record import DegradationRecord, Operation
from basicsr_unirestorer.degradations.registry import DEGRADATION_TYPES
from basicsr_unirestorer.degradations.seeding import sample_rng
from basicsr_unirestorer.degradations.window import Window

GAP = 4  # pixels between cells
LINE = 15  # pixels of a line of text
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.38
INK, FAINT_INK, PAPER = (20, 20, 20), (110, 110, 110), 255

# Rows of the operator sheet: type, what sets this kind apart, and three strengths of its measure, weak to strong.
OPERATOR_ROWS = (
    ('low_light', {'mode': 'retinex', 'exposure': 0.8, 'noise_255': 3}, 'gamma', (1.6, 2.4, 3.4)),
    ('low_light', {'mode': 'gamma', 'exposure': 0.9, 'noise_255': 3}, 'gamma', (1.6, 2.4, 3.4)),
    ('low_light', {'mode': 'linear'}, 'ratio', (3, 10, 40)),
    ('rain', {'mode': 'noise'}, 'value', (30, 75, 140)),
    ('rain', {'mode': 'noise', 'layers': 3, 'blend': 'screen', 'veil': 0.7}, 'value', (30, 75, 140)),
    ('rain', {'mode': 'physical', 'brightness': 1}, 'value', (20, 75, 140)),
    ('snow', {'density': 1}, 'size', ('S', 'M', 'L')),
    ('snow', {'density': 1, 'veil': 0.8}, 'size', ('S', 'M', 'L')),
    ('haze', {'depth': 'ramp'}, 'beta', (0.6, 1.2, 2.4)),
    ('haze', {'depth': 'prior'}, 'beta', (0.6, 1.2, 2.4)),
    ('haze', {'depth': 'fractal'}, 'beta', (0.6, 1.2, 2.4)),
    ('raindrop', {'radius_px': 10}, 'cover', (0.02, 0.05, 0.13)),
    ('defocus_blur', {}, 'radius_px', (2, 4, 8)),
    ('motion_blur', {'path': 'line', 'angle_deg': 20}, 'length_px', (7, 15, 31)),
    ('motion_blur', {'path': 'gaussian', 'angle_deg': 20}, 'length_px', (7, 15, 31)),
    ('motion_blur', {'path': 'trajectory'}, 'length_px', (10, 25, 50)),
    ('blur', {'kernel': 'gaussian', 'aspect': 1}, 'sigma_px', (1, 2, 4)),
    ('blur', {'kernel': 'gaussian', 'aspect': 2.5, 'angle_deg': 45}, 'sigma_px', (1, 2, 4)),
    ('blur', {'kernel': 'generalized', 'aspect': 1, 'shape': 0.5}, 'sigma_px', (1, 2, 4)),
    ('blur', {'kernel': 'plateau', 'aspect': 1, 'shape': 2}, 'sigma_px', (1, 2, 4)),
    ('ringing', {}, 'cutoff', (2.4, 1.5, 1.0)),
    ('low_resolution', {'filter': 'bicubic'}, 'factor', (2, 3, 4)),
    ('low_resolution', {'filter': 'bicubic', 'antialias': False}, 'factor', (2, 3, 4)),
    ('low_resolution', {'filter': 'area'}, 'factor', (2, 3, 4)),
    ('poisson_noise', {}, 'scale', (0.6, 1.2, 2.8)),
    ('speckle_noise', {}, 'sigma_255', (15, 30, 60)),
    ('camera_noise', {'read': 0.01}, 'shot', (0.004, 0.02, 0.08)),
    ('noise', {'channels': 'rgb'}, 'sigma_255', (15, 25, 50)),
    ('noise', {'channels': 'grey'}, 'sigma_255', (15, 25, 50)),
    ('noise', {'channels': 'correlated'}, 'sigma_255', (15, 25, 50)),
    ('jpeg', {}, 'quality_pct', (60, 30, 10)),
    ('webp', {}, 'quality_pct', (60, 30, 5)),
)


def operator_sheet(image: np.ndarray, seed: int = 0, columns: int = 6) -> np.ndarray:
    """Show every operator, and every kind of it, at three strengths.

    Args:
        image: Clean picture, RGB, (h, w, 3), float32, [0, 1].
        seed: Decides the parameters that the sheet leaves open, and the realisation.
        columns: Cells a row; the three strengths of a kind stay together where it is a multiple of three.

    Returns:
        The sheet, RGB, uint8, (height, width, 3).
    """
    cells = []
    for name, fixed, measure, values in OPERATOR_ROWS:
        kind = DEGRADATION_TYPES[name]
        for value in values:
            params = kind.draw({**fixed, measure: value}, sample_rng(seed, name))  # one draw for all three strengths
            strength = kind.strength(params)
            step = Operation(name, params, strength, kind.word(strength))
            words = [part for part in fixed.values() if isinstance(part, str)]
            numbers = [f'{key} {part}' for key, part in fixed.items() if not isinstance(part, str)]
            detail = ', '.join((' '.join((name, *words)), f'{measure} {value}', *numbers))  # a narrow cell cuts the end
            cells.append(_cell(image, DegradationRecord((step,)), sample_rng(seed, name, 'realise'), detail))
    return lay_out(cells, columns)


def recipe_sheet(
    recipe: DegradationRecipe, image: np.ndarray, samples: int = 12, seed: int = 0, columns: int = 4, key: str = 'sheet'
) -> np.ndarray:
    """Show the first virtual samples that a recipe makes of one picture, beside the clean picture.

    Args:
        recipe: What draws the records.
        image: Clean picture, RGB, (h, w, 3), float32, [0, 1].
        samples: Number of samples.
        seed, key: With the number of the sample they decide its record, as in a data set.
        columns: Cells a row.

    Returns:
        The sheet, RGB, uint8, (height, width, 3).
    """
    cells = [_cell(image, DegradationRecord(), sample_rng(seed), recipe.name, key)]
    for number in range(samples):
        record = recipe.draw(sample_rng(seed, key, number, 'params'))
        detail = ', '.join(f'{step.type} {step.strength:.3g}' for step in record.operations)
        cells.append(_cell(image, record, sample_rng(seed, key, number, 'realise', 'test'), detail, key))
    return lay_out(cells, columns)


def lay_out(cells: Sequence[tuple[np.ndarray, str, str]], columns: int) -> np.ndarray:
    """Lay pictures out in rows, each under two lines of text.

    Args:
        cells: (picture, headline, detail); pictures are RGB, uint8, (h, w, 3) of one size; text is ASCII and cut where
            it is wider than the picture.
        columns: Cells a row.

    Returns:
        The sheet, RGB, uint8, (height, width, 3).
    """
    h, w = cells[0][0].shape[:2]
    step_y, step_x = h + 2 * LINE + GAP, w + GAP
    rows = -(-len(cells) // columns)
    sheet = np.full((rows * step_y + GAP, min(columns, len(cells)) * step_x + GAP, 3), PAPER, np.uint8)
    for place, (picture, headline, detail) in enumerate(cells):
        top, left = GAP + place // columns * step_y, GAP + place % columns * step_x
        strip = np.full((2 * LINE, w, 3), PAPER, np.uint8)
        for row, (text, ink) in enumerate(((headline, INK), (detail, FAINT_INK))):
            cv2.putText(strip, text, (1, (row + 1) * LINE - 4), FONT, FONT_SCALE, ink, 1, cv2.LINE_AA)
        sheet[top : top + 2 * LINE, left : left + w] = strip
        sheet[top + 2 * LINE : top + 2 * LINE + h, left : left + w] = picture
    return sheet


def _cell(
    image: np.ndarray, record: DegradationRecord, rng: np.random.Generator, detail: str, key: str = ''
) -> tuple[np.ndarray, str, str]:
    result = degrade(image, record, rng, Window.whole(*image.shape[:2], key))
    return np.rint(result * 255).astype(np.uint8), record.caption, detail
