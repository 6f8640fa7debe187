"""Helpers of the tests that run stages on the data of the ``smoke_demo`` fixture."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from basicsr_unirestorer import cli, linking
from basicsr_unirestorer import test as test_door
from basicsr_unirestorer import train as train_door


def absolute(value: Any, folder: Path) -> Any:
    """Return options whose relative data and weight paths point below ``folder``."""
    if isinstance(value, Mapping):
        return {key: absolute(item, folder) for key, item in value.items()}
    inside = isinstance(value, str) and re.match(r'(datasets|experiments|bundle)(/|$)', value)
    return str(folder / value) if inside else value


def change(opt: dict, changes: Mapping[str, Any]) -> dict:
    """Set dotted keys such as ``train.total_iter``; a value of None removes the key."""
    for dotted, value in changes.items():
        *parents, last = dotted.split('.')
        place = opt
        for key in parents:
            place = place[key]
        place.pop(last, None) if value is None else place.update({last: value})
    return opt


def stage_options(demo: Path, stage: str, changes: Mapping[str, Any] | None = None) -> dict:
    """Return the smoke demo's options of a stage, runnable from any folder."""
    return change(absolute(yaml.safe_load((demo / 'options' / f'{stage}.yml').read_text()), demo), changes or {})


def metric_options(demo: Path, changes: Mapping[str, Any] | None = None) -> dict:
    """Return the packaged options of the tester, on the smoke demo's bundle and test pictures."""
    opt = yaml.safe_load((linking.options_dir() / 'tiny' / 'unirestorer_test.yml').read_text())
    for data in opt['datasets'].values():
        data['dataroot_gt'] = str(demo / 'datasets' / 'test.lmdb')
    opt['network_g']['bundle'] = str(demo / 'bundle')
    return change(opt, changes or {})


def write_options(folder: Path, opt: dict, name: str = 'options') -> Path:
    path = folder / f'{name}.yml'
    path.write_text(yaml.safe_dump(opt, sort_keys=False))
    return path


def train(folder: Path, opt: dict, *args: str) -> int:
    """Train in this process with ``folder`` as root; returns the exit code."""
    return train_door.main(['-opt', str(write_options(folder, opt)), *args], root=folder)


@contextmanager
def interrupted_after(model_type: str, iteration: int) -> Iterator[None]:
    """Press Ctrl-C right after the checkpoint of an iteration."""
    from basicsr.utils.registry import MODEL_REGISTRY

    def save(self, epoch: int, current_iter: int) -> None:
        stock(self, epoch, current_iter)
        if current_iter == iteration:
            raise KeyboardInterrupt

    model = MODEL_REGISTRY.get(model_type)
    stock = model.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, 'save', save)
        yield


def run_tester(folder: Path, opt: dict) -> int:
    """Test in this process with ``folder`` as root; returns the exit code."""
    return test_door.main(['-opt', str(write_options(folder, opt))], root=folder)


def latest_weights(folder: Path, name: str) -> dict[str, dict]:
    """Return everything that an experiment wrote as ``*_latest.pth``, by file name."""
    models = folder / 'experiments' / name / 'models'
    return {path.name: torch.load(path, weights_only=True) for path in models.glob('*_latest.pth')}


def assert_same_weights(one: Mapping, other: Mapping) -> None:
    """Compare two results of ``latest_weights`` bit for bit."""
    assert one and one.keys() == other.keys()
    for file in one:
        assert one[file].keys() == other[file].keys()
        for part, tensors in one[file].items():
            assert tensors.keys() == other[file][part].keys()
            for key, value in tensors.items():
                assert torch.equal(value, other[file][part][key]), f'{file} {part} {key}'


def assert_one_sentence(err: str, message: str) -> None:
    """Check that stderr ends in our one-line error that matches ``message``, and shows no traceback."""
    assert 'Traceback' not in err
    last = err.splitlines()[-1]
    assert last.startswith('unirestorer: error: ') and re.search(message, last), err[-2000:]


def assert_refused(capsys, argv: list, message: str) -> None:
    """Check that a verb ends with exit code 1 and one sentence, and nothing but that sentence, on stderr."""
    capsys.readouterr()
    assert cli.main([str(arg) for arg in argv]) == 1
    err = capsys.readouterr().err
    assert_one_sentence(err, message)
    assert err.count('\n') == 1, err
