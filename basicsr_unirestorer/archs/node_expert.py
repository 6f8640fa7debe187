"""A tree node's expert: built for training, stored, and loaded for restoring.

With ``experts: lora`` the root is trained in full, and every other node whose network is the root's holds low-rank
factors on the root's frozen weights: only they are trained and stored, and they are fused into a plain network once
loaded. What a node gets is decided by ``expert_options``: its options then hold ``lora: {rank, alpha}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from basicsr_unirestorer.archs.building import (
    NoRandomValues,
    expert_options,
    frozen,
    load_into,
    loaded_network,
    make_network,
    seeded,
    seeded_network,
)
from basicsr_unirestorer.archs.lora import add_factors, fuse_lora, load_lora, lora_state
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import DataError

Weights = Mapping[str, Tensor]


def build_expert(
    experts: Mapping,
    tree: DegradationTree,
    name: str,
    seed: int,
    weights_of: Callable[[str], Weights],
    init_from_parent: bool = True,
) -> nn.Module:
    """Build a node's network as its training begins; of a LoRA expert, the factors alone take gradients.

    Args:
        experts: The ``experts`` block of the options.
        tree: The degradation tree.
        name: The node.
        seed: Seeds what is not loaded, with ``name``: whole networks, or fresh factors.
        weights_of: Returns the stored weights of another node's finished expert: of the root for LoRA experts, of the
            parent for others; called only where they are needed.
        init_from_parent: Start from the weights, or factors, of a parent whose network is alike.

    Raises:
        OptionError: As ``expert_options`` and ``add_factors``.
        DataError: The weights of the root or the parent do not fit, or as ``weights_of``.
    """
    node = tree.nodes[tree.node_id(name)]
    options = expert_options(experts, node)
    if 'lora' in options:
        net = _on_root(options, tree.nodes[0].name, weights_of)
        with seeded(seed, name):
            add_factors(net, **options['lora'])
    else:
        net = seeded_network(options, seed, name)
    if init_from_parent and node.parent >= 0:
        parent = tree.nodes[node.parent]
        if expert_options(experts, parent) == options:
            load_expert(net, weights_of(parent.name), f'The expert of {parent.name}')
    return net


def _on_root(options: Mapping, root: str, weights_of: Callable[[str], Weights]) -> nn.Module:
    """Build the network that LoRA factors adapt, around the root's weights."""
    with NoRandomValues():
        net = make_network(_plain(options), 'experts')
    return load_into(net, weights_of(root), f'The expert of {root}')


def _plain(options: Mapping) -> dict:
    return {key: value for key, value in options.items() if key != 'lora'}


def expert_state(net: nn.Module) -> dict[str, Tensor]:
    """Return what is stored of an expert, on the CPU: its weights or, of a LoRA expert, its factors."""
    state = lora_state(net) if getattr(net, 'stored_by_factors', False) else net.state_dict()
    return {key: value.detach().cpu() for key, value in state.items()}


def load_expert(net: nn.Module, params: Weights, source: str | Path) -> nn.Module:
    """Load what ``expert_state`` returned into a network that ``build_expert`` made; a LoRA expert keeps its base.

    Args:
        net: The network.
        params: Its stored weights or factors.
        source: Where they come from, for messages.

    Raises:
        DataError: They do not fit, or are factors for a network without, or the other way round.
    """
    by_factors = getattr(net, 'stored_by_factors', False)
    _check_kind(params, by_factors, source)
    return load_lora(net, params, source) if by_factors else load_into(net, params, source)


def loaded_expert(
    options: Mapping, params: Weights, base: Callable[[], Weights], where: str, source: str | Path
) -> nn.Module:
    """Build a frozen float32 expert for restoring; LoRA factors are fused into a plain network.

    Args:
        options: As ``expert_options`` gives them: ``lora`` says that ``params`` are factors.
        params: What ``expert_state`` returned.
        base: Returns the root's weights; called for factors only.
        where: Dotted place of the options, for messages.
        source: Where the weights come from, for messages.

    Raises:
        OptionError: As ``check_network``.
        DataError: The weights do not fit.
    """
    _check_kind(params, 'lora' in options, source)
    if 'lora' not in options:
        return loaded_network(options, params, where, source)
    net = loaded_network(_plain(options), base(), where, 'The root of the LoRA experts')
    with NoRandomValues():
        add_factors(net, **options['lora'])
    return frozen(fuse_lora(load_lora(net, params, source)))


def _check_kind(params: Weights, by_factors: bool, source: str | Path) -> None:
    are_factors = all(key.endswith(('.lora_A', '.lora_B')) for key in params)
    if are_factors and not by_factors:
        raise DataError(
            f'{source} holds LoRA factors alone, but the options make this a whole network; give the experts block '
            '(lora, default, by_label, overrides) that the experts were trained with.'
        )
    if by_factors and not are_factors:
        raise DataError(
            f'{source} holds a whole network, but experts.lora makes this node LoRA factors on the root; give the '
            'experts block that the experts were trained with, or train the node again.'
        )
