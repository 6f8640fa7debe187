"""The README's picture is of samples that anyone can make again."""

from __future__ import annotations

import numpy as np
from PIL import Image

from basicsr_unirestorer import cli
from tests.benchmarks.before_after import GAP, LINE, PART, ROWS, drawn, sample_of


def test_samples_are_those_of_the_command(tmp_path):
    clean = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    (tmp_path / 'photos').mkdir()
    Image.fromarray(clean).save(tmp_path / 'photos' / 'chelsea.png')
    lq, record = sample_of(clean, 'chelsea', 'snow')
    args = ['degrade', str(tmp_path / 'photos'), str(tmp_path / 'degraded'), '--recipe', 'zoo', '--variants', '60']
    assert cli.main(args) == 0 and list(record.labels) == ['snow']
    written = [np.asarray(Image.open(path)) for path in sorted((tmp_path / 'degraded').glob('*.png'))]
    assert len(written) == 60 and sum(np.array_equal(lq, picture) for picture in written) == 1


def test_sheet_shows_parts_of_the_three_pictures():
    pictures = [np.full((400, 460, 3), value, np.uint8) for value in (10, 100, 200)]
    sheet = np.asarray(drawn([('caption', pictures)] * len(ROWS)))
    assert sheet.shape == (LINE + len(ROWS) * (LINE + PART[0] + GAP), 3 * PART[1] + 2 * GAP, 3)
    last = sheet[-GAP - 1]
    assert [int(last[column * (PART[1] + GAP)][0]) for column in range(3)] == [10, 100, 200]
