"""``unirestorer degrade``: what it writes, that it can be redone, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from basicsr_unirestorer import cli, degrade
from basicsr_unirestorer.degradations import DegradationRecipe, DegradationRecord, parse_caption
from basicsr_unirestorer.image_files import read_picture
from tests.degradations.samples import scene
from tests.pipeline_fixtures import assert_refused


@pytest.fixture
def photos(tmp_path):
    """Three pictures, one in a sub-folder and with a dot in its name."""
    folder = tmp_path / 'photos'
    (folder / 'street').mkdir(parents=True)
    for number, name in enumerate(('a.png', 'street/b.1.png', 'c.jpg')):
        cv2.imwrite(str(folder / name), (scene(40, 56, number) * 255).astype(np.uint8))
    return folder


def run(*argv):
    return cli.main(['degrade', *map(str, argv)])


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def read_records(folder):
    return json.loads((folder / 'records.json').read_text())


def test_writes_pictures_and_records_in_the_shape_of_the_input(photos, tmp_path, capsys):
    out = tmp_path / 'out'
    assert run(photos, out, '--recipe', 'cdd11', '--variants', 2) == 0
    names = {f'{name}_v{variant}.png' for name in ('a', 'street/b.1', 'c') for variant in (0, 1)}
    assert set(contents(out)) == names | {'records.json'}
    content = read_records(out)
    assert DegradationRecipe.load(content['recipe']).to_dict() == DegradationRecipe.load('cdd11').to_dict()
    assert {entry['file'] for entry in content['pictures']} == names and content['dropped'] == []
    for entry in content['pictures']:
        record = DegradationRecord.from_dict(entry['record'])
        assert entry['caption'] == record.caption and tuple(entry['labels']) == record.labels
        assert parse_caption(entry['caption'])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f'6 pictures written to {out}' and len(lines) == 7


@pytest.mark.parametrize('recipe', ['universal', 'realesrgan'])
def test_records_are_enough_to_redo_every_picture(recipe, photos, tmp_path):
    out = tmp_path / 'out'
    run(photos, out, '-r', recipe, '--variants', 3, '--seed', 5)
    content = read_records(out)
    for entry in content['pictures']:
        clean = read_picture(entry['picture'])[..., ::-1]
        record = DegradationRecord.from_dict(entry['record'])
        redone = degrade.realise(clean, record, content['seed'], entry['key'], entry['variant'])
        np.testing.assert_array_equal(redone, read_picture(out / entry['file'])[..., ::-1])
        assert not np.array_equal(redone, clean)


def test_same_seed_same_bytes_another_seed_others(photos, tmp_path):
    for name, seed in (('one', 0), ('two', 0), ('three', 1)):
        run(photos, tmp_path / name, '--seed', seed, '--grid')
    one, two, three = (contents(tmp_path / name) for name in ('one', 'two', 'three'))
    assert one == two and 'contact_sheet.png' in one
    assert all(one[name] != three[name] for name in one if name.endswith('.png'))


def test_makes_the_samples_of_a_test_dataset(photos, tmp_path, registered):
    """The preview shows what a dataset with the same recipe and seed serves outside training."""
    from basicsr_unirestorer.data.mixed_degradation_lmdb_dataset import MixedDegradationLMDBDataset
    from basicsr_unirestorer.data.prepare import prepare

    prepare(photos, tmp_path / 'photos.lmdb')
    run(photos, tmp_path / 'out', '-r', 'universal', '--variants', 2, '--seed', 3)
    opt = {'phase': 'val', 'dataroot_gt': str(tmp_path / 'photos.lmdb'), 'recipe': 'universal'}
    data = MixedDegradationLMDBDataset({**opt, 'variants': 2, 'seed': 3})
    entries = {f'{entry["key"]}#{entry["variant"]}': entry for entry in read_records(tmp_path / 'out')['pictures']}
    assert set(entries) == {data[number]['sample_id'] for number in range(len(data))} and len(entries) == 6
    for number in range(len(data)):
        item = data[number]
        entry = entries[item['sample_id']]
        assert entry['caption'] == item['caption']
        lq = np.rint(item['lq'].numpy().transpose(1, 2, 0) * 255)
        np.testing.assert_array_equal(read_picture(tmp_path / 'out' / entry['file'])[..., ::-1], lq)


def test_a_single_picture_and_its_contact_sheet(photos, tmp_path):
    run(photos / 'a.png', tmp_path / 'out', '--variants', 7, '--grid')
    sheet = read_picture(tmp_path / 'out' / 'contact_sheet.png')
    assert sheet.shape[0] > 2 * 40 and sheet.shape[1] > 6 * 56  # the clean one and seven, six in a row
    assert len(contents(tmp_path / 'out')) == 9


def test_bad_pictures_are_told_and_the_good_rest_is_kept(photos, tmp_path, capsys):
    (photos / 'torn.png').write_bytes((photos / 'a.png').read_bytes()[:200])
    (photos / 'words.jpg').write_text('no picture')
    cv2.imwrite(str(photos / 'small.png'), np.zeros((5, 5, 3), np.uint8))
    cv2.imwrite(str(photos / 'a.bmp'), np.zeros((20, 20, 3), np.uint8))  # the same key as a.png
    assert run(photos, tmp_path / 'out') == 1
    err = capsys.readouterr().err
    left_out = [line for line in err.splitlines() if line.startswith('left out: ')]
    for name, reason in (('torn.png', 'read'), ('words.jpg', 'read'), ('small.png', '5x5'), ('a.', 'same key')):
        assert any(f'/{name}' in line and reason in line for line in left_out)
    content = read_records(tmp_path / 'out')
    assert len(content['pictures']) == 3 and len(content['dropped']) == 4
    assert not list(tmp_path.glob('*.part'))


def test_a_picture_called_like_the_sheet_is_not_overwritten(photos, tmp_path, capsys):
    (photos / 'a.png').rename(photos / 'contact_sheet.png')
    assert_refused(capsys, ['degrade', photos, tmp_path / 'out', '--grid'], 'has the name of the sheet')
    assert run(photos, tmp_path / 'out') == 0


def test_depth_maps_are_found_in_a_folder_like_that_of_the_pictures(photos, tmp_path, capsys):
    for name in ('a', 'street/b.1'):
        (tmp_path / 'depth' / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / 'depth' / f'{name}.png'), np.full((10, 14), 255, np.uint8))
    haze = {'depth': 'file', 'depth_dir': str(tmp_path / 'depth'), 'beta': 10, 'airlight': 0.5}
    (tmp_path / 'fog.yml').write_text(json.dumps({'degradations': {'haze': haze}}))
    assert run(photos, tmp_path / 'out', '-r', tmp_path / 'fog.yml') == 1
    assert "holds no depth map of the picture 'c'" in capsys.readouterr().err
    assert set(contents(tmp_path / 'out')) == {'a.png', 'street/b.1.png', 'records.json'}
    assert np.abs(read_picture(tmp_path / 'out' / 'street' / 'b.1.png').astype(int) - 128).max() <= 1


def test_nothing_is_left_where_nothing_could_be_degraded(tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'a.png').write_text('no picture')
    assert_refused(capsys, ['degrade', tmp_path / 'in', tmp_path / 'out'], 'No picture .* could be degraded')
    assert {path.name for path in tmp_path.iterdir()} == {'in'}


def test_a_full_disk_is_told_in_one_sentence(photos, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(degrade, 'entry', full)
    assert_refused(capsys, ['degrade', photos / 'a.png', tmp_path / 'out'], 'could not be written .*No space left')
    assert {path.name for path in tmp_path.iterdir()} == {'photos'}


def test_an_interrupted_run_leaves_no_half_folder(photos, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(degrade, 'entry', stop)
    assert run(photos, tmp_path / 'out') == 130
    assert {path.name for path in tmp_path.iterdir()} == {'photos'}


def test_dry_run_says_what_would_be_written(photos, tmp_path, capsys):
    assert run(photos, tmp_path / 'out', '--dry-run') == 0
    out = capsys.readouterr().out
    assert out.endswith(f'3 pictures would be written to {tmp_path / "out"}\n')
    assert not (tmp_path / 'out').exists()
    run(photos, tmp_path / 'out')
    assert capsys.readouterr().out.splitlines()[:3] == out.splitlines()[:3]


def test_json_prints_what_the_records_file_holds(photos, tmp_path, capsys):
    run(photos, tmp_path / 'out', '--json')
    assert json.loads(capsys.readouterr().out) == read_records(tmp_path / 'out')


def test_overwrite_replaces_an_earlier_output_whole_and_nothing_else(photos, tmp_path, capsys):
    out = tmp_path / 'out'
    run(photos, out, '--variants', 2)
    assert_refused(capsys, ['degrade', photos, out], 'exists; add --overwrite')
    assert run(photos, out, '--overwrite') == 0
    assert set(contents(out)) == {'a.png', 'street/b.1.png', 'c.png', 'records.json'}
    theirs = tmp_path / 'holidays'
    theirs.mkdir()
    (theirs / 'letter.txt').write_text('dear')
    assert_refused(capsys, ['degrade', photos, theirs, '--overwrite'], 'has no records.json')
    assert (theirs / 'letter.txt').read_text() == 'dear'
    empty = tmp_path / 'empty'
    empty.mkdir()
    assert run(photos, empty) == 0


@pytest.mark.parametrize(
    'source, target, more, message',
    [
        ('photos', 'photos/out', (), 'lie one inside the other'),
        ('photos', 'photos', (), 'lie one inside the other'),
        ('photos/a.png', 'photos', (), 'lie one inside the other'),
        ('photos/street', 'photos', ('--overwrite',), 'lie one inside the other'),
        ('nowhere', 'out', (), 'nowhere does not exist; give a picture or a folder'),
        ('photos', 'out', ('--recipe', 'cdd12'), "no recipe 'cdd12'. Did you mean 'cdd11'"),
        ('photos', 'out', ('--variants', '0'), '--variants is 0, expected at least 1'),
        ('photos', 'photos/a.png', (), 'lie one inside the other'),
    ],
)
def test_refuses_in_one_sentence(source, target, more, message, photos, tmp_path, capsys):
    before = contents(tmp_path)
    assert_refused(capsys, ['degrade', tmp_path / source, tmp_path / target, *more], message)
    assert contents(tmp_path) == before


def test_needs_neither_torch_nor_basicsr(photos, tmp_path):
    code = (
        'import sys; from basicsr_unirestorer import cli\n'
        f'assert cli.main(["degrade", {str(photos)!r}, {str(tmp_path / "out")!r}]) == 0\n'
        'heavy = {"torch", "torchvision", "basicsr", "matplotlib"} & set(sys.modules)\n'
        'assert not heavy, heavy'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
