"""Synthetic releases: the names and shapes of UniRestorer's release with weights that anybody can regenerate."""

from __future__ import annotations

import gzip
from pathlib import Path

import torch
import yaml
from torch import Tensor

from basicsr_unirestorer.archs.dehazeformer_expert_arch import relative_positions
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.inference.release import ROUTER, TEXT_AND_IMAGE, empty_network
from tests.parity.golden import FOLDER, fill

# a release of toy size: every kind of network once, the leaves under one parent
RESTORMER = {'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1, 'heads': [1, 2, 2, 4]}
TOY_EXPERTS = [
    {'type': 'RestormerExpert', **RESTORMER},
    {'type': 'RestormerExpert', **RESTORMER, 'LayerNorm_type': 'BiasFree'},
    {'type': 'LoRARestormerExpert', **RESTORMER, 'r': [2, 2, 2, 2], 'lora_alpha': [4, 4, 4, 4]},
    {
        'type': 'DehazeFormerExpert',
        'embed_dims': [8, 8, 8, 8, 8],
        'depths': [1, 1, 1, 1, 1],
        'num_heads': [2, 2, 2, 1, 1],
        'attn_ratio': [0, 1, 1, 0, 0],
    },
    {'type': 'RetinexFormerExpert', 'n_feat': 8, 'num_blocks': [1, 1, 1]},
    {
        'type': 'NAFNetLocalExpert',
        'width': 4,
        'enc_blk_nums': [1, 1],
        'dec_blk_nums': [1, 1],
        'train_size': [1, 3, 32, 32],
    },
]
TOY = {
    'encoder': {
        'type': 'DACLIPEncoder',
        'embed_dim': 16,
        'vision_cfg': {'image_size': 32, 'layers': 1, 'width': 64, 'patch_size': 16},
        'text_cfg': {'context_length': 77, 'vocab_size': 100, 'width': 16, 'heads': 2, 'layers': 1},
        'towers': ['control'],
        'resize': True,
        'normalize': False,
    },
    'router': {'type': 'UniRestorerRouter', 'embed_dim': 16, 'depth': 5},
    'experts': TOY_EXPERTS,
}


def alias(key: str) -> str:
    """Return the key whose seed fills an entry: DA-CLIP lists its image tower twice."""
    return key.replace('daclip_model.visual.', 'daclip_model.clip.visual.')


def value_of(key: str, shape: tuple[int, ...]) -> Tensor:
    """Return an entry's value: by the weight rule or, where that leaves it out, as a network constructs it."""
    leaf = key.rsplit('.', 1)[-1]
    if leaf == 'num_batches_tracked':
        return torch.tensor(0)
    if leaf == 'relative_positions':
        return relative_positions(int(shape[0] ** 0.5))
    return torch.zeros(shape) if key in ('mean', 'std') else torch.from_numpy(fill(alias(key), shape))


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Fill all entries; the two names of one tensor share it."""
    values: dict[str, Tensor] = {}
    return {key: values.setdefault(alias(key), value_of(key, shape)) for key, shape in shapes.items()}


def release_shapes() -> dict[str, tuple[int, ...]]:
    """Return the listed entries of the real release."""
    lines = gzip.decompress((FOLDER / 'unirestorer_release_keys.txt.gz').read_bytes()).decode().splitlines()
    rows = [line.split('\t') for line in lines]
    return {key: tuple(map(int, shape.split(','))) if shape else () for key, shape, _ in rows}


def write_toy_description(folder: Path) -> Path:
    """Write the tree and networks of a toy release: a root, two nodes below it, four leaves."""
    from basicsr_unirestorer.clustering.tree import Node, node_name

    parents = [-1, 0, 0, 1, 1, 1, 2]
    levels = [0, 1, 1, 2, 2, 2, 2]
    names = [node_name(level, sum(other == level for other in levels[:i])) for i, level in enumerate(levels)]
    nodes = tuple(Node(*row) for row in zip(names, levels, parents, strict=True))
    DegradationTree(nodes, torch.zeros(7, 16).numpy(), {}).save(folder / 'degradation_tree.json')
    (folder / 'networks.yml').write_text(yaml.safe_dump(TOY))
    return folder


def toy_release(folder: Path) -> dict[str, Tensor]:
    """Return the state dict of a toy release, with one network more than its tree has places."""
    tree = DegradationTree.load(folder)
    shapes = {'gamma': (1,), 'beta': (1,), 'mean': (1,), 'std': (1,)}

    def add(prefix: str, options: dict, rename=lambda key: key) -> None:  # noqa: ANN001
        net = empty_network(options, 'toy')
        shapes.update({prefix + rename(key): tuple(value.shape) for key, value in net.state_dict().items()})

    add('daclip_model.', {**TOY['encoder'], 'towers': TEXT_AND_IMAGE})
    places = [(node.level, int(node.name[3:])) for node in tree.nodes]
    for number, (level, index) in enumerate([*places, (2, 4)]):
        add(f'l{level}_experts.{index}.', TOY_EXPERTS[number % len(TOY_EXPERTS)])
    theirs = {ours: name for name, ours in ROUTER.items()}

    def rename(key: str) -> str:
        head, rest = key.split('.', 1)
        return f'{theirs[head]}.{rest}'

    add('', {**TOY['router'], 'num_leaves': tree.num_leaves, 'num_levels': tree.num_levels}, rename)
    return filled(shapes)
