"""``unirestorer restore``: pictures and folders, what is skipped, what fails alone, what is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from basicsr_unirestorer import cli
from basicsr_unirestorer.archs.unirestorer_arch import UniRestorer
from basicsr_unirestorer.clustering.tree import DegradationTree
from tests.pipeline_fixtures import assert_refused


@pytest.fixture
def pictures(tmp_path):
    """A folder with sub-folders: colour, grey, JPEG, and a note that is no picture."""
    rng = np.random.default_rng(0)
    folder = tmp_path / 'in'
    (folder / 'trip' / 'day 1').mkdir(parents=True)
    Image.fromarray(rng.integers(0, 256, (33, 47, 3), np.uint8)).save(folder / 'a.png')
    Image.fromarray(rng.integers(0, 256, (20, 31), np.uint8)).save(folder / 'trip' / 'grey.png')
    Image.fromarray(rng.integers(0, 256, (40, 24, 3), np.uint8)).save(folder / 'trip' / 'day 1' / 'b.jpg')
    (folder / 'trip' / 'notes.txt').write_text('no picture')
    return folder


def restore(demo, *args) -> int:
    return cli.main(['restore', *map(str, args), '--bundle', str(demo / 'bundle'), '--device', 'cpu'])


def files_below(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())


def test_restore_writes_one_picture(smoke_demo, pictures, tmp_path, capsys):
    assert restore(smoke_demo, pictures / 'a.png', tmp_path / 'out' / 'b.png') == 0
    out = capsys.readouterr().out
    assert re.fullmatch(r'.*b\.png: expert l\d_\d\d \(leaf \d+%, level \d+% sure\)\n', out)
    assert files_below(tmp_path / 'out') == ['b.png']
    lq = torch.from_numpy(np.array(Image.open(pictures / 'a.png'))).permute(2, 0, 1)[None] / 255
    expected = (UniRestorer(smoke_demo / 'bundle')(lq)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    ours = np.array(Image.open(tmp_path / 'out' / 'b.png'))
    assert np.abs(ours.astype(int) - expected).max() <= 1  # colours in order; memory layout may cost a rounding


def test_restore_mirrors_a_folder_and_skips_what_exists(smoke_demo, pictures, tmp_path, capsys):
    out = tmp_path / 'out'
    assert restore(smoke_demo, pictures, out) == 0
    assert files_below(out) == ['a.png', 'trip/day 1/b.jpg', 'trip/grey.png']
    for name in files_below(out):
        assert Image.open(out / name).size == Image.open(pictures / name).size
        assert Image.open(out / name).mode == Image.open(pictures / name).mode
    (out / 'a.png').write_bytes(b'mine')
    (out / 'trip' / 'grey.png').unlink()
    capsys.readouterr()
    assert restore(smoke_demo, pictures, out) == 0
    assert capsys.readouterr().out.count('exists, skipped (--overwrite writes it again)') == 2
    assert (out / 'a.png').read_bytes() == b'mine' and (out / 'trip' / 'grey.png').is_file()
    assert restore(smoke_demo, pictures, out, '--overwrite') == 0
    assert Image.open(out / 'a.png').size == (47, 33)


def test_dry_run_writes_nothing(smoke_demo, pictures, tmp_path, capsys):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'a.png').write_bytes(b'mine')
    assert restore(smoke_demo, pictures, tmp_path / 'out', '--dry-run') == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0] == f'{pictures}/a.png -> {tmp_path}/out/a.png (exists, skipped)'
    assert files_below(tmp_path / 'out') == ['a.png']


def test_restore_goes_on_past_a_truncated_file(smoke_demo, pictures, tmp_path, capsys):
    whole = (pictures / 'a.png').read_bytes()
    (pictures / 'a.png').write_bytes(whole[: len(whole) // 2])
    (pictures / 'empty.png').write_bytes(b'')
    assert restore(smoke_demo, pictures, tmp_path / 'out') == 1
    err = [line for line in capsys.readouterr().err.splitlines() if 'failed' in line]
    assert len(err) == 2 and re.search(r'failed: .*a\.png cannot be read as a picture', err[0]), err
    assert files_below(tmp_path / 'out') == ['trip/day 1/b.jpg', 'trip/grey.png']


def test_restore_with_labels_uses_experts_that_know_them(smoke_demo, pictures, tmp_path, capsys):
    assert restore(smoke_demo, pictures, tmp_path / 'out', '--labels', 'rain', '--json') == 0
    decisions = json.loads(capsys.readouterr().out)
    tree = DegradationTree.load(smoke_demo / 'bundle')
    allowed = {tree.nodes[tree.leaves[leaf]].name for leaf in np.flatnonzero(tree.leaf_mask(['rain']))}
    assert len(decisions) == 3
    for decision in decisions:
        assert decision['leaf'] in allowed and 'rain' in decision['labels'] and not decision['skipped']


def test_restore_tiles_large_pictures(smoke_demo, pictures, tmp_path, capsys):
    out = tmp_path / 'out'
    assert restore(smoke_demo, pictures / 'a.png', out, '--tile', '32', '--explain', '--level', '0') == 0
    assert Image.open(out / 'a.png').size == (47, 33)
    told = json.loads((out / 'a.png.json').read_text())
    assert told['tiling'] == {'tile_size': 32, 'tile_overlap': 8, 'exact': False} and told['expert'] == 'l0_00'
    assert sum(told['leaf_probs'].values()) == pytest.approx(1) and told['distance'] > 0
    assert 'tiles of 32, approximate: the network looks at the whole picture' in capsys.readouterr().out


def test_restore_weighs_several_experts(smoke_demo, pictures, tmp_path, capsys):
    assert restore(smoke_demo, pictures / 'a.png', tmp_path / 'out', '--top-k', '2', '--json') == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert len(told['shares']) == 2 and sum(told['shares'].values()) == pytest.approx(1)
    assert next(iter(told['shares'])) == told['expert']


def test_restore_takes_several_inputs_and_patterns(smoke_demo, pictures, tmp_path, capsys):
    out = tmp_path / 'out'
    assert restore(smoke_demo, pictures / 'a.png', f'{pictures}/trip/**/*.[jp][np]g', out) == 0
    assert files_below(out) == ['a.png', 'day 1/b.jpg', 'grey.png']


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--labels', 'rian'], "knows no degradation 'rian'. Did you mean 'rain'"),
        (['--labels', ','], "--labels ',' names nothing; write e.g. --labels rain, or leave it out"),
        (['--labels', ''], "--labels '' names nothing"),
        (['--labels', ' , ', '--mode', 'instruction'], "--labels ' , ' names nothing"),
        (['--mode', 'instruction'], 'Instruction mode needs labels'),
        (['--labels', 'rain', '--mode', 'auto'], 'mode auto looks at the picture alone'),
        (['--tile', '16', '--tile-overlap', '16'], 'must be smaller than the tile size'),
        (['--node', 'l9_00'], "tree has no node 'l9_00'"),
        (['--level', '9'], 'There is no level 9'),
        (['--top-k', '99'], 'top_k is 99'),
        (['--device', 'cuda:99'], "device 'cuda:99' cannot be used here"),
    ],
)
def test_restore_refuses_wrong_arguments(smoke_demo, pictures, tmp_path, capsys, args, message):
    assert_refused(capsys, ['restore', pictures, tmp_path / 'out', '-b', smoke_demo / 'bundle', *args], message)
    assert not (tmp_path / 'out').exists()


def test_restore_refuses_wrong_places(smoke_demo, pictures, tmp_path, capsys):
    bundle, empty = smoke_demo / 'bundle', tmp_path / 'empty'
    empty.mkdir()
    for source, target, given, message in (
        (pictures, pictures / 'out', bundle, 'lies inside the input'),
        (pictures, pictures, bundle, 'lies inside the input'),
        (empty, tmp_path / 'out', bundle, 'holds no pictures'),
        (pictures / 'a.png', pictures, bundle, 'is the input itself'),
        (tmp_path / 'nowhere.png', tmp_path / 'out', bundle, 'nowhere.png does not exist'),
        (pictures, tmp_path / 'out', empty, 'empty is no bundle'),
    ):
        assert_refused(capsys, ['restore', source, target, '-b', given], message)
    assert not (tmp_path / 'out').exists() and not (pictures / 'out').exists()
