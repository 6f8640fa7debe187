"""A node's expert: whole network or LoRA factors on the root, what is trained, stored and loaded of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from basicsr_unirestorer.archs.building import (
    NoRandomValues,
    check_experts,
    expert_options,
    make_network,
    seeded_network,
)
from basicsr_unirestorer.archs.lora import add_factors, lora_layers
from basicsr_unirestorer.archs.node_expert import build_expert, expert_state, load_expert, loaded_expert
from basicsr_unirestorer.clustering.tree import DegradationTree, Node
from basicsr_unirestorer.errors import DataError, OptionError
from basicsr_unirestorer.models.training_util import averaged_copy, update_average

NAFNET = {'type': 'NAFNetExpert', 'width': 8, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]}
WIDER = {**NAFNET, 'width': 12}
LORA = {'rank': 2, 'alpha': 4}
NODES = (
    Node('l0_00', 0, -1, 20, {'small noise': 10, 'large rain': 10}),
    Node('l1_00', 1, 0, 10, {'small noise': 10}),
    Node('l1_01', 1, 0, 10, {'large rain': 10}),
    Node('l2_00', 2, 1, 5, {'small noise': 5}),
    Node('l2_01', 2, 1, 5, {'small noise': 5}),
    Node('l2_02', 2, 2, 10, {'large rain': 10}),
)
TREE = DegradationTree(NODES, np.zeros((6, 1), np.float32))
EXPERTS = {'default': NAFNET, 'lora': LORA}


class Folder:
    """Finished experts by name, each perturbed as if it had been trained, and which of them were asked for."""

    def __init__(self, experts: dict) -> None:
        self.experts, self.states, self.asked = experts, {}, []

    def weights_of(self, name: str) -> dict:
        self.asked.append(name)
        return self.states[name]

    def build(self, name: str, **options) -> nn.Module:
        return build_expert(self.experts, TREE, name, 0, self.weights_of, **options)

    @torch.no_grad()
    def train(self, name: str) -> nn.Module:
        net = self.build(name)
        generator = torch.Generator().manual_seed(len(self.states))
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        self.states[name] = expert_state(net)
        return net.eval()


def folder_of(*names: str, **experts) -> Folder:
    folder = Folder({**EXPERTS, **experts})
    for name in names:
        folder.train(name)
    folder.asked.clear()
    return folder


def picture() -> torch.Tensor:
    return torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


# ------------------------------------------------------------------------------------------------- building


def test_without_lora_every_node_is_a_whole_network():
    folder = folder_of('l0_00', lora=None)
    fresh = folder.build('l1_00', init_from_parent=False)
    assert same(expert_state(fresh), seeded_network(NAFNET, 0, 'l1_00').state_dict()) and not folder.asked
    assert same(expert_state(folder.build('l1_00')), folder.states['l0_00'])


@torch.no_grad()
def test_below_the_root_only_factors_are_trained_and_stored():
    folder = folder_of()
    root = folder.train('l0_00')
    assert all(parameter.requires_grad for parameter in root.parameters())
    net = folder.build('l1_00')
    assert torch.equal(net(picture()), root(picture()))  # fresh factors change nothing
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained == set(expert_state(net))
    assert {key.rpartition('.')[2] for key in trained} == {'lora_A', 'lora_B'}
    for layer in lora_layers(net).values():
        assert layer.lora_A.numel() + layer.lora_B.numel() < layer.conv.weight.numel()


def test_factors_depend_on_seed_and_name_alone():
    folder = folder_of('l0_00')
    before = torch.random.get_rng_state()
    one = expert_state(folder.build('l1_00'))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)
    assert same(one, expert_state(folder.build('l1_00')))
    assert not same(one, expert_state(folder.build('l1_01')))


def test_a_child_starts_from_its_parents_factors():
    folder = folder_of('l0_00', 'l1_00')
    assert same(expert_state(folder.build('l2_00')), folder.states['l1_00'])
    assert folder.asked == ['l0_00', 'l1_00']
    fresh = expert_state(folder.build('l2_00', init_from_parent=False))
    assert all(not value.any() for key, value in fresh.items() if key.endswith('lora_B'))


def test_other_networks_are_trained_in_full_beside_lora():
    """Rain has a network of its own, and so has one leaf; a child with the network of its parent starts from it."""
    folder = folder_of('l0_00', by_label={'rain': WIDER}, overrides={'l2_01': WIDER})
    whole = {node.name for node in NODES if 'lora' not in expert_options(folder.experts, node)}
    assert whole == {'l0_00', 'l1_01', 'l2_01', 'l2_02'}
    rain = folder.train('l1_01')
    assert not lora_layers(rain) and all(parameter.requires_grad for parameter in rain.parameters())
    assert same(expert_state(folder.build('l2_02')), folder.states['l1_01'])
    folder.asked.clear()
    assert same(expert_state(folder.build('l2_01')), seeded_network(WIDER, 0, 'l2_01').state_dict())
    assert not folder.asked  # its parent's network is another one


def test_factors_below_another_network_begin_afresh():
    folder = folder_of('l0_00', overrides={'l1_00': WIDER})
    assert set(expert_options(folder.experts, NODES[3])) == {*NAFNET, 'lora'}
    folder.build('l2_00')
    assert folder.asked == ['l0_00']


# ------------------------------------------------------------------------------------------------- training


def test_an_optimizer_step_and_the_average_leave_the_base_alone():
    folder = folder_of('l0_00')
    net = folder.build('l1_00')
    average = averaged_copy(net)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(picture()).square().mean().backward()
        optimizer.step()
        update_average(average, net, 0.7)
    for own in (net, average):
        base = {key.replace('.conv.', '.'): v for key, v in own.state_dict().items() if '.lora_' not in key}
        assert same({key: base[key] for key in sorted(base)}, dict(sorted(folder.states['l0_00'].items())))
    assert not any(torch.equal(value, expert_state(average)[key]) for key, value in expert_state(net).items())
    shared = {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in average.parameters()}
    assert len(shared) == len(folder.states['l0_00'])


def test_the_average_of_a_whole_network_is_basicsrs():
    from basicsr.models.sr_model import SRModel

    net = seeded_network(NAFNET, 0, 'a')
    ours, stock = averaged_copy(seeded_network(NAFNET, 0, 'b')), seeded_network(NAFNET, 0, 'b')
    model = SRModel.__new__(SRModel)
    model.net_g, model.net_g_ema = net, stock
    for _ in range(3):
        update_average(ours, net, 0.9)
        model.model_ema(0.9)
    assert same(ours.state_dict(), stock.state_dict())


@pytest.mark.parametrize(
    'options',
    [
        {'type': 'RestormerExpert', 'dim': 48},
        {
            'type': 'NAFNetExpert',
            'width': 32,
            'enc_blk_nums': [2, 2, 4, 8],
            'middle_blk_num': 12,
            'dec_blk_nums': [2, 2, 2, 2],
        },
    ],
    ids=lambda options: options['type'],
)
def test_trainable_state_is_at_most_a_tenth(options):
    """Parameters, their gradients, AdamW's two moments and the average, all of the parameters' size."""
    with NoRandomValues():
        net = make_network(options, 'experts')
    whole = sum(parameter.numel() for parameter in net.parameters())
    add_factors(net, rank=8, alpha=16)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [value for state in optimizer.state.values() for key, value in state.items() if key != 'step']
    own = sum(tensor.numel() for tensor in (*trained, *moments))
    assert own == 3 * sum(map(torch.numel, expert_state(net).values()))
    assert own <= 3 * whole / 10


# ------------------------------------------------------------------------------------------------- files


@torch.no_grad()
def test_what_is_stored_restores_the_same_picture():
    folder = folder_of('l0_00', 'l1_00')
    trained = folder.train('l2_00')
    again = load_expert(folder.build('l2_00', init_from_parent=False), folder.states['l2_00'], 'file').eval()
    assert torch.equal(again(picture()), trained(picture()))
    options = expert_options(folder.experts, NODES[3])
    before = torch.random.get_rng_state()
    plain = loaded_expert(options, folder.states['l2_00'], lambda: folder.states['l0_00'], 'experts', 'file')
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(plain(picture()), trained(picture()))
    assert not lora_layers(plain) and plain.state_dict().keys() == folder.states['l0_00'].keys()
    assert not plain.training and not any(parameter.requires_grad for parameter in plain.parameters())
    assert not torch.equal(plain(picture()), folder.build('l1_00', init_from_parent=False).eval()(picture()))


def test_factors_and_whole_networks_are_not_mistaken_for_each_other():
    folder = folder_of('l0_00', 'l1_00')
    factors, whole = folder.states['l1_00'], folder.states['l0_00']
    lora = expert_options(folder.experts, NODES[1])
    for call in (
        lambda: load_expert(folder.build('l0_00'), factors, 'a.pth'),
        lambda: loaded_expert(NAFNET, factors, dict, 'experts', 'a.pth'),
    ):
        with pytest.raises(DataError, match='a.pth holds LoRA factors alone, but the options make this a whole'):
            call()
    for call in (
        lambda: load_expert(folder.build('l1_00'), whole, 'b.pth'),
        lambda: loaded_expert(lora, whole, lambda: whole, 'experts', 'b.pth'),
    ):
        with pytest.raises(DataError, match='b.pth holds a whole network, but experts.lora makes this node'):
            call()
    other = {**lora, 'lora': {'rank': 3, 'alpha': 4}}
    with pytest.raises(DataError, match='a.pth does not fit NAFNetExpert: intro.lora_A is unknown'):
        loaded_expert(other, factors, lambda: whole, 'experts', 'a.pth')


# ------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'lora': {'rnk': 8}}, "Unknown option 'experts.lora.rnk'. Did you mean 'rank'"),
        ({'lora': {'rank': 0}}, 'experts.lora.rank is 0; give a whole number from 1'),
        ({'lora': {'rank': 1.5}}, 'experts.lora.rank is 1.5'),
        ({'lora': {'rank': 2, 'alpha': -1}}, 'experts.lora.alpha is -1; give a number above 0'),
        ({'lora': {'rank': 500}}, 'No layer of NAFNetExpert is larger than its LoRA factors of rank 500'),
        ({'overrides': {'l0_00': WIDER}}, 'experts.lora has no effect'),
        ({'default': {'type': 'LoRARestormerExpert', 'dim': 16}, 'lora': {}}, 'has LoRA factors already'),
    ],
)
def test_bad_options_are_refused(changes, message):
    check_experts(EXPERTS, TREE)
    with pytest.raises(OptionError, match=message):
        check_experts({**EXPERTS, **changes}, TREE)


def test_rank_and_alpha_have_the_papers_defaults():
    assert expert_options({'default': NAFNET, 'lora': {}}, NODES[1])['lora'] == {'rank': 8, 'alpha': 16}
    assert 'lora' not in expert_options({'default': NAFNET, 'lora': None}, NODES[1])
