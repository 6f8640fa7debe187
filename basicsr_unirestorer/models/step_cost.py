"""What a training step of a network costs: multiply-accumulates, memory and time, from steps on random data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from torch import Tensor, nn

from basicsr_unirestorer.archs.building import make_network

WARM_UP, TIMED = 3, 5  # steps on a GPU
PATIENCE_S = 10  # on a CPU, a first step that takes longer is not repeated


@dataclass(frozen=True)
class Cost:
    """What a kind of network costs in training; memory in bytes.

    Attributes:
        network: Its type.
        used_by: What it is for: nodes, or a key of the option file.
        parameters, trainable: How many, and how many of them take gradients.
        macs: Multiply-accumulates of a forward pass of one sample.
        weights, ema, gradients, optimizer: What is held all the time.
        peak: The most that a step took on the GPU, activations included; None on a CPU.
        seconds: A step of the whole batch; None for a frozen network.
        samples: Samples of the step that was measured; ``seconds`` is scaled up from it to the batch.
        precision: What it is computed in.
    """

    network: str
    used_by: list[str]
    parameters: int
    trainable: int
    macs: int | None
    weights: int
    ema: int = 0
    gradients: int = 0
    optimizer: int = 0
    peak: int | None = None
    seconds: float | None = None
    samples: int = 0
    precision: str = 'off'


def random_batch(samples: int, size: int) -> Tensor:
    """Return noise in the place of pictures, shape (samples, 3, size, size), [0, 1], always the same."""
    return torch.rand(samples, 3, size, size, generator=torch.Generator().manual_seed(0))


def optimizer_maker(opt: Mapping) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    """Return a function that makes the optimizer of ``train.optim_g``; raises OptionError for an unknown type."""
    optim = dict(opt['train']['optim_g'])
    kind = optim.pop('type')
    return lambda parameters: BaseModel.get_optimizer(None, kind, parameters, **optim)


def size_of(tensors: Sequence[Tensor]) -> int:
    """Return the bytes that tensors take together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def held_memory(net: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, int]:
    """Return what a network holds after its first step."""
    parameters = list(net.parameters())
    trained = [p for p in parameters if p.requires_grad]
    states = [] if optimizer is None else optimizer.state.values()
    return {
        'parameters': sum(p.numel() for p in parameters),
        'trainable': sum(p.numel() for p in trained),
        'weights': size_of([*parameters, *net.buffers()]),
        'gradients': size_of(trained),
        'optimizer': size_of([value for state in states for value in state.values() if isinstance(value, Tensor)]),
    }


def time_of_step(step: Callable[[], Any], device: torch.device) -> tuple[float, int | None]:
    """Return seconds a step, and the most memory that it took on a GPU."""
    if device.type != 'cuda':
        first = _seconds(step)
        return (first if first > PATIENCE_S else _seconds(step)), None
    torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP):
        step()
    torch.cuda.synchronize()
    seconds = _seconds(lambda: ([step() for _ in range(TIMED)], torch.cuda.synchronize())) / TIMED
    return seconds, torch.cuda.max_memory_allocated()


def _seconds(step: Callable[[], Any]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def network_cost(opt: Mapping, key: str, options: Mapping, device: torch.device) -> Cost:
    """Train one network for a step or a few towards nothing in particular: the mean square of what it returns."""
    data, net = opt['datasets']['train'], make_network(options, key).to(device).train()
    batch_size = data['batch_size_per_gpu']
    pictures = 'embed_dim' not in options or hasattr(net, 'embed')
    samples = batch_size if device.type == 'cuda' or not pictures else min(batch_size, 2)
    if key == 'network_t':
        inputs: Any = ['small noise', 'large blur'] * (samples // 2) or ['small noise']
    else:
        inputs = (random_batch(samples, data['gt_size']) if pictures else torch.rand(samples, options['embed_dim'])).to(
            device
        )
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = optimizer_maker(opt)(trained) if trained else None

    def step() -> None:
        total = sum(part.float().square().mean() for part in _tensors(net(inputs)))
        if optimizer is not None:
            optimizer.zero_grad()
            total.backward()
            optimizer.step()

    seconds, peak = time_of_step(step, device)
    ema = size_of(trained) if key == 'network_g' and (opt['train'].get('ema_decay') or 0) > 0 else 0
    held = held_memory(net, optimizer)
    macs = None if key == 'network_t' else macs_of(net.cpu().eval(), inputs[:1].cpu())
    return Cost(
        options['type'],
        [key],
        macs=macs,
        ema=ema,
        peak=peak,
        seconds=seconds * batch_size / samples,
        samples=samples,
        **held,
    )


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = [getattr(output, f.name) for f in fields(output)] if is_dataclass(output) else list(output)
    return [part for part in parts if isinstance(part, Tensor)]


def macs_of(net: nn.Module, x: Tensor) -> int:
    from basicsr_unirestorer.inference.complexity import Call, count_macs

    return count_macs(Call(net, lambda inner, value: tuple(_tensors(inner(value)))), x)
