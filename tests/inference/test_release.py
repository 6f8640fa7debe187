"""convert-release: a synthetic release becomes a bundle that restores; whatever is wrong with a file is named."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from basicsr_unirestorer.archs.building import make_network
from basicsr_unirestorer.archs.router_arch import pick_node
from basicsr_unirestorer.archs.unirestorer_arch import UniRestorer, restore_by_node
from basicsr_unirestorer.cli import main
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.inference import release
from basicsr_unirestorer.inference.bundle import Bundle
from tests.parity.golden import FOLDER, Golden, make_input
from tests.release_fixtures import TOY_EXPERTS, filled, release_shapes, toy_release, write_toy_description


@pytest.fixture(scope='module')
def toy(tmp_path_factory, registered):
    return write_toy_description(tmp_path_factory.mktemp('toy_release'))


@pytest.fixture
def params(toy):
    return toy_release(toy)


@pytest.fixture
def convert(toy, tmp_path, monkeypatch):
    """Save a state dict and run the command on it; returns its exit code and the bundle folder."""
    monkeypatch.setattr(release, 'RELEASE', toy)

    def run(content, *arguments) -> tuple[int, str]:
        torch.save(content, tmp_path / 'model.pth')
        return main(['convert-release', str(tmp_path / 'model.pth'), str(tmp_path / 'bundle'), *arguments]), (
            tmp_path / 'bundle'
        )

    return run


@dataclass
class Code:
    """An object that a state dict has no business to hold."""

    text: str = 'run me'


# ------------------------------------------------------------------------------------------------- the release


def test_the_tree_of_the_release_has_the_published_paths():
    tree = DegradationTree.load(release.RELEASE)
    assert tree.level_sizes == [1, 7, 22]
    assert tree.paths.tolist() == Golden('router_release').facts['expert_indices']


def test_every_listed_entry_of_the_release_is_expected_and_no_other(registered):
    """The real names and shapes pass all checks; the one network that no leaf leads to is told."""
    shapes = release_shapes()
    storage = torch.zeros(())
    params = {key: storage.expand(shape) for key, shape in shapes.items()}
    parts = release.split_release(params)
    nodes = {node.name for node in DegradationTree.load(release.RELEASE).nodes}
    assert set(parts) - nodes == {'encoder', 'router', 'l2_22'} and not parts['other']
    known = yaml.safe_load((release.RELEASE / 'networks.yml').read_text())
    types = [release.fitting_options(parts[name], known['experts'], name)['type'] for name in sorted(nodes)]
    assert types[5:8] == ['DehazeFormerExpert', 'RetinexFormerExpert', 'NAFNetLocalExpert']
    assert types.count('LoRARestormerExpert') == 4


def test_a_converted_release_restores_as_its_networks_do(convert, params, capsys):
    code, folder = convert({'params': params})
    assert code == 0
    assert 'l2_04 is in the file, but no leaf leads to it: left out' in capsys.readouterr().out
    net = UniRestorer(folder)
    lq = torch.rand(2, 3, 21, 34, generator=torch.Generator().manual_seed(0))
    parts = release.split_release(params)
    for number, node in enumerate(net.tree.nodes):
        options = TOY_EXPERTS[number % len(TOY_EXPERTS)]
        theirs = make_network(options, 'test').eval()
        theirs.load_state_dict(parts[node.name])
        with torch.no_grad():
            assert (net.expert(number)(lq) - theirs(lq)).abs().max() < 1e-5, options['type']
    route = net.route(lq)
    assert route.embedding.shape == (2, 16)
    expected = restore_by_node(lq, route.node_id, net.expert)
    assert torch.equal(net(lq), expected)
    assert sum(p.numel() for p in net.encoder.parameters()) < sum(v.numel() for v in parts['encoder'].values()) / 2


def test_clip_may_be_kept(convert, params):
    code, folder = convert({'params': params}, '--with-clip')
    assert code == 0
    encoder = Bundle(folder).encoder()
    wanted = release.split_release(params)['encoder']
    assert all(torch.equal(value, wanted[key]) for key, value in encoder.state_dict().items())


def test_a_bare_state_dict_with_the_prefix_of_parallel_training_is_understood(convert, params):
    assert convert({f'module.{key}': value for key, value in params.items()})[0] == 0


def test_safetensors_are_read_too(toy, params, tmp_path, monkeypatch):
    monkeypatch.setattr(release, 'RELEASE', toy)
    save_file({key: value.clone().contiguous() for key, value in params.items()}, tmp_path / 'model.safetensors')
    assert main(['convert-release', str(tmp_path / 'model.safetensors'), str(tmp_path / 'bundle')]) == 0


def _rename(params):
    params['l1_experts.0.patch_embed.projection.weight'] = params.pop('l1_experts.0.patch_embed.proj.weight')


def _reshape(params):
    params['l1_experts.0.output.weight'] = torch.zeros(3, 4, 3, 3)


def _integers(params):
    params['l1_experts.0.output.weight'] = params['l1_experts.0.output.weight'].long()


def _other_width(params):
    wider = {**TOY_EXPERTS[1], 'dim': 16}
    net = make_network(wider, 'test')
    params.update({f'l1_experts.0.{key}': value for key, value in net.state_dict().items()})


def _no_expert(params):
    for key in [key for key in params if key.startswith('l2_experts.1.')]:
        del params[key]


def _foreign(params):
    params['visitor.weight'] = torch.zeros(1)


def _encoder(params):
    del params['daclip_model.visual_control.proj']


def _router(params):
    params['lf_gate.0.weight'] = torch.zeros(6, 16)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (_rename, r'expert l1_00 of .*: patch_embed.proj.weight is missing; patch_embed.projection.weight is unknown'),
        (_reshape, r'output.weight is \(3, 4, 3, 3\) instead of \(3, 16, 3, 3\)'),
        (_integers, 'output.weight is torch.int64 instead of a float type'),
        (_other_width, r'l1_00 of .* is no RestormerExpert .* and \d+ more; it looks like a RestormerExpert .*dim: 16'),
        (_no_expert, 'is not the release of UniRestorer: l2_01 is missing'),
        (_foreign, 'is not the release of UniRestorer: visitor.weight is unknown'),
        (_encoder, 'daclip_model of .* visual_control.proj is missing'),
        (_router, r'the router of .* leaf_gate.weight is \(6, 16\) instead of \(8, 16\)'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_release_is_named_and_nothing_is_written(convert, params, capsys, damage, message):
    damage(params)
    code, folder = convert({'params': params})
    error = capsys.readouterr().err
    assert code == 1
    assert re.search(message, error), error
    assert error.count('\n') == 1
    assert sorted(path.name for path in folder.parent.iterdir()) == ['model.pth']


def test_a_file_with_code_is_not_opened(convert, capsys):
    code, folder = convert({'params': Code()})
    assert code == 1
    error = capsys.readouterr().err
    assert 'test_release.Code, which would run code' in error
    assert not folder.exists()


@pytest.mark.parametrize('content', [{'params': 3}, [1, 2], {}, {'epoch': torch.zeros(1), 'name': 'x'}])
def test_a_file_without_weights_is_refused(convert, capsys, content):
    assert convert(content)[0] == 1
    assert 'holds no state dict' in capsys.readouterr().err


@pytest.mark.parametrize('keep', [0, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(toy, params, tmp_path, capsys, keep):
    path = tmp_path / 'model.pth'
    torch.save({'params': params}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep == 100 else keep * len(content))])
    assert main(['convert-release', str(path), str(tmp_path / 'bundle')]) == 1
    assert 'cannot be read as weights' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['model.pth']


def test_an_existing_folder_is_safe(convert, params, tmp_path, capsys):
    (tmp_path / 'bundle').mkdir()
    (tmp_path / 'bundle' / 'holiday.png').write_bytes(b'x')
    assert convert({'params': params})[0] == 1
    assert 'exists; choose another folder, or replace it with --overwrite' in capsys.readouterr().err
    assert convert({'params': params}, '--overwrite')[0] == 1
    assert 'exists and is no bundle, so it is not replaced' in capsys.readouterr().err
    assert (tmp_path / 'bundle' / 'holiday.png').read_bytes() == b'x'


# ------------------------------------------------------------------------------------------------- single networks


@pytest.mark.parametrize('options', TOY_EXPERTS, ids=lambda options: options['type'])
def test_a_published_network_becomes_a_bundle_of_one_expert(convert, options):
    net = make_network(options, 'test').eval()
    code, folder = convert({'params': net.state_dict()}, '--option', f'type={options["type"]}')
    assert code == 0
    lq = torch.rand(1, 3, 17, 23, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (UniRestorer(folder)(lq) - net(lq)).abs().max() < 1e-5


def test_a_network_takes_the_place_of_an_expert(smoke_demo, tmp_path, registered):
    folder = shutil.copytree(smoke_demo / 'bundle', tmp_path / 'bundle')
    before = (folder / 'bundle.yml').read_text()
    net = make_network(TOY_EXPERTS[1], 'test').eval()
    torch.save({'params': net.state_dict()}, tmp_path / 'restormer.pth')
    assert main(['convert-release', str(tmp_path / 'restormer.pth'), str(folder), '--node', 'l1_01']) == 0
    lq = torch.rand(1, 3, 16, 16)
    bundle = Bundle(folder)
    with torch.no_grad():
        assert torch.equal(bundle.expert('l1_01')(lq), net(lq))
    assert bundle.content['experts']['l1_00'] == Bundle(smoke_demo / 'bundle').content['experts']['l1_00']
    assert (smoke_demo / 'bundle' / 'bundle.yml').read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ['bundle', 'restormer.pth']


def test_weights_of_no_known_network_are_refused(convert, capsys):
    assert convert({'fc.weight': torch.zeros(2, 2)})[0] == 1
    assert 'holds no network of this package (its first entries: fc.weight)' in capsys.readouterr().err


def test_half_of_a_network_is_refused(convert, capsys):
    state = make_network(TOY_EXPERTS[0], 'test').state_dict()
    state.pop('latent.0.ffn.project_in.weight')
    assert convert(state)[0] == 1
    error = capsys.readouterr().err
    assert 'latent.0.ffn.project_in.weight is missing; it looks like a RestormerExpert' in error
    assert error.count('\n') == 1


def test_half_precision_weights_are_widened(convert):
    net = make_network(TOY_EXPERTS[4], 'test').eval().half()
    code, folder = convert(net.state_dict())
    assert code == 0
    assert {p.dtype for p in Bundle(folder).expert('l0_00').parameters()} == {torch.float32}


@pytest.mark.parametrize('arguments', [['--option', 'width'], ['--node', 'l0_00']])
def test_wrong_use_is_refused(convert, params, capsys, arguments):
    assert convert({'params': params}, *arguments)[0] == 1
    assert 'takes' in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- full size


@pytest.fixture(scope='module')
def full_bundle(tmp_path_factory, registered):
    """The real release's size: 4.5 GB of regenerated weights, converted in a process of its own."""
    folder = tmp_path_factory.mktemp('full_release')
    torch.save({'params': filled(release_shapes())}, folder / 'model.pth')
    size = (folder / 'model.pth').stat().st_size
    command = [sys.executable, '-m', 'basicsr_unirestorer.cli', 'convert-release', 'model.pth', 'bundle']
    subprocess.run(command, cwd=folder, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    (folder / 'model.pth').unlink()
    return folder / 'bundle', peak / size


@pytest.mark.slow
def test_converting_takes_well_under_two_copies_of_the_file(full_bundle):
    assert full_bundle[1] < 1.5


@pytest.mark.slow
@torch.no_grad()
def test_full_release_restores_as_the_official_code(full_bundle):
    """All thirty experts on one picture, a batch of ten experts, and three pictures end to end."""
    facts = json.loads((FOLDER / 'unirestorer_release_e2e.json').read_text())
    stored = {key: torch.from_numpy(value) for key, value in np.load(FOLDER / 'unirestorer_release_e2e.npz').items()}
    net = UniRestorer(full_bundle[0], cache_mb=1024)
    for node_id, expected in enumerate(stored['expert_outputs']):
        assert (net.expert(node_id)(stored['lq'])[0] - expected).abs().max() < 1e-5, node_id
    dispatch = facts['dispatch']
    features = torch.from_numpy(np.load(FOLDER / 'router_release.npz')['features'][dispatch['rows']])
    out = net.router(features)
    nodes = pick_node(out.leaf_logits, out.level_logits, net.tree)
    assert nodes.tolist() == dispatch['experts']
    assert (restore_by_node(stored['dispatch.lq'], nodes, net.expert) - stored['dispatch.output']).abs().max() < 1e-5
    recipes = zip(facts['e2e']['daclip_inputs'], facts['e2e']['daclip_crc32'], strict=True)
    images = [make_input({**recipe, 'ramp': False, 'crc32': crc32}) for recipe, crc32 in recipes]
    embedding = net.encoder.encode_degradation(torch.from_numpy(np.concatenate(images)))
    out = net.router(embedding)
    pairs = {'degra_features': embedding, 'mu': out.e_d, 'sigma_head': out.e_g, 'lf_logits': out.leaf_logits}
    for name, ours in {**pairs, 'layer_logits': out.level_logits}.items():
        assert (ours - stored[f'e2e.{name}']).abs().max() < 2e-5, name
    nodes = pick_node(out.leaf_logits, out.level_logits, net.tree)
    assert nodes.tolist() == stored['e2e.expert'].tolist()
    assert (restore_by_node(stored['e2e.lq'], nodes, net.expert) - stored['e2e.output']).abs().max() < 1e-5
