"""Embeddings with a known structure."""

from __future__ import annotations

import numpy as np

CAPTIONS = ('small noise', 'large noise', 'normal haze', 'thick haze', 'small rain', 'large rain')


def mixture(per_cell: int = 40, types: int = 3, dim: int = 16, spread: float = 0.1, seed: int = 0) -> tuple:
    """Return embeddings, captions and cells of ``types`` far apart, each with two strengths close to each other."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(np.repeat(np.arange(2 * types), per_cell))
    centres = np.zeros((2 * types, dim))
    for cell in range(2 * types):
        centres[cell, cell // 2] = 10
        centres[cell, types + cell] = 2
    embeddings = centres[cells] + spread * rng.standard_normal((len(cells), dim))
    return embeddings.astype(np.float32), [CAPTIONS[cell] for cell in cells], cells
