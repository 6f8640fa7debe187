"""Turn the weights that UniRestorer's authors released, or one published network, into a bundle."""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
import yaml
from torch import Tensor

from basicsr_unirestorer.archs.building import load_into, load_params, loaded_network, make_network
from basicsr_unirestorer.archs.lora import fuse_lora
from basicsr_unirestorer.archs.recognise import differences, likely, recognise, shapes_of
from basicsr_unirestorer.clustering.tree import DegradationTree, Node, node_name
from basicsr_unirestorer.errors import DataError, OptionError
from basicsr_unirestorer.inference.bundle import Part, replace_expert, write_bundle

Params = Mapping[str, Tensor]

# the tree of the release and the networks that it may hold
RELEASE = Path(__file__).resolve().parent.parent / 'zoo' / 'unirestorer_release'
ENCODER = 'daclip_model'
# names of the release -> ours
ROUTER = {'mu': 'degradation_head', 'sigma': 'granularity_head', 'lf_gate.0': 'leaf_gate', 'layer_gate.0': 'level_gate'}
# entries of the release that take no part in restoring
UNUSED = ('gamma', 'beta', 'mean', 'std')
TEXT_AND_IMAGE = ['control', 'image', 'text']


def is_release(params: Params) -> bool:
    """Tell whether a state dict is the release of UniRestorer rather than one network."""
    return any(key.startswith('l0_experts.') for key in params)


def split_release(params: Params) -> dict[str, dict[str, Tensor]]:
    """Sort the entries of the release into its parts, without the part's prefix.

    Returns:
        ``encoder``, ``router`` (under our names), a node name such as ``l1_03`` for each expert, and ``other`` for
        entries that belong to none.
    """
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in params.items():
        head = next((name for name in ROUTER if key.startswith(f'{name}.')), None)
        if expert := re.match(r'l(\d+)_experts\.(\d+)\.', key):
            parts[node_name(int(expert[1]), int(expert[2]))][key[expert.end() :]] = value
        elif key.startswith(f'{ENCODER}.'):
            parts['encoder'][key.removeprefix(f'{ENCODER}.')] = value
        elif head:
            parts['router'][ROUTER[head] + key.removeprefix(head)] = value
        elif key not in UNUSED:
            parts['other'][key] = value
    return parts


def empty_network(options: Mapping, where: str) -> torch.nn.Module:
    """Build a network without memory for its weights, to ask for their names and shapes."""
    with torch.device('meta'):
        return make_network(options, where)


def fitting_options(part: Params, known: list[dict], where: str) -> dict:
    """Return the first of the known networks that a part's entries fit.

    Raises:
        DataError: None fits; names the first three entries that differ from the nearest one.
    """
    given = shapes_of(part)
    expected = [shapes_of(empty_network(options, where).state_dict()) for options in known]
    found = [differences(shapes, given) for shapes in expected]
    best = min(range(len(known)), key=lambda number: len(found[number]))
    options, wrong = known[best], found[best]
    wrong += [f'{key} is {value.dtype} instead of a float type' for key, value in part.items() if _no_float(key, value)]
    if wrong:
        more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        raise DataError(
            f'{where} is no {options["type"]} as in the release: {"; ".join(wrong[:3])}{more}; {likely(given)}; give '
            'the file as its authors published it.'
        )
    return options


def _no_float(key: str, value: Tensor) -> bool:
    return not value.is_floating_point() and not key.endswith('num_batches_tracked')


def convert_release(params: Params, source: Path, folder: Path, with_clip: bool = False) -> list[str]:
    """Write the release as a bundle, network by network; LoRA experts are merged into plain ones.

    Args:
        params: The release's state dict, mapped from its file so that one network at a time takes memory.
        source: Its file, for messages.
        folder: The bundle to write.
        with_clip: Keep DA-CLIP's image and text towers too, which training takes and routing does not.

    Returns:
        Names of the networks that the file holds and no path of the tree leads to; they are left out.

    Raises:
        DataError: An entry is missing, unknown or of another shape or type; nothing is written.
    """
    tree = DegradationTree.load(RELEASE)
    known = yaml.safe_load((RELEASE / 'networks.yml').read_text())
    parts = split_release(params)
    nodes = {node.name for node in tree.nodes}
    missing = sorted(({'encoder', 'router'} | nodes) - set(parts))
    if missing or parts['other']:
        wrong = [f'{name} is missing' for name in missing] + [f'{key} is unknown' for key in parts['other']]
        raise DataError(
            f'{source} is not the release of UniRestorer: {"; ".join(wrong[:3])}; give the file as its authors '
            'published it.'
        )
    whole = {**known['encoder'], 'towers': TEXT_AND_IMAGE}
    fitting_options(parts['encoder'], [whole], f'{ENCODER} of {source}')
    size = {'num_leaves': tree.num_leaves, 'num_levels': tree.num_levels}
    fitting_options(parts['router'], [{**known['router'], **size}], f'the router of {source}')
    kept = whole if with_clip else known['encoder']
    names = empty_network(kept, 'encoder').state_dict()
    experts: dict[str, Part] = {}
    for name in sorted(nodes):
        options = fitting_options(parts[name], known['experts'], f'expert {name} of {source}')
        experts[name] = plain_expert(options, parts[name], str(source))
    write_bundle(
        folder,
        tree,
        (kept, lambda: {key: parts['encoder'][key] for key in names}),
        (known['router'], partial(parts.get, 'router')),
        experts,
    )
    return sorted(set(parts) - nodes - {'encoder', 'router', 'other'})


def plain_expert(options: Mapping, params: Params, source: str) -> Part:
    """Return an expert as a bundle holds it: LoRA factors are merged into the network that they adapt."""
    if options['type'] != 'LoRARestormerExpert':
        return options, lambda: params
    base = {key: value for key, value in options.items() if key not in ('r', 'lora_alpha')}

    def merged() -> Params:
        return fuse_lora(loaded_network(options, params, 'expert', source)).state_dict()

    return {**base, 'type': 'RestormerExpert'}, merged


def convert_network(params: Params, source: Path, changes: Mapping) -> Part:
    """Recognise a published network by its weights.

    Args:
        params: Its state dict.
        source: Its file, for messages.
        changes: Options that weights do not tell, e.g. ``{'type': 'NAFNetLocalExpert'}``.

    Raises:
        DataError: No network of this package has such weights.
        OptionError: A change that the network does not know.
    """
    found = recognise(shapes_of(params))
    if found is None and 'type' not in changes:
        raise DataError(
            f'{source} holds no network of this package (its first entries: {", ".join(list(params)[:3])}); give the '
            'weights of one, or say which with --option type=NAME.'
        )
    options = {**(found or {}), **changes}
    load_into(empty_network(options, 'option'), params, source, assign=True)
    return plain_expert(options, params, str(source))


def main(argv: list[str]) -> int:
    """Run ``unirestorer convert-release``."""
    parser = argparse.ArgumentParser(
        prog='unirestorer convert-release',
        description='Turn the released UniRestorer weights, or the published weights of one network, into a bundle. '
        'Nothing that the file may hold besides tensors is executed.',
        epilog='example: unirestorer convert-release model.pth unirestorer_bundle/',
    )
    parser.add_argument('weights', type=Path, help='.pth or .safetensors file')
    parser.add_argument('bundle', type=Path, help='folder to write')
    parser.add_argument('--with-clip', action='store_true', help="keep DA-CLIP's image and text towers, for training")
    parser.add_argument('--node', help='one network: put it in the place of this expert of the bundle, e.g. l1_03')
    parser.add_argument(
        '--option',
        action='append',
        default=[],
        metavar='NAME=VALUE',
        help='one network: what its weights do not tell, e.g. type=NAFNetLocalExpert or lora_alpha=[8,8,8,8]',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace an existing bundle')
    args = parser.parse_args(argv)
    changes = {}
    for item in args.option:
        name, given, value = item.partition('=')
        if not given:
            raise OptionError(f"--option takes NAME=VALUE, but got '{item}'.")
        changes[name] = yaml.safe_load(value)
    if not args.node and not args.overwrite and args.bundle.exists():
        raise OptionError(f'{args.bundle} exists; choose another folder, or replace it with --overwrite.')
    params = load_params(args.weights, mmap=True)
    if is_release(params):
        if args.node or changes:
            raise OptionError(f'{args.weights} is the whole release, which takes neither --node nor --option.')
        for name in convert_release(params, args.weights, args.bundle, args.with_clip):
            print(f'{name} is in the file, but no leaf leads to it: left out')
    else:
        part = convert_network(params, args.weights, changes)
        if args.node:
            replace_expert(args.bundle, args.node, part)
        else:
            root = DegradationTree(
                (Node(node_name(0, 0), 0, -1),), torch.zeros(1, 1).numpy(), {'source': 'one network'}
            )
            write_bundle(args.bundle, root, None, None, {root.nodes[0].name: part})
        print(f'recognised: {part[0]}')
    print(f'{args.bundle} written; try: unirestorer restore photos/ restored/ --bundle {args.bundle}')
    return 0
