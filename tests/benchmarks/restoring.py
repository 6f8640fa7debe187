"""What routing costs, what grouping and reading ahead gain, and what a huge picture takes.

Command: python -m tests.benchmarks.restoring [--parts routing folder huge] [--repeats 3] [--threads 1]

routing  encoder and router against one full-size expert (Restormer), by multiply-accumulates and by time, at 512x512.
         Restormer is counted at a quarter of the side, times sixteen.
folder   50 mixed pictures that need eight experts of release size, of four kinds, with a bank that holds one or two:
         ``restore_files`` (routed first, grouped, the next expert loaded ahead, files read and written in threads)
         against one picture after another, both in this process, in turns. Outputs must be equal.
huge     peak memory of `unirestorer restore` on 48 megapixels on a CPU, in a fresh process: with a small network to
         the end; with Restormer at release size until it was stopped (every tile takes what the first one takes).

That opening a bundle of 30 full-size experts touches one of them is measured by tests.benchmarks.first_picture.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from tests.benchmarks import measure
from tests.benchmarks.networks import CASES, FOLDER, build

KINDS = ('restormer_withbias', 'dehazeformer_l', 'nafnetlocal', 'retinexformer')
PARTS = ('routing', 'folder', 'huge')
TINY = {'type': 'NAFNetExpert', 'width': 4, 'enc_blk_nums': [1, 1, 1], 'middle_blk_num': 1, 'dec_blk_nums': [1, 1, 1]}
COMPACT = {'type': 'CompactDegradationEncoder', 'num_crops': 9}


def network_options(case: str) -> dict:
    """Return the option dict of a network of release size."""
    return {'type': CASES[case].network, **json.loads((FOLDER / f'{CASES[case].fixture}.json').read_text())['config']}


def make_bundle(folder: Path, experts: list[tuple[dict, dict[str, torch.Tensor]]]) -> Path:
    """Write a bundle whose root and leaves have the given networks in turns, with an untrained encoder and router."""
    from basicsr_unirestorer.archs.building import seeded_network
    from basicsr_unirestorer.clustering.tree import DegradationTree
    from basicsr_unirestorer.inference.bundle import write_bundle

    tree = DegradationTree.star(len(experts) - 1, embed_dim=512)
    router = {'type': 'UniRestorerRouter', 'embed_dim': 512}
    sizes = {'num_leaves': tree.num_leaves, 'num_levels': tree.num_levels}
    encoder = seeded_network(COMPACT, 0, 'encoder').state_dict()
    weights = seeded_network({**router, **sizes}, 0, 'router').state_dict()
    named = {node.name: part for node, part in zip(tree.nodes, experts, strict=True)}
    parts = {name: (options, lambda state=state: state) for name, (options, state) in named.items()}
    write_bundle(folder, tree, (COMPACT, lambda: encoder), (router, lambda: weights), parts)
    return folder


def routing(size: int, repeats: int) -> dict:
    """Compare encoder and router with Restormer; returns shares of Restormer's cost."""
    from basicsr_unirestorer.archs.building import frozen, make_network
    from basicsr_unirestorer.inference.complexity import Call, count_macs
    from basicsr_unirestorer.inference.release import RELEASE

    restormer = build('restormer_withbias', plain=False)
    lq = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    expert_macs = 16 * count_macs(restormer, lq[..., : size // 4, : size // 4])
    router = frozen(make_network({'type': 'UniRestorerRouter', 'num_leaves': 22, 'num_levels': 3}, 'router'))
    router_macs = count_macs(Call(router, lambda net, x: net(x).leaf_logits), torch.zeros(1, 512))
    release = yaml.safe_load((RELEASE / 'networks.yml').read_text())['encoder']
    encoders = {name: frozen(make_network(opt, name)) for name, opt in {'compact': COMPACT, 'DA-CLIP': release}.items()}

    @torch.inference_mode()
    def seconds(run: Callable[[torch.Tensor], object], times: int) -> float:
        return statistics.median(measure.seconds(lambda: run(lq)) for _ in range(times))

    with torch.inference_mode():
        restormer(lq[..., :64, :64])  # loads libraries
    runs = []
    for _ in range(repeats):
        routes = {name: seconds(lambda x, net=net: router(net.embed(x)), 3) for name, net in encoders.items()}
        runs.append({**routes, 'expert': seconds(restormer, 1)})
    found = {}
    for name, encoder in encoders.items():
        macs = count_macs(Call(encoder, lambda net, x: net.embed(x)), lq) + router_macs
        ratio = measure.ratio([(run[name], run['expert']) for run in runs])
        found[name] = {'macs': macs / expert_macs, 'time': ratio._asdict()}
        print(
            f'| {name} | {macs / 1e9:.2f} of {expert_macs / 1e9:.0f} G | {macs / expert_macs:.2%} | '
            f'{min(run[name] for run in runs):.3f} of {min(run["expert"] for run in runs):.1f} s | {ratio.median:.2%} '
            f'({ratio.low:.2%} - {ratio.high:.2%}) |',
            flush=True,
        )
    return {**found, 'seconds': runs}


def mixed_pictures(folder: Path, count: int, side: int, kinds: int) -> None:
    """Write noise whose first pixel says which leaf a picture needs, in a random order."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number, kind in enumerate(rng.permutation(np.arange(count) % kinds)):
        pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
        pixels[0, 0] = kind + 1
        Image.fromarray(pixels).save(folder / f'{number:03d}.png')


def routed_by_pixel(bundle: Path, budget: int):  # noqa: ANN201
    """Open a bundle that routes as it does, and then takes the node that the first pixel names."""
    from dataclasses import replace

    from basicsr_unirestorer.inference.restorer import Restorer

    restorer = Restorer.from_bundle(bundle)
    restorer.net.bank.budget_bytes = budget
    route = restorer.net.route

    def by_pixel(lq: torch.Tensor) -> object:
        found = route(lq)
        return replace(found, node_id=torch.full_like(found.node_id, round(float(lq[0, 0, 0, 0]) * 255)))

    restorer.net.route = by_pixel
    return restorer


def one_by_one(restorer, files) -> None:  # noqa: ANN001
    """Restore pictures in the order given: read, restore, write."""
    from dataclasses import replace

    from basicsr_unirestorer.inference.photo import read_photo
    from basicsr_unirestorer.inference.photo_writing import encode_photo, write_whole

    for source, target in files:
        photo = read_photo(source)
        pixels, _ = restorer.restore(photo.pixels)
        write_whole(target, encode_photo(replace(photo, pixels=pixels), target)[0], overwrite=True)


def folder(scratch: Path, count: int, side: int, repeats: int) -> dict:
    """Compare a grouped folder with one picture after another; returns the ratio and the loads of both."""
    from basicsr_unirestorer.inference.restore_files import restore_files
    from basicsr_unirestorer.inference.restore_plan import plan_files

    parts = []
    for case in ('retinexformer', *KINDS, *KINDS):
        parts.append((network_options(case), build(case, plain=False).state_dict()))
    bundle = make_bundle(scratch / 'experts', parts)
    del parts
    mixed_pictures(scratch / 'pictures', count, side, 2 * len(KINDS))
    budget = max(path.stat().st_size for path in (bundle / 'experts').iterdir())
    loads: dict[str, int] = {}
    cpu: dict[str, float] = {}

    def run(name: str) -> None:
        before = time.process_time()
        restorer = routed_by_pixel(bundle, budget)
        load, loads[name] = restorer.net.bank.load, 0

        def counted(node: str) -> torch.nn.Module:
            loads[name] += 1
            return load(node)

        restorer.net.bank.load = counted
        files = plan_files(scratch / 'pictures', scratch / name)
        if name == 'grouped':
            restore_files(restorer, files, overwrite=True)
        else:
            one_by_one(restorer, files)
        cpu[name] = time.process_time() - before

    pairs = measure.alternate(lambda: run('one by one'), lambda: run('grouped'), repeats)
    for path in (scratch / 'grouped').iterdir():
        if path.read_bytes() != (scratch / 'one by one' / path.name).read_bytes():
            raise RuntimeError(f'The two ways restore {path.name} differently; the comparison is void.')
    ratio = measure.ratio(pairs)
    seconds = [statistics.median(column) for column in zip(*pairs, strict=True)]
    cells = [
        f'{wall:.1f} s ({cpu[name]:.1f} of a core), {loads[name]} loads'
        for name, wall in zip(('one by one', 'grouped'), seconds, strict=True)
    ]
    row = ' | '.join(cells)
    print(
        f'| {count} pictures, {side}x{side} | {row} | **{ratio.median:.2f}** ({ratio.low:.2f} - {ratio.high:.2f}) |',
        flush=True,
    )
    return {'ratio': ratio._asdict(), 'pairs': pairs, 'loads': loads, 'cpu': cpu}


def peak_of(command: list[str], folder: Path, stop_after: float | None) -> tuple[float, float, bool]:
    """Run a command, interrupting it after a while; returns peak GiB, seconds, and whether it came to its end."""
    start = time.perf_counter()
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        taken = time.perf_counter() - start
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return usage.ru_maxrss / 2**20, taken, child.returncode == 0
        if stop_after is not None and taken > stop_after:
            child.send_signal(signal.SIGKILL)
            stop_after = None
        time.sleep(0.2)


def huge(scratch: Path, stop_after: float) -> dict:
    """Measure the peak memory of 48 megapixels; returns GiB by network."""
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
    small.resize((8000, 6000), Image.Resampling.BICUBIC).save(scratch / 'huge.jpg', quality=90)
    from basicsr_unirestorer.archs.building import seeded_network

    tiny = (TINY, seeded_network(TINY, 0, 'tiny').state_dict())
    full = (network_options('restormer_withbias'), build('restormer_withbias', plain=False).state_dict())
    found = {}
    for name, part, limit in (('NAFNet, width 4', tiny, None), ('Restormer, release size', full, stop_after)):
        bundle = make_bundle(scratch / name, [part, part, part])
        command = [sys.executable, '-m', 'basicsr_unirestorer.cli', 'restore', 'huge.jpg', f'{name}.jpg']
        gib, seconds, ended = peak_of([*command, '-b', str(bundle), '--device', 'cpu'], scratch, limit)
        if not ended and limit is None:
            raise RuntimeError(f'{name} did not come to its end.')
        found[name] = gib
        print(f'| {name} | {gib:.2f} | {seconds:.0f} s{"" if ended else ", then stopped"} |', flush=True)
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--parts', nargs='+', choices=('routing', 'folder', 'huge'), default=['routing', 'folder', 'huge']
    )
    parser.add_argument('--size', type=int, default=512, help='side of the picture for routing')
    parser.add_argument('--pictures', type=int, default=50, help='of the folder')
    parser.add_argument('--side', type=int, default=128, help='of the pictures of the folder')
    parser.add_argument('--stop-after', type=float, default=600, help='seconds for Restormer on 48 megapixels')
    parser.add_argument('--repeats', type=int, default=3, help='pairs of runs')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--json', type=Path, metavar='FILE', help='where to write the numbers')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    from basicsr_unirestorer import register

    register()
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        if 'routing' in args.parts:
            print(f'Encoder and router against Restormer, {args.size}x{args.size}, {args.threads} threads\n')
            print('| encoder | MACs | share | time | share (min - max) |\n|---|---:|---:|---:|---:|')
            found['routing'] = routing(args.size, args.repeats)
        if 'folder' in args.parts:
            print('\n| folder | one by one | grouped | ratio (min - max) |\n|---|---:|---:|---:|')
            found['folder'] = folder(Path(scratch), args.pictures, args.side, args.repeats)
        if 'huge' in args.parts:
            print('\n| 48 megapixels with | peak GiB | time |\n|---|---:|---:|')
            found['huge'] = huge(Path(scratch), args.stop_after)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
    main()
