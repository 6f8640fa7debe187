"""How soon the first picture is restored, and in how much memory: the bundle against building and loading everything.

Command: python -m tests.benchmarks.first_picture [--folder FOLDER] [--size 128] [--repeats 3]

A synthetic release (4.5 GB) is written to the folder and converted there, which takes about 9 GB of disk. Both ways run
in fresh processes, imports included, in turns. The way of the release: construct all its networks, read the whole file,
load every network, then restore.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

EVERYTHING = """
import sys
import numpy as np, torch, yaml
from PIL import Image
from basicsr_unirestorer import register
register()
from basicsr_unirestorer.archs.building import make_network
from basicsr_unirestorer.archs.router_arch import pick_node
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.inference.release import RELEASE, TEXT_AND_IMAGE, fitting_options, split_release
known = yaml.safe_load((RELEASE / 'networks.yml').read_text())
tree = DegradationTree.load(RELEASE)
options = {'encoder': {**known['encoder'], 'towers': TEXT_AND_IMAGE}}
options['router'] = {**known['router'], 'num_leaves': tree.num_leaves, 'num_levels': tree.num_levels}
names = [node.name for node in tree.nodes]
kinds = dict(zip(names, sys.argv[3].split(',')))
options.update({name: known['experts'][int(kind)] for name, kind in kinds.items()})
networks = {name: make_network(option, name) for name, option in options.items()}
parts = split_release(torch.load(sys.argv[1], map_location='cpu', weights_only=True)['params'])
for name, net in networks.items():
    net.load_state_dict(parts[name])
    net.eval()
lq = torch.from_numpy(np.array(Image.open(sys.argv[2]))).permute(2, 0, 1)[None] / 255
with torch.no_grad():
    out = networks['router'](networks['encoder'].embed(lq))
    node = tree.nodes[int(pick_node(out.leaf_logits, out.level_logits, tree))]
    restored = networks[node.name](lq)
Image.fromarray((restored[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()).save(sys.argv[2] + '.png')
"""


def run(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command; returns its seconds and its peak resident memory in GiB."""
    start = time.perf_counter()
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f'{command[:4]} ended with exit code {child.returncode}.')
    return time.perf_counter() - start, usage.ru_maxrss / 2**20


def prepare(folder: Path, size: int) -> str:
    """Write release, bundle and picture into the folder, unless they are there; returns the kind of each expert."""
    from basicsr_unirestorer import register

    register()
    from basicsr_unirestorer.inference import release
    from tests.release_fixtures import filled, release_shapes

    if not (folder / 'model.pth').is_file():
        torch.save({'params': filled(release_shapes())}, folder / 'part.pth')
        os.replace(folder / 'part.pth', folder / 'model.pth')
    if not (folder / 'bundle').is_dir():
        run([sys.executable, '-m', 'basicsr_unirestorer.cli', 'convert-release', 'model.pth', 'bundle'], folder)
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / 'picture.png')
    parts = release.split_release({key: torch.empty(shape, device='meta') for key, shape in release_shapes().items()})
    tree = release.DegradationTree.load(release.RELEASE)
    known = release.yaml.safe_load((release.RELEASE / 'networks.yml').read_text())['experts']
    kinds = [known.index(release.fitting_options(parts[node.name], known, node.name)) for node in tree.nodes]
    return ','.join(map(str, kinds))


def measure(folder: Path, size: int, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Time both ways in turns; returns (seconds, GiB) of every run."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as process:
        kinds = process.submit(prepare, folder, size).result()  # elsewhere: a child's peak starts at its parent's size
    commands = {
        'everything': [sys.executable, '-c', EVERYTHING, 'model.pth', 'picture.png', kinds],
        'bundle': [sys.executable, '-m', 'basicsr_unirestorer.cli', 'restore', 'picture.png', 'restored.png']
        + ['--bundle', 'bundle', '--device', 'cpu', '--overwrite'],
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            found[name].append(run(command, folder))
    everything, ours = (np.asarray(Image.open(folder / name), int) for name in ('picture.png.png', 'restored.png'))
    if np.abs(everything - ours).max() > 1:
        raise RuntimeError('The two ways restore different pictures; the comparison is void.')
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--folder', type=Path, help='where 9 GB fit; kept if given')
    parser.add_argument('--size', type=int, default=128, help='side of the picture')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--json', type=Path, help='file for the numbers')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(folder.resolve(), args.size, args.repeats)
    print(f'First picture ({args.size}x{args.size}) in a fresh process, {torch.get_num_threads()} threads\n')
    print('| | seconds | GiB |\n|---|---:|---:|')
    medians = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in found.items()}
    for name, (seconds, memory) in medians.items():
        print(f'| {name} | {seconds:.1f} | {memory:.2f} |')
    ratios = [a / b for a, b in zip(medians['everything'], medians['bundle'], strict=True)]
    print(f'| **ratio** | {ratios[0]:.1f} | {ratios[1]:.1f} |')
    if args.json:
        args.json.write_text(json.dumps({'runs': found, 'ratios': ratios}, indent=1) + '\n')


if __name__ == '__main__':
    main()
