"""NAFNetExpert: parity with golden outputs, any size, gradients."""

from __future__ import annotations

import pytest
import torch

from basicsr_unirestorer.archs.nafnet_expert_arch import NAFNetExpert
from tests.parity.golden import Golden

TINY = {'width': 4, 'middle_blk_num': 1, 'enc_blk_nums': [1, 1], 'dec_blk_nums': [1, 1]}


def test_outputs_equal_the_golden_ones():
    golden = Golden('nafnet_small')
    net = NAFNetExpert(**golden.config)
    golden.fill(net)
    for name, lq, expected in golden.cases():
        with torch.no_grad():
            assert (net(lq) - expected).abs().max() < 1e-5, name


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
    with pytest.raises(ValueError, match='enc_blk_nums has 1 stages and dec_blk_nums 2'):
        NAFNetExpert(enc_blk_nums=[1], dec_blk_nums=[1, 1])
