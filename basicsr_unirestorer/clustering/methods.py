"""Ways to split one group of embeddings into clusters, all of them scikit-learn's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from basicsr_unirestorer.clustering.points import BLOCK, Points, blocks
from basicsr_unirestorer.errors import OptionError, did_you_mean

MAX_QUADRATIC = 4000  # rows of methods whose memory grows with their square; the others join the nearest cluster
MAX_PAIRS = 1000  # rows whose distances to each other set the scale of similarity
MAX_INIT = 16384  # rows that mini-batches start from
BATCH = 4096
PASSES = 2


def _kmeans(points: Points, rows: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, float]:
    from sklearn.cluster import KMeans

    fit = KMeans(count, n_init=10, random_state=seed).fit(points.take(rows))
    return fit.labels_, float(fit.inertia_)


def _bisecting(points: Points, rows: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, float]:
    from sklearn.cluster import BisectingKMeans

    fit = BisectingKMeans(count, n_init=5, random_state=seed).fit(points.take(rows))
    return fit.labels_, float(fit.inertia_)


def _agglomerative(points: Points, rows: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, float]:
    from sklearn.cluster import AgglomerativeClustering

    return _from_some(points, rows, count, seed, lambda some: AgglomerativeClustering(count).fit_predict(some))


def _spectral(points: Points, rows: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, float]:
    from scipy.spatial.distance import pdist
    from sklearn.cluster import SpectralClustering

    def labels(some: np.ndarray) -> np.ndarray:
        if count == len(some):
            return np.arange(count)
        # no graph of neighbours: it falls apart into more pieces than are wanted where clusters are clear
        usual = np.median(pdist(some[:MAX_PAIRS], 'sqeuclidean'))
        gamma = 1 / usual if usual else 1.0
        fit = SpectralClustering(count, gamma=gamma, assign_labels='cluster_qr', random_state=seed)
        return fit.fit_predict(some)

    return _from_some(points, rows, count, seed, labels)


def _from_some(
    points: Points, rows: np.ndarray, count: int, seed: int, fit: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, float]:
    """Cluster at most ``MAX_QUADRATIC`` rows; the others join the cluster with the nearest mean."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:MAX_QUADRATIC])
    some = points.take(rows[chosen])
    labels = fit(some)
    means = np.stack([some[labels == c].mean(0) for c in np.unique(labels)])
    if len(chosen) < len(rows):
        everyone, inertia = _nearest(points, rows, means)
        everyone[chosen] = np.unique(labels, return_inverse=True)[1]
        return everyone, inertia
    return labels, float(((some - means[np.unique(labels, return_inverse=True)[1]]) ** 2).sum())


def _mini_batch(points: Points, rows: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, float]:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    rng = np.random.default_rng(seed)
    start = KMeans(count, n_init=3, random_state=seed).fit(points.take(np.sort(rng.permutation(rows)[:MAX_INIT])))
    fit = MiniBatchKMeans(count, init=start.cluster_centers_, n_init=1, random_state=seed)
    for _ in range(PASSES):
        for batch in blocks(rng.permutation(rows), BATCH):
            fit.partial_fit(points.take(np.sort(batch)))
    return _nearest(points, rows, fit.cluster_centers_)


def _nearest(points: Points, rows: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, float]:
    """Return each row's nearest mean and the sum of the squared distances to them, block by block."""
    labels, inertia, done = np.empty(len(rows), np.int64), 0.0, 0
    for piece in blocks(rows):
        block = points.take(piece)
        distances = (block**2).sum(1)[:, None] - 2 * block @ means.T + (means**2).sum(1)  # (rows, means)
        labels[done : done + len(piece)] = distances.argmin(1)
        inertia += float(np.maximum(distances.min(1), 0).sum(dtype=np.float64))
        done += len(piece)
    return labels, inertia


METHODS = {
    'kmeans': _kmeans,
    'mini_batch': _mini_batch,
    'bisecting': _bisecting,
    'agglomerative': _agglomerative,
    'spectral': _spectral,
}


def check_method(method: str) -> None:
    """Refuse an unknown method; raises OptionError naming the nearest."""
    if method not in METHODS:
        raise OptionError(
            f"There is no clustering.method '{method}'.{did_you_mean(method, METHODS)} There are {', '.join(METHODS)}."
        )


def block_of(method: str) -> int | None:
    """Return how many rows a method reads at once; None: all, which is exact and takes the memory of all."""
    return BLOCK if method == 'mini_batch' else None


def split(points: Points, rows: np.ndarray, count: int, seed: int, method: str = 'kmeans') -> tuple[np.ndarray, float]:
    """Cluster one group.

    Args:
        points: All embeddings.
        rows: Row numbers of the group, shape (m,); at least ``count`` different embeddings among them.
        count: Clusters wanted.
        seed: Seeds the method.
        method: One of ``METHODS``.

    Returns:
        Cluster of each row, shape (m,), largest cluster first, and the sum of squared distances to the clusters' means
        (infinite where the method left a cluster empty).
    """
    if count == 1:
        block = block_of(method) or len(rows)
        if len(rows) <= block:
            group = points.take(rows)
            return np.zeros(len(rows), np.int64), float(((group - group.mean(0)) ** 2).sum())
        mean = sum(points.take(piece).sum(0, dtype=np.float64) for piece in blocks(rows, block)) / len(rows)
        return _nearest(points, rows, mean.astype(np.float32)[None])
    labels, inertia = METHODS[method](points, rows, count, seed)
    sizes = np.bincount(labels, minlength=count)
    by_size = np.argsort(-sizes, kind='stable')
    return np.argsort(by_size)[labels], inertia if sizes.min() else np.inf
