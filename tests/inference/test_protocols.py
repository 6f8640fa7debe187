"""Test protocols: packaged ones make sense, pictures are found, paired and degraded the same way every time."""

from __future__ import annotations

import os
import re

import cv2
import numpy as np
import pytest
import yaml

from basicsr_unirestorer.data.families import CDD11_FOLDERS, FAMILIES
from basicsr_unirestorer.degradations import DEGRADATION_TYPES, parse_caption
from basicsr_unirestorer.errors import DataError, OptionError
from basicsr_unirestorer.inference.protocols import Protocol, add_noise, load_degraded, load_pair, protocol_files
from basicsr_unirestorer.option_files import options_dir
from tests.inference.report_samples import smooth_picture

NAMES = sorted(protocol_files())
METRICS = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}


def write(path, seed: int = 0, height: int = 20, width: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), smooth_picture(seed, height, width)[..., ::-1])


def write_protocol(folder, columns, **more):
    path = folder / 'mine.yml'
    path.write_text('# Heading.\n' + yaml.safe_dump({'title': 'Mine', 'columns': columns, 'metrics': METRICS, **more}))
    return path


def test_the_promised_protocols_are_there():
    assert {
        *(f'{name}_noise' for name in ('cbsd68', 'kodak24', 'mcmaster', 'urban100')),
        *('live1_jpeg', 'rain100l', 'sots_outdoor', 'snow100k', 'gopro', 'lol_v1', 'cdd11', 'mio', 'clean'),
    } == set(NAMES)
    assert list(Protocol.load('cdd11').options['columns']) == list(CDD11_FOLDERS)


@pytest.mark.parametrize('name', NAMES)
def test_packaged_protocol_says_what_it_is_and_how_to_run_it(name, registered):
    protocol = Protocol.load(name)
    assert f'unirestorer benchmark {name} ' in protocol.heading and 'Protocol:' in protocol.heading
    task, family = protocol.options['family'].split('/')
    assert FAMILIES[family].task == task  # the folder that the script of this set writes
    for column in protocol.options['columns']:
        parse_caption(protocol.options['columns'][column]['caption'])


@pytest.mark.parametrize('name', [name for name in NAMES if name != 'clean'])
def test_expected_counts_are_those_of_the_data_set(name):
    protocol = Protocol.load(name)
    family = FAMILIES[protocol.options['family'].split('/')[1]]
    for column, options in protocol.options['columns'].items():
        subset = re.sub('/(lq|gt)$', '', options.get('lq', options['gt']))
        assert protocol.expected(column) == family.expected[subset][0], column


@pytest.mark.parametrize('name', [name for name in NAMES if name.endswith(('_noise', '_jpeg'))])
def test_captions_use_the_words_of_the_degradations(name):
    for column in Protocol.load(name).options['columns'].values():
        kind, params = next((kind, column[kind]) for kind in ('noise', 'jpeg') if kind in column)
        made = DEGRADATION_TYPES[kind]
        value = params.get('sigma_255', params.get('quality'))
        word = made.words[int(np.searchsorted(made.edges, value, side='right'))]
        assert column['caption'] == f'{word} {"noise" if kind == "noise" else "jpeg artifacts"}'


# ----------------------------------------------------------------------------------------------- degrading


def test_noise_is_restormers():
    """NumPy's legacy stream of seed 0, RGB, drawn anew for each picture: documented, so that others can repeat it."""
    clean = smooth_picture(0, 60, 90)
    state = np.random.RandomState(0)
    expected = clean / 255 + state.normal(0, 25 / 255, clean.shape)
    noisy = add_noise(clean, 25, clip=False)
    assert noisy.dtype == np.float32 and np.allclose(noisy, expected, atol=1e-7)
    assert noisy.min() < 0 and noisy.max() > 1  # not clipped


def test_clipped_noise_is_an_eight_bit_picture():
    clean = smooth_picture(1, 40, 50)
    free, clipped = (add_noise(clean, 50, clip) for clip in (False, True))
    assert 0 <= clipped.min() and clipped.max() <= 1
    assert np.abs(clipped * 255 - np.rint(clipped * 255)).max() < 1e-4
    assert np.abs(clipped - free.clip(0, 1)).max() <= 0.5 / 255 + 1e-6  # rounded, not cut off
    assert abs((clipped - free.clip(0, 1)).mean()) < 1e-4


def test_degrading_depends_on_the_picture_alone(tmp_path):
    write(tmp_path / 'a.png', 0)
    write(tmp_path / 'b.png', 1)
    params = {'sigma_255': 15, 'clip': True, 'seed': 0}
    first = load_degraded(tmp_path / 'a.png', 'noise', params)[0]
    load_degraded(tmp_path / 'b.png', 'noise', params)
    assert np.array_equal(load_degraded(tmp_path / 'a.png', 'noise', params)[0], first)


def test_jpeg_quality_matters_and_clean_is_clean(tmp_path):
    write(tmp_path / 'a.png', 3, 64, 64)
    errors = []
    for quality in (10, 40):
        lq, gt = load_degraded(tmp_path / 'a.png', 'jpeg', {'quality': quality})
        errors.append(np.abs(lq * 255 - gt).mean())
    assert errors[0] > errors[1] > 0
    lq, gt = load_degraded(tmp_path / 'a.png', 'clean', {})
    assert np.array_equal(np.rint(lq * 255), gt)


# ----------------------------------------------------------------------------------------------- finding pictures


def test_plain_folder_and_prepared_set_give_the_same_pictures(tmp_path):
    for seed in range(3):
        write(tmp_path / 'plain' / f'{seed}.png', seed)
        write(tmp_path / 'root' / 'clean' / 'cbsd68' / 'test' / 'gt' / f'{seed}.png', seed)
    protocol = Protocol.load('cbsd68_noise')
    plain, prepared = (protocol.cases(tmp_path / name) for name in ('plain', 'root'))
    assert [(case.degradation, case.name) for case in plain] == [(case.degradation, case.name) for case in prepared]
    assert len(plain) == 18 and len({(case.degradation, case.name) for case in plain}) == 18
    assert all(np.array_equal(a.load()[0], b.load()[0]) for a, b in zip(plain, prepared, strict=True))
    assert len(protocol.cases(tmp_path / 'plain', max_pictures=1)) == 6


def test_pairs_are_partners_by_rule(tmp_path):
    for seed, name in enumerate(('0001_0.8_0.2', '0001_1_0.1', '0002_0.9_0.1')):
        write(tmp_path / 'hazy' / f'{name}.jpg', seed)
    for seed in (1, 2):
        write(tmp_path / 'gt' / f'000{seed}.png', seed)
    column = {'haze': {'lq': 'hazy', 'gt': 'gt', 'rule': 'reside', 'caption': 'haze'}}
    cases = Protocol.load(write_protocol(tmp_path, column)).cases(tmp_path)
    assert [case.name for case in cases] == ['0001_0.8_0.2', '0001_1_0.1', '0002_0.9_0.1']
    lq, gt = cases[2].load()
    assert np.array_equal(gt, smooth_picture(2, 20, 30)) and lq.shape == gt.shape and lq.dtype == np.float32


def test_a_changed_picture_has_other_facts(tmp_path):
    write(tmp_path / 'a.png', 0)
    protocol = Protocol.load('clean')
    before = protocol.cases(tmp_path)[0].facts
    assert protocol.cases(tmp_path)[0].facts == before
    os.utime(tmp_path / 'a.png', (1, 1))
    assert protocol.cases(tmp_path)[0].facts != before


# ----------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ('columns', 'message'),
    [
        ({'a': {'noize': {}, 'gt': 'gt'}}, "Unknown option 'mine.columns.a.noize'. Did you mean 'noise'"),
        ({'a': {'gt': 'gt'}}, 'exactly one of noise, jpeg, clean and lq'),
        ({'a': {'clean': True, 'lq': 'lq', 'gt': 'gt'}}, 'exactly one of'),
        ({'a': {'lq': 'lq'}}, "Option 'mine.columns.a.gt' is missing"),
        ({'a': {'noise': {'sigma': 5}, 'gt': 'gt'}}, "Unknown option 'mine.columns.a.noise.sigma'"),
        ({'a': {'noise': {'sigma_255': 5}, 'gt': 'gt'}}, "Option 'mine.columns.a.noise.clip' is missing"),
        ({'a': {'clean': True, 'gt': 'gt', 'caption': 'huge noise'}}, "unknown phrase 'huge noise'"),
    ],
)
def test_wrong_columns_are_one_sentence(tmp_path, registered, columns, message):
    with pytest.raises((OptionError, DataError), match=re.escape(message)):
        Protocol.load(write_protocol(tmp_path, columns))


def test_wrong_files_are_one_sentence(tmp_path, registered):
    with pytest.raises(OptionError, match="no test protocol 'cbsd_noise'. Did you mean 'cbsd68_noise'"):
        Protocol.load('cbsd_noise')
    with pytest.raises(OptionError, match='no test protocol'):
        Protocol.load(options_dir() / 'test')
    (tmp_path / 'bad.yml').write_text('columns: [')
    with pytest.raises(OptionError, match='not valid yml'):
        Protocol.load(tmp_path / 'bad.yml')
    (tmp_path / 'bad.yml').write_text('- 1')
    with pytest.raises(OptionError, match="must hold 'key: value' lines"):
        Protocol.load(tmp_path / 'bad.yml')
    path = write_protocol(tmp_path, {'a': {'clean': True, 'gt': 'gt'}}, metrics={'p': {'type': 'calculate_pnsr'}})
    with pytest.raises(OptionError, match="Did you mean 'calculate_psnr'"):
        Protocol.load(path)
    path = write_protocol(tmp_path, {'a': {'clean': True, 'gt': 'gt'}}, metrics={'ssim': {'type': 'calculate_ssim'}})
    with pytest.raises(OptionError, match="must measure 'psnr'"):
        Protocol.load(path)


def test_missing_lone_and_unequal_pictures_are_one_sentence(tmp_path):
    protocol = Protocol.load(write_protocol(tmp_path, {'a': {'lq': 'lq', 'gt': 'gt'}}))
    with pytest.raises(DataError, match=r'needs the folder .*lq, which does not exist; give --data mine=FOLDER'):
        protocol.cases(tmp_path)
    write(tmp_path / 'lq' / '1.png')
    write(tmp_path / 'gt' / '2.png')
    with pytest.raises(DataError, match='1.png and 0 others have no clean partner'):
        protocol.cases(tmp_path)
    write(tmp_path / 'gt' / '1.png', height=21)
    with pytest.raises(DataError, match='30x20 pixels but .* 30x21'):
        load_pair(tmp_path / 'lq' / '1.png', tmp_path / 'gt' / '1.png')
