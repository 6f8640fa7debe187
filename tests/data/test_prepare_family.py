"""What goes wrong while a data set is prepared: told in one sentence, the rest kept, and a killed run goes on."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from basicsr_unirestorer.data import write_unit as write_unit_module
from basicsr_unirestorer.data.families import FAMILIES
from basicsr_unirestorer.data.family_command import main
from basicsr_unirestorer.data.lmdb_writer import read_report
from basicsr_unirestorer.data.pairs import read_pairs
from basicsr_unirestorer.data.plan import PrepareOptions
from basicsr_unirestorer.data.prepare_family import prepare_family
from basicsr_unirestorer.errors import DataError, OptionError
from basicsr_unirestorer.image_files import read_picture
from tests.data import miniatures as mini

ALONE = PrepareOptions(workers=1)
SCRIPTS = Path(__file__).parents[2] / 'datasets_prep'


@pytest.fixture
def rain(tmp_path) -> Path:
    mini.rain100_prenet(tmp_path / 'in')
    return tmp_path / 'in'


def train_of(rain: Path) -> Path:
    return rain / 'train' / 'RainTrainL'


def prepare(rain: Path, output: str = 'out', **options) -> list[str]:
    """Prepare Rain100L; returns what was told."""
    told: list[str] = []
    prepare_family(FAMILIES['rain100l'], [rain], rain.parent / output, replace(ALONE, **options), tell=told.append)
    return told


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but for the databases, whose pages carry history; those count through their entries."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file() and path.suffix != '.mdb'
    }


# ------------------------------------------------------------------------------------------ content


def test_pairs_arrive_pixel_by_pixel_and_basicsr_reads_them(rain, registered):
    from basicsr.data import build_dataset

    prepare(rain)
    out = rain.parent / 'out'
    options = {
        'type': 'PairedImageDataset',
        'name': 'x',
        'scale': 1,
        'gt_size': 16,
        'use_hflip': False,
        'use_rot': False,
    }
    lmdb = {'dataroot_lq': str(out / 'train/lq.lmdb'), 'dataroot_gt': str(out / 'train/gt.lmdb')}
    train = build_dataset({**options, **lmdb, 'io_backend': {'type': 'lmdb'}, 'phase': 'val'})
    assert len(train) == 4
    for item in (train[i] for i in range(4)):
        seed = int(item['lq_path'].removeprefix('rain-'))
        for side, pixels in (('lq', mini.degraded(seed)), ('gt', mini.picture(seed))):
            bgr = (item[side].numpy().transpose(1, 2, 0)[..., ::-1] * 255).round().astype(np.uint8)
            assert np.array_equal(bgr, pixels)
    folders = {'dataroot_lq': str(out / 'test/lq'), 'dataroot_gt': str(out / 'test/gt')}
    test = build_dataset({**options, **folders, 'io_backend': {'type': 'disk'}, 'phase': 'val'})
    assert len(test) == 3


def test_training_reads_what_was_prepared(tmp_path, registered):
    from basicsr.data import build_dataset

    mini.reside_outdoor(tmp_path / 'reside')
    mini.cdd11(tmp_path / 'cdd')
    sources = []
    for name, family in (('reside', 'reside_outdoor'), ('cdd', 'cdd11')):
        prepare_family(FAMILIES[family], [tmp_path / name], tmp_path / 'out' / name, replace(ALONE, subset='train'))
        folder = tmp_path / 'out' / name / 'train'
        roots = {f'dataroot_{side}': str(folder / f'{side}.lmdb') for side in ('lq', 'gt')}
        sources.append({'name': name, **roots, 'pairs': str(folder / 'pairs.txt')})
    common = {'type': 'MixedDegradationLMDBDataset', 'name': 'x', 'phase': 'train', 'scale': 1, 'gt_size': 16}
    dataset = build_dataset({**common, 'sources': sources})
    captions = {dataset[number]['sample_id']: dataset[number]['caption'] for number in range(len(dataset))}
    assert len(captions) == 3 + 22
    assert 'thick haze' in captions.values() and 'dark, rain, haze' in captions.values()


def test_shared_clean_pictures_are_written_once_or_for_basicsr_repeated(tmp_path, registered):
    from basicsr.data import build_dataset

    mini.ddn_original(tmp_path / 'in')
    for scheme, clean in (('unique', 3), ('basicsr', 42)):
        out = tmp_path / scheme
        prepare_family(FAMILIES['ddn'], [tmp_path / 'in'], out, replace(ALONE, scheme=scheme, subset='train'))
        gt = read_report(out / 'train/gt.lmdb').shapes
        assert len(gt) == clean
        assert {pair.gt for pair in read_pairs(out / 'train/pairs.txt')} == set(gt)
    opt = {'type': 'PairedImageDataset', 'name': 'x', 'scale': 1, 'phase': 'val', 'io_backend': {'type': 'lmdb'}}
    roots = {f'dataroot_{side}': str(tmp_path / f'basicsr/train/{side}.lmdb') for side in ('lq', 'gt')}
    assert len(build_dataset({**opt, **roots})) == 42


def test_a_clean_picture_whose_partners_have_two_sizes_gets_two_keys(tmp_path):
    mini.ddn_original(tmp_path / 'in')
    mini.put(tmp_path / 'in/training/rainy_image/1_5.jpg', mini.degraded(1, 5, mini.H - 4, mini.W - 6))
    prepare_family(FAMILIES['ddn'], [tmp_path / 'in'], tmp_path / 'out', ALONE)
    pairs = {pair.lq: pair.gt for pair in read_pairs(tmp_path / 'out/train/pairs.txt')}
    assert (pairs['1_4'], pairs['1_5']) == ('1', '1-26x20')
    shapes = [read_report(tmp_path / f'out/train/{side}.lmdb').shapes for side in ('lq', 'gt')]
    assert all(shapes[0][lq] == shapes[1][gt] for lq, gt in pairs.items())


def test_sub_images_of_partners_have_partner_keys(rain):
    prepare(rain, crop=16, step=8)
    pairs = read_pairs(rain.parent / 'out/train/pairs.txt')
    assert len(pairs) == 4 * 2 * 3
    assert (pairs[0].lq, pairs[0].gt) == ('rain-1_s001', 'rain-1_s001')
    assert set(read_report(rain.parent / 'out/train/gt.lmdb').shapes.values()) == {(16, 16, 3)}


def test_the_manifest_tells_what_it_is_and_holds_nothing_of_this_machine(rain):
    prepare(rain)
    manifest = json.loads((rain.parent / 'out/train/manifest.json').read_text())
    assert manifest['dataset'] == 'rain100l'
    assert manifest['samples'] == {'train': 4}
    assert manifest['expected'] == {'train': [200]}
    assert manifest['entries'] == {'gt': 4, 'lq': 4}
    assert manifest['labels'] == {'rain -': 4}
    assert manifest['sources'][0]['layout'] == 'PReNet'
    assert str(rain.parent) not in json.dumps(manifest)


def test_one_changed_pixel_changes_the_manifest(rain):
    first = prepare_family(FAMILIES['rain100l'], [rain], rain.parent / 'a', ALONE)
    path = train_of(rain) / 'norain-1.png'
    pixels = cv2.imread(str(path))
    pixels[0, 0, 0] ^= 1
    cv2.imwrite(str(path), pixels)
    second = prepare_family(FAMILIES['rain100l'], [rain], rain.parent / 'b', ALONE)
    assert first.hashes['train'] != second.hashes['train']
    assert first.hashes['test'] == second.hashes['test']
    with pytest.raises(DataError, match='exists already and was made from other pictures'):
        prepare(rain, 'a')


# ------------------------------------------------------------------------------------------ bad input


def bad_pictures(rain: Path) -> dict[str, str]:
    """Spoil the download in several ways; returns what must be told about which file."""
    folder = train_of(rain)
    for seed in range(20, 28):
        mini.pairs(rain, 'train/RainTrainL/rain-{}.png', 'train/RainTrainL/norain-{}.png', [seed])
    content = (folder / 'rain-20.png').read_bytes()
    (folder / 'rain-20.png').write_bytes(content[: len(content) // 2])
    (folder / 'norain-21.png').write_bytes(b'')
    mini.put(folder / 'norain-22.png', mini.picture(22, mini.H + 100, mini.W))
    (folder / 'norain-23.png').unlink()
    mini.put(folder / 'rain-24.jpg', mini.degraded(24))
    return {
        'rain-20.png': 'cannot be read as a picture',
        'rain-21.png': 'norain-21.png, which cannot be read as a picture',
        'rain-22.png': 'more than 20 pixels apart',
        'rain-23.png': "has no partner 'norain-23'",
        'rain-24.png': 'would have the key of rain-24.jpg',
    }


def test_bad_pictures_stop_or_are_left_out_and_listed(rain, capsys):
    expected = bad_pictures(rain)
    arguments = [str(rain), str(rain.parent / 'out'), '--set', 'L', '--workers', '1']
    choices = {'L': 'rain100l', 'H': 'rain100h'}
    assert main('rain100', choices, arguments) == 1
    assert not (rain.parent / 'out').exists()
    assert '4 more like it; mend the download, or pass --skip-bad' in capsys.readouterr().err
    assert main('rain100', choices, [*arguments, '--dry-run']) == 1
    assert not (rain.parent / 'out').exists()
    out = capsys.readouterr().out
    assert all(sentence in out for sentence in expected.values())
    assert main('rain100', choices, [*arguments, '--skip-bad']) == 1
    dropped = (rain.parent / 'out/train/dropped.txt').read_text().splitlines()
    assert len(dropped) == len(expected)
    for line, (file, sentence) in zip(dropped, sorted(expected.items()), strict=True):
        assert line.startswith(f'in/train/RainTrainL/{file} ')
        assert sentence in line
    keys = list(read_report(rain.parent / 'out/train/lq.lmdb').shapes)
    assert keys == [f'rain-{n}' for n in (1, 2, 24, 25, 26, 27, 3, 4)]


def test_partners_of_nearly_one_size_are_cropped_around_the_centre(rain):
    folder = train_of(rain)
    large = mini.picture(1, mini.H + 10, mini.W + 20)
    mini.put(folder / 'norain-1.png', large)
    told = prepare(rain)
    assert any('1 pairs differ in size' in line and 'rain-1.png, 32x24 with 52x34' in line for line in told)
    report = read_report(rain.parent / 'out/train/gt.lmdb')
    assert report.shapes['rain-1'] == (mini.H, mini.W, 3)
    mini.reside_indoor(rain.parent / 'reside')
    prepare_family(FAMILIES['reside_indoor'], [rain.parent / 'reside'], rain.parent / 'indoor', ALONE)
    cropped = read_picture(rain.parent / 'indoor/test/gt/1400_1.png')
    assert np.array_equal(cropped, mini.picture(1400, mini.H + 20, mini.W + 20)[10:-10, 10:-10])


def test_unusual_pictures_become_8_bit_colour_and_are_counted(rain):
    folder = train_of(rain)
    mini.put(folder / 'norain-1.png', mini.picture(1)[..., 0])
    mini.put(folder / 'norain-2.png', np.dstack([mini.picture(2), np.full((mini.H, mini.W), 9, np.uint8)]))
    mini.put(folder / 'norain-3.png', mini.picture(3).astype(np.uint16) * 257)
    told = '\n'.join(prepare(rain))
    for kind, number in (('grey', 1), ('alpha', 2), ('16 bit', 3)):
        sentence = (
            f'1 pictures are {kind}; they are read as three channels of 8 bit (first: in/train/RainTrainL/norain-'
        )
        assert f'{sentence}{number}.png)' in told
    assert set(read_report(rain.parent / 'out/train/gt.lmdb').shapes.values()) == {(mini.H, mini.W, 3)}


def test_test_pictures_of_two_formats_get_one_name(tmp_path):
    mini.reside_outdoor(tmp_path / 'in')
    prepare_family(FAMILIES['reside_outdoor'], [tmp_path / 'in'], tmp_path / 'out', ALONE)
    names = [sorted(path.name for path in (tmp_path / 'out/test' / side).iterdir()) for side in ('lq', 'gt')]
    assert names[0] == names[1] == ['0001_0p8_0p2.png', '0025_0p8_0p2.png', '0077_0p8_0p2.png', '0077_0p9_0p08.png']
    jpg = read_picture(tmp_path / 'in/SOTS/outdoor/hazy/0001_0.8_0.2.jpg')
    assert np.array_equal(read_picture(tmp_path / 'out/test/lq/0001_0p8_0p2.png'), jpg)


def test_counts_short_sides_and_idle_clean_pictures_are_told(rain):
    mini.put(train_of(rain) / 'norain-77.png', mini.picture(77))
    mini.pairs(rain, 'train/RainTrainL/rain-{}.png', 'train/RainTrainL/norain-{}.png', [5])
    for name in ('rain-5.png', 'norain-5.png'):
        mini.put(train_of(rain) / name, mini.picture(5, 10, 32))
    told = '\n'.join(prepare(rain, min_side=20))
    assert 'train has 5 samples, expected 200: is the download complete?' in told
    assert '1 clean pictures in in/train/RainTrainL have no degraded partner' in told
    assert 'left out: 1 samples because the protocol or an option says so' in told
    assert 'rain-5.png has a side of 10 pixels, less than 20' in (rain.parent / 'out/train/dropped.txt').read_text()


def test_wrong_folders_are_told_with_the_layouts_that_are_known(tmp_path):
    rain100 = FAMILIES['rain100l']
    with pytest.raises(DataError, match='is no folder; unpack the download'):
        prepare_family(rain100, [tmp_path / 'none'], tmp_path / 'out')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='holds no pictures'):
        prepare_family(rain100, [tmp_path / 'empty'], tmp_path / 'out')
    mini.lol_official(tmp_path / 'lol')
    with pytest.raises(DataError, match=r'No known layout of Rain100L .* lol/our485/low.*PReNet: RainTrainL with'):
        prepare_family(rain100, [tmp_path / 'lol'], tmp_path / 'out')
    shutil.rmtree(tmp_path / 'lol/our485/high')
    shutil.rmtree(tmp_path / 'lol/eval15')
    with pytest.raises(DataError, match=r'our485/low has no clean partner \(lol/our485/high\)'):
        prepare_family(FAMILIES['lol_v1'], [tmp_path / 'lol'], tmp_path / 'out')
    mini.pairs(tmp_path, 'Rain200H/input/{}.png', 'Rain200H/target/{}.png', range(3))
    with pytest.raises(DataError, match='says neither train nor test; pass --subset'):
        prepare_family(FAMILIES['rain200h'], [tmp_path / 'Rain200H'], tmp_path / 'out')
    with pytest.raises(OptionError, match='there is no crop'):
        PrepareOptions(step=3)
    with pytest.raises(OptionError, match='--workers is 0'):
        PrepareOptions(workers=0)
    made = prepare_family(
        FAMILIES['rain200h'], [tmp_path / 'Rain200H'], tmp_path / 'out', replace(ALONE, subset='test')
    )
    assert list(made.hashes) == ['test']


def test_output_and_links_within_the_download_change_nothing(rain):
    apart = prepare_family(FAMILIES['rain100l'], [rain], rain.parent / 'apart', ALONE)
    (rain / 'around').symlink_to(rain, target_is_directory=True)
    for _ in range(2):
        within = prepare_family(FAMILIES['rain100l'], [rain], rain / 'out' / 'RainTrainL', ALONE)
        assert within.hashes == apart.hashes


# ------------------------------------------------------------------------------------------ overlap


def test_ots_loses_what_sots_shows_by_number_and_by_look(tmp_path):
    mini.reside_outdoor(tmp_path / 'in')
    told: list[str] = []
    family = FAMILIES['reside_outdoor']
    made = prepare_family(family, [tmp_path / 'in'], tmp_path / 'out', ALONE, tell=told.append)
    counts = '(1 by number, 1 by look only): 4 samples are left out.'
    assert f'note: 2 clean training pictures are also in the test set {counts}' in told
    assert not made.bad
    lines = (tmp_path / 'out/train/dropped.txt').read_text().splitlines()
    assert len(lines) == 4
    assert sum('0025.jpg, which has the number of the test picture' in line for line in lines) == 2
    assert sum('0040.jpg, which looks like the test picture' in line for line in lines) == 2
    assert {pair.gt for pair in read_pairs(tmp_path / 'out/train/pairs.txt')} == {'0030', '0035'}


def test_ots_needs_sots_unless_told_otherwise(tmp_path):
    mini.reside_outdoor(tmp_path / 'in')
    family = FAMILIES['reside_outdoor']
    with pytest.raises(DataError, match=r'no test set was found .* further input, or pass --overlap keep'):
        prepare_family(family, [tmp_path / 'in/OTS'], tmp_path / 'out', ALONE)
    whole = prepare_family(family, [tmp_path / 'in/OTS'], tmp_path / 'keep', replace(ALONE, overlap='keep'))
    assert not whole.left_out
    apart = prepare_family(family, [tmp_path / 'in/OTS', tmp_path / 'in/SOTS'], tmp_path / 'both', ALONE)
    assert len(apart.left_out) == 4


def test_one_subset_comes_out_as_with_the_other(tmp_path):
    mini.reside_outdoor(tmp_path / 'in')
    family = FAMILIES['reside_outdoor']
    both = prepare_family(family, [tmp_path / 'in'], tmp_path / 'both', ALONE)
    for subset in ('train', 'test'):
        made = prepare_family(family, [tmp_path / 'in'], tmp_path / 'apart', replace(ALONE, subset=subset))
        assert made.written == [subset]
        assert made.hashes[subset] == both.hashes[subset]
    assert tree(tmp_path / 'apart') == tree(tmp_path / 'both')


def test_shared_pictures_of_other_sets_are_told_and_kept(rain):
    shutil.copy(rain / 'test/Rain100L/norain-011.png', train_of(rain) / 'norain-1.png')
    told = '\n'.join(prepare(rain))
    assert '1 of 4 clean training pictures are also in the test set (first: in/train/RainTrainL/norain-1.png' in told
    assert len(read_report(rain.parent / 'out/train/lq.lmdb').shapes) == 4
    prepare(rain, 'dropped', overlap='drop')
    assert len(read_report(rain.parent / 'dropped/train/lq.lmdb').shapes) == 3


def test_flat_pictures_are_nobodys_twins(rain):
    grey = np.full((mini.H, mini.W, 3), 128, np.uint8)
    mini.put(train_of(rain) / 'norain-1.png', grey)
    mini.put(rain / 'test/Rain100L/norain-011.png', grey + 1)
    assert 'also in the test set' not in '\n'.join(prepare(rain))


def test_rain100h_drops_test_backgrounds_by_itself(tmp_path):
    mini.rain100_prenet(tmp_path / 'in', 'H')
    mini.pairs(tmp_path / 'in', 'train/RainTrainH/rain-{}.png', 'train/RainTrainH/norain-{}.png', [11])
    made = prepare_family(FAMILIES['rain100h'], [tmp_path / 'in'], tmp_path / 'out', ALONE)
    assert [entry.name for entry in made.left_out] == ['in/train/RainTrainH/rain-11.png']
    assert len(read_report(tmp_path / 'out/train/lq.lmdb').shapes) == 4


# ------------------------------------------------------------------------------------------ stopped and resumed


@pytest.mark.parametrize('step', ['write_lmdb', 'write_pairs', '_write_files', 'write_file'])
def test_a_run_that_failed_anywhere_goes_on_to_the_same_result(step, rain, monkeypatch):
    prepare(rain, 'whole')
    real, calls = getattr(write_unit_module, step), []

    def fail_the_second_time(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(28, 'No space left on device')
        return real(*args, **kwargs)

    monkeypatch.setattr(write_unit_module, step, fail_the_second_time)
    with pytest.raises(DataError, match=r'No space left .* run the same command again'):
        prepare(rain)
    monkeypatch.setattr(write_unit_module, step, real)
    prepare(rain)
    assert tree(rain.parent / 'out') == tree(rain.parent / 'whole')
    assert sorted(path.name for path in (rain.parent / 'out').iterdir()) == ['test', 'train']


def test_a_stopped_run_over_other_pictures_starts_anew(rain, monkeypatch, caplog):
    real = write_unit_module.write_pairs
    monkeypatch.setattr(write_unit_module, 'write_pairs', lambda *args: (_ for _ in ()).throw(OSError(28, 'full')))
    with pytest.raises(DataError, match='full'):
        prepare(rain, crop=16)
    monkeypatch.setattr(write_unit_module, 'write_pairs', real)
    prepare(rain)
    assert 'it starts anew' in caplog.text
    assert set(read_report(rain.parent / 'out/train/lq.lmdb').shapes.values()) == {(mini.H, mini.W, 3)}


def test_a_killed_command_goes_on_to_the_same_result(tmp_path):
    for seed in range(12):  # smooth clean pictures take the compression long enough to be killed within
        for side, pixels in (('low', mini.degraded(seed, 1, 200, 300)), ('high', mini.picture(seed, 200, 300))):
            mini.put(tmp_path / f'in/our485/{side}/{seed}.png', pixels)
    script = [sys.executable, str(SCRIPTS / 'lol.py'), str(tmp_path / 'in')]
    rest = ['--set', 'v1', '--workers', '1', '--compress-level', '9']
    environment = {**os.environ, 'PYTHONPATH': str(SCRIPTS.parent)}
    killed = subprocess.Popen([*script, str(tmp_path / 'out'), *rest], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / 'out/train.part/lq.lmdb').exists() and killed.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / 'out/train.part/gt.lmdb').exists()
    assert not (tmp_path / 'out/train').exists()
    done = subprocess.run([*script, str(tmp_path / 'out'), *rest], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    prepare_family(FAMILIES['lol_v1'], [tmp_path / 'in'], tmp_path / 'b', replace(ALONE, compress_level=9))
    assert tree(tmp_path / 'out') == tree(tmp_path / 'b')


# ------------------------------------------------------------------------------------------ scripts


def test_every_script_says_what_it_takes(capsys, monkeypatch):
    scripts = sorted(SCRIPTS.glob('*.py'))
    assert len(scripts) >= 14
    for script in scripts:
        monkeypatch.setattr(sys, 'argv', [str(script), '--help'])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(script), run_name='__main__')
        assert stop.value.code == 0
        assert 'example: ' in capsys.readouterr().out, script.name


def test_a_script_says_what_it_found_and_where_it_wrote(rain, capsys):
    choices = {'L': 'rain100l', 'H': 'rain100h'}
    arguments = [str(rain), str(rain.parent / 'out'), '--set', 'L', '--workers', '2']
    assert main('rain100', choices, [*arguments, '--dry-run']) == 0
    told = capsys.readouterr().out
    assert "Rain100L, train: layout 'PReNet', names by rule 'rain100', in in/train/RainTrainL" in told
    assert 'train would be written to' in told
    assert not (rain.parent / 'out').exists()
    assert main('rain100', choices, arguments) == 0
    first = capsys.readouterr().out
    assert f'train written to {rain.parent}/out/train, manifest ' in first
    assert main('rain100', choices, arguments) == 0
    assert 'train stands already in' in capsys.readouterr().out
