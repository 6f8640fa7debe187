"""Golden fixtures: weights regenerated from their keys, stored inputs and outputs.

``<name>.json`` holds the configuration, the state dict's keys and shapes and the input recipes; ``<name>.npz`` outputs.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parent


def fill(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an entry's float32 value: normals seeded by its key, scaled by what kind of entry it is."""
    z = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)
    leaf = key.rsplit('.', 1)[-1]
    layer_scale = len(shape) == 4 and shape[0] == 1 and tuple(shape[2:]) == (1, 1)
    if leaf == 'running_var':
        z = 1 + np.abs(0.02 * z)
    elif len(shape) <= 1 or layer_scale:
        z = 0.2 * z if layer_scale and leaf in ('beta', 'gamma') else 0.02 * z + (leaf == 'weight')
    else:
        z = (0.125 if leaf == 'lora_B' else 0.5) * z / np.sqrt(float(np.prod(shape[1:])))
    return np.asarray(z).astype(np.float32)


def make_input(recipe: dict) -> np.ndarray:
    """Return a case's input, float32: seeded uniform noise, optionally under a ramp."""
    x = np.random.Generator(np.random.PCG64(recipe['seed'])).random(recipe['shape'])
    if recipe['ramp']:
        h, w = recipe['shape'][-2:]
        x = x * ((np.arange(h)[:, None] + 1) / h) * ((np.arange(w)[None, :] + 1) / w)
    x = (x * recipe['scale'] + recipe['offset']).astype(np.float32)
    assert zlib.crc32(x.astype('<f4').tobytes()) == recipe['crc32'], 'the input recipe is followed wrongly'
    return x


class Golden:
    """One fixture."""

    def __init__(self, name: str) -> None:
        self.facts = json.loads((FOLDER / f'{name}.json').read_text())
        self.arrays = np.load(FOLDER / f'{name}.npz')
        self.config = self.facts['config']

    def state_dict(self, rename=lambda key: key) -> dict[str, Tensor]:  # noqa: ANN001
        return {
            rename(key): torch.from_numpy(fill(key, tuple(shape)))
            for key, shape, kind in self.facts['state_dict']
            if kind == 'float32'
        }

    def fill(self, net: nn.Module) -> None:
        net.load_state_dict(self.state_dict(), strict=True)
        net.eval()

    def cases(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        for case in self.facts['cases']:
            yield (
                case['name'],
                torch.from_numpy(make_input(case['input'])),
                torch.from_numpy(self.arrays[f'output.{case["name"]}']),
            )
