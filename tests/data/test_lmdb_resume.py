"""Writing an LMDB is stopped: killed, interrupted, out of disk, out of workers. Nothing half-done passes for done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from basicsr_unirestorer.data import lmdb_writer, parallel
from basicsr_unirestorer.data.lmdb_journal import Journal
from basicsr_unirestorer.data.lmdb_writer import Cut, WriteJob, read_report, write_lmdb
from basicsr_unirestorer.errors import DataError

# A script without a guard for __main__, since workers do not run it again. Every picture is a commit.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from basicsr_unirestorer.data import lmdb_writer, parallel
from basicsr_unirestorer.data.lmdb_writer import Cut, WriteJob, write_lmdb
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts with &
lmdb_writer.COMMIT_BYTES = 1
parallel.PATIENCE = 0
folder, workers, patch = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
jobs = [WriteJob(path.stem, path, Cut(crop=24, step=16)) for path in sorted((folder / 'in').iterdir())]
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
exec(patch)
report = write_lmdb(folder / 'x.lmdb', jobs, workers=workers)
print(report.resumed)
"""
SLOW = """
stock = lmdb_writer._commit
def slow(*args):
    stock(*args)
    time.sleep(0.03)
lmdb_writer._commit = slow
"""
HELD = """
stock = lmdb_writer._commit
def held(environment, journal, batch):
    stock(environment, journal, batch)
    if len(journal.done) >= {}:
        time.sleep(60)
lmdb_writer._commit = held
"""
WITHIN_TRANSACTION = """
stock, calls = lmdb_writer._commit, []
def commit(environment, journal, batch):
    calls.append(1)
    if len(calls) == 5:
        with environment.begin(write=True) as transaction:
            transaction.put(batch[0].done.pictures[0][0].encode(), b'half a picture')
            kill()
    stock(environment, journal, batch)
lmdb_writer._commit = commit
"""
BEFORE_THE_NOTE = """
stock, calls = lmdb_writer.Journal.add, []
def add(*args):
    calls.append(1)
    if len(calls) == 5:
        kill()
    stock(*args)
lmdb_writer.Journal.add = add
"""
HALF_A_NOTE = """
stock, calls = lmdb_writer.Journal._append, []
def append(self, content):
    calls.append(1)
    stock(self, content if len(calls) < 6 else content[:9])
    if len(calls) == 6:
        kill()
lmdb_writer.Journal._append = append
"""
BEFORE_RENAMING = 'lmdb_writer.Path.rename = kill'
AFTER_RENAMING = """
stock = lmdb_writer.shutil.rmtree
lmdb_writer.shutil.rmtree = lambda path, **more: kill() if (folder / 'x.lmdb').exists() else stock(path, **more)
"""


def start(folder: Path, workers: int, patch: str = '') -> subprocess.Popen:
    script = folder / 'script.py'
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder), str(workers), patch]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def content(path: Path) -> tuple[list[tuple[bytes, bytes]], str]:
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return [(bytes(key), bytes(value)) for key, value in transaction.cursor()], (path / 'meta_info.txt').read_text()


def jobs_of(folder: Path) -> list[WriteJob]:
    return [WriteJob(path.stem, path, Cut(crop=24, step=16)) for path in sorted((folder / 'in').iterdir())]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / 'in').mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        cv2.imwrite(str(tmp_path / 'in' / f'{i:02d}.png'), rng.integers(0, 256, (40, 30 + i, 3), dtype=np.uint8))
    return tmp_path


@pytest.fixture
def expected(folder) -> tuple:
    """The content that a run which nothing disturbs writes, in one process."""
    write_lmdb(folder / 'undisturbed.lmdb', jobs_of(folder), workers=1)
    return content(folder / 'undisturbed.lmdb')


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]


def workers_of(pid: int) -> list[int]:
    """Those children that work, without the one by which multiprocessing keeps its books."""
    return [one for one in children(pid) if b'spawn_main' in Path(f'/proc/{one}/cmdline').read_bytes()]


def progress(folder: Path) -> int:
    path = folder / 'x.lmdb.part' / 'progress.jsonl'
    return path.read_bytes().count(b'\n') - 1 if path.exists() else 0


def gone(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] == 'Z'
    except OSError:
        return True


def wait_until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it never happened'
        time.sleep(0.005)


def test_any_number_of_workers_writes_the_same(folder, expected, monkeypatch):
    monkeypatch.setattr(parallel, 'PATIENCE', 0)
    for workers in (2, 3):
        write_lmdb(folder / f'{workers}.lmdb', jobs_of(folder), workers=workers)
        assert content(folder / f'{workers}.lmdb') == expected


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='needs /proc')
def test_a_killed_run_goes_on_and_leaves_no_worker(folder, expected):
    for stop_at in (4, 15, 25):
        process = start(folder, 2, HELD.format(stop_at))
        wait_until(lambda at=stop_at, pid=process.pid: progress(folder) >= at and len(workers_of(pid)) == 2)
        workers = children(process.pid)
        process.kill()
        process.communicate()
        assert not (folder / 'x.lmdb').exists()
        wait_until(lambda pids=workers: all(map(gone, pids)))
    process = start(folder, 3)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert int(out) >= 25
    assert content(folder / 'x.lmdb') == expected
    assert sorted(path.name for path in folder.iterdir()) == ['in', 'script.py', 'undisturbed.lmdb', 'x.lmdb']


@pytest.mark.parametrize('patch', [WITHIN_TRANSACTION, BEFORE_THE_NOTE, HALF_A_NOTE, BEFORE_RENAMING])
def test_killed_at_the_worst_moments(folder, expected, patch):
    process = start(folder, 1, patch)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / 'x.lmdb').exists()
    report = write_lmdb(folder / 'x.lmdb', jobs_of(folder), workers=1)
    assert report.resumed == (40 if patch == BEFORE_RENAMING else 4)
    assert content(folder / 'x.lmdb') == expected


def test_killed_after_the_renaming_it_is_done(folder, expected):
    start(folder, 1, AFTER_RENAMING).communicate()
    assert (folder / 'x.lmdb.part').exists()
    assert content(folder / 'x.lmdb') == expected
    report = write_lmdb(folder / 'x.lmdb', jobs_of(folder), keep_finished=True)
    assert report == read_report(folder / 'x.lmdb')
    assert not (folder / 'x.lmdb.part').exists()


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='needs /proc')
def test_ctrl_c_stops_cleanly(folder, expected):
    process = start(folder, 2, HELD.format(5))
    wait_until(lambda: progress(folder) >= 5 and len(workers_of(process.pid)) == 2)
    workers = workers_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers too
    _, err = process.communicate(timeout=20)
    assert err.strip().endswith('KeyboardInterrupt')
    assert err.count('Traceback') == 1  # ours, none of a worker
    assert all(map(gone, workers))
    assert write_lmdb(folder / 'x.lmdb', jobs_of(folder)).resumed >= 5
    assert content(folder / 'x.lmdb') == expected


def stopped_after(folder: Path, monkeypatch, count: int) -> None:
    """Leave an LMDB with so many finished jobs behind."""
    monkeypatch.setattr(lmdb_writer, 'COMMIT_BYTES', 1)
    stock = lmdb_writer._commit
    calls = []

    def commit(*args):
        calls.append(1)
        if len(calls) > count:
            raise KeyboardInterrupt
        stock(*args)

    with monkeypatch.context() as patch:
        patch.setattr(lmdb_writer, '_commit', commit)
        with pytest.raises(KeyboardInterrupt):
            write_lmdb(folder / 'x.lmdb', jobs_of(folder), workers=1)


def test_other_jobs_start_anew_and_say_so(folder, monkeypatch, caplog):
    stopped_after(folder, monkeypatch, 6)
    fewer = jobs_of(folder)[2:]
    assert write_lmdb(folder / 'x.lmdb', fewer, workers=1).resumed == 0
    assert 'starts anew' in caplog.text
    assert {key.split('_')[0] for key in read_report(folder / 'x.lmdb').shapes} == {job.key for job in fewer}
    with lmdb.open(str(folder / 'x.lmdb'), readonly=True, lock=False) as environment:
        assert environment.stat()['entries'] == len(read_report(folder / 'x.lmdb').shapes)


def test_a_file_changed_meanwhile_is_read_again(folder, monkeypatch):
    stopped_after(folder, monkeypatch, 6)
    smaller = np.full((24, 24, 3), 7, np.uint8)
    cv2.imwrite(str(folder / 'in' / '03.png'), smaller)
    assert write_lmdb(folder / 'x.lmdb', jobs_of(folder), workers=1).resumed == 3
    write_lmdb(folder / 'anew.lmdb', jobs_of(folder), workers=1)
    assert content(folder / 'x.lmdb') == content(folder / 'anew.lmdb')  # without what the old file's squares left


def test_what_changed_files_leave_takes_no_room(folder, monkeypatch):
    def write_all(h: int, w: int) -> None:
        for path in sorted((folder / 'in').iterdir())[1:]:
            cv2.imwrite(str(path), np.random.default_rng(1).integers(0, 256, (h, w, 3), dtype=np.uint8))

    write_all(200, 300)
    stopped_after(folder, monkeypatch, 30)
    assert (folder / 'x.lmdb.part' / 'lmdb' / 'data.mdb').stat().st_size > 5_000_000
    write_all(24, 24)
    assert write_lmdb(folder / 'x.lmdb', jobs_of(folder), workers=1).resumed == 1
    assert (folder / 'x.lmdb' / 'data.mdb').stat().st_size < 400_000
    write_lmdb(folder / 'anew.lmdb', jobs_of(folder), workers=1)
    assert content(folder / 'x.lmdb') == content(folder / 'anew.lmdb')


def test_a_damaged_database_starts_anew(folder, expected, monkeypatch, caplog):
    stopped_after(folder, monkeypatch, 6)
    (folder / 'x.lmdb.part' / 'lmdb' / 'data.mdb').write_bytes(b'no database')
    assert write_lmdb(folder / 'x.lmdb', jobs_of(folder), workers=1).resumed == 0
    assert 'does not hold what it should' in caplog.text
    assert content(folder / 'x.lmdb') == expected


def test_a_bad_file_stops_and_its_mending_goes_on(folder, expected):
    path = folder / 'in' / '20.png'
    good = path.read_bytes()
    path.write_bytes(good[:900])
    with pytest.raises(DataError, match=r'20.png cannot be read .* --skip-bad'):
        write_lmdb(folder / 'x.lmdb', jobs_of(folder), workers=2)
    report = write_lmdb(folder / 'x.lmdb', jobs_of(folder), workers=2, skip_bad=True)
    assert report.resumed == 20
    assert [file for file, _ in report.dropped] == [str(path)]
    assert (folder / 'x.lmdb' / 'dropped.txt').read_text().startswith(f'{path}\t{path} cannot be read')
    assert read_report(folder / 'x.lmdb').dropped == report.dropped
    path.write_bytes(good)
    write_lmdb(folder / 'y.lmdb', jobs_of(folder), workers=2)
    assert content(folder / 'y.lmdb') == expected
    assert not (folder / 'y.lmdb' / 'dropped.txt').exists()


def test_a_full_disk_is_one_sentence_and_goes_on(folder, expected):
    """The limit on file sizes stands for a disk: LMDB and the system report both the same way."""
    limit = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (90000, 90000))'
    process = start(folder, 1, limit)
    _, err = process.communicate()
    assert process.returncode == 1
    last = err.strip().splitlines()[-1]
    assert 'DataError' in last and 'of 40 files are kept in it. Free some disk space' in last
    assert not (folder / 'x.lmdb').exists()
    assert 0 < write_lmdb(folder / 'x.lmdb', jobs_of(folder), workers=2).resumed < 40
    assert content(folder / 'x.lmdb') == expected


@pytest.mark.parametrize('place', ['journal', 'meta'])
def test_a_disk_full_beside_the_database(folder, expected, monkeypatch, place):
    def full(*_):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(*{'journal': (Journal, 'add'), 'meta': (lmdb_writer, '_write_text')}[place], full)
        with pytest.raises(DataError, match='No space left on device.* files are kept in it. Free some disk space'):
            write_lmdb(folder / 'x.lmdb', jobs_of(folder), workers=1)
    assert write_lmdb(folder / 'x.lmdb', jobs_of(folder), workers=1).resumed == (40 if place == 'meta' else 0)
    assert content(folder / 'x.lmdb') == expected


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='needs /proc')
def test_a_dead_worker_is_told(folder, expected):
    process = start(folder, 2, SLOW)
    wait_until(lambda: len(workers_of(process.pid)) >= 2)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)  # as the system does for want of memory
    _, err = process.communicate()
    assert process.returncode == 1
    assert 'DataError: One of 2 worker processes died' in err.strip().splitlines()[-1]
    write_lmdb(folder / 'x.lmdb', jobs_of(folder), workers=2)
    assert content(folder / 'x.lmdb') == expected


def test_two_runs_on_one_output_do_not_mix(folder):
    process = start(folder, 1, SLOW)
    wait_until(lambda: progress(folder) >= 2)
    with pytest.raises(DataError, match='Another process is writing'):
        write_lmdb(folder / 'x.lmdb', jobs_of(folder), workers=1)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out) == 0
