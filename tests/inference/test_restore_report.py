"""``unirestorer restore --report``: where the page goes, what it tells of each picture, what it never replaces."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from basicsr_unirestorer import cli
from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.inference import restore_files
from basicsr_unirestorer.inference.restore_files import Record
from basicsr_unirestorer.inference.restore_report import RestoreReport
from tests.inference.report_samples import noisy, record, small_tree, smooth_picture
from tests.pipeline_fixtures import assert_refused


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Three pictures, one in a folder of its own."""
    folder = tmp_path / 'in'
    (folder / 'trip').mkdir(parents=True)
    for number, name in enumerate(('a.png', 'b.png', 'trip/a.png')):
        Image.fromarray(noisy(smooth_picture(number), number)).save(folder / name)
    return folder


@pytest.fixture
def restore(smoke_demo):
    """The command with a small bundle; returns its exit code."""

    def run(*args) -> int:
        return cli.main(['restore', *map(str, args), '-b', str(smoke_demo / 'bundle'), '--device', 'cpu'])

    return run


def told(page: Path) -> str:
    """The words of a page, without pictures, style and script."""
    text = re.sub(r'<style>.*?</style>|<script>.*?</script>|<[^>]*>', ' ', page.read_text())
    return re.sub(r'\s+', ' ', text)


def names(page: Path) -> list[str]:
    return re.findall(r'<strong>([^<]*)</strong>', page.read_text())


def test_page_shows_every_picture_and_how_it_was_restored(restore, smoke_demo, pictures, tmp_path, capsys):
    out = tmp_path / 'out'
    assert restore(pictures, out, '--report') == 0
    assert f'report: {out / "report.html"}\n' in capsys.readouterr().out
    assert names(out / 'report.html') == ['a.png', 'b.png', 'trip/a.png']  # as in the folder, however they were grouped
    words = told(out / 'report.html')
    assert '3 of 3 pictures restored.' in words and 'By expert' in words and 'How they were restored' in words
    assert f'{smoke_demo / "bundle"}, tree ' in words and 'by the pictures alone' in words
    assert 'Not restored' not in words and 'pictures are shown' not in words
    assert out.joinpath('report.html').read_text().count('class="compare"') == 3


def test_single_picture_has_its_page_beside_it(restore, pictures, tmp_path):
    assert restore(pictures / 'a.png', tmp_path / 'new' / 'better.png', '--report', '--labels', 'rain') == 0
    assert names(tmp_path / 'new' / 'report.html') == ['better.png']
    assert 'by what you say is wrong: rain' in told(tmp_path / 'new' / 'report.html')


def test_skipped_and_failed_pictures_are_told(restore, pictures, tmp_path, capsys):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'a.png').write_bytes(b'mine')
    (pictures / 'b.png').write_bytes(b'')
    page = tmp_path / 'elsewhere' / 'seen.html'
    assert restore(pictures, tmp_path / 'out', f'--report={page}', '--json') == 1
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)) == 3 and f'report: {page}' in captured.err
    words = told(page)
    assert '1 of 3 pictures restored; 1 skipped, already there; 1 failed.' in words
    assert 'Not restored' in words and 'b.png cannot be read as a picture (it is empty)' in words
    assert names(page) == ['trip/a.png']


def test_next_page_takes_a_free_name_and_nothing_is_replaced(restore, pictures, tmp_path, capsys):
    out = tmp_path / 'out'
    assert restore(pictures / 'a.png', out, '--report') == 0
    first = (out / 'report.html').read_bytes()
    assert restore(pictures, out, '--report', '--dry-run') == 0
    assert f'report -> {out / "report_2.html"}' in capsys.readouterr().out
    assert restore(pictures, out, '--report') == 0
    assert (out / 'report.html').read_bytes() == first and '1 skipped' in told(out / 'report_2.html')
    capsys.readouterr()
    assert restore(pictures, out, '--report') == 0  # all are there by now
    assert 'report: none, since no picture was restored' in capsys.readouterr().out
    assert sorted(path.name for path in out.glob('*.html')) == ['report.html', 'report_2.html']
    assert restore(pictures, out, '--report', '--overwrite') == 0
    assert '3 of 3 pictures' in told(out / 'report.html')


def test_page_that_cannot_be_written_ends_the_run_before_it_begins(smoke_demo, pictures, tmp_path, capsys):
    out, mine = tmp_path / 'out', tmp_path / 'mine.html'
    mine.write_text('mine')
    for given, message in (
        (mine, 'mine.html exists; choose another name, or --overwrite'),
        (mine / 'page.html', r'mine.html/page.html cannot be written into'),
        (pictures / 'a.png', r'a.png does not end in .html; write --report=FILE.html'),
    ):
        options = ['-b', smoke_demo / 'bundle', f'--report={given}']
        assert_refused(capsys, ['restore', pictures, out, *options], message)
    folder = tmp_path / 'folder.html'
    folder.mkdir()
    options = ['-b', smoke_demo / 'bundle', f'--report={folder}', '--overwrite']
    assert_refused(capsys, ['restore', pictures, out, *options], 'folder.html exists')
    assert not out.exists() and mine.read_text() == 'mine'


def test_interrupted_run_has_a_page_of_what_is_finished(restore, pictures, tmp_path, monkeypatch, capsys):
    write, written = restore_files.FolderRun._write, []

    def write_one(self, job, *rest):
        written.append(write(self, job, *rest))
        return written[-1]

    def stop(self, job, *rest, restored=restore_files.FolderRun._restore):
        if written:
            raise KeyboardInterrupt
        restored(self, job, *rest)
        self._wait(0)

    monkeypatch.setattr(restore_files.FolderRun, '_write', write_one)
    monkeypatch.setattr(restore_files.FolderRun, '_restore', stop)
    assert restore(pictures, tmp_path / 'out', '--report') == 130
    assert 'interrupted; finished pictures stay' in capsys.readouterr().err
    page = tmp_path / 'out' / 'report.html'
    assert '1 of 3 pictures restored; stopped before the other 2.' in told(page)
    assert names(page) == [written[0].output.relative_to(tmp_path / 'out').as_posix()]


def test_page_of_many_pictures_stays_small(tmp_path):
    """Ten thousand pictures: a hundred are shown, the page says so, and little is kept of the others."""
    number, files = 10_000, []
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / 'same.png')
    report = RestoreReport('', tmp_path / 'out', files, overwrite=False)
    decision = record(0).decision
    for i in range(number):
        files.append((tmp_path / 'same.png', tmp_path / 'out' / f'{i}.png'))
        report.add(Record(*files[-1], decision))
    entries = list(report.restored.values())
    for i, entry in enumerate(entries):  # the results are not there: show the same picture for all
        entries[i] = type(entry).of_files(tmp_path / 'same.png', tmp_path / 'same.png', entry.decision, entry.name)
    report.restored = dict(zip(report.restored, entries, strict=True))
    page = report.write(of_tree_alone())
    assert page.stat().st_size < 4 * 2**20
    words = told(page)
    assert '10,000 of 10,000 pictures restored.' in words and '94 of 10,000 pictures are shown' in words
    assert len(names(page)) == 100  # six of them as the least sure


def of_tree_alone():
    """What the page asks of a restorer, without networks."""
    net = SimpleNamespace(tree=small_tree(), labels=(), top_k=1, bundle=SimpleNamespace(folder='here'))
    return SimpleNamespace(net=net, node_id=None, level=None, local_routing=False, precision='fp32', device='cpu')


def test_page_that_appeared_meanwhile_is_left_as_it_is(tmp_path):
    page = tmp_path / 'page.html'
    report = RestoreReport(str(page), tmp_path, [(tmp_path / 'a.png', tmp_path / 'b.png')], overwrite=False)
    report.add(Record(tmp_path / 'a.png', tmp_path / 'b.png', error='a.png is empty.'))
    page.write_text('mine')
    with pytest.raises(DataError, match='page.html is there by now and is left as it is'):
        report.write(of_tree_alone())
    assert page.read_text() == 'mine'
