"""The doctor: complete tables, and one repair for each failure."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from importlib.machinery import ModuleSpec

import pytest

from basicsr_unirestorer import doctor
from basicsr_unirestorer.cli import main


def test_healthy_installation_in_json(registered, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['doctor', '--json']) == 0
    report = json.loads(capsys.readouterr().out)
    rows = {row['name']: row for row in report['checks']}
    assert report['ok'] and all(row['ok'] and row['repair'] == '' for row in rows.values())
    assert list(rows) == [name for _, name, _ in doctor.CHECKS]
    assert registered.__version__ in rows['BasicSR']['found'] and registered.__path__[0] in rows['BasicSR']['found']
    assert list(tmp_path.iterdir()) == []


def test_torchvision_of_another_torch_fails(monkeypatch, capsys):
    monkeypatch.setattr(importlib.metadata, 'requires', lambda name: ['numpy', 'torch==1.0.0'])
    monkeypatch.setattr(doctor, 'CHECKS', [row for row in doctor.CHECKS if row[1] == 'torchvision'])
    assert main(['doctor']) == 1
    out = capsys.readouterr().out
    assert 'FAIL  torchvision' in out and 'was built for torch 1.0.0' in out
    assert out.count('repair: ') == 1 and '--force-reinstall torch torchvision' in out


@pytest.mark.parametrize(
    ('spec', 'found'),
    [
        (None, 'not installed'),
        (ModuleSpec('basicsr', None, is_package=True), "only a folder called 'basicsr' without BasicSR in it"),
    ],
)
def test_missing_basicsr_fails(monkeypatch, spec, found):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: spec)
    row = doctor.check_basicsr()
    assert not row.ok and found in row.found and 'pip install' in row.repair


def test_file_that_registers_nothing_fails(registered, monkeypatch):
    monkeypatch.setattr(doctor, 'PARTS', {'losses': ('loss', 'METRIC_REGISTRY')})
    row = doctor.check_names()
    assert not row.ok and row.found.startswith('nothing from losses/') and row.repair


def test_check_that_raises_is_a_row(monkeypatch):
    def broken():
        raise ModuleNotFoundError('No module named lmdb', name='lmdb')

    monkeypatch.setattr(doctor, 'CHECKS', [(broken, 'LMDB', 'repair it')])
    assert doctor.diagnose() == [doctor.Check('LMDB', False, 'not installed: lmdb', 'repair it')]
