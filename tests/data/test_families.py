"""Every layout of every data set, in miniature: found, paired, labelled, counted; twice with the same manifest."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from basicsr_unirestorer.data.families import CDD11_FOLDERS, FAMILIES, MIO_TYPES
from basicsr_unirestorer.data.lmdb_writer import read_report
from basicsr_unirestorer.data.pairs import read_pairs
from basicsr_unirestorer.data.plan import PrepareOptions
from basicsr_unirestorer.data.prepare_family import prepare_family
from basicsr_unirestorer.degradations.registry import DEGRADATION_TYPES
from tests.data import miniatures as mini

ALONE = PrepareOptions(workers=1)

# family, layout's name (its beginning), builder, training samples, clean training pictures, samples of each test subset
LAYOUTS = [
    ('rain100l', 'PReNet', mini.rain100_prenet, 4, 4, {'test': 3}),
    ('rain100h', 'PReNet', partial(mini.rain100_prenet, letter='H'), 4, 4, {'test': 3}),
    ('rain100l', 'AirNet', mini.rain100_airnet, 4, 4, {'test': 3}),
    ('rain100l', 'input/target', mini.rain100_restormer, 0, 0, {'test': 3}),
    ('rain200h', 'original', mini.rain200_original, 4, 4, {'test': 3}),
    ('rain200h', 'DRSformer', mini.rain200_drsformer, 4, 4, {'test': 3}),
    ('did', 'original', mini.did_original, 6, 6, {'test': 2}),
    ('did', 'input/target', mini.did_packed, 3, 3, {'test': 3}),
    ('ddn', 'original', mini.ddn_original, 42, 3, {'test': 28}),
    ('ddn', 'not split', mini.ddn_unsplit, 28, 2, {'test': 14}),
    ('reside_outdoor', 'OTS in parts', mini.reside_outdoor, 3, 2, {'test': 4}),
    ('reside_outdoor', 'OTS', partial(mini.reside_outdoor, clean='original', packed=True), 3, 2, {'test': 4}),
    ('reside_outdoor', 'DehazeFormer', mini.reside_dehazeformer, 3, 3, {'test': 3}),
    ('reside_indoor', 'ITS', mini.reside_indoor, 4, 2, {'test': 4}),
    ('snow100k', 'Snow100K', mini.snow100k, 4, 4, {'test/S': 2, 'test/M': 2, 'test/L': 2}),
    ('snow100k', 'Snow100K', partial(mini.snow100k, lq='input'), 4, 4, {'test/S': 2, 'test/M': 2, 'test/L': 2}),
    ('gopro', 'official', mini.gopro_official, 4, 4, {'test': 2}),
    ('gopro_gamma', 'official', mini.gopro_official, 4, 4, {'test': 2}),
    ('gopro', 'AdaIR', mini.gopro_adair, 3, 3, {'test': 2}),
    ('gopro', 'Restormer', mini.gopro_restormer, 3, 3, {'test': 2}),
    ('lol_v1', 'official', mini.lol_official, 4, 4, {'test': 2}),
    ('lol_v1', 'Retinexformer', mini.lol_retinexformer, 4, 4, {'test': 2}),
    ('lol_v2_real', 'LOLv2', mini.lol_v2, 3, 3, {'test': 2}),
    ('cdd11', 'CDD-11', mini.cdd11, 22, 2, {f'test/{name}': 2 for name in CDD11_FOLDERS}),
    ('mio', 'MiO', mini.mio, 0, 0, {'test/toled': 2} | {f'test/{k}{o}': 2 for k in MIO_TYPES for o in ('', '_outbig')}),
    ('div2k', 'as distributed', mini.clean_sets, 2, 2, {'test': 1}),
    ('flickr2k', 'as distributed', mini.clean_sets, 1, 1, {}),
    ('wed', 'as distributed', mini.clean_sets, 2, 2, {}),
    ('bsd400', 'as distributed', mini.clean_sets, 1, 1, {}),
    ('wed_bsd400', 'the sets', mini.clean_sets, 3, 3, {}),
    ('df2k', 'the sets', mini.clean_sets, 3, 3, {}),
    ('dfwb', 'the sets', mini.clean_sets, 6, 6, {}),
]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize(('name', 'layout', 'build', 'train', 'clean', 'test'), LAYOUTS)
def test_a_layout_is_prepared_twice_alike(name, layout, build, train, clean, test, tmp_path):
    build(tmp_path / 'download')
    told: list[str] = []
    made = prepare_family(FAMILIES[name], [tmp_path / 'download'], tmp_path / 'a', ALONE, tell=told.append)
    assert layout in told[0], 'says which layout it is'
    assert not made.bad
    paired = FAMILIES[name].task != 'clean'
    if train:
        gt = read_report(tmp_path / 'a' / 'train' / 'gt.lmdb').shapes
        assert len(gt) == clean
        if paired:
            pairs = read_pairs(tmp_path / 'a' / 'train' / 'pairs.txt')
            lq = read_report(tmp_path / 'a' / 'train' / 'lq.lmdb').shapes
            assert [pair.lq for pair in pairs] == list(lq)
            assert {pair.gt for pair in pairs} == set(gt)
            assert len(lq) == train
            if train == clean:  # a stock BasicSR reads these as they are
                assert set(lq) == set(gt)
    else:
        assert not (tmp_path / 'a' / 'train').exists()
    for subset, count in test.items():
        folder = tmp_path / 'a' / subset
        assert len(names(folder / 'gt')) == count
        assert not paired or names(folder / 'lq') == names(folder / 'gt')
    again = prepare_family(FAMILIES[name], [tmp_path / 'download'], tmp_path / 'b', ALONE)
    assert again.hashes == made.hashes
    for unit in made.hashes:
        mine, theirs = (tmp_path / side / unit / 'manifest.json' for side in 'ab')
        assert mine.read_bytes() == theirs.read_bytes()
    third = prepare_family(FAMILIES[name], [tmp_path / 'download'], tmp_path / 'b', ALONE)
    assert third.written == [], 'what stands there already is not written again'


def test_every_family_has_a_miniature_and_every_label_is_a_degradation():
    test_only = {'cbsd68', 'kodak24', 'urban100', 'mcmaster', 'live1'}
    assert {name for name, *_ in LAYOUTS} | test_only | {'rain200l'} == set(FAMILIES)
    for kind in (*MIO_TYPES.values(), 'rain', 'snow', 'haze', 'low_light', 'motion_blur'):
        assert kind in DEGRADATION_TYPES


@pytest.mark.parametrize(
    ('name', 'files'),
    [
        ('cbsd68', ('CBSD68/original_png/0000.png', 'CBSD68/original_png/0001.png')),
        ('cbsd68', ('my_copy/101085.png', 'my_copy/101087.png')),
        ('kodak24', ('Kodak24/kodim01.png', 'Kodak24/kodim02.png')),
        ('urban100', ('Urban100/image_SRF_4/img_001_SRF_4_HR.png', 'Urban100/image_SRF_4/img_002_SRF_4_HR.png')),
        ('mcmaster', ('McMaster/1.tif', 'McMaster/2.tif')),
        ('live1', ('LIVE1/bikes.bmp', 'LIVE1/womanhat.bmp')),
    ],
)
def test_clean_test_sets_become_one_folder(name, files, tmp_path):
    mini.one_folder(tmp_path / 'in', *files)
    root = tmp_path / 'in' / Path(files[0]).parts[0]
    if name == 'urban100':
        mini.put(root / 'image_SRF_4/img_001_SRF_4_LR.png', mini.picture(7, 6, 8))
    made = prepare_family(FAMILIES[name], [root], tmp_path / 'out', ALONE)
    assert names(tmp_path / 'out' / 'test' / 'gt') == [Path(file).name for file in files]
    for file in files:
        copied = tmp_path / 'out' / 'test' / 'gt' / Path(file).name
        assert copied.read_bytes() == (tmp_path / 'in' / file).read_bytes(), 'not re-encoded'
    assert not made.bad


def test_the_validation_half_of_div2k_never_becomes_training_data(tmp_path):
    mini.one_folder(tmp_path, 'DIV2K_valid_HR/0801.png', 'DIV2K_valid_HR/0802.png')
    made = prepare_family(FAMILIES['div2k'], [tmp_path / 'DIV2K_valid_HR'], tmp_path / 'out', ALONE)
    assert list(made.hashes) == ['test']


def labels(folder: Path) -> dict[str, str]:
    return {pair.lq: ' '.join(pair.line.split()[2:]) for pair in read_pairs(folder / 'pairs.txt')}


def test_labels_follow_from_file_and_folder_names(tmp_path):
    for name, build in (
        ('reside_outdoor', mini.reside_outdoor),
        ('snow100k', mini.snow100k),
        ('cdd11', mini.cdd11),
        ('did', mini.did_original),
        ('reside_indoor', mini.reside_indoor),
        ('mio', mini.mio),
    ):
        build(tmp_path / name)
        prepare_family(FAMILIES[name], [tmp_path / name], tmp_path / 'out' / name, ALONE)
    out = tmp_path / 'out'
    mini.reside_dehazeformer(tmp_path / 'packed')
    prepare_family(FAMILIES['reside_outdoor'], [tmp_path / 'packed'], out / 'packed', ALONE)
    assert set(labels(out / 'packed/train').values()) == {'haze thick'}
    haze = labels(out / 'reside_outdoor/train')
    assert haze == {
        '0030_0p85_0p12': 'haze thick',
        '0030_0p8_0p1': 'haze normal',
        '0035_1_0p06': 'haze normal',
    }
    assert set(labels(out / 'reside_indoor/train').values()) == {'haze -'}
    assert set(labels(out / 'snow100k/test/L').values()) == {'snow large'}
    assert set(labels(out / 'snow100k/train').values()) == {'snow -'}
    mixed = labels(out / 'cdd11/train')
    assert mixed['low_haze_rain-00001'] == 'low_light+rain+haze dark+-+-'
    assert mixed['snow-00002'] == 'snow -'
    assert set(labels(out / 'cdd11/test/haze_snow').values()) == {'snow+haze -'}
    assert labels(out / 'did/train')['Heavy-0'] == 'rain large'
    assert set(labels(out / 'mio/test/dark').values()) == {'low_light -'}
    assert set(labels(out / 'mio/test/toled').values()) == {'- -'}


def test_halves_go_to_their_sides_and_the_detailed_one_is_degraded(tmp_path):
    import cv2

    mini.did_original(tmp_path / 'in')
    prepare_family(FAMILIES['did'], [tmp_path / 'in'], tmp_path / 'out', ALONE)
    read = cv2.imread(str(tmp_path / 'out/test/gt/40.png'))
    assert (read == mini.picture(40)).all()
    for path in (tmp_path / 'in').rglob('*.png'):  # the other way round
        both = cv2.imread(str(path))
        cv2.imwrite(str(path), both[:, ::-1])
    prepare_family(FAMILIES['did'], [tmp_path / 'in'], tmp_path / 'turned', ALONE)
    assert (cv2.imread(str(tmp_path / 'turned/test/gt/40.png')) == mini.picture(40)[:, ::-1]).all()


def test_shared_clean_pictures_of_a_test_set_are_stored_once(tmp_path):
    mini.cdd11(tmp_path / 'in')
    prepare_family(FAMILIES['cdd11'], [tmp_path / 'in'], tmp_path / 'out', ALONE)
    inodes = {os.stat(tmp_path / 'out/test' / name / 'gt/00011.png').st_ino for name in CDD11_FOLDERS}
    assert len(inodes) == 1
