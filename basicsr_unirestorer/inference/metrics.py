"""What a restored picture is measured by: BasicSR's metrics and, where their library is installed, LPIPS and DISTS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import cv2
import numpy as np
import torch

from basicsr_unirestorer.errors import DataError, OptionError, UniRestorerError, check_keys, find_registered, need_keys

METRIC_KEYS = ('type', 'crop_border', 'test_y_channel', 'mean_align')
PERCEPTUAL = ('lpips', 'dists')
LOWER_IS_BETTER = PERCEPTUAL
OURS = ('structural_similarity', *PERCEPTUAL)


def check_metrics(metrics: Mapping[str, Mapping], where: str) -> None:
    """Look for mistakes in a ``metrics`` block; raises OptionError naming the first."""
    for name, options in metrics.items():
        check_keys(options, METRIC_KEYS, f'{where}.{name}')
        need_keys(options, ('type',), f'{where}.{name}')
        if options['type'] not in OURS:
            from basicsr_unirestorer import compat

            compat.apply()
            import basicsr.metrics  # noqa: F401  it files them
            from basicsr.utils.registry import METRIC_REGISTRY

            find_registered(METRIC_REGISTRY, options['type'], f'{where}.{name}.type')


def perceptual_metrics(names: list[str]) -> dict[str, dict]:
    """Return the options of LPIPS and DISTS by name.

    Raises:
        OptionError: A name that is neither.
        UniRestorerError: Their library is not installed, or their weights cannot be had.
    """
    for name in names:
        if name not in PERCEPTUAL:
            raise OptionError(f"There is no extra metric '{name}'; choose among {', '.join(PERCEPTUAL)}.")
        perceptual_network(name)
    return {name: {'type': name} for name in names}


@cache
def perceptual_network(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return LPIPS (AlexNet, as papers quote it) or DISTS of torchmetrics; it fetches their networks once."""
    try:
        if name == 'lpips':
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity as Metric
        else:
            from torchmetrics.image.dists import DeepImageStructureAndTextureSimilarity as Metric
    except ImportError as error:
        raise UniRestorerError(
            f'{name.upper()} needs torchmetrics, which is not installed here: pip install '
            '"basicsr-unirestorer[perceptual]", or leave the metric out.'
        ) from error
    try:
        metric = Metric(net_type='alex', normalize=True) if name == 'lpips' else Metric()
        blank = torch.zeros(1, 3, 64, 64)
        metric(blank, blank)
    except OSError as error:  # urllib's errors are among them
        raise UniRestorerError(
            f'The network behind {name.upper()} could not be fetched ({error}); run it once with a network, or copy '
            "torch's cache (~/.cache/torch) from a machine that has it."
        ) from error
    return metric.eval()


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """Clip a picture to [0, 1] and round it to 8 bit: (h, w, 3), RGB, float32 to uint8."""
    return np.rint(picture.clip(0, 1) * 255).astype(np.uint8)


def measure(metrics: Mapping[str, Mapping], restored: np.ndarray, gt: np.ndarray) -> dict[str, float]:
    """Compare a restored picture with the clean one, both as 8-bit pictures, as BasicSR does.

    Args:
        metrics: Name -> ``type`` (a metric of BasicSR's, ``structural_similarity``, ``lpips`` or ``dists``),
            ``crop_border`` in pixels, ``test_y_channel``, and ``mean_align``: multiply the restored picture first, so
            that its mean grey is that of the clean one.
        restored: RGB, float32, (h, w, 3), about [0, 1]; clipped and rounded to 8 bit here.
        gt: RGB, uint8, (h, w, 3).

    Raises:
        DataError: The sizes differ.
    """
    if restored.shape != gt.shape:
        raise DataError(
            f'A network turned a picture of {gt.shape[1]}x{gt.shape[0]} pixels into one of '
            f'{restored.shape[1]}x{restored.shape[0]}; the benchmark compares networks that keep the size.'
        )
    values = {}
    for name, options in metrics.items():
        picture = _mean_aligned(restored, gt) if options.get('mean_align') else restored
        values[name] = _one(options, to_uint8(picture), gt)
    return values


def _mean_aligned(restored: np.ndarray, gt: np.ndarray) -> np.ndarray:
    grey, wanted = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).mean() for picture in (to_uint8(restored), gt))
    return restored.clip(0, 1) * np.float32(wanted / max(grey, 1e-6))


def _one(options: Mapping, restored: np.ndarray, gt: np.ndarray) -> float:
    """Measure two RGB, uint8 pictures by one metric; BasicSR's want BGR."""
    kind, border = options['type'], options.get('crop_border', 0)
    if kind not in OURS:
        from basicsr.metrics import calculate_metric

        known = {key: value for key, value in options.items() if key != 'mean_align'}
        known.setdefault('crop_border', 0)
        return float(calculate_metric({'img': restored[..., ::-1], 'img2': gt[..., ::-1]}, known))
    if border:
        restored, gt = (picture[border:-border, border:-border] for picture in (restored, gt))
    if kind == 'structural_similarity':
        from skimage.metrics import structural_similarity

        return float(structural_similarity(restored, gt, win_size=7, data_range=255, channel_axis=2))
    one, other = (torch.from_numpy(p.astype(np.float32) / 255).permute(2, 0, 1)[None] for p in (restored, gt))
    with torch.no_grad():
        return float(perceptual_network(kind)(one, other))
