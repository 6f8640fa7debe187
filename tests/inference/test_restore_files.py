"""Many files: grouped by expert, each loaded once; what fails, fails alone; stopped runs lose nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.inference import photo_writing
from basicsr_unirestorer.inference import restore_files as module
from basicsr_unirestorer.inference.expert_bank import size_in_bytes
from basicsr_unirestorer.inference.restore_files import Record, restore_files
from basicsr_unirestorer.inference.restore_plan import plan_files
from basicsr_unirestorer.inference.restorer import Restorer

KINDS = 4  # experts that the pictures below need
COUNT = 12


@pytest.fixture
def source(tmp_path) -> Path:
    """Pictures whose first pixel says which expert they need, in turns."""
    rng = np.random.default_rng(0)
    (tmp_path / 'in').mkdir()
    for i in range(COUNT):
        pixels = rng.integers(0, 256, (24, 20 + i, 3), np.uint8)
        pixels[0, 0] = i % KINDS
        Image.fromarray(pixels).save(tmp_path / 'in' / f'{i:02d}.png')
    return tmp_path / 'in'


@pytest.fixture
def restorer(smoke_demo) -> Restorer:
    """A restorer that reads the wanted expert off the first pixel."""
    restorer = Restorer.from_bundle(smoke_demo / 'bundle')
    route = restorer.net.route

    def route_by_pixel(lq: torch.Tensor):
        found = route(lq)
        return module.replace(found, node_id=torch.full_like(found.node_id, round(float(lq[0, 0, 0, 0]) * 255)))

    restorer.net.route = route_by_pixel
    return restorer


@pytest.fixture
def loads(restorer, monkeypatch) -> list[str]:
    """Names of the experts in the order in which they are loaded."""
    names: list[str] = []
    load = restorer.net.bank.load
    monkeypatch.setattr(restorer.net.bank, 'load', lambda name: names.append(name) or load(name))
    return names


def run(restorer, source, target, **options) -> list[Record]:
    records: list[Record] = []
    restore_files(restorer, plan_files(source, target), done=records.append, **options)
    return records


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('experts_in_budget', [1, 2])
def test_each_expert_is_loaded_once_within_the_budget(restorer, loads, source, tmp_path, experts_in_budget):
    bank = restorer.net.bank
    one = max(bank.size_of(node.name) for node in restorer.net.tree.nodes)
    bank.budget_bytes = experts_in_budget * one
    held: list[int] = []
    forward = restorer.net.forward

    def forward_and_look(lq, route):
        held.append(sum(map(size_in_bytes, bank.cached.values())))
        return forward(lq, route)

    restorer.net.forward = forward_and_look
    records = run(restorer, source, tmp_path / 'out')
    assert len(loads) == len(set(loads)) == KINDS
    assert max(held) <= bank.budget_bytes
    assert len(records) == COUNT and all(record.decision for record in records)
    assert [record.decision.expert for record in records] == sorted(record.decision.expert for record in records)


def test_grouped_pictures_equal_those_restored_one_by_one(restorer, source, tmp_path):
    run(restorer, source, tmp_path / 'grouped')
    for path in sorted(source.iterdir()):
        restore_files(restorer, plan_files(path, tmp_path / 'alone'))
    assert outputs(tmp_path / 'grouped') == outputs(tmp_path / 'alone') and len(outputs(tmp_path / 'alone')) == COUNT


def test_rounds_do_not_change_the_result(restorer, loads, source, tmp_path, monkeypatch):
    run(restorer, source, tmp_path / 'one round')
    monkeypatch.setattr(module, 'ROUND', 5)
    monkeypatch.setattr(module, 'HELD', 1000)  # nothing is read ahead, nothing kept
    assert len(run(restorer, source, tmp_path / 'many')) == COUNT
    assert outputs(tmp_path / 'one round') == outputs(tmp_path / 'many')


def test_pictures_in_memory_do_not_grow_with_their_number(restorer, source, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'HELD', 4 * 24 * 32)
    alive, most = set(), [0]
    read = module.read_photo

    def read_and_count(path):
        photo = read(path)
        alive.add(path)
        weakref.finalize(photo, alive.discard, path)
        return photo

    def look(record):
        most[0] = max(most[0], len(alive))

    monkeypatch.setattr(module, 'read_photo', read_and_count)
    restore_files(restorer, plan_files(source, tmp_path / 'out'), done=look)
    assert 1 <= most[0] <= 10 < COUNT  # kept from routing, read ahead, and written behind: about 4 each at most


def test_what_exists_is_skipped(restorer, source, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / '03.png').write_bytes(b'mine')
    records = run(restorer, source, tmp_path / 'out')
    assert [record.output.name for record in records if record.skipped] == ['03.png']
    assert (tmp_path / 'out' / '03.png').read_bytes() == b'mine'
    assert all(record.skipped for record in run(restorer, source, tmp_path / 'out'))
    assert not any(record.skipped for record in run(restorer, source, tmp_path / 'out', overwrite=True))


def test_explanations_stand_beside_the_pictures(restorer, source, tmp_path):
    records = run(restorer, source, tmp_path / 'out', explain=True)
    for record in records:
        told = json.loads(module.explanation_path(record.output).read_text())
        assert told == json.loads(json.dumps(record.to_dict()))
        assert told['expert'] == record.decision.expert and told['input'] == str(record.input)
    assert len(outputs(tmp_path / 'out')) == 2 * COUNT


def test_explanation_that_is_there_is_not_replaced_unasked(restorer, source, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / '00.png.json').write_text('mine')
    failed = [record for record in run(restorer, source, tmp_path / 'out', explain=True) if record.error]
    assert [record.output.name for record in failed] == ['00.png'] and '00.png.json is there by now' in failed[0].error
    assert (tmp_path / 'out' / '00.png.json').read_text() == 'mine' and not (tmp_path / 'out' / '00.png').exists()


def test_bad_files_fail_alone(restorer, source, tmp_path):
    (source / '02.png').write_bytes(b'')
    (source / '05.png').write_bytes((source / '05.png').read_bytes()[:200])
    (source / '07.png').unlink()
    (source / '07.png').mkdir()
    Image.new('CMYK', (9, 9)).save(source / 'ink.jpg')
    records = run(restorer, source, tmp_path / 'out', explain=True)
    failed = {record.input.name: record.error for record in records if record.error}
    assert sorted(failed) == ['02.png', '05.png', 'ink.jpg']
    assert all(str(source / name) in sentence and '\n' not in sentence for name, sentence in failed.items())
    assert len(outputs(tmp_path / 'out')) == 2 * (COUNT - 3)


def test_picture_with_a_wrong_suffix_is_restored_and_told(restorer, source, tmp_path):
    (source / '00.png').rename(source / 'wrong.jpg')
    (record,) = (r for r in run(restorer, source, tmp_path / 'out') if r.input.name == 'wrong.jpg')
    assert record.note == 'wrong.jpg holds a picture in PNG format' and not record.error
    assert Image.open(tmp_path / 'out' / 'wrong.jpg').format == 'JPEG'


def meanwhile(restorer, number: int, act) -> None:
    """Let something happen while the given picture is being restored."""
    forward, seen = restorer.net.forward, []

    def forward_and_act(lq, route):
        seen.append(1)
        if len(seen) == number:
            act()
        return forward(lq, route)

    restorer.net.forward = forward_and_act


@pytest.fixture
def short_memory(monkeypatch):
    """Nothing is read ahead or kept, so that what happens to a file meanwhile is met."""
    monkeypatch.setattr(module, 'HELD', 0)


def test_file_that_vanishes_meanwhile_fails_alone(restorer, source, tmp_path, short_memory):
    meanwhile(restorer, 1, (source / '11.png').unlink)
    failed = [record for record in run(restorer, source, tmp_path / 'out') if record.error]
    assert [record.input.name for record in failed] == ['11.png'] and 'There is no picture' in failed[0].error


def test_file_that_changes_meanwhile_is_routed_again(restorer, source, tmp_path, short_memory):
    def change():
        Image.new('RGB', (50, 40), (1, 0, 0)).save(source / '11.png')

    meanwhile(restorer, 1, change)
    records = {record.input.name: record for record in run(restorer, source, tmp_path / 'out')}
    assert records['11.png'].decision.expert == restorer.net.tree.nodes[1].name
    assert Image.open(tmp_path / 'out' / '11.png').size == (50, 40)


def test_output_that_appears_meanwhile_stays(restorer, source, tmp_path, short_memory):
    def appear():
        (tmp_path / 'out').mkdir(exist_ok=True)
        (tmp_path / 'out' / '11.png').write_bytes(b'mine')

    meanwhile(restorer, 1, appear)
    failed = [record for record in run(restorer, source, tmp_path / 'out') if record.error]
    assert [record.output.name for record in failed] == ['11.png'] and 'is there by now' in failed[0].error
    assert (tmp_path / 'out' / '11.png').read_bytes() == b'mine' and len(outputs(tmp_path / 'out')) == COUNT


def test_full_disk_ends_the_run_in_one_sentence(restorer, source, tmp_path, monkeypatch):
    write, written = Path.write_bytes, []

    def write_until_full(self, content):
        written.append(self)
        if len(written) > 3:
            write(self, content[:10])
            raise OSError(errno.ENOSPC, 'No space left on device')
        return write(self, content)

    monkeypatch.setattr(photo_writing.Path, 'write_bytes', write_until_full)
    monkeypatch.setattr(module, 'HELD', 0)  # one after another
    with pytest.raises(DataError, match=r'cannot be written \(No space left on device\); make room .* the 3 finished'):
        run(restorer, source, tmp_path / 'out')
    assert len(outputs(tmp_path / 'out')) == 3
    monkeypatch.undo()
    assert sum(not record.skipped for record in run(restorer, source, tmp_path / 'out')) == COUNT - 3


def test_damaged_expert_fails_its_pictures_alone(restorer, source, tmp_path, monkeypatch):
    load, bad = restorer.net.bank.load, restorer.net.tree.nodes[2].name

    def load_or_fail(name):
        if name == bad:
            raise DataError(f'experts/{name}.safetensors is missing or damaged.')
        return load(name)

    monkeypatch.setattr(restorer.net.bank, 'load', load_or_fail)
    records = run(restorer, source, tmp_path / 'out')
    failed = [record for record in records if record.error]
    assert len(failed) == COUNT / KINDS and all('missing or damaged' in record.error for record in failed)
    assert len(outputs(tmp_path / 'out')) == COUNT - len(failed)


def test_interruption_keeps_what_is_finished(restorer, source, tmp_path):
    def press():
        raise KeyboardInterrupt

    meanwhile(restorer, 6, press)
    records: list[Record] = []
    with pytest.raises(KeyboardInterrupt):
        restore_files(restorer, plan_files(source, tmp_path / 'out'), explain=True, done=records.append)
    assert len(records) == 5 and len(outputs(tmp_path / 'out')) == 2 * 5


COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores ctrl-C
from basicsr_unirestorer import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGKILL])
def test_stopped_command_loses_nothing(smoke_demo, tmp_path, how):
    """Ctrl-C and kill -9, at any moment: what stands under its name is whole, and a second run does the rest."""
    (tmp_path / 'in').mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (160, 160, 3), np.uint8)).save(tmp_path / 'in' / f'{i:02d}.png')
    command = [sys.executable, '-c', COMMAND, 'restore', 'in', 'out', '-b', str(smoke_demo / 'bundle')]
    out = tmp_path / 'out'
    child = subprocess.Popen(
        [*command, '--device', 'cpu'], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (out.is_dir() and len(list(out.glob('*.png'))) > 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(how)
    _, err = child.communicate(timeout=120)
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob('*.png')}
    assert 2 < len(finished) < 40, err
    for name in finished:
        with Image.open(out / name) as picture:
            picture.load()
    if how == signal.SIGINT:
        assert child.returncode == 130 and 'Traceback' not in err
        assert err.splitlines()[-1].startswith('unirestorer: interrupted; finished pictures stay')
        assert sorted(os.listdir(out)) == sorted(finished)  # nothing else
    again = run(Restorer.from_bundle(smoke_demo / 'bundle'), tmp_path / 'in', out)
    assert sorted(record.output.name for record in again if record.skipped) == sorted(finished)
    assert len(list(out.glob('*.png'))) == 40
    assert all((out / name).stat().st_mtime_ns == time for name, time in finished.items())
