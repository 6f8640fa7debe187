"""Golden fixtures: weights regenerated from their keys, stored inputs and outputs.

``<name>.json`` holds the configuration, keys and shapes of the state dict and the input recipes; ``<name>.npz`` outputs
(``output.<case>``), samples of what modules return for ``probe_case`` (``probe.<module>``) and whole returns of some
(``full.<module>``, first picture of the batch).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
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


def samples(value: Tensor) -> Tensor:
    """Return up to 256 entries, evenly spread, as a probe stores them."""
    flat = value.detach().contiguous().flatten()
    return flat[np.linspace(0, len(flat) - 1, min(256, len(flat))).astype(np.int64)]


class Golden:
    """One fixture. ``seed_key`` names the key whose seed fills an entry, where that is another."""

    def __init__(self, name: str, seed_key: Callable[[str], str] = lambda key: key) -> None:
        self.facts = json.loads((FOLDER / f'{name}.json').read_text())
        self.arrays = np.load(FOLDER / f'{name}.npz')
        self.config = self.facts['config']
        self.seed_key = seed_key

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: tuple(shape) for key, shape, _ in self.facts['state_dict']}

    def state_dict(self) -> dict[str, Tensor]:
        """All entries that the weight rule fills; the others stay as a network constructs them."""
        weights = self.facts['weights']
        prefix, kept = weights['key_prefix'], set(weights['kept_from_constructor'])
        return {
            key: torch.from_numpy(fill(prefix + self.seed_key(key), tuple(shape)))
            for key, shape, _ in self.facts['state_dict']
            if key not in kept
        }

    def fill(self, net: nn.Module) -> None:
        """Load the weights into a network that must have exactly the listed entries, and put it in evaluation mode."""
        assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == self.shapes
        assert not net.load_state_dict(self.state_dict(), strict=False).unexpected_keys
        net.eval()

    def cases(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield name, input and stored output of every case."""
        for case in self.facts['cases']:
            yield (
                case['name'],
                torch.from_numpy(make_input(case['input'])),
                torch.from_numpy(self.arrays[f'output.{case["name"]}']),
            )

    @torch.no_grad()
    def differences(self, net: nn.Module) -> dict[str, float]:
        """Return the largest difference to every stored array: each case's output, each probe, each full tensor.

        Modules are watched by hooks while the probe case runs; the first element of a returned tuple counts.
        """
        seen: dict[str, Tensor] = {}
        names = {key.split('.', 1)[1] for key in self.arrays if key.split('.', 1)[0] in ('probe', 'full')}

        def watch(name: str) -> Callable:
            def hook(_module: nn.Module, _args: tuple, out: Tensor | tuple) -> None:
                seen[name] = out[0] if isinstance(out, tuple) else out

            return hook

        found = {}
        for case, lq, expected in self.cases():
            hooks = [
                net.get_submodule(name).register_forward_hook(watch(name))
                for name in names
                if case == self.facts['probe_case']
            ]
            found[f'output.{case}'] = (net(lq) - expected).abs().max().item()
            for hook in hooks:
                hook.remove()
        for key in self.arrays:
            kind, name = key.split('.', 1) if '.' in key else (key, '')
            if kind in ('probe', 'full'):
                ours = samples(seen[name]) if kind == 'probe' else seen[name][:1]
                expected = torch.from_numpy(self.arrays[key]).reshape(ours.shape)
                found[key] = (ours - expected).abs().max().item()
        return found


def assert_parity(name: str, build: Callable[..., nn.Module], tolerance: float = 1e-5) -> None:
    """Build a fixture's network, fill it and compare every stored array."""
    golden = Golden(name)
    net = build(**golden.config)
    golden.fill(net)
    found = golden.differences(net)
    assert {key for key in golden.arrays if key.startswith(('output.', 'probe.', 'full.'))} == set(found)
    wrong = {key: value for key, value in found.items() if not value < tolerance}
    assert not wrong, f'{name}: {wrong}'
