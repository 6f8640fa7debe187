r"""The data sets there are scripts for: layouts as distributed and as re-packed, expected counts, labels.

Counts and layouts come from the data sets' pages, their authors' code and the papers that use them; a layout marked
"unverified" is from memory of the field. A count that differs from the published one is told, never refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from basicsr_unirestorer.data.clean_families import CLEAN_FAMILIES
from basicsr_unirestorer.data.layouts import ASK, SPLIT, Family, Label, Part
from basicsr_unirestorer.data.pairing import NAME_RULES

PACKED = 'input/target packing'
HAZE_EDGE_BETA = 0.1  # of RESIDE's seven scattering coefficients four are normal haze, and three (0.12 to 0.2) thick
SUBSETS = ('train', 'test')
SIZE_WORDS = {'S': 'small', 'M': 'medium', 'L': 'large'}
RAIN_WORDS = {'light': 'small', 'medium': 'medium', 'heavy': 'large'}
CDD11_TYPES = {'low': 'low_light', 'rain': 'rain', 'snow': 'snow', 'haze': 'haze'}  # in CDD-11's order of application
CDD11_WORDS = {'low_light': 'dark'}  # its gamma is between 2 and 3 throughout; the others vary and are not recorded
CDD11_FOLDERS = (
    'low',
    'haze',
    'rain',
    'snow',
    'low_haze',
    'low_rain',
    'low_snow',
    'haze_rain',
    'haze_snow',
    'low_haze_rain',
    'low_haze_snow',
)
MIO_TYPES = {
    'sr': 'low_resolution',
    'blur': 'blur',
    'noise': 'noise',
    'jpeg': 'jpeg',
    'rain': 'rain',
    'haze': 'haze',
    'dark': 'low_light',
}


def _always(kind: str) -> Callable[[Mapping[str, str]], Label]:
    return lambda groups: ((kind,), (None,))


def _haze_label(groups: Mapping[str, str]) -> Label:
    told = re.fullmatch(NAME_RULES['reside'].lq, groups['file'])  # re-packings under other rules keep the name
    if told is None or told['beta'] is None:
        return ('haze',), (None,)
    return ('haze',), ('normal' if float(told['beta']) <= HAZE_EDGE_BETA else 'thick',)


def _snow_label(groups: Mapping[str, str]) -> Label:
    return ('snow',), (SIZE_WORDS.get(groups.get('size', '').upper()),)


def _did_label(groups: Mapping[str, str]) -> Label:
    return ('rain',), (RAIN_WORDS.get(groups.get('kind', '').lower()),)


def _cdd11_label(groups: Mapping[str, str]) -> Label:
    named = groups['kind'].lower().split('_')
    types = tuple(kind for word, kind in CDD11_TYPES.items() if word in named)
    return types, tuple(CDD11_WORDS.get(kind) for kind in types)


def _mio_label(groups: Mapping[str, str]) -> Label:
    kind = MIO_TYPES.get(groups.get('kind', '').lower())
    return ((kind,), (None,)) if kind else ((), ())


def _rain100(letter: str, train: tuple[int, ...], **more) -> Family:
    name = f'Rain100{letter}'
    rules = ('same', 'rain100')
    parts = [
        Part('PReNet', 'train', f'RainTrain{letter}', (f'RainTrain{letter}',), ('rain100',)),
        Part('PReNet', 'test', f'(?<!train/){name}', (name,), ('rain100',)),
        Part(PACKED, 'train', f'train/{name}/(?:input|rainy)', (f'train/{name}/target', f'train/{name}/gt'), rules),
        Part(PACKED, 'test', f'(?<!train/){name}/input', (f'{name}/target',), rules),
        Part('rain and norain folders', 'train', f'train/{name}/rain', (f'train/{name}/norain',), rules),  # unverified
        Part('rain and norain folders', 'test', f'(?<!train/){name}/rain', (f'{name}/norain',), rules),  # unverified
    ]
    if letter == 'L':
        parts.append(Part('AirNet, PromptIR, AdaIR', 'train', 'Derain/rainy', ('Derain/gt',), ('rain100',)))
    expected = {'train': train, 'test': (100,)}
    return Family(name.lower(), name, 'derain', tuple(parts), expected, label=_always('rain'), **more)


def _rain200(letter: str, word: str) -> Family:
    name = f'Rain200{letter}'
    packed, rules = [], ('same', 'rain200_x2', 'rain100')
    for subset in ('train', 'test'):
        for place in (f'{subset}/{name}', f'{name}/{subset}'):
            packed.append(Part('DRSformer', subset, f'{place}/input', (f'{place}/target',), rules))
    original = [
        Part(
            'original',
            subset,
            f'rain_data_{subset}_{word}/rain/X2',
            (f'rain_data_{subset}_{word}', f'rain_data_{subset}_{word}/norain'),
            ('rain200_x2',),
        )
        for subset in ('train', 'test')
    ]
    untold = Part('DRSformer', ASK, f'(?<!train/)(?<!test/){name}/input', (f'{name}/target',), rules)
    expected = {'train': (1800,), 'test': (200,)}
    return Family(name.lower(), name, 'derain', (*original, *packed, untold), expected, label=_always('rain'))


def _packed(*names: str, rules: tuple[str, ...] = ('same',)) -> list[Part]:
    """Parts of ``NAME/train/{input,target}`` and ``train/NAME/{input,target}``, and the same for test."""
    name = f'(?P<name>{"|".join(names)})'
    return [
        Part(PACKED, subset, f'{folder}/input', (rf'{clean}/target',), rules)
        for subset in ('train', 'test')
        for folder, clean in ((f'{name}/{subset}', rf'\g<name>/{subset}'), (f'{subset}/{name}', rf'{subset}/\g<name>'))
    ]


def _did() -> Family:
    parts = (
        Part(
            'original, side by side',
            'train',
            '(?:DID-MDN-training/)?Rain_(?P<kind>Heavy|Medium|Light)/train2018new',
            rules=('did_halves',),
            prefix=r'\g<kind>-',
        ),
        Part('original, side by side', 'test', 'DID-MDN-test', rules=('did_halves',)),  # unverified
        *_packed('DID-Data', 'DID'),
    )
    return Family('did', 'DID-Data', 'derain', parts, {'train': (12000,), 'test': (1200,)}, label=_did_label)


def _ddn() -> Family:
    parts = [
        Part('original', subset, f'{word}/rainy_images?', (f'{word}/ground_truth',), ('ddn',))
        for subset, word in (('train', 'training'), ('test', 'testing'))
    ]
    parts += [
        Part('PReNet', subset, f'{word}/rainy_image', (f'{word}/ground_truth',), ('ddn',))
        for subset, word in (('train', 'Rain12600'), ('test', 'Rain1400'))
    ]
    elsewhere = '(?<!training/)(?<!testing/)(?<!Rain12600/)(?<!Rain1400/)'
    parts.append(Part('not split', SPLIT, f'{elsewhere}rainy_images?', ('ground_truth',), ('ddn',)))
    parts += _packed('DDN-Data', 'DDN', rules=('ddn', 'same'))
    return Family(
        'ddn',
        'DDN-Data (Rain1400)',
        'derain',
        tuple(parts),
        {'train': (12600,), 'test': (1400,)},
        {'train': 900, 'test': 100},
        label=_always('rain'),
        split=lambda groups: 'train' if int(groups['id']) <= 900 else 'test',
        notes=('A download that is not split is split by number: 1 to 900 train, the rest test.',),
    )


def _reside(place: str, train: list[Part], name: str, expected: tuple[int, ...], **more) -> Family:
    clean = ('gt', 'clear', 'target')
    sots = f'(?P<sots>(?:SOTS[^/]*/)?(?:nyu)?{place}(?:/nyuhaze500)?)'
    packed = f'RESIDE-{"OUT" if place == "outdoor" else "IN"}'
    parts = [
        *train,
        Part('SOTS', 'test', f'{sots}/(?:hazy|input)', tuple(rf'\g<sots>/{c}' for c in clean), ('reside', 'same')),
        Part('DehazeFormer', 'train', f'{packed}/train/hazy', (f'{packed}/train/GT',), ('same', 'reside')),
        Part('DehazeFormer', 'test', f'{packed}/test/hazy', (f'{packed}/test/GT',), ('same', 'reside')),
    ]
    return Family(f'reside_{place}', name, 'dehaze', tuple(parts), {'train': expected, 'test': (500,)}, **more)


def _reside_outdoor() -> Family:
    clean = ('clear', 'original', 'gt', 'clean')
    ots = [
        Part('OTS in parts', 'train', '(?:(?:hazy|haze|synthetic)/)?part[1-4]', clean, ('reside',)),
        Part(
            'OTS in one folder',
            'train',
            '(?P<ots>OTS[^/]*)/(?:hazy|haze|input)',
            tuple(rf'\g<ots>/{name}' for name in (*clean, 'target')),
            ('reside',),
        ),
        Part('PromptIR, AdaIR', 'test', 'test/dehaze/input', ('test/dehaze/target',), ('reside', 'same')),
    ]
    return _reside(
        'outdoor',
        ots,
        'RESIDE outdoor (OTS, SOTS-outdoor)',
        (72135, 313950),
        expected_clean={'test': 492},
        label=_haze_label,
        overlap='drop',
        same_ids=True,
    )


def _reside_indoor() -> Family:
    its = Part(
        'ITS',
        'train',
        '(?P<its>ITS[^/]*(?:/train)?)/(?:ITS_haze|hazy|haze|input)',
        tuple(rf'\g<its>/{name}' for name in ('ITS_clear', 'clear', 'gt', 'target')),
        ('reside', 'same'),
    )
    name = 'RESIDE indoor (ITS, SOTS-indoor)'
    more = {'expected_clean': {'test': 50}, 'label': _always('haze'), 'same_ids': True}
    return _reside('indoor', [its], name, (13990, 110000), **more)


def _snow100k() -> Family:
    parts = (
        Part('Snow100K', 'train', '(?P<top>all|train)(?:/Snow100K)?/(?:synthetic|input)', (r'\g<top>/gt',)),
        Part(
            'Snow100K',
            r'test/\g<size>',
            'Snow100K-(?P<size>[SML])/(?:synthetic|input)',
            (r'Snow100K-\g<size>/gt',),
        ),
    )
    expected = {'train': (50000,), 'test/S': (16611,), 'test/M': (16588,), 'test/L': (16801,)}
    return Family('snow100k', 'Snow100K', 'desnow', parts, expected, label=_snow_label)


def _gopro(blur: str) -> Family:
    parts = [
        Part(
            'official',
            subset,
            rf'{subset}/(?P<seq>(?!Deblur/)[^/]+)/{blur}',
            (rf'{subset}/\g<seq>/sharp',),
            prefix=r'\g<seq>-',
        )
        for subset in ('train', 'test')
    ]
    if blur == 'blur':  # every re-packing was made from the folders called blur
        parts += [
            Part('AdaIR', 'train', 'train/Deblur/blur', ('train/Deblur/sharp',)),
            Part('AdaIR', 'test', 'test/deblur/gopro/input', ('test/deblur/gopro/target',)),
            Part('Restormer', 'train', 'Downloads/GoPro/input', ('Downloads/GoPro/target',)),
            Part('Restormer, cut', 'train', 'train/GoPro/input_crops', ('train/GoPro/target_crops',)),
            *_packed('GoPro'),
        ]
    name = 'gopro' if blur == 'blur' else 'gopro_gamma'
    return Family(
        name,
        'GoPro',
        'deblur',
        tuple(parts),
        {'train': (2103,), 'test': (1111,)},
        label=_always('motion_blur'),
        notes=(f'Blurred pictures are those of the folders {blur}.',),
    )


def _lol(version: str) -> Family:
    if version == 'v1':
        title, counts = 'LOLv1', (485, 15)
        parts = [
            Part('official', 'train', 'our485/low', ('our485/high',)),
            Part('official', 'test', 'eval15/low', ('eval15/high',)),
        ]
        parts += [
            Part('Retinexformer', subset, f'(?P<lol>LOL[-_]?v1)/{subset}/input', (rf'\g<lol>/{subset}/target',))
            for subset in SUBSETS
        ]
    else:
        title, counts = 'LOLv2-real', (689, 100)
        parts = [
            Part('LOLv2', sub, f'Real_captured/{sub}/Low', (f'Real_captured/{sub}/Normal',), ('same', 'lol_v2'))
            for sub in SUBSETS
        ]
    expected = dict(zip(SUBSETS, ((count,) for count in counts), strict=True))
    return Family(f'lol_{version}', title, 'low_light', tuple(parts), expected, label=_always('low_light'))


def _cdd11() -> Family:
    kind = f'(?P<kind>{"|".join(CDD11_FOLDERS)})'
    parts = tuple(
        Part('CDD-11', subset, f'{top}/{kind}', (rf'{clean}/clear',), prefix=prefix)
        for subset, top, clean, prefix in (
            ('train', '(?P<top>(?:CDD-?11_)?train)', r'\g<top>', r'\g<kind>-'),
            (r'test/\g<kind>', '(?P<top>(?:CDD-?11_)?test)', r'\g<top>', ''),
        )
    )
    expected = {'train': (13013,), **{f'test/{name}': (200,) for name in CDD11_FOLDERS}}
    return Family('cdd11', 'CDD-11', 'mixed', parts, expected, {'train': 1183}, label=_cdd11_label)


def _mio() -> Family:
    kinds = '|'.join(MIO_TYPES)
    parts = (
        Part('MiO_test', r'test/\g<kind>', f'single_indis/(?P<kind>{kinds})', ('original/GT',)),
        Part('MiO_test', r'test/\g<kind>_outbig', f'single_outbig/(?P<kind>{kinds})_outbig', ('original/GT',)),
        Part('MiO_test', 'test/toled', 'Toled_val/LQ', ('Toled_val/HQ',)),
    )
    expected = {f'test/{kind}{outbig}': (100,) for kind in MIO_TYPES for outbig in ('', '_outbig')}
    return Family('mio', 'MiO100', 'mixed', parts, {**expected, 'test/toled': (30,)}, label=_mio_label)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _rain100('L', (200,)),
        _rain100('H', (1800, 1254), kept={'train': 1254}, overlap='drop'),
        _rain200('L', 'Light'),
        _rain200('H', 'Heavy'),
        _did(),
        _ddn(),
        _reside_outdoor(),
        _reside_indoor(),
        _snow100k(),
        _gopro('blur'),
        _gopro('blur_gamma'),
        _lol('v1'),
        _lol('v2_real'),
        _cdd11(),
        _mio(),
        *CLEAN_FAMILIES,
    )
}
