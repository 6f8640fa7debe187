"""A look at a BasicSR option file before BasicSR acts on it.

BasicSR renames an existing experiment to ``..._archived_<time>`` before it finds out that an option makes no sense.
Here every name that the file gives (model, data sets, networks, losses, metrics) is looked up first, and every wrong
one ends in one sentence. What only a model or a data set can judge is left to it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from basicsr_unirestorer import compat
from basicsr_unirestorer.errors import OptionError, did_you_mean, find_registered

SECTIONS = ('datasets', 'path', 'train', 'val', 'logger')
TOP_KEYS = (
    'name',
    'model_type',
    'scale',
    'num_gpu',
    'manual_seed',
    *SECTIONS,
    'dist_params',
    'find_unused_parameters',
    'network_g',
    'network_d',
)


def read_options(opt_file: Path, force_yml: Sequence[str] | None = None) -> dict[str, Any]:
    """Read an option file as BasicSR does and apply the ``--force_yml`` entries to it.

    Args:
        opt_file: The yml file.
        force_yml: Entries such as ``train:ema_decay=0.999``; a list value is written ``[1,2]``.

    Raises:
        OptionError: The file is missing, is no yml or no mapping, or an entry names a key that is not there.
    """
    if not opt_file.is_file():
        raise OptionError(
            f"Option file '{opt_file}' does not exist: give -opt the path of a yml file, such as "
            'options/tiny/unirestorer_experts.yml.'
        )
    compat.apply()
    from basicsr.utils.options import ordered_yaml

    try:
        opt = yaml.load(opt_file.read_text(encoding='utf-8'), Loader=ordered_yaml()[0])
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"Option file '{opt_file}' is not valid yml: {' '.join(str(error).split())}.") from error
    if not isinstance(opt, Mapping):
        raise OptionError(
            f"Option file '{opt_file}' must hold 'key: value' lines like BasicSR's; it holds "
            f'{"nothing" if opt is None else type(opt).__name__}.'
        )
    for entry in force_yml or ():
        _force(opt, entry)
    return opt


def check_options(opt: Mapping[str, Any], is_train: bool) -> None:
    """Look up every name in the options; BasicSR and this package must be registered.

    Args:
        opt: Options as :func:`read_options` gives them; unchanged.
        is_train: Training or testing.

    Raises:
        OptionError: Naming the first wrong key or value and the nearest right one.
    """
    from basicsr.utils.registry import LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

    from basicsr_unirestorer.models.training_util import check_train_options

    _check_sections(opt, is_train)
    _check_device(opt)
    find_registered(MODEL_REGISTRY, opt['model_type'], 'model_type')
    _check_datasets(opt['datasets'], is_train)
    _check_networks(opt)
    own = getattr(MODEL_REGISTRY.get(opt['model_type']), 'train_options', None)
    if is_train and own is not None:
        check_train_options(opt, own)
    for key, value in (opt.get('train') or {}).items() if is_train else ():
        if key.endswith('_opt') and isinstance(value, Mapping) and 'type' in value:
            find_registered(LOSS_REGISTRY, value['type'], f'train.{key}.type')
    for key, value in ((opt.get('val') or {}).get('metrics') or {}).items():
        find_registered(METRIC_REGISTRY, _need(value, 'type', f'val.metrics.{key}'), f'val.metrics.{key}.type')


def _force(opt: dict[str, Any], entry: str) -> None:
    """Apply one ``a:b=value`` entry, by BasicSR's rules for the value."""
    from basicsr.utils.options import _postprocess_yml_value

    keys, equals, text = (part.strip() for part in entry.partition('='))
    if not equals or not keys or '=' in text:
        raise OptionError(f"--force_yml '{entry}' must look like train:ema_decay=0.999 (one equals sign).")
    try:
        value = _postprocess_yml_value(text)
    except Exception as error:  # BasicSR evaluates what begins with a bracket
        raise OptionError(f"--force_yml '{entry}': '{text}' is not a list; write [1,2] or ['a','b'].") from error
    *parents, last = keys.split(':')
    place = opt
    for depth, key in enumerate(parents):
        if not isinstance(place, Mapping) or key not in place:
            known = place if isinstance(place, Mapping) else ()
            raise OptionError(
                f"--force_yml '{entry}': the option file has no '{':'.join(parents[: depth + 1])}'."
                f'{did_you_mean(key, known)}'
            )
        place = place[key]
    if not isinstance(place, Mapping):
        raise OptionError(f"--force_yml '{entry}': '{':'.join(parents)}' is a value, not a group of options.")
    if last not in place and difflib.get_close_matches(last, map(str, place), cutoff=0.8):  # new keys are allowed
        raise OptionError(f"--force_yml '{entry}': the option file has no '{keys}'.{did_you_mean(last, place)}")
    if isinstance(value, str) and not isinstance(place.get(last), str) and re.match(r'[-+.\d]', value):
        try:
            float(value)
        except ValueError:
            pass
        else:
            raise OptionError(
                f"--force_yml '{entry}': BasicSR would take '{value}' for text; write {keys}=!!float{value}."
            )
    place[last] = value


def _check_sections(opt: Mapping, is_train: bool) -> None:
    absent = [key for key in TOP_KEYS if key not in opt]
    for key in opt:
        close = difflib.get_close_matches(str(key), absent, n=1, cutoff=0.8)
        if key not in TOP_KEYS and not str(key).startswith('network_') and close:
            raise OptionError(f"Unknown option '{key}'. Did you mean '{close[0]}'?")
    for key in ('name', 'model_type', 'num_gpu', 'datasets', 'path', *(('train', 'logger') if is_train else ('val',))):
        _need(opt, key, '')
    for key in SECTIONS:
        if opt.get(key) is not None and not isinstance(opt[key], Mapping):
            raise OptionError(f"Option '{key}' must be a group of options, but is {opt[key]!r}.")
    if is_train:
        _need(opt['train'], 'total_iter', 'train')
        for key in ('print_freq', 'save_checkpoint_freq', 'use_tb_logger'):
            _need(opt['logger'], key, 'logger')
    if opt.get('val') is not None:
        _need(opt['val'], 'save_img', 'val')
        if is_train:
            _need(opt['val'], 'val_freq', 'val')


def _check_device(opt: Mapping) -> None:
    import torch

    num_gpu = opt['num_gpu']
    if num_gpu != 'auto' and (not isinstance(num_gpu, int) or isinstance(num_gpu, bool) or num_gpu < 0):
        raise OptionError(f"Option 'num_gpu' must be a number of GPUs, 0 for the CPU, or auto, but is {num_gpu!r}.")
    if num_gpu not in ('auto', 0) and not torch.cuda.is_available():
        raise OptionError(
            f'num_gpu is {num_gpu}, but torch finds no CUDA device here: add --force_yml num_gpu=0 to '
            "run on the CPU, or run 'unirestorer doctor'."
        )


def _check_datasets(datasets: Mapping, is_train: bool) -> None:
    from basicsr.utils.registry import DATASET_REGISTRY

    phases = ('train', 'val') if is_train else ('test', 'val')
    for phase, dataset in datasets.items():
        where = f'datasets.{phase}'
        kind = str(phase).split('_')[0]
        if kind not in phases:
            raise OptionError(
                f"Unknown option '{where}'. {'Training' if is_train else 'Testing'} takes the data sets "
                f'{phases[0]}, {phases[1]} and numbered ones such as {phases[1]}_2.'
            )
        _need(dataset, 'name', where)
        found = find_registered(DATASET_REGISTRY, _need(dataset, 'type', where), f'{where}.type')
        if hasattr(found, 'check_options'):  # stock data sets take anything; ours says what it knows
            found.check_options(dataset, where)
        for key in ('batch_size_per_gpu', 'num_worker_per_gpu') if kind == 'train' else ():
            least = 1 if key.startswith('batch') else 0
            if not isinstance(_need(dataset, key, where), int) or dataset[key] < least:
                raise OptionError(
                    f"Option '{where}.{key}' must be a whole number from {least}, but is {dataset[key]!r}."
                )
    if is_train:
        _need(datasets, 'train', 'datasets')


def _check_networks(opt: Mapping) -> None:
    from basicsr_unirestorer.archs.building import check_network

    for key, network in opt.items():
        if str(key).startswith('network_') and network is not None:
            _need(network, 'type', key)
            check_network(network, key)


def _need(group: Any, key: str, where: str) -> Any:
    """Return ``group[key]``, or say that it is missing at ``where`` (empty for the top of the file)."""
    if not isinstance(group, Mapping):
        raise OptionError(f"Option '{where}' must be a group of options, but is {group!r}.")
    if group.get(key) is None:
        name = f'{where}.{key}' if where else key
        raise OptionError(f"Option '{name}' is missing.{did_you_mean(key, set(group) - set(TOP_KEYS))}")
    return group[key]
