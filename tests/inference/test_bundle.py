"""The bundle: whole and well matched, or refused with the name of what is wrong."""

from __future__ import annotations

import shutil

import pytest
import torch
import yaml

from basicsr_unirestorer.archs.unirestorer_arch import UniRestorer
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import DataError, OptionError, TreeMismatchError
from basicsr_unirestorer.inference.bundle import Bundle, write_bundle


@pytest.fixture
def bundle(smoke_demo, tmp_path):
    """A bundle of one's own, to damage."""
    return shutil.copytree(smoke_demo / 'bundle', tmp_path / 'bundle')


def edit(bundle, **changes) -> None:
    content = yaml.safe_load((bundle / 'bundle.yml').read_text())
    for key, value in changes.items():
        content.pop(key) if value is None else content.update({key: value})
    (bundle / 'bundle.yml').write_text(yaml.safe_dump(content))


def flip_bytes(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_parts_are_frozen_and_in_evaluation_mode(bundle):
    whole = Bundle(bundle)
    for net in (whole.encoder(), whole.router(), whole.expert('l2_03')):
        assert not net.training and not any(p.requires_grad for p in net.parameters())


def test_no_bundle_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / 'nowhere'):
        with pytest.raises(DataError, match='is no bundle .it has no bundle.yml.; give the bundle folder'):
            Bundle(folder)


@pytest.mark.parametrize('name', ['experts/l1_00.safetensors', 'encoder.safetensors', 'router.safetensors'])
def test_missing_file_is_named_at_once(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(DataError, match=f'lacks {name}; copy the whole bundle again'):
        Bundle(bundle)


@pytest.mark.parametrize('name', ['degradation_tree.json', 'degradation_tree.npz'])
def test_missing_or_damaged_tree_is_named(bundle, name):
    (bundle / name).write_bytes(b'\0')
    with pytest.raises(DataError, match='degradation_tree.json cannot be read'):
        Bundle(bundle)
    (bundle / name).unlink()
    with pytest.raises(DataError, match=f'No degradation tree at .*{name}'):
        Bundle(bundle)


def test_corrupted_expert_is_refused_when_it_is_needed_and_the_others_work(bundle):
    flip_bytes(bundle / 'experts' / 'l1_00.safetensors')
    whole = Bundle(bundle)
    whole.expert('l1_01')
    with pytest.raises(DataError, match='l1_00.safetensors is missing or damaged .its checksum differs.'):
        whole.expert('l1_00')


@pytest.mark.parametrize('name', ['encoder.safetensors', 'router.safetensors'])
def test_corrupted_encoder_or_router_is_refused(bundle, name):
    flip_bytes(bundle / name)
    with pytest.raises(DataError, match=f'{name} is missing or damaged'):
        UniRestorer(bundle)


def test_swapped_experts_are_refused(bundle):
    """Both files are sound, but each lies under the other's name."""
    a, b = (bundle / 'experts' / f'l1_0{i}.safetensors' for i in (0, 1))
    contents = a.read_bytes(), b.read_bytes()
    a.write_bytes(contents[1])
    b.write_bytes(contents[0])
    with pytest.raises(DataError, match='checksum differs'):
        Bundle(bundle).expert('l1_00')


@pytest.mark.parametrize(
    'content', [b'', b'{', b'- a', b'just words', b'format: 1', b'\xff\xfe\x00', b'a: &x [*x\n', b'format: [1]']
)
def test_damaged_yml_is_refused(bundle, content):
    (bundle / 'bundle.yml').write_bytes(content)
    with pytest.raises(DataError, match=r'bundle.yml is damaged \([^\n]*\); copy the bundle again'):
        Bundle(bundle)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'format': 99}, 'has bundle format 99 but this version reads format 1'),
        ({'router': None}, r"damaged \('router'\)"),
        ({'files': ['a']}, 'files is a list'),
        ({'experts': {}}, 'lacks the expert of node l0_00'),
    ],
)
def test_yml_with_other_content_is_refused(bundle, changes, message):
    edit(bundle, **changes)
    with pytest.raises(DataError, match=message):
        Bundle(bundle)


def test_network_that_this_version_lacks_is_refused(bundle):
    edit(bundle, encoder={'type': 'EncoderOfTomorrow'})
    with pytest.raises(OptionError, match="encoder.type' names 'EncoderOfTomorrow'"):
        Bundle(bundle).encoder()


def test_options_that_do_not_fit_the_weights_are_refused(bundle):
    edit(bundle, encoder={'type': 'CompactDegradationEncoder', 'width': 8})
    with pytest.raises(DataError, match='encoder.safetensors does not fit CompactDegradationEncoder'):
        Bundle(bundle).encoder()


def test_tree_of_another_training_is_refused(bundle):
    DegradationTree.star(3, embed_dim=512).save(bundle / 'degradation_tree.json')
    with pytest.raises(TreeMismatchError, match='holds tree [0-9a-f]{16}, but its router was trained on tree'):
        Bundle(bundle)


def test_tree_built_with_another_encoder_is_refused(bundle):
    edit(bundle, encoder_fingerprint='0' * 16)
    with pytest.raises(TreeMismatchError, match='holds a tree built with another encoder'):
        Bundle(bundle)


# ------------------------------------------------------------------------------- half precision


def parts_of(bundle: Bundle) -> list:
    """All that ``write_bundle`` takes beside a folder."""

    def part(options, network):
        return options, lambda: network().state_dict()

    content = bundle.content
    experts = {
        name: part(options, lambda name=name: bundle.expert(name)) for name, options in content['experts'].items()
    }
    return [bundle.tree, part(content['encoder'], bundle.encoder), part(content['router'], bundle.router), experts]


def test_half_precision_takes_half_the_space_and_restores_alike(bundle, tmp_path):
    whole = Bundle(bundle)
    write_bundle(tmp_path / 'half', *parts_of(whole), precision='fp16')
    half = Bundle(tmp_path / 'half')
    sizes = [(folder / 'experts' / 'l0_00.safetensors').stat().st_size for folder in (bundle, tmp_path / 'half')]
    assert sizes[1] < 0.6 * sizes[0]
    lq = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    for part in (lambda b: b.expert('l2_03')(lq), lambda b: b.encoder().embed(lq)):
        assert all(p.dtype == torch.float32 for p in half.encoder().parameters())
        torch.testing.assert_close(part(half), part(whole), rtol=0, atol=5e-3)
    UniRestorer(tmp_path / 'half')(lq)  # encoder, tree and router still belong together


def test_weights_that_half_precision_cannot_hold_leave_no_bundle(bundle, tmp_path):
    tree, encoder, router, experts = parts_of(Bundle(bundle))
    huge = {key: value * 1e6 + 1e6 for key, value in encoder[1]().items()}
    with pytest.raises(DataError, match=r'encoder: the weight \S+ is not finite or too large for torch.float16'):
        write_bundle(tmp_path / 'half', tree, (encoder[0], lambda: huge), router, experts, precision='fp16')
    assert not (tmp_path / 'half').exists()


def test_unknown_precision_is_refused(bundle, tmp_path):
    with pytest.raises(OptionError, match="precision is 'fp8', expected one of fp32, fp16"):
        write_bundle(tmp_path / 'half', *parts_of(Bundle(bundle)), precision='fp8')
