"""Count parameters and multiply-accumulates of a bundle: all of it, and what one picture uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer
from torch import Tensor, nn

from basicsr_unirestorer.archs.building import frozen, make_network
from basicsr_unirestorer.archs.lora import add_factors, lora_state
from basicsr_unirestorer.inference.bundle import Bundle


@dataclass(frozen=True)
class Complexity:
    """What one network costs."""

    part: str
    network: str
    parameters: int
    macs: int  # of one picture


class Call(nn.Module):
    """A network seen through a function of it, since the tracer takes modules that return tensors."""

    def __init__(self, net: nn.Module, function: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.net = net
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.net, x)


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Count fused attention, which mmengine does not know: queries by keys, then by values; (..., tokens, width)."""
    query, key, value = (tensor.type().sizes() for tensor in inputs[:3])
    return prod(query[:-2]) * query[-2] * key[-2] * (query[-1] + value[-1])


def count_macs(net: nn.Module, lq: Tensor) -> int:
    """Return the multiply-accumulates of a forward pass: convolutions, matrix products, attention, norms, resizing.

    Args:
        net: The network; its way through does not depend on the values of the input.
        lq: The input, of the size that counts.
    """
    analyzer = FlopAnalyzer(net, (lq,)).set_op_handle('aten::scaled_dot_product_attention', _attention_macs)
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings('none')
    return int(analyzer.total())


def analyse(part: str, net: nn.Module, x: Tensor, function: Callable | None = None) -> Complexity:
    """Count one network.

    Args:
        part: Name of its row.
        net: The network.
        x: Its input.
        function: How the network is used; called where None.
    """
    parameters = sum(p.numel() for p in net.parameters())
    return Complexity(part, type(net).__name__, parameters, count_macs(Call(net, function) if function else net, x))


def _logits(router: nn.Module, embedding: Tensor) -> tuple[Tensor, Tensor]:
    out = router(embedding)
    return out.leaf_logits, out.level_logits


def bundle_complexity(folder: str | Path, size: int = 256) -> list[Complexity]:
    """Count every network of a bundle for one RGB picture of ``size`` x ``size`` pixels; networks alike count once.

    A LoRA expert costs the MACs of the root's network, into which it is fused, and the parameters of its factors.

    Returns:
        Encoder and router (where the tree has several nodes), then the experts in the order of the tree.

    Raises:
        DataError: The folder is no sound bundle.
    """
    bundle = Bundle(folder)
    lq = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    rows = []
    if encoder := bundle.encoder():
        rows.append(analyse('encoder', encoder, lq, lambda net, x: net.embed(x)))
    if router := bundle.router():
        embedding = torch.zeros(1, bundle.tree.embed_dim)
        rows.append(analyse('router', router, embedding, _logits))
    known: dict[str, Complexity] = {}
    for node in bundle.tree.nodes:
        options = bundle.content['experts'][node.name]
        if str(options) not in known:  # initial weights cost as much as trained ones
            known[str(options)] = _analyse_expert(node.name, options, lq)
        rows.append(replace(known[str(options)], part=node.name))
    return rows


def _analyse_expert(name: str, options: Mapping, lq: Tensor) -> Complexity:
    net = frozen(make_network({key: value for key, value in options.items() if key != 'lora'}, name))
    row = analyse(name, net, lq)
    if 'lora' not in options:
        return row
    factors = lora_state(add_factors(net, **options['lora'])).values()
    rank = options['lora']['rank']
    return replace(row, network=f'{row.network} + LoRA {rank}', parameters=sum(f.numel() for f in factors))


def complexity_table(rows: list[Complexity], size: int) -> str:
    """Write the counts as a Markdown table with two sums: everything, and what the costliest picture uses."""
    shared = [row for row in rows if row.part in ('encoder', 'router')]
    experts = [row for row in rows if row not in shared]
    largest = max(experts, key=lambda row: row.macs)
    sums = {'total': rows, f'active at most ({largest.part})': [*shared, largest]}
    lines = [f'| part | network | parameters (M) | MACs (G, {size}x{size}) |', '|---|---|---:|---:|']
    lines += [f'| {r.part} | {r.network} | {r.parameters / 1e6:.2f} | {r.macs / 1e9:.2f} |' for r in rows]
    lines += [
        f'| **{name}** | | {sum(r.parameters for r in part) / 1e6:.2f} | {sum(r.macs for r in part) / 1e9:.2f} |'
        for name, part in sums.items()
    ]
    return '\n'.join(lines)
