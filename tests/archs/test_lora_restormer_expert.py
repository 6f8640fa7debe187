"""LoRARestormerExpert: parity with golden outputs, merged and not; options read off weights; bad input."""

from __future__ import annotations

import pytest
import torch

from basicsr_unirestorer.archs.lora import fuse_lora, lora_state, merge_lora
from basicsr_unirestorer.archs.lora_restormer_expert_arch import LoRARestormerExpert
from basicsr_unirestorer.archs.restormer_expert_arch import RestormerExpert
from basicsr_unirestorer.errors import DataError, OptionError
from tests.parity.golden import Golden, assert_parity, samples

TINY = {'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1, 'heads': [1, 2, 2, 4]}
FIXTURES = ['lorarestormer_small', pytest.param('lorarestormer_release', marks=pytest.mark.slow)]


def tiny(**changes) -> LoRARestormerExpert:
    torch.manual_seed(0)
    return LoRARestormerExpert(**{**TINY, 'r': [1, 2, 2, 3], 'lora_alpha': [2, 4, 4, 6], **changes})


@pytest.mark.parametrize('name', FIXTURES)
def test_outputs_and_intermediates_equal_the_golden_ones(name):
    assert_parity(name, LoRARestormerExpert)


@pytest.mark.parametrize('name', FIXTURES)
def test_merged_weights_and_outputs_equal_the_golden_ones(name):
    golden = Golden(name)
    net = LoRARestormerExpert(**golden.config)
    golden.fill(net)
    wrong = {key: value for key, value in golden.differences(merge_lora(net)).items() if not value < 1e-5}
    assert not wrong
    fuse_lora(net)
    stored = [key for key in golden.arrays if key.startswith('merged.')]
    assert stored
    for key in stored:
        weight = net.state_dict()[key.removeprefix('merged.').replace('.conv.weight', '.weight')]
        assert (samples(weight) - torch.from_numpy(golden.arrays[key])).abs().max() < 1e-6, key


def test_a_fused_network_is_a_restormer():
    net = tiny().eval()
    for key, value in lora_state(net).items():
        value.copy_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(len(key))))
    lq = torch.rand(1, 3, 17, 24, generator=torch.Generator().manual_seed(0))
    plain = RestormerExpert(**TINY).eval()
    with torch.no_grad():
        before = net(lq)
        plain.load_state_dict(fuse_lora(net).state_dict())
        assert (plain(lq) - before).abs().max() < 1e-5


@pytest.mark.parametrize('name', ['lorarestormer_small', 'lorarestormer_release'])
def test_options_are_read_off_the_weights_but_for_alpha(name):
    golden = Golden(name)
    options = LoRARestormerExpert.options_of(golden.shapes)
    assert options == {**golden.config, 'lora_alpha': [2 * rank for rank in golden.config['r']]}
    assert LoRARestormerExpert.options_of(Golden('restormer_withbias_small').shapes) is None


def test_only_the_factors_get_gradients():
    net = tiny()
    for key, value in lora_state(net).items():
        value.add_(0.01) if key.endswith('lora_B') else None  # at zero they block the other factor's gradient
    net(torch.rand(1, 3, 16, 16)).square().mean().backward()
    with_gradient = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert with_gradient == set(lora_state(net))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'r': [0, 2, 2, 2]}, 'LoRA rank is 0'),
        ({'r': [2, 2]}, r'r is \[2, 2\] but must give one number for each of the four resolutions'),
        ({'lora_alpha': [2]}, r'lora_alpha is \[2\] but must'),
        ({'lora_alpha': [2, 2, 2, -1]}, 'alpha -1'),
    ],
)
def test_options_that_cannot_be_are_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        tiny(**changes)


@pytest.mark.parametrize('channels', [1, 2, 4])
def test_other_than_rgb_pictures_are_refused(channels):
    with pytest.raises(DataError, match='LoRARestormerExpert takes pictures of shape'):
        tiny()(torch.rand(1, channels, 8, 8))
