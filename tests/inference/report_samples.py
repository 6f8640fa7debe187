"""A small tree, and made-up records of restored pictures."""

from __future__ import annotations

import numpy as np

from basicsr_unirestorer.clustering.tree import DegradationTree, Node
from basicsr_unirestorer.inference.decision import Decision
from basicsr_unirestorer.inference.report_pictures import ReportEntry

LEAVES = {'l1_00': 'large noise', 'l1_01': 'thick haze'}
COLUMNS = ('input', 'root', 'routed', 'by label', 'best node', 'regret')


def small_tree() -> DegradationTree:
    root = Node('l0_00', 0, -1, 20, dict.fromkeys(LEAVES.values(), 10))
    leaves = [Node(name, 1, 0, 10, {caption: 10}) for name, caption in LEAVES.items()]
    return DegradationTree((root, *leaves), np.zeros((3, 1), np.float32))


def smooth_picture(seed: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    """RGB, uint8: a colour wash that differs by seed."""
    rows, columns = np.mgrid[0:height, 0:width]
    wash = np.stack([columns * 3, rows * 4, (rows + columns) * 2], -1) + 17 * seed
    return (wash % 256).astype(np.uint8)


def noisy(picture: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 30, picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8)


def record(number: int, measured: bool = True, size: tuple[int, int] = (48, 64), name: str = '') -> ReportEntry:
    """A picture restored by one of three experts, with a regret that grows with its number."""
    leaf = ('l1_00', 'l1_01')[number % 2]
    expert = 'l0_00' if number % 3 == 2 else leaf
    decision = Decision(expert, leaf, 0.5 + 0.04 * (number % 12), int(expert == leaf), 0.9, {'noise': 10})
    clean = smooth_picture(number, *size)

    def pictures():
        return noisy(clean, number), clean, clean if measured else None

    values = (20.0, 24.0, 25.0, 25.25, 25.5 + number, 0.5 + number)
    psnr = dict(zip(COLUMNS, values, strict=True)) if measured else {}
    dataset, degradation = ('photos', LEAVES[leaf]) if measured else ('', '')
    right = bool(number % 4) if measured else None
    return ReportEntry(name or f'picture {number}', decision, pictures, dataset, degradation, psnr, right)
