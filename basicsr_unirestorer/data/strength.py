"""Strength words for pairs whose names tell none: measured on the pictures, relative to the rest of the set."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from tqdm import tqdm

from basicsr_unirestorer.data.parallel import in_order
from basicsr_unirestorer.data.precheck import Facts, common_size
from basicsr_unirestorer.data.samples import Collected, Sample, Source
from basicsr_unirestorer.data.write_jobs import Cut, WriteJob, load
from basicsr_unirestorer.degradations.registry import DEGRADATION_TYPES

FLAKE = 16  # grey levels by which a pixel must change to count as covered


def mean_change(lq: np.ndarray, gt: np.ndarray) -> float:
    """Mean absolute difference of brightness, in grey levels."""
    return float(np.abs(lq - gt).mean())


def coverage(lq: np.ndarray, gt: np.ndarray) -> float:
    """Share of pixels that are covered by something."""
    return float((np.abs(lq - gt) > FLAKE).mean())


def lost_detail(lq: np.ndarray, gt: np.ndarray) -> float:
    """Share of the mean gradient magnitude that is lost."""
    before, after = (
        float(np.hypot(cv2.Sobel(y, cv2.CV_32F, 1, 0), cv2.Sobel(y, cv2.CV_32F, 0, 1)).mean()) for y in (gt, lq)
    )
    return 1 - after / max(before, 1e-6)


def darkness(lq: np.ndarray, gt: np.ndarray) -> float:
    """255 less the mean brightness."""
    return float(255 - lq.mean())


# takes brightness of the degraded and of the clean picture, float32 (h, w), [0, 255]; grows with the damage
MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    'rain': mean_change,
    'snow': coverage,
    'haze': mean_change,
    'motion_blur': lost_detail,
    'low_light': darkness,
}


def label_strengths(collected: Collected, facts: dict[Source, Facts], workers: int) -> dict[str, list[float]]:
    """Give a strength word to every pair of one measurable type that has none.

    The words of a type part the training pairs (or, where there are none, the test pairs) into equally many: the
    weakest third of the rain is small, and so on. They are relative to the set and no absolute measure.

    Returns:
        The measures at which the word changes, by type.
    """
    unnamed = [sample for sample in collected.samples if sample.lq and _measurable(sample)]
    asked = [(sample, common_size(sample, facts)) for sample in unnamed]
    values = in_order(measure, asked, min(workers, len(asked)))
    bar = tqdm(values, desc='measuring', total=len(asked), unit='file', disable=len(asked) < 500)
    measured = dict(zip(unnamed, bar, strict=True))
    edges = {kind: _edges(kind, measured) for kind in sorted({sample.types[0] for sample in unnamed})}
    for place, sample in enumerate(collected.samples):
        if sample in measured:
            kind = sample.types[0]
            word = DEGRADATION_TYPES[kind].words[bisect_right(edges[kind], measured[sample])]
            collected.samples[place] = replace(sample, words=(word,))
    return edges


def measure(asked: tuple[Sample, tuple[int, int]]) -> float:
    """Read a pair, cut to a common (height, width), and measure its degradation."""
    sample, size = asked
    cuts = [Cut(half=source.half, centre=size) for source in (sample.lq, sample.gt)]
    jobs = [WriteJob('x', source.path, cut) for source, cut in zip((sample.lq, sample.gt), cuts, strict=True)]
    pictures = [load(job)[0][1] for job in jobs]
    y = [cv2.cvtColor(np.ascontiguousarray(bgr), cv2.COLOR_BGR2GRAY).astype(np.float32) for bgr in pictures]
    return round(MEASURES[sample.types[0]](*y), 5)


def _measurable(sample: Sample) -> bool:
    return len(sample.types) == 1 and sample.words == (None,) and sample.types[0] in MEASURES


def _edges(kind: str, measured: dict[Sample, float]) -> list[float]:
    ours = {sample: value for sample, value in measured.items() if sample.types[0] == kind}
    values = [value for sample, value in ours.items() if sample.unit == 'train'] or list(ours.values())
    count = len(DEGRADATION_TYPES[kind].words)
    return [round(float(edge), 5) for edge in np.quantile(values, np.arange(1, count) / count)]
