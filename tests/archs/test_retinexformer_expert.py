"""RetinexFormerExpert: parity with golden outputs, any size, gradients, precision, options read off the weights."""

from __future__ import annotations

from copy import deepcopy
from types import MethodType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.archs.retinexformer_expert_arch import LitChannelAttention, RetinexFormerExpert
from basicsr_unirestorer.errors import DataError, OptionError
from tests.benchmarks import plain_retinexformer
from tests.parity.golden import Golden, assert_parity

TINY = {'n_feat': 8, 'num_blocks': [1, 1, 1]}
RELEASE = pytest.param('retinexformer_release', marks=pytest.mark.slow)


def picture(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def small() -> RetinexFormerExpert:
    """The golden network: its weights, unlike new ones, make every part matter."""
    golden = Golden('retinexformer_small')
    net = RetinexFormerExpert(**golden.config)
    golden.fill(net)
    return net


@pytest.mark.parametrize('name', ['retinexformer_small', RELEASE])
def test_outputs_and_intermediates_equal_the_golden_ones(name):
    assert_parity(name, RetinexFormerExpert)


@pytest.mark.parametrize('name', ['retinexformer_small', 'retinexformer_release'])
def test_entries_have_the_golden_order_and_tell_the_options(name):
    golden = Golden(name)
    with torch.device('meta'):
        net = RetinexFormerExpert(**golden.config)
    assert list(net.state_dict()) == list(golden.shapes)
    assert RetinexFormerExpert.options_of(golden.shapes) == golden.config


def test_entries_of_other_networks_tell_nothing():
    assert RetinexFormerExpert.options_of(Golden('nafnet_small').shapes) is None


def test_the_plain_formulation_gives_the_same():
    lq = picture(2, 3, 40, 36)
    with torch.no_grad():
        net = small()
        torch.testing.assert_close(plain_retinexformer.plain(net)(lq), net(lq), rtol=0, atol=1e-5)


@pytest.mark.parametrize('size', [(1, 1), (8, 8), (7, 9), (33, 50)])
def test_any_size_is_padded_to_multiples_of_four_and_cropped(size):
    net, lq = small(), picture(2, 3, *size)
    h, w = size
    with torch.no_grad():
        out = net(lq)
        if min(size) > 4:
            padded = F.pad(lq, (0, -w % 4, 0, -h % 4), mode='reflect')
            torch.testing.assert_close(out, net.body(padded)[..., :h, :w], rtol=0, atol=1e-6)
    assert out.shape == lq.shape


def test_pictures_of_a_batch_do_not_meet():
    net, lq = small(), picture(2, 3, 16, 20)
    with torch.no_grad():
        torch.testing.assert_close(net(lq), torch.cat([net(lq[:1]), net(lq[1:])]), rtol=0, atol=1e-6)


def test_gradient_reaches_every_parameter():
    net = RetinexFormerExpert(**TINY)
    net(picture(1, 3, 16, 16)).square().sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()]


def test_two_stages_restore_one_after_the_other():
    torch.manual_seed(0)
    net = RetinexFormerExpert(**TINY, stage=2).eval()
    first, second = (RetinexFormerExpert(**TINY).eval() for _ in range(2))
    for number, single in enumerate((first, second)):
        single.body[0].load_state_dict(net.body[number].state_dict())
    lq = picture(1, 3, 12, 16)
    with torch.no_grad():
        torch.testing.assert_close(net(lq), second(first(lq)), rtol=0, atol=1e-6)
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    assert RetinexFormerExpert.options_of(shapes) == {'in_channels': 3, 'out_channels': 3, 'stage': 2, **TINY}


# -------------------------------------------------------------------------------------------------------------- strips


def test_a_picture_restored_in_strips_equals_the_whole_one(monkeypatch):
    net, lq = RetinexFormerExpert(**TINY).eval(), picture(1, 3, 24, 32)
    monkeypatch.setattr('basicsr_unirestorer.archs.layers.STRIP', 1)  # eight rows
    with torch.no_grad():
        in_strips_of_eight_rows = net(lq)
    torch.testing.assert_close(net(lq), in_strips_of_eight_rows, rtol=0, atol=1e-5)  # with gradients: the whole


# ----------------------------------------------------------------------------------------------------------- precision


def attention() -> LitChannelAttention:
    return small().body[0].denoiser.encoder_layers[0][0].blocks[0][0]


def test_queries_and_keys_far_smaller_than_the_input_are_exact_enough():
    """They are a hundredth of it: their weights look away from the direction that nearly all of the input has."""
    net = attention()
    direction = F.normalize(picture(16), dim=0)
    with torch.no_grad():
        for to in (net.to_q, net.to_k):
            to.weight -= (to.weight @ direction)[:, None] * direction
        x = direction[:, None, None] + 0.01 * (picture(1, 16, 64, 64) - 0.5)
        exact = deepcopy(net).double()
        exact.forward = MethodType(plain_retinexformer._attention, exact)
        light = picture(1, 16, 64, 64)
        torch.testing.assert_close(net(x, light).double(), exact(x.double(), light.double()), rtol=0, atol=1e-5)


def test_sums_over_all_pixels_do_not_overflow_in_half_precision():
    net, x, light = attention(), 300 * picture(1, 16, 64, 64), picture(1, 16, 64, 64)
    with torch.no_grad():
        expected = net(x, light)
        with torch.autocast('cpu', torch.float16):
            found = net(x.half(), light.half()).float()
    assert (found - expected).abs().max() < 0.01 * expected.abs().max()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype):
    net, lq = small(), picture(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast('cpu', dtype):
        half = net(lq).float()
    with torch.no_grad():
        assert -10 * (half - net(lq)).square().mean().log10() > 60  # PSNR in dB


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'out_channels': 1}, 'in_channels is 3 and out_channels 1, .* give both the same number'),
        ({'n_feat': 10}, 'n_feat is 10, .* give a positive multiple of 4'),
        ({'n_feat': 0}, 'n_feat is 0'),
        ({'stage': 0}, 'stage is 0, .* give 1 or more'),
        ({'num_blocks': [1, 2]}, r'num_blocks is \[1, 2\], .* give three positive numbers'),
        ({'num_blocks': [1, 0, 1]}, r'num_blocks is \[1, 0, 1\]'),
    ],
)
def test_options_that_make_no_network_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        RetinexFormerExpert(**options)


def test_other_than_rgb_pictures_are_refused():
    with pytest.raises(DataError, match='RetinexFormerExpert takes pictures of shape .n, 3, h, w.*got .1, 4, 8, 8'):
        RetinexFormerExpert(**TINY)(torch.rand(1, 4, 8, 8))


def test_a_picture_that_is_not_finite_is_refused():
    with pytest.raises(DataError, match='holds NaN or infinite values'):
        RetinexFormerExpert(**TINY).eval()(torch.full((1, 3, 8, 8), float('nan')))
