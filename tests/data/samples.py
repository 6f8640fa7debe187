"""Small LMDBs and options for the tests of the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import lmdb
import numpy as np
import torch

Pictures = Sequence[tuple[str, np.ndarray]]


def noise_pictures(count: int, size: tuple[int, int] = (40, 48), seed: int = 0, name: str = 'p') -> Pictures:
    """Return (key, BGR uint8 picture) of pictures that no two seeds or numbers share."""
    rng = np.random.default_rng(seed)
    return [(f'{name}{i}', rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for i in range(count)]


def make_lmdb(path: Path, pictures: Pictures, suffix: str = '') -> str:
    """Write an LMDB as BasicSR lays it out, without the code under test; ``suffix`` goes to the keys alone."""
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        for key, picture in pictures:
            transaction.put(f'{key}{suffix}'.encode(), cv2.imencode('.png', picture)[1].tobytes())
    lines = [f'{key}.png ({p.shape[0]},{p.shape[1]},{p.shape[2]}) 1' for key, p in pictures]
    (path / 'meta_info.txt').write_text('\n'.join(lines) + '\n')
    return str(path)


def options(**changes) -> dict:
    """Return training options of a dataset; give it ``dataroot_gt`` or ``sources``."""
    return {
        'name': 'x',
        'type': 'MixedDegradationLMDBDataset',
        'phase': 'train',
        'io_backend': {'type': 'lmdb'},
        'gt_size': 32,
        'use_hflip': True,
        'use_rot': True,
        **changes,
    }


def equal(a: dict, b: dict) -> bool:
    """Compare two items or batches bit for bit."""
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
    )
