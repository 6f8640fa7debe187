"""One expert's training: parts of a batch, precision, steps that must be skipped, saving and going on."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from basicsr_unirestorer.archs.building import seeded_network
from basicsr_unirestorer.errors import OptionError, UniRestorerError
from basicsr_unirestorer.models.expert_training import ExpertTraining, safe_precision

NAFNET = {'type': 'NAFNetExpert', 'width': 4, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]}
DEHAZE = {'type': 'DehazeFormerExpert', 'embed_dims': [8, 16, 24, 16, 8], 'depths': [1, 1, 1, 1, 1]}
CPU = torch.device('cpu')


def batch(number: int, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    gt = torch.rand(size, 3, 16, 16, generator=generator)
    return (gt + 0.1 * torch.randn(gt.shape, generator=generator)).clamp(0, 1), gt


def training(steps: int = 10, network: dict = NAFNET, **options) -> ExpertTraining:
    net = seeded_network(network, 0, 'l1_00')
    optimizer = partial(torch.optim.AdamW, lr=1e-3)
    return ExpertTraining('l1_00', net, steps, {'ema_decay': 0.9, **options}, optimizer, nn.L1Loss(), CPU)


def trained(count: int = 4, **options) -> ExpertTraining:
    expert = training(**options)
    for number in range(count):
        expert.train_on(*batch(number), 8, [f'{number}#0'])
    return expert


def flat(net: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def weights(expert: ExpertTraining) -> torch.Tensor:
    return flat(expert.net)


@pytest.fixture(autouse=True)
def _registered(registered):
    pass


def test_parts_of_a_batch_add_up_to_it():
    whole, parts = training(), training(accumulate=3)  # 3 + 3 + 2 samples
    losses = [expert.train_on(*batch(0), 8, ['0']) for expert in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(whole.net.parameters(), parts.net.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('amp', ['bf16', 'fp16'])
def test_half_precision_trains_close_to_float32(amp):
    full, half = trained(), trained(amp=amp)
    assert half.precision == amp and half.scaler.is_enabled() == (amp == 'fp16')
    assert all(parameter.dtype == torch.float32 for parameter in half.net.parameters())
    difference = (weights(half) - weights(full)).norm() / (weights(full) - weights(training())).norm()
    assert 0 < difference < 0.5


def test_precision_is_that_of_the_network(caplog):
    assert safe_precision(seeded_network(NAFNET, 0, 'x'), None, CPU) == 'off'  # nobody gains from bf16 on a CPU
    assert safe_precision(seeded_network(NAFNET, 0, 'x'), False, CPU) == 'off'  # a bare off in yml
    assert safe_precision(seeded_network(DEHAZE, 0, 'x'), 'bf16', CPU) == 'off'
    assert safe_precision(seeded_network(DEHAZE, 0, 'x'), 'fp16', CPU) == 'fp16'
    with pytest.raises(OptionError, match="train.amp is 'half'; write bf16, fp16 or off"):
        safe_precision(nn.Identity(), 'half', CPU)


def test_a_step_without_a_finite_loss_is_skipped():
    expert = trained(2)
    before, average = weights(expert), flat(expert.ema)
    lq, gt = batch(5)
    lq[3, 0, 0, 0] = float('nan')
    assert not expert.train_on(lq, gt, 8, ['5#0']) < 1e9
    assert expert.step == 3 and expert.bad_steps == 1
    assert torch.equal(weights(expert), before)
    assert torch.equal(flat(expert.ema), average)
    expert.train_on(*batch(6), 8, ['6#0'])
    assert expert.bad_steps == 0 and not torch.equal(weights(expert), before)


def test_several_in_a_row_stop_the_training():
    expert = training(max_bad_steps=2)
    lq, gt = batch(0)
    expert.train_on(lq * float('inf'), gt, 8, ['a#1', 'b#0'])
    with pytest.raises(
        UniRestorerError, match=r'expert l1_00 at its step 1 became nan \(samples a#1, b#0\), the last of 2'
    ):
        expert.train_on(lq * float('inf'), gt, 8, ['a#1', 'b#0'])


def test_goes_on_exactly(tmp_path):
    """Through files, with schedule, average and gradient scaler."""
    left_alone = trained(6, amp='fp16', grad_clip=1.0)
    stopped = trained(3, amp='fp16', grad_clip=1.0)
    torch.save(stopped.weights(), tmp_path / 'net.pth')
    torch.save(stopped.state(), tmp_path / 'x.state')
    torch.manual_seed(99)
    resumed = training(amp='fp16', grad_clip=1.0)
    content = [torch.load(tmp_path / file, weights_only=True) for file in ('net.pth', 'x.state')]
    resumed.resume(*content, tmp_path / 'net.pth')
    for number in range(3, 6):
        resumed.train_on(*batch(number), 8, ['x'])
    assert torch.equal(weights(resumed), weights(left_alone))
    assert all(map(torch.equal, resumed.ema.parameters(), left_alone.ema.parameters()))
    assert resumed.state()['scheduler'] == left_alone.state()['scheduler']
    assert resumed.state()['scaler'] == left_alone.state()['scaler']


def test_the_average_follows():
    """After k steps the decay is at most (1 + k) / (10 + k), so a short training's average is not its start."""
    expert = training()
    start = weights(expert)
    expert.train_on(*batch(0), 8, ['x'])
    expected = start * (2 / 11) + weights(expert) * (9 / 11)
    torch.testing.assert_close(flat(expert.ema), expected)
    assert expert.best is expert.ema and training(ema_decay=0).ema is None


@pytest.mark.slow
def test_compiled_training_is_close():
    plain, compiled = trained(2), trained(2, compile=True)
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=0, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize('network', [NAFNET, DEHAZE])
def test_on_a_gpu_the_safe_precision_is_the_default(network):
    device = torch.device('cuda')
    expected = 'bf16' if network is NAFNET and torch.cuda.is_bf16_supported() else 'off'
    assert safe_precision(seeded_network(network, 0, 'x'), None, device) == expected
