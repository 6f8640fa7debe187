"""Growing a trained tree by a degradation: three commands, after which all that was there is as it was."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr_unirestorer import cli
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.inference.bundle import Bundle
from tests.pipeline_fixtures import assert_refused, change, latest_weights, stage_options, train, write_options

SNOW = {'name': 'snow', 'degradations': {'snow': {'size': ['S', 'L'], 'density': 3}}}
NEW = ['l1_05', 'l2_10', 'l2_11']


def grow_options(demo: Path, stage: str, name: str, changes: dict) -> dict:
    """Options of a stage of the smoke demo on its samples and on snowy ones."""
    opt = change(stage_options(demo, stage), {'name': name, **changes})
    data = opt['datasets']['train']
    gt, recipe, variants = (data.pop(key) for key in ('dataroot_gt', 'recipe', 'variants'))
    data.pop('max_samples', None)  # of the routing stage
    old = {'name': 'old', 'dataroot_gt': gt, 'recipe': recipe, 'variants': variants}
    data['sources'] = [old, {'name': 'snow', 'dataroot_gt': gt, 'recipe': SNOW, 'max_pictures': 24}]
    return opt


def grow_stage(demo: Path, **changes) -> dict:
    grow = {'tree': str(demo / 'experiments' / 'demo_clustering'), 'new': ['snow']}
    return grow_options(
        demo,
        'clustering',
        'grow',
        {'grow': grow, 'clustering.level_sizes': [1, 1, 2], 'clustering.num_crops': 2} | changes,
    )


@pytest.fixture(scope='module')
def grown(smoke_demo, tmp_path_factory) -> Path:
    """A folder in which the smoke demo's tree was grown, and new experts and a router were trained."""
    root = tmp_path_factory.mktemp('grown')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert cli.main(['tree', 'grow', '-opt', str(write_options(root, grow_stage(smoke_demo), 'grow'))]) == 0
    old = smoke_demo / 'experiments' / 'demo_experts' / 'models'
    files = {
        f'datasets.train.{key}': str(root / 'experiments' / 'grow' / file)
        for key, file in (('tree', 'degradation_tree.json'), ('assignments', 'assignments.csv'))
    }
    lora = {'rank': 1, 'alpha': 2, 'nodes': ['l2_11']}
    batch = {'batch_size': 2, 'steps_per_level': [9, 2, 2], 'experts': NEW}
    changes = {**files, 'datasets.train.expert_batch': batch, 'train.total_iter': 6, 'experts.lora': lora}
    experts = grow_options(smoke_demo, 'experts', 'new', {**changes, 'path.pretrain_network_experts': str(old)})
    assert train(root, experts) == 0
    folders = [str(root / 'experiments' / 'new' / 'models'), str(old)]
    changes = {
        **files,
        'network_g.tree': files['datasets.train.tree'],
        'experts.weights': folders,
        'experts.lora': lora,
    }
    assert train(root, grow_options(smoke_demo, 'routing', 'routing', changes)) == 0
    return root


def test_new_samples_are_in_new_leaves_and_old_ones_where_they_were(smoke_demo, grown):
    tree = DegradationTree.load(grown / 'experiments' / 'grow')
    assert tree.level_sizes == [1, 6, 12] and tree.build['grown'][0]['nodes'] == NEW

    def leaves(folder: Path) -> dict[str, str]:
        with open(folder / 'assignments.csv', newline='') as file:
            return {row['sample_id']: row['leaf'] for row in csv.DictReader(file)}

    before, after = leaves(smoke_demo / 'experiments' / 'demo_clustering'), leaves(grown / 'experiments' / 'grow')
    assert {leaf for sample, leaf in after.items() if sample.startswith('snow/')} == {'l2_10', 'l2_11'}
    old = {sample.removeprefix('old/'): leaf for sample, leaf in after.items() if sample.startswith('old/')}
    assert old.keys() == before.keys() and not set(old.values()) & {'l2_10', 'l2_11'}
    report = json.loads((grown / 'experiments' / 'grow' / 'quality.json').read_text())
    assert report['notes'][0].startswith('New nodes: l1_05, l2_10, l2_11. The nearest centres lead ')


def test_old_nodes_keep_names_centres_and_parents(smoke_demo, grown):
    before = DegradationTree.load(smoke_demo / 'experiments' / 'demo_clustering')
    after = DegradationTree.load(grown / 'experiments' / 'grow')
    for node_id, node in enumerate(before.nodes):
        assert np.array_equal(after.centres[after.node_id(node.name)], before.centres[node_id])


def test_only_new_experts_are_trained_and_the_bundle_holds_the_old_ones_bit_for_bit(smoke_demo, grown):
    weights = latest_weights(grown, 'new')
    assert set(weights) == {f'net_{name}_latest.pth' for name in NEW}
    assert all('lora' in key for key in weights['net_l2_11_latest.pth']['params'])  # one as factors on the root
    assert not any('lora' in key for key in weights['net_l2_10_latest.pth']['params'])  # the others in full
    bundle, old = Bundle(grown / 'experiments' / 'routing' / 'bundle'), Bundle(smoke_demo / 'bundle')
    assert bundle.tree.fingerprint == DegradationTree.load(grown / 'experiments' / 'grow').fingerprint
    for node in old.tree.nodes:
        one, other = bundle.expert(node.name).state_dict(), old.expert(node.name).state_dict()
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert bundle.expert('l2_11') is not None and bundle.router().num_leaves == 12


def test_the_new_degradation_can_be_asked_for(grown):
    from basicsr_unirestorer.archs.unirestorer_arch import UniRestorer

    net = UniRestorer(grown / 'experiments' / 'routing' / 'bundle', mode='instruction', labels=['large snow'])
    picture = torch.rand(2, 3, 64, 72, generator=torch.Generator().manual_seed(0))
    route = net.route(picture)
    assert all(net.tree.nodes[net.tree.leaves[leaf]].name in ('l2_10', 'l2_11') for leaf in route.leaf_id.tolist())
    assert net(picture).shape == picture.shape


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'grow.new': ['snwo']}, "grow.new names the source 'snwo'. Did you mean 'snow'"),
        ({'grow.under': 'l2_03'}, 'l2_03 is a leaf, under which nothing can grow'),
        ({'clustering.level_sizes': [1, 2]}, 'a branch under l0_00 takes 3 numbers'),
        ({'grow.tre': 'x'}, "Unknown option 'grow.tre'. Did you mean 'tree'"),
        ({'encoder.width': 6}, 'does not fit CompactDegradationEncoder'),
        ({'grow': None}, "Option 'options.grow' is missing"),
    ],
)
def test_growing_wrongly_ends_in_a_sentence_and_writes_nothing(
    changes, message, smoke_demo, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    options = write_options(tmp_path, change(grow_stage(smoke_demo), changes))
    assert_refused(capsys, ['tree', 'grow', '-opt', options], message)
    assert not list((tmp_path / 'experiments').glob('*'))


def test_a_tree_of_another_encoder_is_not_grown(smoke_demo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = smoke_demo / 'experiments' / 'demo_encoder' / 'models' / 'net_g_latest.pth'
    weights = torch.load(path, weights_only=True)
    torch.save({'params': {key: value + 1 for key, value in weights['params'].items()}}, tmp_path / 'other.pth')
    opt = change(grow_stage(smoke_demo), {'encoder.weights': str(tmp_path / 'other.pth')})
    assert cli.main(['tree', 'grow', '-opt', str(write_options(tmp_path, opt))]) == 1
    assert 'was built with another encoder than these options name' in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / 'experiments').glob('*'))
