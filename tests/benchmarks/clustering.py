"""Cluster a million memory-mapped 512-d embeddings: time, and memory that is not the file's own pages.

Command: python -m tests.benchmarks.clustering [--samples 1000000] [--dtype float16] [--method mini_batch]
The embeddings are a random mixture: seven groups of three, each of which the tree {1, 7, 21} should find.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from basicsr_unirestorer.clustering.build import build_tree
from basicsr_unirestorer.clustering.points import blocks

GROUPS, PARTS, DIM = 7, 3, 512


def write_mixture(path: Path, samples: int, dtype: str, seed: int = 0) -> np.ndarray:
    """Write unit vectors of a random mixture as a .npy file, block by block; returns each one's part."""
    rng = np.random.default_rng(seed)
    groups = rng.standard_normal((GROUPS, 1, DIM)).astype(np.float32)
    centres = (groups + 0.5 * rng.standard_normal((GROUPS, PARTS, DIM))).reshape(-1, DIM).astype(np.float32)
    parts = rng.integers(0, GROUPS * PARTS, samples)
    file = np.lib.format.open_memmap(path, 'w+', dtype, (samples, DIM))
    for rows in blocks(np.arange(samples)):
        block = centres[parts[rows]] + rng.standard_normal((len(rows), DIM), np.float32)
        file[rows[0] : rows[-1] + 1] = block / np.linalg.norm(block, axis=1, keepdims=True)
    file.flush()
    return parts


class Memory(threading.Thread):
    """Watch the memory that this process itself has taken, in MiB; pages of mapped files are the system's."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.done = 0.0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.05):
            self.peak = max(self.peak, self.now())

    @staticmethod
    def now() -> float:
        lines = Path('/proc/self/status').read_text().splitlines()
        return int(next(line for line in lines if line.startswith('RssAnon')).split()[1]) / 1024


def main() -> None:
    from sklearn.metrics import adjusted_rand_score

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--samples', type=int, default=10**6)
    parser.add_argument('--dtype', choices=('float16', 'float32'), default='float16')
    parser.add_argument('--method', default='mini_batch')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir='.') as folder:
        path = Path(folder) / 'embeddings.npy'
        parts = write_mixture(path, args.samples, args.dtype)
        embeddings = np.load(path, mmap_mode='r')
        captions = ['large noise'] * args.samples
        before, memory = Memory.now(), Memory()
        memory.start()
        start, cpu = time.time(), time.process_time()
        tree, leaf_ids = build_tree(embeddings, captions, [1, GROUPS, GROUPS * PARTS], method=args.method)
        built = time.time()
        assigned = tree.assign(embeddings)
        end = time.time()
        memory.done.set()
        result = {
            'samples': args.samples,
            'dtype': args.dtype,
            'method': args.method,
            'file_mb': path.stat().st_size / 2**20,
            'build_s': built - start,
            'assign_s': end - built,
            'cpu_s': time.process_time() - cpu,
            'own_memory_before_mb': before,
            'own_memory_peak_mb': memory.peak,
            'resident_peak_with_file_pages_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            'ari_level_1': adjusted_rand_score(parts // PARTS, tree.paths[leaf_ids, 1]),
            'ari_leaves': adjusted_rand_score(parts, leaf_ids),
            'same_leaf_by_nearest_centre': float((assigned == leaf_ids).mean()),
        }
    print(json.dumps(result, indent=1))


if __name__ == '__main__':
    main()
