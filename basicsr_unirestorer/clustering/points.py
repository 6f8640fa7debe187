"""Embeddings as clustering sees them: in memory or memory-mapped, prepared block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from basicsr_unirestorer.errors import DataError, OptionError, check_keys

BLOCK = 32768  # rows read at once: 64 MiB of 512-d float32
MAX_FIT = 20000  # rows that shape the principal components
PREPARE_KEYS = ('centre', 'normalise', 'pca')


def check_prepare(prepare: Mapping | None, embed_dim: int | None = None) -> None:
    """Refuse unknown preparations, and more components than there can be; raises OptionError."""
    check_keys(prepare or {}, PREPARE_KEYS, 'clustering.prepare')
    components = (prepare or {}).get('pca')
    most = embed_dim or np.inf
    if components and (not isinstance(components, int) or not 1 <= components <= most):
        raise OptionError(
            f'clustering.prepare.pca is {components}, but it is the number of components that are kept'
            f'{f" of {embed_dim}" if embed_dim else ""}; write for example pca: 32.'
        )


def blocks(rows: np.ndarray, size: int = BLOCK) -> Iterator[np.ndarray]:
    """Cut row numbers into pieces of at most ``size``."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


class Points:
    """Embeddings, and what is done to them before they are clustered. The tree's centres stay in the embedding space.

    Args:
        embeddings: Shape (n, d), any float type, in memory or memory-mapped; never copied as a whole.
        prepare: ``centre`` subtracts the mean of all; then ``normalise`` divides by the length; then ``pca`` keeps so
            many principal components. Nothing of it by default.
        seed: Chooses the rows that shape the components where there are many.

    Raises:
        OptionError: As ``check_prepare``, or more components than samples.
        DataError: No embeddings, embeddings that are not finite, or all of them equal.
    """

    def __init__(self, embeddings: np.ndarray, prepare: Mapping | None = None, seed: int = 0) -> None:
        check_prepare(prepare, embeddings.shape[1])
        prepare = prepare or {}
        self.embeddings = embeddings
        self.mean = self.basis = None
        self._check()
        if prepare.get('centre'):
            self.mean = self.centre(np.arange(len(embeddings)), BLOCK)
        self.normalise = bool(prepare.get('normalise'))
        if prepare.get('pca'):
            self.basis = self._components(prepare['pca'], seed)

    def __len__(self) -> int:
        return len(self.embeddings)

    def _check(self) -> None:
        if not len(self):
            raise DataError('There are no embeddings to cluster; give the training data set at least one sample.')
        broken, spread, first = 0, False, self.embeddings[:1]
        for rows in blocks(np.arange(len(self))):
            block = self.embeddings[rows[0] : rows[-1] + 1]
            broken += int((~np.isfinite(block).all(1)).sum())
            spread = spread or bool((block != first).any())
        if broken:
            raise DataError(
                f'{broken} of {len(self)} embeddings are not finite; train the encoder with a lower learning rate.'
            )
        if not spread and len(self) > 1:
            raise DataError(
                f'All {len(self)} embeddings are equal, so the encoder tells no degradation from another; train it '
                'longer, or give clustering the weights of its last checkpoint.'
            )

    def _components(self, count: int, seed: int) -> np.ndarray:
        from sklearn.decomposition import PCA

        rows = np.sort(np.random.default_rng(seed).permutation(len(self))[:MAX_FIT])
        if count > len(rows):
            raise OptionError(
                f'clustering.prepare.pca is {count}, but {len(rows)} samples have no more than {len(rows)} components; '
                f'write pca: {len(rows)} or less.'
            )
        fit = PCA(count, random_state=seed).fit(self.take(rows))
        return fit.components_.T.astype(np.float32)  # (d, components); clustering does not mind the mean

    def raw(self, rows: np.ndarray) -> np.ndarray:
        """Return embeddings as they are, shape (rows, d), float32."""
        return np.asarray(self.embeddings[rows], np.float32)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return prepared embeddings, shape (rows, d or components), float32."""
        points = self.raw(rows)
        if self.mean is not None:
            points = points - self.mean
        if self.normalise:
            points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
        return points if self.basis is None else points @ self.basis

    def centre(self, rows: np.ndarray, block: int) -> np.ndarray:
        """Return the mean embedding of a group, shape (d,), float32, reading ``block`` rows at once."""
        if len(rows) <= block:
            return self.raw(rows).mean(0)
        total = sum(self.raw(piece).sum(0, dtype=np.float64) for piece in blocks(rows, block))
        return (total / len(rows)).astype(np.float32)

    def radius(self, rows: np.ndarray, centre: np.ndarray, block: int) -> float:
        """Return the RMS distance of a group to its centre."""
        if len(rows) <= block:
            return float(np.sqrt(((self.raw(rows) - centre) ** 2).sum(1).mean()))
        total = sum(((self.raw(piece) - centre) ** 2).sum(dtype=np.float64) for piece in blocks(rows, block))
        return float(np.sqrt(total / len(rows)))

    def distinct(self, rows: np.ndarray, limit: int) -> int:
        """Count different embeddings of a group, up to ``limit``."""
        seen: set[bytes] = set()
        for piece in blocks(rows, min(BLOCK, 1024)):
            seen.update(row.tobytes() for row in self.take(piece) + 0.0)  # -0.0 equals 0.0
            if len(seen) >= limit:
                return limit
        return len(seen)
