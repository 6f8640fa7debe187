"""``unirestorer train --dry-run``: what a training stage will cost, from one step of each network on random data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from basicsr.losses import build_loss

from basicsr_unirestorer.archs.building import check_experts, expert_options, make_network, seeded_network
from basicsr_unirestorer.archs.node_expert import build_expert
from basicsr_unirestorer.clustering.expert_plan import steps_of_experts, take_chosen_experts
from basicsr_unirestorer.clustering.expert_schedule import balance, busy, retimed, stints_of
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import OptionError
from basicsr_unirestorer.expert_files import ExpertFiles
from basicsr_unirestorer.models.division import divide, network_macs
from basicsr_unirestorer.models.expert_training import ExpertTraining
from basicsr_unirestorer.models.step_cost import (
    Cost,
    held_memory,
    macs_of,
    network_cost,
    optimizer_maker,
    random_batch,
    size_of,
    time_of_step,
)

RELEASE_TREE = Path(__file__).resolve().parent.parent / 'zoo' / 'unirestorer_release' / 'degradation_tree.json'


def dry_run(opt: dict, ranks: Sequence[int], experiment: Path | None = None) -> dict[str, Any]:
    """Measure a training stage on random data, without reading any and without writing anything.

    Args:
        opt: Options as ``read_options`` gives them.
        ranks: Numbers of processes to plan the experts stage for.
        experiment: Plan what is left to train of this experiment; None plans everything.

    Returns:
        ``device``, ``batch_size``, ``patch``, ``notes`` (sentences), ``networks`` (``Cost`` as dicts) and, for the
        experts stage, ``plans``, one a number of processes.

    Raises:
        OptionError: The options make no sense.
    """
    on_gpu = opt['num_gpu'] != 0 and torch.cuda.is_available()
    device = torch.device('cuda' if on_gpu else 'cpu')
    data = opt['datasets']['train']
    if not data.get('gt_size'):
        raise OptionError('--dry-run needs datasets.train.gt_size, the side of the crops that are trained on.')
    notes = [] if on_gpu or opt['num_gpu'] == 0 else ['There is no GPU here, so the steps ran on the CPU.']
    batch_size = (data.get('expert_batch') or {}).get('batch_size') or data['batch_size_per_gpu']
    result = {
        'name': opt['name'],
        'device': torch.cuda.get_device_name() if on_gpu else f'CPU, {torch.get_num_threads()} threads',
        'batch_size': batch_size,
        'patch': data['gt_size'],
        'notes': notes,
    }
    if data.get('expert_batch'):
        parts = _experts_stage(opt, ranks, device, experiment, notes)
    else:
        parts = {'networks': [asdict(cost) for cost in _other_stage(opt, device, notes)]}
    if not on_gpu and any(0 < cost['samples'] < batch_size for cost in parts['networks']):
        notes.append('On a CPU few samples were measured and multiplied up to the batch; memory is computed.')
    return {**result, **parts}


# ------------------------------------------------------------------------------------------------- the experts stage


def _experts_stage(
    opt: dict, ranks: Sequence[int], device: torch.device, experiment: Path | None, notes: list[str]
) -> dict[str, Any]:
    take_chosen_experts(opt)
    data = opt['datasets']['train']
    tree, experts = _tree_and_experts(opt, notes)
    check_experts(experts, tree)
    steps = steps_of_experts(tree, data['expert_batch'])
    done = dict.fromkeys(steps, 0) if experiment is None else ExpertFiles(experiment).progress(steps, check=False)
    kinds: dict[str, list[str]] = {}
    for name in steps:
        kinds.setdefault(str(expert_options(experts, tree.nodes[tree.node_id(name)])), []).append(name)
    costs = [_measure_expert(opt, experts, tree, names, device) for names in kinds.values()]
    seconds = {name: cost.seconds for cost in costs for name in cost.used_by}
    plans = [_plan({**opt, 'experts': experts}, tree, steps, done, seconds, number) for number in ranks]
    return {'networks': [asdict(cost) for cost in costs], 'plans': plans}


def _tree_and_experts(opt: Mapping, notes: list[str]) -> tuple[DegradationTree, dict]:
    """Return the tree, or the release's where there is none yet, and the ``experts`` group that fits it."""
    path, experts = Path(opt['datasets']['train']['tree']).expanduser(), dict(opt.get('experts') or {})
    if path.is_file():
        return DegradationTree.load(path), experts
    tree = DegradationTree.load(RELEASE_TREE)
    sizes = ', '.join(map(str, tree.level_sizes))
    notes.append(f'There is no {path} yet: planned for the tree of the release ({sizes}).')
    labels, experts['by_label'] = dict(experts.get('by_label') or {}), None
    given, overrides = dict(experts.get('overrides') or {}), {}
    for node_id, (label, network) in zip(tree.children(0), labels.items(), strict=False):
        family = [node_id, *tree.children(node_id)]
        overrides.update({tree.nodes[one].name: network for one in family})
        notes.append(
            f'Which nodes {label} dominates, the data will tell; here {tree.nodes[node_id].name} and its '
            f'{len(family) - 1} children stand for it.'
        )
    experts['overrides'] = {**overrides, **given}
    return tree, experts


def _measure_expert(
    opt: Mapping, experts: Mapping, tree: DegradationTree, names: list[str], device: torch.device
) -> Cost:
    """Train the network of some alike experts for a step or a few."""
    data, options = opt['datasets']['train'], expert_options(experts, tree.nodes[tree.node_id(names[0])])
    root = expert_options(experts, tree.nodes[0])
    net = build_expert(
        experts, tree, names[0], 0, lambda _: seeded_network(root, 0, 'root').state_dict(), init_from_parent=False
    )
    criterion = build_loss(dict(opt['train']['pixel_opt'])).to(device)
    many = 1000  # more steps than are made here
    training = ExpertTraining(names[0], net, many, opt['train'], optimizer_maker(opt), criterion, device)
    batch_size = data['expert_batch']['batch_size']
    samples = batch_size if device.type == 'cuda' else 1
    lq, gt = (random_batch(samples, data['gt_size']).to(device) for _ in range(2))
    seconds, peak = time_of_step(lambda: training.train_on(lq, gt, samples, ['random']), device)
    lora = f' + LoRA {options["lora"]["rank"]}' if 'lora' in options else ''
    return Cost(
        network=options['type'] + lora,
        used_by=names,
        macs=network_macs(options, data['gt_size']),
        ema=size_of(training.trained) if training.ema is not None else 0,
        peak=peak,
        seconds=seconds * batch_size / samples,
        samples=samples,
        precision=training.precision,
        **held_memory(net, training.optimizer),
    )


def _plan(
    opt: Mapping, tree: DegradationTree, steps: Mapping, done: Mapping, seconds: Mapping, ranks: int
) -> dict[str, Any]:
    """Divide the experts as the training will, and say when each process is done with what."""
    batch_size = opt['datasets']['train']['expert_batch']['batch_size']
    division = divide(opt, tree, steps, done, ranks)
    parents = {name: tree.parent_name(name) for name in steps}
    left = {name: (steps[name] - done[name]) * seconds[name] for name in steps}
    stints = retimed(division.stints, left, parents, batch_size)
    times = busy(stints, ranks)
    rows = [
        {
            'rank': rank,
            'busy': times[rank],
            'experts': [
                {'name': s.name, 'steps': steps[s.name] - done[s.name], 'ranks': list(s.ranks), 'end': s.end}
                for s in stints_of(stints, rank)
            ],
        }
        for rank in range(ranks)
    ]
    return {
        'ranks': ranks,
        'end': max((stint.end for stint in stints), default=0.0),
        'balance': balance(stints, ranks),
        'balance_by_macs': balance(division.stints, ranks),
        'processes': rows,
    }


# ------------------------------------------------------------------------------------------------- other stages


def _other_stage(opt: Mapping, device: torch.device, notes: list[str]) -> Iterator[Cost]:
    """Measure every ``network_*`` by a step of its own, and count the frozen parts."""
    if 'optim_g' not in opt['train']:
        raise OptionError('train.optim_g is missing; write for example optim_g: {type: AdamW, lr: !!float 1e-3}.')
    data = opt['datasets']['train']
    for key, options in opt.items():
        if str(key).startswith('network_') and options is not None:
            yield network_cost(opt, key, _without_files(options, notes), device)
    frozen = {'encoder': opt.get('encoder'), 'experts.default': (opt.get('experts') or {}).get('default')}
    for where, options in frozen.items():
        if options is not None:
            net = make_network(_without_files(options, notes), where).eval().requires_grad_(False)
            macs = macs_of(net, random_batch(1, data['gt_size']))
            yield Cost(options['type'], [where], macs=macs, **held_memory(net, None))


def _without_files(options: Mapping, notes: list[str]) -> dict:
    """Return a network's options without its weights and, where its tree is not there yet, with the release's."""
    options = {key: value for key, value in options.items() if key != 'weights'}
    if options.get('tree') and not Path(options['tree']).expanduser().is_file():
        notes.append(f'There is no {options["tree"]} yet: planned for the tree of the release.')
        tree = DegradationTree.load(RELEASE_TREE)
        del options['tree']
        options |= {'num_leaves': tree.num_leaves, 'num_levels': tree.num_levels}
    return options
