"""DACLIPEncoder: parity with golden embeddings, texts and resizing; towers, crops, other files, bad input."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from basicsr_unirestorer.archs import clip_tokens
from basicsr_unirestorer.archs.building import load_into
from basicsr_unirestorer.archs.clip_tokens import tokenize
from basicsr_unirestorer.archs.compact_encoder_arch import native_crops
from basicsr_unirestorer.archs.daclip_encoder_arch import DACLIPCaptionEncoder, DACLIPEncoder, whole_picture
from basicsr_unirestorer.errors import DataError, OptionError
from tests.parity.golden import FOLDER, Golden, make_input, samples

TINY = {
    'embed_dim': 16,
    'vision_cfg': {'image_size': 32, 'layers': 2, 'width': 64, 'patch_size': 16},
    'text_cfg': {'vocab_size': 49408, 'width': 16, 'heads': 2, 'layers': 1},
}
FIXTURES = ['daclip_small', pytest.param('daclip_vitb32_release', marks=pytest.mark.slow)]


def tiny(**changes) -> DACLIPEncoder:
    torch.manual_seed(0)
    return DACLIPEncoder(**{**TINY, **changes}).eval()


def golden_encoder(name: str) -> tuple[Golden, DACLIPEncoder]:
    golden = Golden(name, seed_key=lambda key: f'clip.{key}' if key.startswith('visual.') else key)
    net = DACLIPEncoder(**golden.config)
    assert list(net.state_dict()) == list(golden.shapes)
    golden.fill(net)
    return golden, net


@pytest.mark.parametrize('name', FIXTURES)
@torch.no_grad()
def test_embeddings_and_intermediates_equal_the_golden_ones(name):
    golden, net = golden_encoder(name)
    probes = [key.removeprefix('probe.') for key in golden.arrays if key.startswith('probe.')]
    for case in golden.facts['cases']:
        images = torch.from_numpy(make_input({**case['input'], 'ramp': False}))
        seen = {}
        watch = probes if case['name'] == golden.facts['probe_case'] else []
        hooks = [net.get_submodule(p).register_forward_hook(_keep(seen, p)) for p in watch]
        image, degradation = net.encode_image(images)
        for hook in hooks:
            hook.remove()
        alone, nothing = net.encode_image(images, control=False)
        assert nothing is None
        assert torch.equal(net.encode_degradation(images), degradation)
        pairs = {'image_features': image, 'degra_features': degradation, 'image_features_no_control': alone}
        for key, ours in pairs.items():
            expected = torch.from_numpy(golden.arrays[f'{key}.{case["name"]}'])
            assert (ours - expected).abs().max() < 2e-5, (case['name'], key)
        for probe, ours in seen.items():
            # the fixture stores what transformers return as (tokens, n, width)
            ours = ours.transpose(0, 1) if 'resblocks' in probe or 'zero_modules' in probe else ours
            expected = torch.from_numpy(golden.arrays[f'probe.{probe}'])
            assert (samples(ours) - expected).abs().max() < 2e-5, probe


def _keep(seen: dict, name: str):  # noqa: ANN202
    def hook(_module, _args, out) -> None:  # noqa: ANN001
        seen[name] = out

    return hook


@pytest.mark.parametrize('name', FIXTURES)
@torch.no_grad()
def test_tokens_and_text_embeddings_equal_the_golden_ones(name):
    pytest.importorskip('open_clip')
    golden, net = golden_encoder(name)
    tokens = tokenize(golden.facts['text']['strings'])
    assert torch.equal(tokens, torch.from_numpy(golden.arrays['token_ids']).long())
    features = net.encode_text(tokens)
    assert (features - torch.from_numpy(golden.arrays['text_features'])).abs().max() < 2e-5
    captions = DACLIPCaptionEncoder(golden.config['embed_dim'], golden.config['text_cfg'])
    load_into(captions, net.state_dict(), 'test')
    normal = captions(golden.facts['text']['strings'])
    assert (normal - torch.from_numpy(golden.arrays['text_features_normalized'])).abs().max() < 2e-5


@pytest.mark.parametrize('index', range(3))
def test_resized_pictures_are_the_golden_ones_within_a_level(index):
    stored = np.load(FOLDER / 'daclip_preprocess.npz')
    lq = torch.from_numpy(stored[f'image.{index}']).permute(2, 0, 1)[None] / 255
    ours = whole_picture(lq, 224)[0] * 255
    expected = torch.from_numpy(stored[f'resized_u8.{index}']).float()
    assert (ours - expected).abs().max() <= 1
    assert (ours.round() != expected).float().mean() < 0.01


@pytest.mark.parametrize('resize', [False, True])
@pytest.mark.parametrize('size', [(8, 8), (1, 40), (32, 32), (33, 90), (200, 50)])
def test_embeds_pictures_of_any_size(resize, size):
    lq = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    embedding = tiny(resize=resize, towers=['control']).embed(lq)
    assert embedding.shape == (2, 16)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


@torch.no_grad()
def test_a_picture_is_embedded_as_the_mean_of_its_native_crops():
    net = tiny(normalize=False, num_crops=3)
    lq = torch.rand(1, 3, 70, 50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net.embed(lq), net(native_crops(lq, 32, 3)).mean(dim=0, keepdim=True))
    assert (tiny().embed(lq).norm() - 1).abs() < 1e-6 < (net.embed(lq).norm() - 1).abs()


def test_the_controller_alone_embeds_the_same_and_is_all_that_is_built():
    whole, alone = tiny(), tiny(towers=['control'])
    assert all(key.startswith('visual_control.') for key in alone.state_dict())
    load_into(alone, whole.state_dict(), 'test')
    crops = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(alone(crops), whole(crops))


def test_only_the_controller_is_trained():
    net = tiny()
    net(torch.rand(2, 3, 32, 32)).square().sum().backward()
    moved = {name for name, p in net.named_parameters() if p.requires_grad}
    assert moved and all(name.startswith('visual_control.') for name in moved)
    silent = {name for name in moved if '.zero_modules.' in name}  # they speak to the image tower, not to the embedding
    assert {name for name, p in net.named_parameters() if p.grad is not None} == moved - silent


@torch.no_grad()
def test_plain_clip_becomes_a_controller_that_says_nothing_yet():
    whole = tiny()
    clip = {key.removeprefix('clip.'): value for key, value in whole.state_dict().items() if key.startswith('clip.')}
    net = load_into(tiny(), clip, 'clip.pt')
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    content, degradation = net.encode_image(images)
    alone, _ = whole.encode_image(images, control=False)
    assert torch.equal(content, alone)
    assert torch.equal(degradation, alone)  # a copy of the image tower


def test_a_part_of_a_whole_release_is_enough():
    state = {f'daclip_model.{key}': value for key, value in tiny().state_dict().items()}
    state['l0_experts.0.weight'] = torch.zeros(1)
    net = load_into(tiny(towers=['control']), state, 'model.pth')
    assert torch.equal(net.visual_control.proj, state['daclip_model.visual_control.proj'])


def test_weights_of_something_else_are_named():
    with pytest.raises(DataError, match='visual_control.class_embedding is missing'):
        load_into(tiny(towers=['control']), {'a.weight': torch.zeros(1)}, 'other.pth')


@pytest.mark.parametrize('shape', [(1, 3, 31, 32), (1, 1, 32, 32), (1, 4, 32, 32), (3, 32, 32)])
def test_crops_of_another_shape_are_refused(shape):
    with pytest.raises(DataError, match=r'takes RGB crops of shape \(n, 3, 32, 32\), but got'):
        tiny()(torch.rand(shape))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'vision_cfg': {'widht': 64}}, "Unknown option 'vision_cfg.widht'. Did you mean 'width'"),
        ({'text_cfg': {'depth': 2}}, "Unknown option 'text_cfg.depth'"),
        ({'towers': ['control', 'audio']}, "Unknown option 'towers.audio'"),
        ({'towers': ['image']}, "needs 'control', which embeds degradations"),
    ],
)
def test_options_that_cannot_be_are_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        tiny(**changes)


def test_a_tower_that_was_not_built_is_named():
    net = tiny(towers=['control'])
    with pytest.raises(OptionError, match=r'has no image tower; build it with towers: \[control, image\]'):
        net.encode_image(torch.rand(1, 3, 32, 32))
    with pytest.raises(OptionError, match='has no text tower'):
        net.encode_text(torch.zeros(1, 77, dtype=torch.int64))


def test_a_missing_tokenizer_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'open_clip.tokenizer', None)
    clip_tokens._tokenizer.cache_clear()
    with pytest.raises(OptionError, match='pip install "basicsr-unirestorer.clip.".*CaptionEncoder., which needs none'):
        tokenize(['large noise'])
    clip_tokens._tokenizer.cache_clear()
