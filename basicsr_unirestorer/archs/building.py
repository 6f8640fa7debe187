"""Build networks from option dicts and load their weights, with errors a user can act on."""

from __future__ import annotations

import hashlib
import inspect
import zlib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_unirestorer.clustering.tree import DegradationTree, Node
from basicsr_unirestorer.errors import DataError, OptionError, check_keys, did_you_mean


def check_network(options: Mapping, where: str) -> None:
    """Look up a network's type and the names of its arguments, without building it.

    Args:
        options: ``type`` and the network's own arguments.
        where: Dotted place of the options, quoted in the message.

    Raises:
        OptionError: Naming the unknown type or argument and the nearest known one.
    """
    known = {key: network for key, network in ARCH_REGISTRY}  # it has no [], so dict(registry) fails
    name = options.get('type')
    network = known.get(name) or known.get(f'{name}_basicsr')  # BasicSR's scan files some under this suffix
    if network is None:
        raise OptionError(
            f"{where}.type names '{name}', which neither BasicSR nor this package has.{did_you_mean(name, known)}"
        )
    parameters = inspect.signature(network).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        check_keys({key: value for key, value in options.items() if key != 'type'}, parameters, where)


def make_network(options: Mapping, where: str) -> nn.Module:
    """Build a network from its options, which stay as they are; raises OptionError as ``check_network`` does."""
    check_network(options, where)
    return build_network(deepcopy(dict(options)))


def seeded_network(options: Mapping, seed: int, name: str) -> nn.Module:
    """Build a network whose initial weights depend on (seed, name) alone, whatever was built before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f'{seed}/{name}'.encode()))
        return make_network(options, 'experts')


def load_params(path: str | Path, prefer: str = 'params_ema') -> dict[str, Tensor]:
    """Read the weights of a BasicSR checkpoint onto the CPU, without executing pickled code.

    Args:
        path: A ``.pth`` file holding ``params``, ``params_ema`` or a bare state dict.
        prefer: The entry to take where there is a choice.

    Raises:
        DataError: The file is missing or is no such checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f'There are no weights at {path}; train the stage that writes them, or correct the path.')
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
        return next((content[key] for key in (prefer, 'params') if key in content), content)
    except Exception as error:
        raise DataError(
            f'{path} cannot be read as weights ({type(error).__name__}); the file is damaged or no '
            'checkpoint: train it again or copy it again.'
        ) from error


def load_into(net: nn.Module, params: Mapping[str, Tensor], source: str | Path) -> nn.Module:
    """Load weights strictly; raises DataError naming the first keys that differ."""
    try:
        net.load_state_dict(params, strict=True)
    except (RuntimeError, AttributeError) as error:
        reasons = ' '.join(str(error).split())[:300]
        raise DataError(
            f'{source} does not fit {type(net).__name__} with these options ({reasons}); '
            'build it with the options it was trained with.'
        ) from error
    return net


def frozen(net: nn.Module) -> nn.Module:
    """Put a network in evaluation mode and take it out of every gradient."""
    return net.eval().requires_grad_(False)


def build_encoder(options: Mapping) -> nn.Module:
    """Build the frozen degradation encoder of an option file's ``encoder`` block.

    Args:
        options: ``type``, ``weights`` (a checkpoint of the encoder stage) and the encoder's own arguments.

    Raises:
        OptionError: ``weights`` is not given, or the network's type or one of its arguments is unknown.
        DataError: The weights are missing or do not fit.
    """
    options = dict(options)
    weights = options.pop('weights', None)
    if weights is None:
        raise OptionError(
            'encoder.weights is missing; give the checkpoint of the encoder stage, '
            'e.g. experiments/NAME/models/net_g_latest.pth.'
        )
    return frozen(load_into(make_network(options, 'encoder'), load_params(weights), weights))


def expert_options(experts: Mapping, node: Node) -> dict:
    """Return the network options of one node's expert.

    Args:
        experts: The ``experts`` block: ``default``, and optionally ``by_label`` (for nodes dominated by a degradation
            type) and ``overrides`` (by node name, strongest).
        node: The tree node.

    Raises:
        OptionError: Unknown keys, or no ``default``.
    """
    check_keys(experts, ('default', 'by_label', 'overrides', 'weights'), 'experts')
    if 'default' not in experts:
        raise OptionError('experts.default is missing; give the network every node gets, e.g. {type: NAFNetExpert}.')
    chosen = experts['default']
    dominant = next((label for label, count in node.labels.items() if count > node.count / 2), None)
    chosen = (experts.get('by_label') or {}).get(dominant, chosen) if node.level else chosen
    return deepcopy(dict((experts.get('overrides') or {}).get(node.name, chosen)))


def check_experts(experts: Mapping, tree: DegradationTree) -> None:
    """Look up every network, label and node of an ``experts`` block, before the first expert takes its hours.

    Raises:
        OptionError: Naming the unknown key, network, label or node, and the nearest known one.
    """
    expert_options(experts, tree.nodes[0])
    by_label, overrides = (experts.get(key) or {} for key in ('by_label', 'overrides'))
    check_keys(by_label, tree.nodes[0].labels, 'experts.by_label')
    check_keys(overrides, [node.name for node in tree.nodes], 'experts.overrides')
    check_network(experts['default'], 'experts.default')
    for group, networks in (('by_label', by_label), ('overrides', overrides)):
        for key, options in networks.items():
            check_network(options, f'experts.{group}.{key}')


def weights_fingerprint(params: Mapping[str, Tensor]) -> str:
    """Return a short hash of a state dict: names, shapes and values."""
    digest = hashlib.sha256()
    for key, value in sorted(params.items()):
        digest.update(f'{key}{tuple(value.shape)}'.encode())
        digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]
