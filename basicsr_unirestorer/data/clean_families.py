"""Data sets of clean pictures: to be degraded on the fly for training, or by a test protocol."""

from __future__ import annotations

from dataclasses import replace

from basicsr_unirestorer.data.layouts import Family, Part

PLAIN = r'(?<!/)[^/]+'  # the given folder itself, whatever it is called


def _clean(name: str, title: str, subset: str, count: int, *folders: str, notes: tuple[str, ...] = ()) -> Family:
    """A data set of clean pictures: known folders, or the given folder itself whatever its name."""
    parts = [Part('as distributed', subset, folder) for folder in folders]
    return Family(
        name,
        title,
        'clean',
        (*parts, Part('one folder', subset, PLAIN, fallback=True)),
        {subset: (count,)},
        notes=notes,
    )


CLEAN_FOLDERS = {
    'DIV2K': ('DIV2K_train_HR',),
    'Flickr2K': ('Flickr2K_HR', 'Flickr2K'),
    'WED': ('WED', 'WaterlooED', 'pristine_images'),
    'BSD400': ('BSD400', '(?:BSDS500|BSR)/(?:BSDS500/)?data/images/(?:train|test)'),  # never val: it holds CBSD68
}


def _joined(name: str, title: str, count: int, sets: tuple[str, ...]) -> Family:
    parts = [
        Part('the sets side by side', 'train', folder, prefix=f'{s}-') for s in sets for folder in CLEAN_FOLDERS[s]
    ]
    return Family(name, title, 'clean', tuple(parts), {'train': (count,)})


def _div2k() -> Family:
    valid = Part('as distributed', 'test', 'DIV2K_valid_HR')
    made = _clean('div2k', 'DIV2K', 'train', 800, *CLEAN_FOLDERS['DIV2K'])
    return replace(made, parts=(valid, *made.parts), expected={**made.expected, 'test': (100,)})


def _urban100() -> Family:
    # SelfExSR's own package: one folder a scale, sharp and small pictures side by side
    selfexsr = Part('SelfExSR', 'test', '(?:Urban100/)?image_SRF_4', rules=('srf_hr',))
    made = _clean('urban100', 'Urban100', 'test', 100, 'Urban100/(?:HR|GTmod12)', 'Urban100')
    return replace(made, parts=(selfexsr, *made.parts))


def _wed_bsd400() -> Family:
    together = Part('PromptIR, AdaIR', 'train', '(?:train/)?Denoise')
    made = _joined('wed_bsd400', 'WED and BSD400', 5144, ('WED', 'BSD400'))
    return replace(made, parts=(*made.parts, together))


NO_VAL = 'BSD400 is BSDS500 train and test; its val is left out because CBSD68 is taken from it.'

CLEAN_FAMILIES: tuple[Family, ...] = (
    _div2k(),
    _clean('flickr2k', 'Flickr2K', 'train', 2650, *CLEAN_FOLDERS['Flickr2K']),
    _clean('wed', 'WED', 'train', 4744, *CLEAN_FOLDERS['WED']),
    _clean('bsd400', 'BSD400', 'train', 400, *CLEAN_FOLDERS['BSD400'], notes=(NO_VAL,)),
    _wed_bsd400(),
    _joined('df2k', 'DF2K', 3450, ('DIV2K', 'Flickr2K')),
    _joined('dfwb', 'DFWB', 8594, tuple(CLEAN_FOLDERS)),
    _clean('cbsd68', 'CBSD68', 'test', 68, 'CBSD68/original(?:_png)?', 'CBSD68', 'BSD68'),
    _clean('kodak24', 'Kodak24', 'test', 24, 'Kodak24', 'Kodak'),
    _urban100(),
    _clean('mcmaster', 'McMaster', 'test', 18, 'McMaster', 'McM'),
    _clean('live1', 'LIVE1', 'test', 29, 'LIVE1', 'live1/refimgs', 'refimgs'),
)
