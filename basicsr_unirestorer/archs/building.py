"""Build networks from option dicts and load their weights, with errors a user can act on."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from basicsr_unirestorer import compat
from basicsr_unirestorer.archs.lora import add_factors
from basicsr_unirestorer.archs.recognise import differences, likely, shapes_of
from basicsr_unirestorer.clustering.tree import DegradationTree, Node, node_name
from basicsr_unirestorer.errors import DataError, OptionError, check_keys, find_registered


def check_network(options: Mapping, where: str) -> None:
    """Look up a network's type and the names of its arguments, without building it.

    Args:
        options: ``type`` and the network's own arguments.
        where: Dotted place of the options, quoted in the message.

    Raises:
        OptionError: Naming the unknown type or argument and the nearest known one.
    """
    parameters = inspect.signature(_network_class(options, where)).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        check_keys({key: value for key, value in options.items() if key != 'type'}, parameters, where)


def make_network(options: Mapping, where: str) -> nn.Module:
    """Build a network from its options, which stay as they are; raises OptionError as ``check_network`` does."""
    check_network(options, where)
    arguments = {key: value for key, value in deepcopy(dict(options)).items() if key != 'type'}
    return _network_class(options, where)(**arguments)


def _network_class(options: Mapping, where: str) -> type[nn.Module]:
    """Look up a network's type among ours and, only where it is none of these, among BasicSR's own."""
    if options.get('type') not in ARCH_REGISTRY:
        compat.apply()  # imports all of BasicSR
    return find_registered(ARCH_REGISTRY, options.get('type'), f'{where}.type')


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """While it is active, random initial values depend on (seed, name) alone; the random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f'{seed}/{name}'.encode()))
        yield


def seeded_network(options: Mapping, seed: int, name: str) -> nn.Module:
    """Build a network whose initial weights depend on (seed, name) alone, whatever was built before it."""
    with seeded(seed, name):
        return make_network(options, 'experts')


def load_params(path: str | Path, prefer: str = 'params_ema', mmap: bool = False) -> dict[str, Tensor]:
    """Read the weights of a checkpoint onto the CPU, without executing pickled code.

    Args:
        path: A ``.safetensors`` file, or a file of ``torch.save`` holding ``params``, ``params_ema``, ``state_dict`` or
            a bare state dict; a prefix ``module.`` on every key is dropped.
        prefer: The entry to take where there is a choice.
        mmap: Map the file instead of reading it, where its format allows: a tensor takes memory once it is touched. The
            file must not change meanwhile.

    Raises:
        DataError: The file is missing, damaged or no such checkpoint, or holds Python objects that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f'There are no weights at {path}; train the stage that writes them, or correct the path.')
    content = load_file(path) if path.suffix == '.safetensors' else _unpickled(path, mmap)
    if isinstance(content, Mapping):
        content = next((content[key] for key in (prefer, 'params', 'state_dict') if key in content), content)
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise DataError(f'{path} holds no state dict (names and tensors); give the file with the weights of a network.')
    prefix = 'module.' if all(key.startswith('module.') for key in content) else ''
    return {key.removeprefix(prefix): value for key, value in content.items()}


def _unpickled(path: Path, mmap: bool) -> object:
    """Read a file of ``torch.save``; one in the format before torch 1.6 cannot be mapped and is read as a whole."""
    try:
        return torch.load(path, map_location='cpu', weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        blocked = re.search(r'GLOBAL ([\w.]+)', str(error))
        if blocked is None:
            raise _damaged(path, error) from error
        raise DataError(
            f'{path} holds the Python object {blocked[1]}, which would run code, and was not opened; save its state '
            'dict alone with torch.save(net.state_dict(), ...) where you trust it.'
        ) from error
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f'{path} cannot be read as weights ({type(error).__name__}); the file is damaged or no checkpoint: train it '
        'again or copy it again.'
    )


def load_into(net: nn.Module, params: Mapping[str, Tensor], source: str | Path, assign: bool = False) -> nn.Module:
    """Load weights strictly; a network with ``own_part`` picks its own out of a larger file, such as all of DA-CLIP.

    Args:
        net: The network.
        params: Its state dict.
        source: Where the weights come from, for the message.
        assign: Let the network hold these tensors themselves instead of copies.

    Raises:
        DataError: Naming the first three entries that differ, and the network they would fit.
    """
    if hasattr(net, 'own_part'):
        params = net.own_part(params)
    expected = net.state_dict()
    wrong = differences(shapes_of(expected), shapes_of(params))
    wrong += [
        f'{key} is {params[key].dtype} instead of {value.dtype}'
        for key, value in expected.items()
        if key in params and params[key].is_floating_point() != value.is_floating_point()
    ]
    if wrong:
        more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        raise DataError(
            f'{source} does not fit {type(net).__name__} with these options: {"; ".join(wrong[:3])}{more}; '
            f'{likely(shapes_of(params))}.'
        )
    net.load_state_dict(params, strict=True, assign=assign)
    return net


class NoRandomValues(TorchFunctionMode):
    """While it is active, random initial values are not drawn: what they would fill stays as it was allocated.

    Memory that is never touched is never taken. (The meta device would do as well, but computing on it imports torch's
    compiler, which takes longer than all the rest of opening a bundle.)
    """

    FILLS = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)
    DRAWS = (torch.rand, torch.randn)

    def __torch_function__(
        self, function: Callable, types: Sequence, args: Sequence = (), kwargs: Mapping | None = None
    ) -> object:
        if function in self.FILLS:
            return args[0] if args else kwargs['tensor']
        return (torch.empty if function in self.DRAWS else function)(*args, **(kwargs or {}))


def loaded_network(options: Mapping, params: Mapping[str, Tensor], where: str, source: str | Path) -> nn.Module:
    """Build a frozen float32 network around weights, without drawing initial weights that would be thrown away.

    Args:
        options: ``type`` and the network's own arguments.
        params: Its state dict; the network holds these tensors themselves where they are float32.
        where: Dotted place of the options, for messages.
        source: Where the weights come from, for messages.

    Raises:
        OptionError: As ``check_network``.
        DataError: As ``load_into``.
    """
    with NoRandomValues():
        net = make_network(options, where)
    load_into(net, params, source, assign=True)
    return frozen(net.float())


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
    return loaded_network(options, load_params(weights), 'encoder', weights)


def expert_options(experts: Mapping, node: Node) -> dict:
    """Return the network options of one node's expert.

    Args:
        experts: The ``experts`` block: ``default``, and optionally ``by_label`` (for nodes dominated by a degradation
            type), ``overrides`` (by node name, strongest) and ``lora`` (``rank``, 8 if not given, ``alpha``, 16, and
            ``nodes``, names of the only nodes that get it).
        node: The tree node.

    Returns:
        ``type`` and arguments and, where ``lora`` is given and the network is the root's, ``lora: {rank, alpha}``: the
        expert is then LoRA factors on the root's weights (``node_expert``).

    Raises:
        OptionError: Unknown keys, or no ``default``.
    """
    check_keys(experts, ('default', 'by_label', 'overrides', 'weights', 'lora', 'cache_mb'), 'experts')
    if 'default' not in experts:
        raise OptionError('experts.default is missing; give the network every node gets, e.g. {type: NAFNetExpert}.')
    by_label, overrides = (experts.get(key) or {} for key in ('by_label', 'overrides'))
    root = dict(overrides.get(node_name(0, 0), experts['default']))
    if not node.level:
        return deepcopy(root)
    options = dict(overrides.get(node.name, by_label.get(node.dominant_label, experts['default'])))
    lora = experts.get('lora')
    if lora is not None and options == root and node.name in (lora.get('nodes') or [node.name]):
        options['lora'] = {key: lora.get(key, usual) for key, usual in (('rank', 8), ('alpha', 16))}
    return deepcopy(options)


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
    if experts.get('lora') is not None:
        _check_lora(experts, tree)


def _check_lora(experts: Mapping, tree: DegradationTree) -> None:
    lora = experts['lora']
    check_keys(lora, ('rank', 'alpha', 'nodes'), 'experts.lora')
    for name in lora.get('nodes') or ():
        tree.node_id(name)
    for key, kinds, meant in (('rank', int, 'a whole number from 1'), ('alpha', (int, float), 'a number above 0')):
        value = lora.get(key, 1)
        if not isinstance(value, kinds) or isinstance(value, bool) or value <= 0:
            raise OptionError(f'experts.lora.{key} is {value!r}; give {meant}, e.g. lora: {{rank: 8, alpha: 16}}.')
    adapted = [node for node in tree.nodes if 'lora' in expert_options(experts, node)]
    if not adapted and len(tree.nodes) > 1:
        raise OptionError(
            "experts.lora has no effect, since no other node has the root's network; give l0_00 the network of the "
            'others, or leave lora out.'
        )
    if adapted:
        with NoRandomValues():
            root = make_network(expert_options(experts, tree.nodes[0]), 'experts')
        add_factors(root, **expert_options(experts, adapted[0])['lora'])


def weights_fingerprint(params: Mapping[str, Tensor]) -> str:
    """Return a short hash of a state dict: names, shapes and values."""
    digest = hashlib.sha256()
    for key, value in sorted(params.items()):
        digest.update(f'{key}{tuple(value.shape)}'.encode())
        digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]
