"""Measured strength words: they grow with the damage, part a set evenly, and leave told words alone."""

from __future__ import annotations

import json

import numpy as np

from basicsr_unirestorer.data.families import FAMILIES
from basicsr_unirestorer.data.pairs import read_pairs
from basicsr_unirestorer.data.plan import PrepareOptions
from basicsr_unirestorer.data.prepare_family import prepare_family
from basicsr_unirestorer.data.strength import MEASURES
from tests.data import miniatures as mini

MEASURED = PrepareOptions(workers=1, measure_strength=True)


def words(folder) -> dict[str, str]:
    return {pair.lq: pair.words[0] for pair in read_pairs(folder / 'pairs.txt')}


def test_rain_is_parted_into_thirds_by_how_much_it_changes(tmp_path):
    folder = tmp_path / 'in/RainTrainL'
    for seed in range(9):
        gt = mini.picture(seed)
        mini.put(folder / f'norain-{seed}.png', gt)
        mini.put(folder / f'rain-{seed}.png', np.clip(gt.astype(int) + 2 * seed + 1, 0, 255).astype(np.uint8))
    made = prepare_family(FAMILIES['rain100l'], [tmp_path / 'in'], tmp_path / 'out', MEASURED)
    assert words(tmp_path / 'out/train') == {
        f'rain-{seed}': ('small', 'medium', 'large')[seed // 3] for seed in range(9)
    }
    manifest = json.loads((tmp_path / 'out/train/manifest.json').read_text())
    assert manifest['labels'] == {'rain large': 3, 'rain medium': 3, 'rain small': 3}
    assert len(manifest['strength_edges']['rain']) == 2
    again = prepare_family(FAMILIES['rain100l'], [tmp_path / 'in'], tmp_path / 'b', MEASURED)
    assert again.hashes == made.hashes


def test_measures_grow_with_the_damage():
    import cv2

    gt = cv2.cvtColor(mini.picture(0, 96, 128), cv2.COLOR_BGR2GRAY).astype(np.float32)
    flakes = np.random.default_rng(0).uniform(size=gt.shape)
    series = {
        'rain': [gt + 60 * (flakes < share) for share in (0, 0.05, 0.2)],
        'snow': [gt + 60 * (flakes < share) for share in (0, 0.05, 0.2)],
        'haze': [gt * t + 230 * (1 - t) for t in (1, 0.8, 0.4)],
        'motion_blur': [cv2.blur(gt, (side, 1)) for side in (1, 5, 15)],
        'low_light': [gt * share for share in (1, 0.5, 0.1)],
    }
    assert set(series) == set(MEASURES)
    for kind, pictures in series.items():
        values = [MEASURES[kind](picture.astype(np.float32), gt) for picture in pictures]
        assert values == sorted(values) and values[0] < values[1] < values[2], kind


def test_words_that_names_tell_are_kept(tmp_path):
    mini.snow100k(tmp_path / 'in')
    prepare_family(FAMILIES['snow100k'], [tmp_path / 'in'], tmp_path / 'out', MEASURED)
    assert set(words(tmp_path / 'out/test/S').values()) == {'small'}
    assert None not in words(tmp_path / 'out/train').values()
