"""The command line: cheap to start, one line for every mistake."""

from __future__ import annotations

import subprocess
import sys

import pytest

from basicsr_unirestorer import __version__, cli
from basicsr_unirestorer.errors import DataError


def test_import_and_help_are_cheap():
    """Neither the package nor the help may pull in torch or BasicSR, which take seconds."""
    code = (
        'import sys; import basicsr_unirestorer; from basicsr_unirestorer import cli\n'
        'try: cli.main(["--help"])\n'
        'except SystemExit: pass\n'
        'heavy = {"torch", "torchvision", "basicsr", "numpy", "cv2"} & set(sys.modules)\n'
        'assert not heavy, heavy'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in cli.VERBS)


def test_unknown_verb_is_named_with_the_nearest(capsys):
    assert cli.main(['benchmrk']) == 2
    assert "unknown verb 'benchmrk'. Did you mean 'benchmark'?" in capsys.readouterr().err


def test_no_verb_shows_the_help(capsys):
    assert cli.main([]) == 2
    assert 'usage: unirestorer VERB' in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as leave:
        cli.main(['--version'])
    assert leave.value.code == 0 and __version__ in capsys.readouterr().out


def test_errors_of_a_verb_become_exit_codes(monkeypatch, capsys):
    from basicsr_unirestorer import doctor

    monkeypatch.setattr(doctor, 'main', lambda argv: 7)
    assert cli.main(['doctor']) == 7

    def fail(argv):
        raise DataError(f'{argv[0]} is missing')

    monkeypatch.setattr(doctor, 'main', fail)
    assert cli.main(['doctor', 'x.png']) == 1
    assert capsys.readouterr().err == 'unirestorer: error: x.png is missing\n'

    def interrupt(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, 'main', interrupt)
    assert cli.main(['doctor']) == 130


@pytest.mark.parametrize('verb', cli.VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as leave:
        cli.main([verb, '--help'])
    out = capsys.readouterr().out
    assert leave.value.code == 0 and f'usage: unirestorer {verb}' in out and 'example:' in out


@pytest.mark.parametrize('stage', ['train', 'test'])
def test_doors_refuse_a_missing_option_file(stage, tmp_path):
    command = [sys.executable, '-m', f'basicsr_unirestorer.{stage}', '-opt', 'nowhere.yml']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("unirestorer: error: Option file 'nowhere.yml' does not exist")
    assert done.stderr.count('\n') == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize('argv', [['train'], ['train', '-opt', 'x.yml', '--launcher', 'mpi'], ['test', '--opt']])
def test_wrong_usage_is_code_2(argv, capsys):
    with pytest.raises(SystemExit) as leave:
        cli.main(argv)
    assert leave.value.code == 2 and f'usage: unirestorer {argv[0]}' in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    import numpy as np

    from basicsr_unirestorer.clustering.tree import DegradationTree, Node

    nodes = (Node('l0_00', 0, -1), *(Node(f'l1_{i:02d}', 1, 0) for i in range(3000)))
    DegradationTree(nodes, np.zeros((3001, 1), np.float32)).save(tmp_path / 'degradation_tree.json')
    command = f'"{sys.executable}" -m basicsr_unirestorer.cli tree "{tmp_path}" | head -n 1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith('l0_00')
    assert 'BrokenPipe' not in done.stderr


@pytest.mark.parametrize(
    ('argv', 'usage'),
    [
        (['tree', 'show', '--help'], 'unirestorer tree [show] PATH'),
        (['tree', 'grow', '--help'], 'unirestorer tree grow'),
    ],
)
def test_what_can_be_done_with_trees_explains_itself(argv, usage, capsys):
    with pytest.raises(SystemExit) as leave:
        cli.main(argv)
    out = capsys.readouterr().out
    assert leave.value.code == 0 and f'usage: {usage}' in out and 'example: unirestorer tree' in out


def test_a_tree_is_drawn_as_text_and_as_a_picture(tmp_path, capsys):
    import numpy as np

    from basicsr_unirestorer.clustering.tree import DegradationTree, Node

    nodes = (
        Node('l0_00', 0, -1, 9, {'small rain': 5, 'large rain, thick haze': 4}),
        Node('l1_00', 1, 0, 5, {'small rain': 5}),
        Node('l1_01', 1, 0, 4, {'large rain, thick haze': 4}),
    )
    DegradationTree(nodes, np.eye(3, dtype=np.float32)).save(tmp_path / 'degradation_tree.json')
    assert cli.main(['tree', 'show', str(tmp_path), '--picture', str(tmp_path / 'tree.png')]) == 0
    assert capsys.readouterr().out.splitlines() == [
        'l0_00  9 samples: rain 100%, haze 44% (small rain 5; large rain, thick haze 4)',
        '├── l1_00  5 samples: rain 100% (small rain 5)',
        '└── l1_01  4 samples: haze 100%, rain 100% (large rain, thick haze 4)',
    ]
    assert (tmp_path / 'tree.png').read_bytes()[:4] == b'\x89PNG'
    with pytest.raises(SystemExit):
        cli.main(['tree'])
