"""The benchmark: rows, resuming, protocols from plain folders, rivals of BasicSR's, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from basicsr_unirestorer import cli
from basicsr_unirestorer.clustering.tree import DegradationTree, Node
from basicsr_unirestorer.inference import benchmark
from basicsr_unirestorer.inference.contest import Contest, dominant_labels, node_by_label
from tests.inference.report_samples import smooth_picture
from tests.pipeline_fixtures import assert_refused, stage_options, write_options

NOISE = {'bundle': 'bundle', 'name': 'noise', 'oracle': 'none', 'protocols': ['cbsd68_noise']}


def rows_of(path) -> list[dict]:
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


@pytest.fixture
def clean_folder(tmp_path):
    """Two clean pictures in a plain folder."""
    folder = tmp_path / 'CBSD68'
    folder.mkdir()
    for seed in range(2):
        cv2.imwrite(str(folder / f'{seed}.png'), smooth_picture(seed, 40, 56)[..., ::-1])
    return folder


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """Names of pictures as they are measured; one called ``stop`` in the list presses Ctrl-C before the next."""
    names, measure = [], Contest.measure

    def counting(self, case):
        if 'stop' in names:
            raise KeyboardInterrupt
        names.append(f'{case.degradation}/{case.name}')
        return measure(self, case)

    monkeypatch.setattr(Contest, 'measure', counting)
    return names


def test_dominant_labels_are_those_of_most_samples():
    mixed = Node('l1_00', 1, 0, count=4, captions={'thick haze, large noise': 3, 'large rain': 1})
    assert dominant_labels(mixed) == 'haze+noise'
    assert dominant_labels(Node('l1_01', 1, 0, count=2, captions={'thick haze': 1, 'large rain': 1})) == ''


@pytest.mark.parametrize(
    ('caption', 'node'),
    [('large rain', 'l2_00'), ('rain', 'l1_00'), ('noise', 'l1_01'), ('rain, noise', 'l0_00'), ('clean', 'l0_00')],
)
def test_captions_without_strength_take_the_coarsest_node_of_their_type(caption, node):
    rain, noise = {'large rain': 2, 'small rain': 2}, {'large noise': 2}
    nodes = [Node('l0_00', 0, -1, 6, rain | noise), Node('l1_00', 1, 0, 4, rain), Node('l1_01', 1, 0, 2, noise)]
    nodes += [Node('l2_00', 2, 1, 2, {'large rain': 2}), Node('l2_01', 2, 1, 2, {'small rain': 2})]
    nodes += [Node('l2_02', 2, 2, 2, noise)]
    tree = DegradationTree(tuple(nodes), np.zeros((6, 1), np.float32))
    assert tree.nodes[node_by_label(tree, caption)].name == node


def test_oracle_of_the_caption_runs_fewer_experts(smoke_demo, tmp_path, registered):
    """Without ``best node``; the columns that both have agree with the demo's table."""
    opt = stage_options(smoke_demo, 'benchmark', {'oracle': 'caption', 'rivals': None})
    result = benchmark.run(opt, tmp_path)
    assert 'best node' not in result.rows[0] and 'one for all' not in result.rows[0]
    theirs = rows_of(smoke_demo / 'results' / 'demo_benchmark' / 'pictures.csv')
    theirs = {row['sample_id'] + row['dataset']: row for row in theirs}
    for row in result.rows:
        other = theirs[row['sample_id'] + row['dataset']]
        assert row['routed'] == pytest.approx(float(other['routed']), abs=1e-3)
        assert row['routed ssim'] == pytest.approx(float(other['routed ssim']), abs=1e-4)
    assert json.loads((result.folder / 'summary.json').read_text())['oracle'] == 'caption'


def test_regret_is_what_the_best_expert_would_have_added(smoke_demo):
    for row in rows_of(smoke_demo / 'results' / 'demo_benchmark' / 'pictures.csv'):
        assert float(row['regret']) == pytest.approx(float(row['best node']) - float(row['routed']), abs=1e-9)
        assert float(row['regret']) >= 0 and (row['best'] == row['node']) <= (float(row['regret']) == 0)


def test_stopped_benchmark_goes_on_where_it_stopped(smoke_demo, clean_folder, tmp_path, counted, registered):
    opt = {**NOISE, 'bundle': str(smoke_demo / 'bundle'), 'data': str(clean_folder)}
    whole = benchmark.run({**opt, 'name': 'whole'}, tmp_path)
    assert len(counted) == 12
    counted[:] = ['stop']
    journal = tmp_path / 'results' / 'noise' / 'journal.jsonl'
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(opt, tmp_path)
    assert not journal.exists() and not (journal.parent / 'table.md').exists()

    lines = (whole.folder / 'journal.jsonl').read_bytes().splitlines(keepends=True)
    journal.write_bytes(b''.join(lines[:5]) + lines[5][:40])  # killed in the middle of the sixth
    counted.clear()
    result = benchmark.run(opt, tmp_path)
    assert len(counted) == 7 and result.rows == whole.rows
    assert (result.folder / 'pictures.csv').read_text() == (whole.folder / 'pictures.csv').read_text()
    counted.clear()
    benchmark.run(opt, tmp_path)
    assert counted == []


def clean_protocol(pictures: Path, demo: Path) -> list[str]:
    """Return the command that measures what the demo's bundle does to clean pictures."""
    return ['benchmark', 'clean', '--data', str(pictures), '--bundle', str(demo / 'bundle')]


def test_damaged_picture_is_one_sentence_and_costs_nothing(
    smoke_demo, clean_folder, tmp_path, monkeypatch, capsys, counted
):
    monkeypatch.chdir(tmp_path)
    whole = (clean_folder / '1.png').read_bytes()
    (clean_folder / '1.png').write_bytes(whole[:200])
    argv = [*clean_protocol(clean_folder, smoke_demo), '--oracle', 'none']
    assert cli.main(argv) == 1
    assert '1.png cannot be read as a picture' in capsys.readouterr().err.splitlines()[-1]
    (clean_folder / '1.png').write_bytes(whole)
    assert cli.main(argv) == 0 and counted == ['clean/0', 'clean/1', 'clean/1']


def test_ctrl_c_says_that_nothing_is_lost(smoke_demo, clean_folder, tmp_path, monkeypatch, capsys, counted):
    monkeypatch.chdir(tmp_path)
    counted[:] = ['stop']
    argv = clean_protocol(clean_folder, smoke_demo)
    assert cli.main(argv) == 130
    assert 'what was measured is kept, and the same command goes on' in capsys.readouterr().err


def test_what_a_number_depends_on_is_measured_anew(smoke_demo, clean_folder, tmp_path, counted, registered):
    opt = {**NOISE, 'bundle': str(smoke_demo / 'bundle'), 'data': str(clean_folder), 'max_pictures': 1}
    benchmark.run(opt, tmp_path)
    assert len(counted) == 6
    benchmark.run({**opt, 'oracle': 'caption'}, tmp_path)
    assert len(counted) == 12
    benchmark.run({**opt, 'max_pictures': None}, tmp_path)  # the other picture alone
    assert len(counted) == 18 and counted[-6:] == [name.replace('/0', '/1') for name in counted[:6]]
    Image.fromarray(smooth_picture(5, 40, 56)).save(clean_folder / '0.png')
    benchmark.run(opt, tmp_path)
    assert len(counted) == 24


def test_a_fixed_level_takes_the_expert_of_that_level(smoke_demo, clean_folder, tmp_path, registered):
    opt = {**NOISE, 'bundle': str(smoke_demo / 'bundle'), 'data': str(clean_folder), 'max_pictures': 1}
    for level in (0, 1):
        result = benchmark.run({**opt, 'level': level}, tmp_path)
        assert {(row['level'], row['node'][:2]) for row in result.rows} == {(level, f'l{level}')}
        assert f'always level {level}' in (result.folder / 'table.md').read_text()
    assert all(row['routed'] == row['root'] for row in benchmark.run({**opt, 'level': 0}, tmp_path).rows)


def test_clipped_and_unclipped_noise_reach_the_networks(smoke_demo, clean_folder, tmp_path, registered):
    """As inputs both look alike, since pictures are compared at 8 bit; the networks see the difference."""
    opt = {**NOISE, 'bundle': str(smoke_demo / 'bundle'), 'data': str(clean_folder)}
    rows = {(row['degradation'], row['sample_id']): row for row in benchmark.run(opt, tmp_path).rows}
    for sigma in (15, 25, 50):
        free, clipped = rows[f'sigma {sigma}', '0'], rows[f'sigma {sigma} clipped', '0']
        assert free['input'] == pytest.approx(clipped['input'], abs=1e-6)
        assert free['routed'] != clipped['routed']
    assert rows['sigma 15', '0']['input'] > rows['sigma 50', '0']['input']


def test_clean_pictures_are_compared_with_themselves(smoke_demo, clean_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = [*clean_protocol(clean_folder, smoke_demo), '--oracle', 'all']
    assert cli.main([*argv, '--report', '--json']) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((tmp_path / 'results' / 'benchmark' / 'summary.json').read_text())
    assert summary['table'][0]['input'] == 'inf' and float(summary['table'][0]['routed']) < 60
    assert '∞' in (tmp_path / 'results' / 'benchmark' / 'table.md').read_text(encoding='utf-8')
    assert '<figure>' in (tmp_path / 'results' / 'benchmark' / 'report.html').read_text(encoding='utf-8')


def test_summary_states_protocol_weights_and_versions(smoke_demo, clean_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ['benchmark', 'cbsd68_noise', '--data', f'cbsd68_noise={clean_folder}', '--name', 'mine']
    assert cli.main([*argv, '--bundle', str(smoke_demo / 'bundle'), '--max-pictures', '1']) == 0
    text = capsys.readouterr().out
    summary = json.loads((tmp_path / 'results' / 'mine' / 'summary.json').read_text())
    told = summary['protocols']['cbsd68_noise']
    assert told['columns']['sigma 15'] == {'pictures': 1, 'published': 68} and told['max_pictures'] == 1
    assert 'sigma 15: 1 pictures where the published set has 68' in text
    assert len(summary['weights_fingerprint']) == 16 and summary['weights_fingerprint'] in text
    assert summary['versions']['torch'] == torch.__version__ and f'torch {torch.__version__}' in text
    for part in ('## PSNR in dB', '## SSIM', '## Experts chosen', 'RandomState(0)', 'averages are over pictures'):
        assert part in text, part
    counts = summary['routing']['cbsd68_noise']
    assert len(counts) == 6 and all(sum(nodes.values()) == 1 for nodes in counts.values())


def test_any_network_of_basicsr_can_be_a_rival(smoke_demo, clean_folder, tmp_path, registered):
    from basicsr.archs import build_network

    network = {'type': 'SRVGGNetCompact', 'num_feat': 4, 'num_conv': 1, 'upscale': 1}
    torch.manual_seed(0)
    torch.save({'params': build_network(dict(network)).state_dict()}, tmp_path / 'rival.pth')
    opt = {**NOISE, 'bundle': str(smoke_demo / 'bundle'), 'data': str(clean_folder), 'max_pictures': 1}
    opt['rivals'] = {'compact': {'network': network, 'weights': str(tmp_path / 'rival.pth')}}
    result = benchmark.run(opt, tmp_path)
    assert result.columns == ['input', 'root', 'compact', 'routed']
    assert '| input | root | compact | routed |' in result.table() and 'compact ssim' in result.rows[0]
    first = json.loads((result.folder / 'summary.json').read_text())['rivals']['compact']['weights_fingerprint']
    torch.manual_seed(1)
    torch.save({'params': build_network(dict(network)).state_dict()}, tmp_path / 'rival.pth')
    again = benchmark.run(opt, tmp_path)
    assert again.rows[0]['compact'] != result.rows[0]['compact'] and again.rows[0]['routed'] == result.rows[0]['routed']
    assert again.facts['rivals']['compact']['weights_fingerprint'] != first


def test_protocols_are_listed(capsys):
    assert cli.main(['benchmark', '--list']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13 and any(line.startswith('cdd11 ') and 'low_haze_snow' in line for line in lines)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'orakle': 'all'}, "Unknown option 'options.orakle'. Did you mean 'oracle'"),
        ({'oracle': 'everything'}, "oracle is 'everything'; write all, caption or none"),
        ({'bundle': None}, "Option 'options.bundle' is missing"),
        ({'bundle': 'nowhere'}, 'nowhere is no bundle'),
        ({'mode': 'automatic'}, "There is no mode 'automatic'"),
        ({'datasets': None}, 'Nothing to measure: give datasets or protocols'),
        ({'protocols': ['cdd12']}, "There is no test protocol 'cdd12'. Did you mean 'cdd11'"),
        ({'protocols': ['cdd11']}, "Protocol 'cdd11' needs the folder .*low/lq, which does not exist; give --data"),
        ({'protocols': {'clean': 'nowhere'}}, "Protocol 'clean' needs the folder nowhere"),
        ({'metrics': ['niqe']}, "no extra metric 'niqe'"),
        ({'rivals': {'x': {'network': {'type': 'NAFNetExprt'}, 'weights': 'y'}}}, "Did you mean 'NAFNetExpert'"),
        ({'rivals': {'x': {'network': {'type': 'NAFNetExpert'}, 'weights': 'y.pth'}}}, 'no weights at y.pth'),
        ({'rivals': {'x': {'network': {'type': 'NAFNetExpert'}}}}, "Option 'rivals.x.weights' is missing"),
        ({'rivals': {'routed': {'network': {'type': 'NAFNetExpert'}}}}, "A rival cannot be called 'routed'"),
    ],
)
def test_wrong_options_are_one_sentence(smoke_demo, tmp_path, monkeypatch, capsys, changes, message):
    monkeypatch.chdir(tmp_path)
    path = write_options(tmp_path, stage_options(smoke_demo, 'benchmark', changes))
    assert_refused(capsys, ['benchmark', '-opt', path], message)
    assert [entry.name for entry in tmp_path.iterdir()] == ['options.yml']


def test_wrong_commands_are_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert_refused(capsys, ['benchmark', '-opt', 'nowhere.yml'], 'nowhere.yml')
    assert_refused(capsys, ['benchmark', 'clean'], "Protocol 'clean' needs the folder")  # the bundle is there
    assert_refused(capsys, ['benchmark', 'clean', '--data', 'cleen=x'], "--data names 'cleen', which is none of")
    assert_refused(capsys, ['benchmark', '--bundle', 'x'], 'Nothing to measure')
