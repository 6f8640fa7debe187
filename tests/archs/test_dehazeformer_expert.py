"""DehazeFormerExpert: parity with golden outputs, any size, gradients, options read off weights, bad input."""

from __future__ import annotations

import pytest
import torch

from basicsr_unirestorer.archs.dehazeformer_expert_arch import DehazeFormerExpert, relative_positions, smallest_side
from basicsr_unirestorer.errors import DataError, OptionError
from tests.benchmarks.plain_dehazeformer import plain
from tests.parity.golden import Golden, assert_parity

TINY = {
    'embed_dims': [8, 8, 16, 8, 8],
    'depths': [1, 2, 2, 1, 1],
    'num_heads': [1, 2, 2, 1, 1],
    'attn_ratio': [0, 0.5, 1, 0, 0],
}
CONVS = [['Conv'] * 5, ['DWConv'] * 5]


def tiny(**changes) -> DehazeFormerExpert:
    torch.manual_seed(0)
    return DehazeFormerExpert(**{**TINY, **changes})


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    'name',
    ['dehazeformer_small_conv', 'dehazeformer_t', pytest.param('dehazeformer_l_release', marks=pytest.mark.slow)],
)
def test_outputs_and_intermediates_equal_the_golden_ones(name):
    assert_parity(name, DehazeFormerExpert)


@pytest.mark.parametrize('name', ['dehazeformer_small_conv', 'dehazeformer_l_release'])
def test_options_are_read_off_the_weights(name):
    golden = Golden(name)
    assert DehazeFormerExpert.options_of(golden.shapes) == golden.config
    assert DehazeFormerExpert.options_of(Golden('nafnet_small').shapes) is None


def test_heads_of_a_stage_without_attention_cannot_be_read_and_do_not_matter():
    golden = Golden('dehazeformer_t')
    options = DehazeFormerExpert.options_of(golden.shapes)
    assert golden.config['num_heads'][0] == 2 and options['num_heads'][0] == 1
    golden.fill(net := DehazeFormerExpert(**golden.config))
    golden.fill(again := DehazeFormerExpert(**options))
    lq = picture(1, 3, 32, 40)
    with torch.no_grad():
        assert torch.equal(net(lq), again(lq))


def test_relative_positions_are_the_stored_ones_of_a_window():
    """By hand: from pixel (0, 0) to pixel (1, 2) of a 3 x 3 window it is one row and two columns back."""
    offsets = relative_positions(3)
    assert offsets.shape == (9, 9, 2)
    torch.testing.assert_close(offsets[0, 5], -torch.log(torch.tensor([2.0, 3.0])))
    torch.testing.assert_close(offsets[5, 0], torch.log(torch.tensor([2.0, 3.0])))


@pytest.mark.parametrize('window', [4, 7, 8])
def test_from_the_smallest_side_on_every_side_works_and_the_one_before_does_not(window):
    """The release's measured smallest side is 25, which is padded to 28."""
    net = tiny(window_size=window).eval()
    least = net.facts.minimum
    if window == 8:
        assert least == 28
    with torch.no_grad():
        for side in range(least, least + 4 * window, 4):
            net.restore(picture(1, 3, side, least))
        with pytest.raises(RuntimeError):
            net.restore(picture(1, 3, least - 4, least))


def test_a_network_without_attention_takes_smaller_pictures():
    assert smallest_side(8, [(0, False), (2, False)]) < smallest_side(8, [(0, True), (2, False)]) + 12


@pytest.mark.parametrize('size', [(8, 8), (9, 31), (1, 1), (33, 50), (8, 101)])
def test_keeps_any_size(size):
    lq = picture(2, 3, *size)
    out = tiny().eval()(lq)
    assert out.shape == lq.shape and torch.isfinite(out).all()


def test_pictures_of_a_batch_do_not_influence_each_other():
    net, lq = tiny().eval(), picture(3, 3, 16, 24)
    with torch.no_grad():
        assert (net(lq)[1:2] - net(lq[1:2])).abs().max() < 1e-6


def assert_same_as_plain(net: torch.nn.Module, lq: torch.Tensor) -> None:
    """Outputs and gradients, which every parameter must get, and the outputs without gradients."""
    other = plain(net)
    ours, theirs = net(lq), other(lq)
    assert (ours - theirs).abs().max() < 1e-5
    with torch.no_grad():
        assert (net(lq) - theirs).abs().max() < 1e-5
    for out in (ours, theirs):
        out.square().mean().backward()
    gradients = dict(other.named_parameters())
    for name, parameter in net.named_parameters():
        expected = gradients[name].grad
        assert parameter.grad.abs().sum() > 0, name
        assert (parameter.grad - expected).abs().max() < 1e-3 * expected.abs().max() + 1e-6, name


@pytest.mark.parametrize('convs', CONVS, ids=['Conv', 'DWConv'])
def test_equals_the_plain_formulation_and_so_do_its_gradients(convs):
    assert_same_as_plain(tiny(conv_type=convs), picture(2, 3, 40, 28))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_statistics_of_many_pixels_survive_half_precision(dtype):
    norm = tiny().layer3.blocks[0].norm1
    x = 30 + picture(1, 16, 128, 128)
    with torch.no_grad(), torch.autocast('cpu', dtype=dtype):
        assert all(torch.isfinite(out).all() for out in norm(x.to(dtype)))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'out_chans': 3}, 'out_chans is 3 but must be 4: one gain and 3 offsets'),
        ({'window_size': 1}, 'window_size is 1'),
        ({'depths': [1, 1, 1]}, r'depths is \[1, 1, 1\] but must give one value for each of the five stages'),
        ({'embed_dims': [8, 8, 16, 8, 16]}, 'the first and last, second and fourth must be alike'),
        ({'num_heads': [1, 3, 2, 1, 1]}, r'num_heads \[1, 3, 2, 1, 1\] must divide the widths'),
        ({'conv_type': ['Conv'] * 4 + ['Linear']}, "conv_type names 'Linear'; choose Conv or DWConv"),
    ],
)
def test_options_that_cannot_be_are_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        tiny(**changes)


@pytest.mark.parametrize('channels', [1, 2, 4])
def test_other_than_rgb_pictures_are_refused(channels):
    with pytest.raises(DataError, match='DehazeFormerExpert takes pictures of shape'):
        tiny()(picture(1, channels, 8, 8))


def test_a_picture_with_nan_is_refused():
    with pytest.raises(DataError, match='holds NaN or infinite values'):
        tiny().eval()(torch.full((1, 3, 8, 8), float('nan')))
