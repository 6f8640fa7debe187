"""NAFNetExpert: parity with golden outputs, any size, gradients."""

from __future__ import annotations

import pytest
import torch

from basicsr_unirestorer.archs.nafnet_expert_arch import NAFNetExpert
from basicsr_unirestorer.errors import DataError, OptionError
from tests.parity.golden import Golden, assert_parity

TINY = {'width': 4, 'middle_blk_num': 1, 'enc_blk_nums': [1, 1], 'dec_blk_nums': [1, 1]}


def test_outputs_and_intermediates_equal_the_golden_ones():
    assert_parity('nafnet_small', NAFNetExpert)


def test_options_are_read_off_the_weights():
    golden = Golden('nafnet_small')
    assert NAFNetExpert.options_of(golden.shapes) == golden.config


@pytest.mark.parametrize('channels', [1, 2, 4])
def test_other_than_rgb_pictures_are_refused(channels):
    with pytest.raises(DataError, match=f'NAFNetExpert takes pictures of shape .n, 3, h, w.*got .1, {channels}, 8, 8'):
        NAFNetExpert(**TINY)(torch.rand(1, channels, 8, 8))


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_picture_that_is_not_finite_is_refused(value):
    with pytest.raises(DataError, match='holds NaN or infinite values'):
        NAFNetExpert(**TINY).eval()(torch.full((1, 3, 8, 8), value))


@pytest.mark.parametrize('size', [(1, 1), (7, 9), (8, 8), (33, 50)])
def test_keeps_any_size(size):
    lq = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert NAFNetExpert(**TINY)(lq).shape == lq.shape


def test_gradient_reaches_every_parameter():
    net = NAFNetExpert(**TINY)
    for scale in (p for name, p in net.named_parameters() if name.endswith(('beta', 'gamma'))):
        torch.nn.init.constant_(scale, 0.5)  # at their initial zero they block the gradient, by design
    net(torch.rand(1, 3, 16, 16)).square().sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()]


def test_unequal_stages_are_refused():
    with pytest.raises(OptionError, match='enc_blk_nums has 1 stages and dec_blk_nums 2'):
        NAFNetExpert(enc_blk_nums=[1], dec_blk_nums=[1, 1])
