"""Any two folders: rules, labels, one folder with both kinds, and what is refused."""

from __future__ import annotations

import json

import pytest

from basicsr_unirestorer.data.paired_folder import main, prepare_pairs
from basicsr_unirestorer.data.pairs import read_pairs
from basicsr_unirestorer.data.plan import PrepareOptions
from basicsr_unirestorer.errors import DataError
from tests.data import miniatures as mini


def test_own_pairs_in_sub_folders_with_a_label(tmp_path):
    mini.pairs(tmp_path, 'foggy/a/{}.jpg', 'clear/a/{}.png', range(3))
    mini.pairs(tmp_path, 'foggy/b/{}.jpg', 'clear/b/{}.png', range(10, 12))
    arguments = [*(str(tmp_path / name) for name in ('foggy', 'clear', 'out')), '--workers', '1']
    assert main([*arguments, '--task', 'haze', '--word', 'thick']) == 0
    pairs = read_pairs(tmp_path / 'out/train/pairs.txt')
    assert [pair.line for pair in pairs][:4:3] == ['a-0 a-0 haze thick', 'b-10 b-10 haze thick']
    assert json.loads((tmp_path / 'out/train/manifest.json').read_text())['samples'] == {'train': 5}


@pytest.mark.parametrize(
    ('lq', 'gt', 'rule'),
    [
        ('{}_rain.png', '{}_clean.png', ['--rule', 'raindrop']),
        ('{}x4.png', '{}.png', ['--rule', '{}x4']),
        ('wet-{}.png', 'dry{}.png', ['--rule', r'wet-(\d+)', '--gt-name', r'dry\1']),
        ('S/blur/{:06d}.png', 'S/sharp/{:06d}.png', ['--rule', 'gopro']),
    ],
)
def test_rules_work_in_one_folder_and_in_two(lq, gt, rule, tmp_path):
    for name, folders in (('one', ('both', 'both')), ('two', ('lq', 'gt'))):
        mini.pairs(tmp_path / name, f'{folders[0]}/{lq}', f'{folders[1]}/{gt}', range(3))
        places = [str(tmp_path / name / folder) for folder in (*folders, 'out')]
        assert main([*places, *rule, '--subset', 'test', '--workers', '1']) == 0
        assert len(list((tmp_path / name / 'out/test/lq').iterdir())) == 3


def test_what_does_not_pair_is_told(tmp_path, capsys):
    mini.pairs(tmp_path, 'lq/{}_rain.png', 'gt/{}_clean.png', range(2))
    one = PrepareOptions(workers=1)
    with pytest.raises(
        DataError, match=r"rule 'same' wants '0_rain' for 0_rain.png, .* such as 0_rain.png and 0_clean"
    ):
        prepare_pairs(tmp_path / 'lq', tmp_path / 'gt', tmp_path / 'out', options=one)
    with pytest.raises(DataError, match="rule 'ddn' describes no degraded name"):
        prepare_pairs(tmp_path / 'lq', tmp_path / 'gt', tmp_path / 'out', 'ddn', options=one)
    with pytest.raises(DataError, match='is no folder'):
        prepare_pairs(tmp_path / 'none', tmp_path / 'gt', tmp_path / 'out', options=one)
    with pytest.raises(DataError, match='makes every picture of .* its own partner'):
        prepare_pairs(tmp_path / 'lq', tmp_path / 'lq', tmp_path / 'out', options=one)
    places = [str(tmp_path / name) for name in ('lq', 'gt', 'out')]
    assert main([*places, '--rule', 'raindrop', '--task', 'fog']) == 1
    assert "--task and --word names the unknown degradation 'fog'" in capsys.readouterr().err
