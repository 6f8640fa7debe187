"""LoRA factors: they change nothing at first, train alone, merge and un-merge exactly, and fit any network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from basicsr_unirestorer.archs.lora import (
    LoRALayer,
    add_lora,
    fuse_lora,
    load_lora,
    lora_layers,
    lora_state,
    merge_lora,
    unmerge_lora,
)
from basicsr_unirestorer.archs.nafnet_expert_arch import NAFNetExpert
from basicsr_unirestorer.errors import DataError, OptionError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nafnet(width: int = 8) -> NAFNetExpert:
    torch.manual_seed(0)
    net = NAFNetExpert(width=width, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1])
    for name, parameter in net.named_parameters():
        if name.endswith(('beta', 'gamma')):  # at zero they hide the blocks
            nn.init.constant_(parameter, 0.5)
    return net


def trained(net: nn.Module) -> nn.Module:
    """Give the factors values as if they had been trained."""
    for layer in lora_layers(net).values():
        nn.init.normal_(layer.lora_B, std=0.05, generator=seeded())
    return net


LAYERS = {
    'conv': nn.Conv2d(4, 6, 3, padding=1),
    'strided': nn.Conv2d(4, 6, 2, stride=2, bias=False),
    'oblong': nn.Conv2d(4, 6, (1, 3), padding=(0, 1)),
    'grouped': nn.Conv2d(4, 8, 3, padding=1, groups=2),
    'depthwise': nn.Conv2d(4, 4, 3, padding=1, groups=4),
    'reflected': nn.Conv2d(4, 6, 5, padding=2, padding_mode='reflect'),
    'linear': nn.Linear(4, 6),
}


@pytest.mark.parametrize('kind', LAYERS)
def test_every_kind_of_layer_is_adapted(kind):
    net = nn.Sequential(LAYERS[kind].__class__(**_arguments(LAYERS[kind])))
    x = torch.rand(2, 4, 8, 8, generator=seeded()) if kind != 'linear' else torch.rand(2, 4, generator=seeded())
    before = net(x)
    add_lora(net, rank=2, alpha=4)
    assert torch.equal(net(x), before)  # fresh factors change nothing
    trained(net)
    with torch.no_grad():
        changed = net(x)
        assert (changed - before).abs().max() > 1e-3
        net[0].conv.weight.copy_(net[0].weight)
        assert (net[0].conv(x) - changed).abs().max() < 1e-6  # the layer itself with the effective weight


def _arguments(layer: nn.Module) -> dict:
    if isinstance(layer, nn.Linear):
        return {'in_features': 4, 'out_features': 6}
    names = ('in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'groups', 'padding_mode')
    return {**{name: getattr(layer, name) for name in names}, 'bias': layer.bias is not None}


def test_autocast_does_not_round_the_factors():
    layer = trained(nn.Sequential(LoRALayer(nn.Linear(3, 5), rank=2, alpha=6)))[0]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        weight, output = layer.weight, layer(torch.ones(1, 3))
    assert torch.equal(weight, layer.weight) and output.dtype == torch.bfloat16


def test_the_delta_is_the_scaled_product():
    layer = LoRALayer(nn.Linear(3, 5), rank=2, alpha=6)
    nn.init.normal_(layer.lora_B, generator=seeded())
    torch.testing.assert_close(layer.weight - layer.conv.weight, 3 * layer.lora_B @ layer.lora_A)


def test_merging_changes_no_output_and_unmerging_no_bit():
    net = trained(add_lora(nafnet(), rank=2, alpha=4)).eval()
    lq = torch.rand(1, 3, 16, 16, generator=seeded())
    state = {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad():
        before = net(lq)
        assert torch.equal(merge_lora(net)(lq), before)
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
        assert torch.equal(unmerge_lora(net)(lq), before)
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_merged_layers_compute_no_product():
    net = merge_lora(trained(add_lora(nafnet(), rank=2)))
    for layer in lora_layers(net).values():
        with torch.no_grad():
            layer.lora_A.fill_(float('nan'))
    assert torch.isfinite(net.eval()(torch.rand(1, 3, 16, 16))).all()


def test_training_and_loading_unmerge():
    net = merge_lora(trained(add_lora(nafnet(), rank=2)))
    net.train()
    assert not any(layer.merged is not None for layer in lora_layers(net).values())
    other = merge_lora(add_lora(nafnet(), rank=2))
    other.load_state_dict(net.state_dict())
    lq = torch.rand(1, 3, 16, 16, generator=seeded())
    with torch.no_grad():
        assert torch.equal(other.eval()(lq), net.eval()(lq))


def test_fusing_leaves_a_plain_network():
    net, plain = trained(add_lora(nafnet(), rank=2, alpha=4)).eval(), nafnet().eval()
    lq = torch.rand(1, 3, 16, 16, generator=seeded())
    with torch.no_grad():
        before = net(lq)
    fuse_lora(net)
    assert not lora_layers(net)
    plain.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert (plain(lq) - before).abs().max() < 1e-6


def test_factors_alone_bring_an_expert_back_and_are_small():
    net = trained(add_lora(nafnet(width=32), rank=1, alpha=2)).eval()
    factors = lora_state(net)
    size = sum(value.numel() for value in factors.values())
    assert size < 0.2 * sum(value.numel() for value in nafnet(width=32).state_dict().values())
    again = load_lora(add_lora(nafnet(width=32), rank=1, alpha=2), factors).eval()
    lq = torch.rand(1, 3, 16, 16, generator=seeded())
    with torch.no_grad():
        assert torch.equal(again(lq), net(lq))


def test_only_the_factors_are_trained():
    net = add_lora(nafnet(), rank=2)
    base = {key: value.clone() for key, value in net.state_dict().items() if '.lora_' not in key}
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    lq, gt = (torch.rand(2, 3, 16, 16, generator=seeded(seed)) for seed in (0, 1))
    losses = []
    for _ in range(20):
        loss = (net(lq) - gt).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    state = net.state_dict()
    assert all(torch.equal(state[key], value) for key, value in base.items())
    assert {name for name, p in net.named_parameters() if p.grad is not None} == set(lora_state(net))


def test_rank_and_alpha_may_depend_on_the_layer_and_layers_may_be_left_out():
    net = add_lora(
        nafnet(), lambda name: 1 if name == 'intro' else 2, lambda name: 4, lambda name: name in ('intro', 'ending')
    )
    layers = lora_layers(net)
    assert layers.keys() == {'intro', 'ending'}
    assert layers['intro'].lora_A.shape[0] == 3 and layers['ending'].lora_A.shape[0] == 6  # rank x kernel side
    assert layers['intro'].scale == 4 and layers['ending'].scale == 2


@pytest.mark.parametrize(('rank', 'alpha'), [(0, 16), (-1, 16), (1.5, 16), (8, 0)])
def test_a_rank_or_alpha_that_cannot_be_is_refused(rank, alpha):
    with pytest.raises(OptionError, match=f'LoRA rank is {rank} and alpha {alpha}; give a whole rank from 1'):
        add_lora(nafnet(), rank, alpha)


def test_factors_twice_or_for_nothing_are_refused():
    with pytest.raises(OptionError, match='has LoRA factors already; merge them with fuse_lora'):
        add_lora(add_lora(nafnet()))
    with pytest.raises(OptionError, match='has no convolution or linear layer'):
        add_lora(nn.ReLU())


def test_factors_that_do_not_fit_are_named():
    net = add_lora(nafnet(), rank=2)
    factors = lora_state(add_lora(nafnet(), rank=4))
    with pytest.raises(DataError, match=r'intro.lora_A is \(12, 9\) instead of \(6, 9\); intro.lora_B'):
        load_lora(net, factors)
    factors = lora_state(net)
    factors.pop('intro.lora_A')
    factors['outro.lora_A'] = torch.zeros(1)
    with pytest.raises(DataError, match='intro.lora_A is missing; outro.lora_A is unknown'):
        load_lora(net, factors)
