"""All stages together: what the smallest demo leaves behind, and every way to use it."""

from __future__ import annotations

import csv
import html
import json
import re
from collections import Counter

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from basicsr_unirestorer import cli
from basicsr_unirestorer.archs.unirestorer_arch import Route, UniRestorer
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import OptionError
from basicsr_unirestorer.inference.bundle import Bundle
from tests.pipeline_fixtures import assert_refused, change, metric_options, run_tester, stage_options, write_options


@pytest.fixture(scope='module')
def net(smoke_demo) -> UniRestorer:
    return UniRestorer(smoke_demo / 'bundle')


def noise(*size: int) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(0))


def route_to(net: UniRestorer, names: list[str]) -> Route:
    """A decision made by hand."""
    n = len(names)
    node_ids = torch.tensor([net.tree.node_id(name) for name in names])
    return Route(node_ids, torch.ones(n, net.tree.num_leaves), torch.ones(n, net.tree.num_levels), torch.zeros(n, 1))


# ------------------------------------------------------------------------------------------------- what is written


def test_every_stage_leaves_its_files(smoke_demo):
    tree = DegradationTree.load(smoke_demo / 'experiments' / 'demo_clustering')
    names = [node.name for node in tree.nodes]
    assert tree.level_sizes == [1, 5, 10] and len(names) == 16
    experiments = smoke_demo / 'experiments'
    weights = [f'demo_experts/models/net_{name}_latest.pth' for name in names]
    weights += ['demo_encoder/models/net_g_latest.pth', 'demo_one_for_all/models/net_l0_00_latest.pth']
    weights += ['demo_routing/models/net_g_latest.pth']
    for path in [*weights, *(f'demo_clustering/meta_info_{name}.txt' for name in names)]:
        assert (experiments / path).stat().st_size, path
    for folder in (experiments / 'demo_routing' / 'bundle', smoke_demo / 'bundle'):
        assert {path.stem for path in (folder / 'experts').glob('*.safetensors')} == set(names)
        assert Bundle(folder).tree.fingerprint == tree.fingerprint
    for name in ('table.md', 'summary.json', 'pictures.csv'):
        assert (smoke_demo / 'results' / 'demo_benchmark' / name).stat().st_size
    assert not list(smoke_demo.rglob('*.part')) and not list(smoke_demo.rglob('*.tmp'))


def test_every_sample_belongs_to_one_leaf_and_to_its_ancestors(smoke_demo):
    folder = smoke_demo / 'experiments' / 'demo_clustering'
    tree = DegradationTree.load(folder)
    with open(folder / 'assignments.csv', newline='') as file:
        leaf_of = {row['sample_id']: row['leaf'] for row in csv.DictReader(file)}
    members = {node.name: (folder / f'meta_info_{node.name}.txt').read_text().splitlines() for node in tree.nodes}
    assert len(leaf_of) == tree.nodes[0].count == len(members['l0_00'])
    for node_id, node in enumerate(tree.nodes):
        assert len(members[node.name]) == node.count
        children = [line for child in tree.children(node_id) for line in members[tree.nodes[child].name]]
        assert not children or sorted(children) == sorted(members[node.name])
    assert Counter(leaf_of.values()) == {tree.nodes[leaf].name: tree.nodes[leaf].count for leaf in tree.leaves}
    assert all(line.startswith(f'{sample}.png (') for sample, line in zip(leaf_of, members['l0_00'], strict=True))


def test_bundle_holds_the_averaged_weights(smoke_demo):
    whole = Bundle(smoke_demo / 'bundle')
    for name in ('l0_00', 'l1_02', 'l2_09'):
        path = smoke_demo / 'experiments' / 'demo_experts' / 'models' / f'net_{name}_latest.pth'
        trained = torch.load(path, weights_only=True)['params_ema']
        bundled = whole.expert(name).state_dict()
        assert bundled.keys() == trained.keys()
        assert all(torch.equal(bundled[key], value) for key, value in trained.items())


def test_page_is_self_contained_and_shows_every_caption(smoke_demo):
    text = (smoke_demo / 'index.html').read_text()
    assert not re.search(r'https?:', text)
    assert all(source.startswith('data:image/') for source in re.findall(r'src="([^"]*)"', text))
    with open(smoke_demo / 'results' / 'demo_benchmark' / 'pictures.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and {row['dataset'] for row in rows} == {'seen', 'unseen mix'}
    for row in rows:
        assert html.escape(row['caption']) in text and row['node'] in text
    assert text.count('<figure>') >= len({(row['dataset'], row['caption']) for row in rows})


def test_benchmark_columns_obey_their_meaning(smoke_demo):
    """The best node is at least as good as any single one, and the routed node is the column of that node."""
    with open(smoke_demo / 'results' / 'demo_benchmark' / 'pictures.csv', newline='') as file:
        for row in csv.DictReader(file):
            best = float(row['best node'])
            assert all(best >= float(row[column]) for column in ('root', 'routed', 'by label'))
            assert row['node'].startswith(f'l{row["level"]}_')
    summary = json.loads((smoke_demo / 'results' / 'demo_benchmark' / 'summary.json').read_text())
    assert set(summary['leaf_type_accuracy']) == {'seen', 'unseen mix'}
    assert summary['tree_fingerprint'] == DegradationTree.load(smoke_demo / 'bundle').fingerprint


def test_saved_tree_is_shown_as_text_and_as_json(smoke_demo, capsys):
    assert cli.main(['tree', str(smoke_demo / 'bundle')]) == 0
    text = capsys.readouterr().out
    assert cli.main(['tree', 'show', str(smoke_demo / 'bundle')]) == 0
    assert capsys.readouterr().out == text
    lines = text.splitlines()
    assert len(lines) == 16 and re.match(r'l0_00  \d+ samples: ', lines[0])
    assert cli.main(['tree', 'show', str(smoke_demo / 'bundle'), '--json']) == 0
    nodes = json.loads(capsys.readouterr().out)
    assert [node['name'] for node in nodes] == sorted(re.search(r'l\d_\d\d', line)[0] for line in lines)


# ------------------------------------------------------------------------------------------------- the routed network


def test_routed_output_is_the_chosen_experts_own(net):
    lq = noise(1, 3, 48, 40)
    name = net.tree.nodes[int(net.route(lq).node_id[0])].name
    expert = Bundle(net.bundle.folder).expert(name)
    with torch.no_grad():
        assert torch.equal(net(lq), expert(lq))


def test_batch_of_different_pictures_equals_one_by_one(net):
    """Three pictures for three experts, in an order that is not the experts'."""
    lq = noise(3, 3, 48, 40)
    names = ['l2_04', 'l0_00', 'l1_03']
    together = net(lq, route_to(net, names))
    for i, name in enumerate(names):
        assert_close(together[i : i + 1], net(lq[i : i + 1], route_to(net, [name])), rtol=0, atol=1e-5)
    assert not torch.allclose(net(lq[:1], route_to(net, ['l1_03'])), together[:1], atol=1e-5)
    routed = net.route(lq)
    for i in range(3):
        alone = net.route(lq[i : i + 1])
        assert_close(routed.embedding[i], alone.embedding[0], rtol=0, atol=1e-5)
        assert_close(routed.leaf_probs[i], alone.leaf_probs[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize('size', [(1, 1), (37, 53), (8, 200), (5, 2)])
def test_odd_sizes_keep_their_size(net, size):
    output = net(noise(2, 3, *size))
    assert output.shape == (2, 3, *size) and torch.isfinite(output).all()


def test_one_picture_touches_one_expert(smoke_demo):
    fresh = UniRestorer(smoke_demo / 'bundle')
    assert not fresh.bank.cached
    lq = noise(1, 3, 32, 32)
    route = fresh.route(lq)
    assert not fresh.bank.cached  # routing alone needs none
    fresh(lq, route)
    assert list(fresh.bank.cached) == [fresh.tree.nodes[int(route.node_id[0])].name]


def test_small_memory_holds_one_expert(smoke_demo):
    small = UniRestorer(smoke_demo / 'bundle', cache_mb=0)
    for name in ('l1_00', 'l2_00', 'l1_00'):
        small(noise(1, 3, 16, 16), route_to(small, [name]))
        assert list(small.bank.cached) == [name]


def test_labels_keep_the_route_among_their_leaves(smoke_demo, net):
    lq = noise(4, 3, 48, 40)
    for label in net.tree.nodes[0].labels:
        told = UniRestorer(smoke_demo / 'bundle', 'instruction', [label])
        allowed = np.flatnonzero(net.tree.leaf_mask([label])).tolist()
        route = told.route(lq)
        assert set(route.leaf_id.tolist()) <= set(allowed)
        assert route.leaf_probs[:, [leaf for leaf in range(10) if leaf not in allowed]].sum() == 0
        assert torch.equal(route.node_id, net.route(lq, labels=[label]).node_id)


def test_oracle_takes_the_node_of_the_caption(smoke_demo):
    oracle = UniRestorer(smoke_demo / 'bundle', 'oracle')
    captions = [*list(oracle.tree.nodes[0].captions)[:2], 'unheard-of fog']
    route = oracle.route(noise(3, 3, 32, 32), captions=captions)
    assert route.node_id.tolist() == [*(oracle.tree.node_for_caption(caption) for caption in captions[:2]), 0]
    with pytest.raises(OptionError, match='needs the true captions'):
        oracle(noise(1, 3, 32, 32))


def test_wrong_modes_and_labels_are_refused_before_any_picture(smoke_demo):
    with pytest.raises(OptionError, match="no mode 'magic'; choose one of auto, instruction, oracle"):
        UniRestorer(smoke_demo / 'bundle', 'magic')
    with pytest.raises(OptionError, match='Instruction mode needs labels'):
        UniRestorer(smoke_demo / 'bundle', 'instruction')
    with pytest.raises(OptionError, match="no degradation 'rian'. Did you mean 'rain'"):
        UniRestorer(smoke_demo / 'bundle', 'instruction', ['rian'])


# ------------------------------------------------------------------------------------------------- BasicSR's tester


@pytest.mark.parametrize(
    'network',
    [
        {'network_g.mode': 'auto'},
        {'network_g.mode': 'oracle'},
        {'network_g.mode': 'instruction', 'network_g.labels': ['rain']},
    ],
    ids=['auto', 'oracle', 'instruction'],
)
def test_tester_of_basicsr_measures_the_bundle(smoke_demo, tmp_path, network):
    assert run_tester(tmp_path, metric_options(smoke_demo, {**network, 'val.save_img': True})) == 0
    log = next((tmp_path / 'results' / 'tiny_test').glob('*.log')).read_text()
    for name in ('cbsd68_seen', 'cbsd68_mix'):
        part = log[log.index(f'Validation {name}') :]
        assert re.search(r'# psnr: \d+\.\d+', part) and re.search(r'# ssim: -?\d\.\d+', part)
        assert re.search(rf'Experts chosen on {name}: l\d_\d\d [12]', log)
        assert len(list((tmp_path / 'results' / 'tiny_test' / 'visualization' / name).glob('*.png'))) == 2


def test_tester_agrees_with_the_benchmark(smoke_demo, tmp_path):
    """The same pictures, experts and metric, by two ways."""
    opt = metric_options(smoke_demo, {'network_g.mode': 'oracle'})
    data = stage_options(smoke_demo, 'benchmark')['datasets']
    assert run_tester(tmp_path, change(opt, {'datasets': data})) == 0
    log = next((tmp_path / 'results' / 'tiny_test').glob('*.log')).read_text()
    measured = [float(value) for value in re.findall(r'# psnr: (\d+\.\d+)', log)]
    table = json.loads((smoke_demo / 'results' / 'demo_benchmark' / 'summary.json').read_text())['table']
    assert measured == pytest.approx([row['by label'] for row in table if row['degradation'] == 'average'], abs=1e-3)


# ------------------------------------------------------------------------------------------------- other refusals


def test_one_lmdb_may_go_by_several_paths(smoke_demo, tmp_path, monkeypatch, registered):
    """LMDB opens a database once a process, and the demo itself used a relative path."""
    from basicsr.data import build_dataset

    monkeypatch.chdir(smoke_demo / 'options')
    (tmp_path / 'link.lmdb').symlink_to(smoke_demo / 'datasets' / 'test.lmdb')
    options = {**stage_options(smoke_demo, 'benchmark')['datasets']['test_1'], 'phase': 'test'}
    roots = (options['dataroot_gt'], '../datasets/test.lmdb', str(tmp_path / 'link.lmdb'))
    first, *others = (build_dataset({**options, 'dataroot_gt': root})[0]['gt'] for root in roots)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'clustering.level_sizes': [2, 4]}, r'level_sizes is \[2, 4\], but levels start with 1'),
        ({'clustering.level_sizes': [1, 4, 2]}, 'never shrink'),
        ({'clustering.level_sizes': None}, r'level_sizes is \[\]'),
        (
            {'clustering.levels': [1, 4]},
            "Unknown option 'clustering.levels'. Did you mean 'level_sizes'|Unknown option",
        ),
        ({'clustering': None}, "Option 'options.clustering' is missing"),
        ({'encoder': None}, "Option 'options.encoder' is missing"),
        ({'datasets': {'trian': {}}}, "Option 'datasets.train' is missing. Did you mean 'trian'"),
        ({'encoder.weights': 'nowhere.pth'}, 'no weights at nowhere.pth'),
        ({'datasets.train.dataroot_gt': 'nowhere.lmdb'}, 'nowhere.lmdb does not exist'),
        ({'datasets.train.max_pictures': 6, 'clustering.num_worker': 0}, '6 samples cannot fill 10 leaves'),
    ],
)
def test_clustering_refuses_wrong_options(smoke_demo, tmp_path, monkeypatch, capsys, changes, message):
    monkeypatch.chdir(tmp_path)
    path = write_options(tmp_path, stage_options(smoke_demo, 'clustering', changes))
    assert cli.main(['cluster', '-opt', str(path)]) == 1
    err = capsys.readouterr().err
    assert 'Traceback' not in err and re.search(message, err.splitlines()[-1]), err
    assert not (tmp_path / 'experiments').exists()


def test_clustering_again_gives_the_same_tree(smoke_demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opt = stage_options(smoke_demo, 'clustering', {'clustering.num_worker': 0})
    assert cli.main(['cluster', '-opt', str(write_options(tmp_path, opt))]) == 0
    ours, theirs = (root / 'experiments' / 'demo_clustering' for root in (tmp_path, smoke_demo))
    assert DegradationTree.load(ours).nodes == DegradationTree.load(theirs).nodes
    assert (ours / 'assignments.csv').read_text() == (theirs / 'assignments.csv').read_text()


@pytest.mark.parametrize('verb', ['cluster', 'train', 'test', 'benchmark'])
def test_missing_or_unreadable_option_file_is_one_sentence(tmp_path, capsys, verb):
    assert_refused(capsys, [verb, '-opt', tmp_path / 'nowhere.yml'], 'nowhere.yml')
    (tmp_path / 'bad.yml').write_text('name: [')
    assert_refused(capsys, [verb, '-opt', tmp_path / 'bad.yml'], 'not valid yml')


def test_demo_never_replaces_a_folder_of_something_else(tmp_path, capsys):
    (tmp_path / 'thesis.tex').write_text('years of work')
    assert_refused(capsys, ['demo', '-o', tmp_path, '--scale', 'smoke'], 'is no earlier demo')
    assert (tmp_path / 'thesis.tex').read_text() == 'years of work'
