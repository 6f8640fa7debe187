"""The options of sources: what may be written, and how many samples an epoch takes of each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from basicsr_unirestorer.errors import OptionError, check_keys, did_you_mean
from basicsr_unirestorer.option_files import options_dir

FLAT_KEYS = (
    'dataroot_gt',
    'dataroot_lq',
    'pairs',
    'recipe',
    'variants',
    'caption',
    'max_pictures',
    'max_samples',
    'enlarge',
)
SOURCE_KEYS = ('name', 'weight', *FLAT_KEYS)


def listed_sources(opt: Mapping, where: str = 'datasets') -> list[Mapping]:
    """Return the options of each source: those under ``sources``, or the flat ones as the only source.

    ``sources`` is a list, or a yml file that holds one, by path or by the name of one in ``options/sources``, so that
    all stages can share it.

    Args:
        opt: The dataset's options.
        where: Dotted place of them, quoted in messages.

    Raises:
        OptionError: There is no such file, or no list.
    """
    sources = opt.get('sources')
    if sources is None:
        return [{key: opt[key] for key in FLAT_KEYS if key in opt}]
    if isinstance(sources, str):
        sources = _read_list(sources, where)
    if not isinstance(sources, (list, tuple)) or not sources or not all(isinstance(one, Mapping) for one in sources):
        raise OptionError(
            f"Option '{where}.sources' is {sources!r}, expected a list of sources, each a group of keys: "
            '- {name: rain, dataroot_gt: ..., dataroot_lq: ...}.'
        )
    return list(sources)


def _read_list(name: str, where: str) -> Any:
    files = {file.stem: file for file in sorted((options_dir() / 'sources').glob('*.yml'))}
    path = Path(name).expanduser() if name.endswith(('.yml', '.yaml')) else files.get(name)
    if path is None or not path.is_file():
        raise OptionError(
            f"Option '{where}.sources' is '{name}', which is no file and no list that comes with the package."
            f'{did_you_mean(name, files)} Known: {", ".join(files)}.'
        )
    try:
        return yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f'{path} is no valid yml: {" ".join(str(error).split())}.') from error


def check_sources(opt: Mapping, where: str) -> None:
    """Look for mistakes in a dataset's ``sources``, or in its flat keys, without touching a file.

    Args:
        opt: The dataset's options.
        where: Dotted place of them, quoted in messages.

    Raises:
        OptionError: Naming the first wrong key or value.
    """
    sources = listed_sources(opt, where)
    _check_number(opt, 'epoch_samples', where, whole=True)
    if opt.get('epoch_samples') is not None and not any('weight' in source for source in sources):
        raise OptionError(f'{where}.epoch_samples needs sources with weights, among which it is shared out.')
    if opt.get('sources') is None:
        _check_source(sources[0], where)
        return
    doubled = [key for key in FLAT_KEYS if opt.get(key) is not None]
    if doubled:
        raise OptionError(
            f"Option '{where}.{doubled[0]}' stands beside {where}.sources; write it inside the source it belongs to."
        )
    names = []
    for place, source in enumerate(sources):
        check_keys(source, SOURCE_KEYS, f'{where}.sources.{place}')
        name = source.get('name')
        if not isinstance(name, str) or not re.fullmatch(r'[A-Za-z0-9_-]+', name):
            raise OptionError(
                f"Option '{where}.sources.{place}.name' is {name!r}, expected a name of letters, digits, _ and -, "
                'which the ids of its samples begin with.'
            )
        if name in names:
            raise OptionError(
                f"Two sources of {where} have the name '{name}', expected names of their own; rename one of them."
            )
        names.append(name)
        _check_source(source, f'{where}.sources.{place} ({name})')
    _check_weights(sources, where)


def _check_source(source: Mapping, where: str) -> None:
    if not source.get('dataroot_gt'):
        raise OptionError(f'{where} lacks dataroot_gt, the LMDB of its clean pictures.')
    paired = source.get('dataroot_lq') is not None
    if paired == (source.get('recipe') is not None):
        raise OptionError(
            f'{where} needs either a recipe (clean pictures, degraded on the fly) or a dataroot_lq '
            '(real pairs), and has ' + ('both.' if paired else 'neither.')
        )
    needless = ('variants',) if paired else ('pairs', 'caption')
    for key in needless:
        if source.get(key) is not None and not (key == 'variants' and source[key] == 1):
            owner = 'clean pictures with a recipe' if paired else 'pairs with a dataroot_lq'
            raise OptionError(f'{where} has {key}, which only {owner} take; remove it.')
    for key in ('variants', 'max_pictures', 'max_samples'):
        _check_number(source, key, where, whole=True)
    for key in ('enlarge', 'weight'):
        _check_number(source, key, where)


def _check_number(group: Mapping, key: str, where: str, whole: bool = False) -> None:
    value = group.get(key)
    kind = int if whole else (int, float)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool) or value <= 0):
        raise OptionError(
            f'{where}.{key} is {value!r}, expected a {"whole number from 1" if whole else "number above 0"}.'
        )


def _check_weights(sources: Sequence[Mapping], where: str) -> None:
    weighted = [source.get('weight') is not None for source in sources]
    for source, has in zip(sources, weighted, strict=True):
        if any(weighted) and not has:
            raise OptionError(
                f"Source '{source['name']}' of {where} has no weight but others have; give all of them one, or none."
            )
        if has and source.get('enlarge') is not None:
            raise OptionError(
                f"Source '{source['name']}' of {where} has both weight (its share of an epoch) and enlarge (how often "
                'each of its samples comes); drop one of the two.'
            )


def quotas(sizes: Sequence[int], sources: Sequence[Mapping], epoch_samples: int | None = None) -> list[int]:
    """Say how many samples an epoch takes of each source.

    Without weights a source gives all its samples, ``enlarge`` times over. With weights the epoch of ``epoch_samples``
    (by default: as many as the sources hold, each counted up to its cap) is shared out in their proportion. Either
    way a source gives at most its ``max_samples`` and at least one.

    Args:
        sizes: Samples of each source.
        sources: Their options.
        epoch_samples: Samples of an epoch, only with weights.
    """
    caps = [source.get('max_samples') or float('inf') for source in sources]
    if sources[0].get('weight') is None:
        wanted = [round(size * source.get('enlarge', 1)) for size, source in zip(sizes, sources, strict=True)]
    else:
        total = epoch_samples or sum(min(size, cap) for size, cap in zip(sizes, caps, strict=True))
        weights = np.asarray([source['weight'] for source in sources], float)
        exact = weights / weights.sum() * total
        wanted = np.floor(exact).astype(int)
        wanted[np.argsort(wanted - exact, kind='stable')[: total - wanted.sum()]] += 1  # the largest remainders
    return [int(max(1, min(want, cap))) for want, cap in zip(wanted, caps, strict=True)]
