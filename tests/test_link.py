"""Linking into a copy of BasicSR: what it makes, what it refuses, and that unlinking leaves no trace."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from basicsr_unirestorer import doctor, linking
from basicsr_unirestorer.cli import main
from basicsr_unirestorer.errors import UniRestorerError


@pytest.fixture(autouse=True)
def our_options(tmp_path, monkeypatch) -> Path:
    """A small options tree, so that these tests do not depend on which option files there are."""
    folder = tmp_path / 'ours' / 'options'
    for name in (
        'unirestorer_experts.yml',
        'elsewhere.yml',
        'tiny/unirestorer_experts.yml',
        'recipes/all.yml',
        'test/unirestorer_all.yml',
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f'name: {name}\n')
    monkeypatch.setattr(linking, 'options_dir', lambda: folder)
    return folder


def snapshot(root: Path) -> dict[str, bytes | str | None]:
    """Every path below ``root`` with its content: bytes of a file, target of a link, None for a folder."""

    def content(path):
        if path.is_symlink():
            return os.readlink(path)
        return path.read_bytes() if path.is_file() else None

    return {str(path.relative_to(root)): content(path) for path in sorted(root.rglob('*'))}


def run_python(checkout: Path, code: str) -> str:
    """Run code as stock commands in the checkout would, with it first on the search path."""
    env = {**os.environ, 'PYTHONPATH': str(checkout), 'PYTHONDONTWRITEBYTECODE': '', 'PYTHONPYCACHEPREFIX': ''}
    done = subprocess.run([sys.executable, '-c', code], cwd=checkout, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_link_then_unlink_leaves_the_checkout_byte_identical(checkout, capsys):
    before = snapshot(checkout)
    assert main(['link', str(checkout)]) == 0
    made = set(snapshot(checkout)) - set(before)
    assert {
        'basicsr/archs/unirestorer_arch.py',
        'basicsr/data/unirestorer_dataset.py',
        'basicsr/losses/unirestorer_loss.py',
        'basicsr/models/unirestorer_model.py',
        'options/unirestorer_experts.yml',
        'options/tiny/unirestorer_experts.yml',
        'options/recipes/all.yml',
        'options/test/unirestorer_all.yml',
    } <= made
    assert 'options/elsewhere.yml' not in made
    assert (
        checkout / 'options' / 'tiny' / 'unirestorer_experts.yml'
    ).read_text() == 'name: tiny/unirestorer_experts.yml\n'
    first = snapshot(checkout)
    assert main(['link', str(checkout)]) == 0  # twice is fine
    assert snapshot(checkout) == first
    assert main(['unlink', str(checkout)]) == 0
    assert snapshot(checkout) == before
    assert main(['unlink', str(checkout)]) == 1
    assert 'is not linked: nothing to undo' in capsys.readouterr().err


def test_linked_basicsr_knows_our_names(checkout, registered):
    """Plain ``import basicsr``, without a word about us, and whichever of the two packages is imported first."""
    before = snapshot(checkout)
    linking.link(linking.find_target(checkout))
    registries = importlib.import_module('basicsr.utils.registry')
    names = sorted(
        name
        for _, group in doctor.PARTS.values()
        for name, value in getattr(registries, group)
        if value.__module__.startswith('basicsr_unirestorer')
    )
    assert names
    code = (
        'import {first}; import basicsr, json; from basicsr.utils import registry as r; '
        'from basicsr.data.data_sampler import EnlargedSampler as s; '
        'from basicsr.models.base_model import BaseModel as m; '
        'groups = (r.ARCH_REGISTRY, r.DATASET_REGISTRY, r.MODEL_REGISTRY, r.LOSS_REGISTRY); '
        'print(json.dumps([basicsr.__file__, sorted(k for g in groups for k, v in g '
        'if v.__module__.startswith("basicsr_unirestorer")), '
        'all(hasattr(f, "__wrapped__") for f in (s.__iter__, m.get_optimizer, m.resume_training))]))'
    )
    for first in ('basicsr', 'basicsr_unirestorer.archs'):
        place, found, patched = json.loads(run_python(checkout, code.format(first=first)).splitlines()[-1])
        assert Path(place).is_relative_to(checkout)
        assert found == names
        assert patched
    for folder in ('archs', 'data', 'losses', 'models'):
        assert list((checkout / 'basicsr' / folder / '__pycache__').glob('unirestorer_*.pyc'))
    assert linking.unlink(linking.find_target(checkout))[1] == []
    assert not list(checkout.rglob('unirestorer_*'))
    assert {k: v for k, v in snapshot(checkout).items() if '__pycache__' not in k} == before


@pytest.mark.parametrize('name', ['basicsr/data/unirestorer_dataset.py', 'options/unirestorer_experts.yml'])
def test_link_never_overwrites_what_is_not_ours(checkout, name, capsys):
    (checkout / name).write_text('theirs')
    before = snapshot(checkout)
    assert main(['link', str(checkout)]) == 1
    err = capsys.readouterr().err
    assert 'exists and was not written by link' in err and err.count('\n') == 1
    assert snapshot(checkout) == before


def test_link_takes_over_its_own_files_when_the_manifest_is_lost(checkout):
    target = linking.find_target(checkout)
    linking.link(target)
    target.manifest.unlink()
    linking.link(target)
    assert linking.unlink(target)[1] == []


def test_link_brings_an_older_link_up_to_date(checkout, our_options):
    target = linking.find_target(checkout)
    before = snapshot(checkout)
    linking.link(target)
    (our_options / 'tiny' / 'unirestorer_experts.yml').unlink()
    (our_options / 'tiny' / 'unirestorer_new.yml').write_text('name: new\n')
    linking.link(target)
    assert os.listdir(checkout / 'options' / 'tiny') == ['unirestorer_new.yml']
    linking.unlink(target)
    assert snapshot(checkout) == before


def test_copies_serve_where_links_are_not_allowed(checkout, monkeypatch):
    def refuse(self, target):
        raise OSError('A required privilege is not held by the client')

    monkeypatch.setattr(Path, 'symlink_to', refuse)
    before = snapshot(checkout)
    target = linking.find_target(checkout)
    linking.link(target)
    copy = checkout / 'options' / 'unirestorer_experts.yml'
    assert copy.is_file() and not copy.is_symlink()
    copy.write_text('edited')
    count, kept = linking.unlink(target)
    assert kept == [copy] and count == 7
    copy.unlink()
    assert snapshot(checkout) == before


def test_failure_half_way_leaves_nothing(checkout, monkeypatch):
    def fail(*args):
        raise PermissionError(13, 'Permission denied', 'somewhere')

    before = snapshot(checkout)
    monkeypatch.setattr(linking, '_write_manifest', fail)
    with pytest.raises(UniRestorerError, match='Cannot write to somewhere'):
        linking.link(linking.find_target(checkout))
    assert snapshot(checkout) == before


def test_dry_run_only_lists(checkout, capsys):
    before = snapshot(checkout)
    assert main(['link', str(checkout), '--dry-run']) == 0
    assert capsys.readouterr().out.count('would make ') == 8
    assert snapshot(checkout) == before


def test_place_without_basicsr_is_one_sentence(tmp_path, capsys):
    assert main(['link', str(tmp_path)]) == 1
    assert 'is not the package of BasicSR' in capsys.readouterr().err


def test_link_without_a_path_means_the_installed_basicsr(checkout, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(checkout))
    target = linking.find_target(None)
    assert target.package == checkout / 'basicsr' and target.checkout is None
    (checkout / 'setup.py').write_text('')
    assert linking.find_target(None).checkout == checkout
    namespace = checkout.parent / 'trap'
    (namespace / 'basicsr').mkdir(parents=True)
    monkeypatch.setenv('PYTHONPATH', str(namespace))
    found = linking._what_python_finds(checkout)['basicsr']
    assert found is None or Path(found).parent != namespace


def test_advice_names_the_command(checkout, monkeypatch):
    target = linking.find_target(checkout)
    assert any('would import the BasicSR in' in line for line in linking.advice(target))
    assert f'cd {checkout} && PYTHONPATH=. python basicsr/train.py' in linking.advice(target)[-1]
    monkeypatch.setenv('PYTHONPATH', str(checkout))
    assert f'cd {checkout} && python basicsr/train.py' in linking.advice(target)[-1]
    (checkout / 'basicsr' / 'version.py').unlink()
    assert 'pip install -e . --no-deps --no-build-isolation' in linking.advice(target)[-1]


def test_stock_command_resumes_on_the_cpu_within_an_epoch(checkout, work):
    """``python basicsr/train.py`` in a linked checkout: our patches reach what it defines in ``__main__``."""
    linking.link(linking.find_target(checkout))

    def train(name: str, total_iter: int, *args: str) -> dict:
        command = [
            sys.executable,
            'basicsr/train.py',
            '-opt',
            str(work / 'train.yml'),
            *args,
            '--force_yml',
            f'name={name}',
            f'train:total_iter={total_iter}',
        ]
        env = {**os.environ, 'PYTHONPATH': str(checkout)}
        done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert 'End of training' in done.stderr and (not args or 'from epoch: 1, iter: 4.' in done.stderr)
        path = checkout / 'experiments' / name / 'models' / f'net_g_{total_iter}.pth'
        return torch.load(path, weights_only=True)['params']

    whole = train('whole', 8)
    train('parts', 4)
    parts = train('parts', 8, '--auto_resume')
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
