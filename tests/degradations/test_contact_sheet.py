"""Contact sheets: complete, labelled, repeatable."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr_unirestorer.degradations import DEGRADATION_TYPES, DegradationRecipe
from basicsr_unirestorer.degradations.contact_sheet import (
    GAP,
    LINE,
    OPERATOR_ROWS,
    lay_out,
    operator_sheet,
    recipe_sheet,
)
from tests.degradations.samples import scene


def test_every_type_and_every_word_choice_is_on_the_sheet():
    """A new type, mode, path or kernel must be shown; files and switches without a look of their own need not."""
    shown = {row[0] for row in OPERATOR_ROWS}
    assert shown == {name for name, kind in DEGRADATION_TYPES.items() if kind.grid is None}
    for name, key in (('low_light', 'mode'), ('rain', 'mode'), ('motion_blur', 'path'), ('blur', 'kernel')):
        shown = {fixed[key] for kind, fixed, _, _ in OPERATOR_ROWS if kind == name}
        assert shown == set(DEGRADATION_TYPES[name].parameters[key].choices)


@pytest.mark.parametrize('row', OPERATOR_ROWS, ids=lambda row: f'{row[0]}-{row[1]}')
def test_rows_are_possible_and_go_through_different_strengths(row):
    name, fixed, measure, values = row
    kind = DEGRADATION_TYPES[name]
    for value in values:
        kind.check({**fixed, measure: value})
    assert len(values) == len(set(values)) == 3


def test_operator_sheet_shows_different_pictures_under_their_labels():
    h, w = 150, 170
    image = scene(h, w)
    sheet = operator_sheet(image)
    cell_h, cell_w = h + 2 * LINE + GAP, w + GAP
    assert sheet.dtype == np.uint8
    assert sheet.shape == (-(-3 * len(OPERATOR_ROWS) // 6) * cell_h + GAP, 6 * cell_w + GAP, 3)
    top, left = GAP + 2 * LINE, GAP
    pictures = [
        sheet[top + r * cell_h : top + r * cell_h + h, left + c * cell_w : left + c * cell_w + w]
        for r in range(len(OPERATOR_ROWS) // 2)
        for c in range(6)
    ]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    assert (sheet[GAP : GAP + LINE] < 128).any()  # ink
    np.testing.assert_array_equal(sheet, operator_sheet(image))


def test_recipe_sheet_starts_with_the_clean_picture():
    image = scene(40, 48)
    recipe = DegradationRecipe.load('tiny')
    sheet = recipe_sheet(recipe, image, samples=5, columns=3)
    assert sheet.shape == (2 * (40 + 2 * LINE + GAP) + GAP, 3 * (48 + GAP) + GAP, 3)
    clean = sheet[GAP + 2 * LINE : GAP + 2 * LINE + 40, GAP : GAP + 48]
    np.testing.assert_array_equal(clean, np.rint(image * 255).astype(np.uint8))
    assert not np.array_equal(sheet, recipe_sheet(recipe, image, samples=5, columns=3, seed=1))


def test_long_labels_stay_over_their_own_picture():
    black = np.zeros((20, 30, 3), np.uint8)
    sheet = lay_out([(black, 'a very long headline indeed', 'x'), (black, '', '')], 2)
    assert (sheet[: GAP + 2 * LINE, GAP + 30 :] == 255).all() and (sheet[: GAP + 2 * LINE, : GAP + 30] < 128).any()
