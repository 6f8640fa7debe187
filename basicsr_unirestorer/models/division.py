"""Divide the experts of a tree among the processes of a training, from what is done already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import distributed as dist

from basicsr_unirestorer.archs.building import expert_options, seeded_network
from basicsr_unirestorer.clustering.expert_schedule import Stint, schedule
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.expert_files import ExpertFiles


@dataclass(frozen=True)
class Division:
    """Who trains which expert in this run, the same in every process.

    Attributes:
        steps: Steps of each expert, finished or not, by name.
        done: How many of them are done.
        stints: The schedule of the rest.
    """

    steps: dict[str, int]
    done: dict[str, int]
    stints: list[Stint]

    def stint(self, name: str) -> Stint | None:
        """Return the stint in which an expert is trained; None where it is not trained in this run."""
        return next((stint for stint in self.stints if stint.name == name), None)


def step_costs(experts: Mapping, tree: DegradationTree, names: list[str], size: int) -> dict[str, float]:
    """Return what a training step of each expert costs: multiply-accumulates a sample, counted once a kind of network.

    Where all networks are alike nothing is counted, and each step costs 1.

    Args:
        experts: The ``experts`` group of an option file.
        tree: The degradation tree.
        names: Nodes that are asked for.
        size: Side of a training crop in pixels.
    """
    options = {name: _plain(expert_options(experts, tree.nodes[tree.node_id(name)])) for name in names}
    if len(set(map(json.dumps, options.values()))) < 2:
        return dict.fromkeys(names, 1.0)
    return {name: float(network_macs(option, size)) for name, option in options.items()}


def network_macs(options: Mapping, size: int) -> int:
    """Return the multiply-accumulates of an expert for one sample; LoRA factors cost about what their base costs."""
    return _count(json.dumps(_plain(options)), size)


def _plain(options: Mapping) -> dict:
    return {key: value for key, value in options.items() if key != 'lora'}


@lru_cache(maxsize=64)
def _count(options: str, size: int) -> int:
    from basicsr_unirestorer.inference.complexity import count_macs

    lq = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return count_macs(seeded_network(json.loads(options), 0, 'cost').eval(), lq)


def divide(
    opt: Mapping, tree: DegradationTree, steps: Mapping[str, int], done: Mapping[str, int], num_ranks: int
) -> Division:
    """Divide what is left to train among processes; a pure function of its arguments.

    Args:
        opt: The options of the experts stage.
        tree: The degradation tree.
        steps: Steps of each expert.
        done: Steps of each that are done.
        num_ranks: Number of processes.
    """
    left = {name: steps[name] - done[name] for name in steps if done[name] < steps[name]}
    data = opt['datasets']['train']
    alone = num_ranks == 1
    costs = dict.fromkeys(left, 1.0) if alone else step_costs(opt['experts'], tree, list(left), data['gt_size'])
    shareable = opt['train'].get('share_experts', True) and not alone
    stints = schedule(
        {name: number * costs[name] for name, number in left.items()},
        {name: _awaited(tree, name, left) for name in left},
        num_ranks,
        data['expert_batch']['batch_size'] if shareable else 1,
    )
    return Division(dict(steps), dict(done), stints)


def _awaited(tree: DegradationTree, name: str, left: Mapping[str, int]) -> str | None:
    """Return the nearest ancestor that is still to be trained; None where there is none."""
    ancestor = tree.parent_name(name)
    while ancestor is not None and ancestor not in left:
        ancestor = tree.parent_name(ancestor)
    return ancestor


def agreed_division(opt: Mapping, tree: DegradationTree, steps: Mapping[str, int]) -> Division:
    """Let the first process read what is done, and give its division to all."""
    content = [None]
    if opt['rank'] == 0:
        done = ExpertFiles(Path(opt['path']['experiments_root'])).progress(steps)
        content = [divide(opt, tree, steps, done, opt['world_size'])]
    if opt['dist']:
        dist.broadcast_object_list(content)
    return content[0]
