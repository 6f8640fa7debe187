"""Build networks from option dicts and load their weights, with errors a user can act on."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from basicsr.archs import build_network
from torch import Tensor, nn

from basicsr_unirestorer.clustering.tree import Node
from basicsr_unirestorer.errors import DataError, OptionError, check_keys


def seeded_network(options: Mapping, seed: int, name: str) -> nn.Module:
    """Build a network whose initial weights depend on (seed, name) alone, whatever was built before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f'{seed}/{name}'.encode()))
        return build_network(deepcopy(dict(options)))


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
        OptionError: ``weights`` is not given.
        DataError: The weights are missing or do not fit.
    """
    options = dict(options)
    weights = options.pop('weights', None)
    if weights is None:
        raise OptionError(
            'encoder.weights is missing; give the checkpoint of the encoder stage, '
            'e.g. experiments/NAME/models/net_g_latest.pth.'
        )
    return frozen(load_into(build_network(options), load_params(weights), weights))


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


def weights_fingerprint(params: Mapping[str, Tensor]) -> str:
    """Return a short hash of a state dict: names, shapes and values."""
    digest = hashlib.sha256()
    for key, value in sorted(params.items()):
        digest.update(f'{key}{tuple(value.shape)}'.encode())
        digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]
