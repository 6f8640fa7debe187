"""RestormerExpert: parity with golden outputs, any size, gradients, options read off weights, bad input."""

from __future__ import annotations

import pytest
import torch

from basicsr_unirestorer.archs.nafnet_expert_arch import NAFNetExpert
from basicsr_unirestorer.archs.restormer_expert_arch import RestormerExpert
from basicsr_unirestorer.errors import DataError, OptionError
from tests.benchmarks.plain_restormer import plain
from tests.parity.golden import Golden, assert_parity

TINY = {'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1, 'heads': [1, 2, 2, 4]}
SMALL = ['restormer_withbias_small', 'restormer_biasfree_small']
RELEASE = ['restormer_withbias_release', 'restormer_biasfree_release']
NORMS = ['WithBias', 'BiasFree']


def tiny(**changes) -> RestormerExpert:
    torch.manual_seed(0)
    return RestormerExpert(**{**TINY, **changes})


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('name', [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in RELEASE)])
def test_outputs_and_intermediates_equal_the_golden_ones(name):
    assert_parity(name, RestormerExpert)


@pytest.mark.parametrize('name', [*SMALL, *RELEASE])
def test_options_are_read_off_the_weights(name):
    golden = Golden(name)
    assert RestormerExpert.options_of(golden.shapes) == golden.config


@pytest.mark.parametrize('factor', [1.7, 3.1])
def test_an_unusual_expansion_is_read_as_one_that_gives_the_same_shapes(factor):
    shapes = {key: tuple(value.shape) for key, value in tiny(ffn_expansion_factor=factor).state_dict().items()}
    again = RestormerExpert(**RestormerExpert.options_of(shapes))
    assert {key: tuple(value.shape) for key, value in again.state_dict().items()} == shapes


def test_weights_of_another_network_are_not_claimed():
    assert RestormerExpert.options_of(Golden('lorarestormer_small').shapes) is None
    net = NAFNetExpert(width=4, enc_blk_nums=[1], dec_blk_nums=[1])
    assert RestormerExpert.options_of({key: tuple(v.shape) for key, v in net.state_dict().items()}) is None


@pytest.mark.parametrize('size', [(8, 8), (9, 15), (1, 1), (33, 50), (8, 101)])
def test_keeps_any_size(size):
    lq = picture(2, 3, *size)
    out = tiny().eval()(lq)
    assert out.shape == lq.shape and torch.isfinite(out).all()


def test_pictures_of_a_batch_do_not_influence_each_other():
    net, lq = tiny().eval(), picture(3, 3, 16, 24)
    with torch.no_grad():
        assert (net(lq)[1:2] - net(lq[1:2])).abs().max() < 1e-6


@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('bias', [False, True])
def test_equals_the_plain_formulation_and_so_do_its_gradients(norm, bias):
    net = tiny(LayerNorm_type=norm, bias=bias)
    other = plain(net)
    lq = picture(2, 3, 24, 16)
    ours, theirs = net(lq), other(lq)
    assert (ours - theirs).abs().max() < 1e-5
    for out in (ours, theirs):
        out.square().mean().backward()
    gradients = dict(other.named_parameters())
    for name, parameter in net.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
        expected = gradients[name].grad
        assert (parameter.grad - expected).abs().max() < 1e-3 * expected.abs().max() + 1e-6, name


@pytest.mark.parametrize('size', [(24, 32), (41, 16)])
def test_a_picture_restored_in_strips_equals_the_whole_one(monkeypatch, size):
    net, lq = tiny().eval(), picture(2, 3, *size)
    monkeypatch.setattr('basicsr_unirestorer.archs.layers.STRIP', 1)  # eight rows
    with torch.no_grad():
        in_strips_of_eight_rows = net(lq)
    torch.testing.assert_close(net(lq), in_strips_of_eight_rows, rtol=0, atol=1e-5)  # with gradients: the whole


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_norms_over_many_pixels_survive_half_precision(dtype):
    """The squares of bright values, summed over 256 x 256 pixels, are past what float16 holds."""
    attention = tiny().encoder_level1[0].attn.eval()
    x = 30 + picture(1, 8, 256, 256)
    with torch.no_grad(), torch.autocast('cpu', dtype=dtype):
        assert torch.isfinite(attention(x)).all()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'out_channels': 1}, 'inp_channels is 3 and out_channels 1'),
        ({'heads': [1, 3, 2, 4]}, r'heads \[1, 3, 2, 4\] must divide the widths \[8, 16, 32, 64\]'),
        ({'heads': [1, 2]}, 'one number for each of the four resolutions'),
        ({'num_blocks': [1, 1, 1]}, 'one number for each of the four resolutions'),
        ({'LayerNorm_type': 'Batch'}, "LayerNorm_type is 'Batch'; choose WithBias or BiasFree"),
    ],
)
def test_options_that_cannot_be_are_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        tiny(**changes)


@pytest.mark.parametrize('channels', [1, 2, 4])
def test_other_than_rgb_pictures_are_refused(channels):
    with pytest.raises(DataError, match='RestormerExpert takes pictures of shape'):
        tiny()(picture(1, channels, 8, 8))


def test_a_picture_with_nan_is_refused():
    with pytest.raises(DataError, match='holds NaN or infinite values'):
        tiny().eval()(torch.full((1, 3, 8, 8), float('nan')))
