"""What sits on the lens: drops of rain."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

from basicsr_unirestorer.degradations.map_files import mask_from_folder
from basicsr_unirestorer.degradations.window import Window

SMALLEST_DROP = 0.35  # of the largest
DEEPEST_LOOK = 2.0  # drop radii between a pixel of a drop and what it shows
RIM_LIGHT = 0.3  # that the rim of a large drop gains below and loses above


def add_raindrops(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Put drops on the lens: I = (1 - M) J + M R (Qian 2018).

    A drop is a small fish-eye out of focus: R shows what is around it, upside down, shrunk and blurred, with a dark rim
    above and a bright one below. The drops sit on the lens, so they are a function of the parameters and of the place
    in the picture.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``cover`` (share of the picture behind drops), ``radius_px`` (of the largest), ``blur_px`` (of what they
            show), ``map_seed`` (decides the drops); or the picture ``mask`` of ``mask_dir`` for M.
        rng: Unused.
        window: Place of the crop on the lens.
    """
    if params['mask_dir']:
        mask = mask_from_folder(params['mask_dir'], params['mask'], window)
        shift = _inward(mask, params['radius_px'])
    else:
        mask, shift = _render(params['cover'], params['radius_px'], params['map_seed'], window)
    if not mask.any():
        return image
    h, w = mask.shape
    x, y = np.arange(w, dtype=np.float32)[None, :], np.arange(h, dtype=np.float32)[:, None]
    seen = cv2.remap(image, x + shift[0], y + shift[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    seen = cv2.GaussianBlur(seen, (0, 0), params['blur_px'], borderType=cv2.BORDER_REFLECT_101)
    upwards = -shift[1] / (DEEPEST_LOOK * params['radius_px'])  # -1 to 1: what the lower part of a drop shows is sky
    seen = seen + np.float32(RIM_LIGHT) * (upwards * np.abs(upwards))[..., None]
    mask = mask[..., None]
    return image * (1 - mask) + seen * mask


def raindrops_reach(params: dict) -> int:
    """Pixels that ``add_raindrops`` reaches."""
    return math.ceil(DEEPEST_LOOK * params['radius_px'] + 3 * params['blur_px'] + 1)


@lru_cache(maxsize=32)
def _drops(cover: float, radius_px: float, map_seed: int, height: int, width: int) -> np.ndarray:
    """Draw drops until they cover their share of a picture: rows of x, y, radius and six numbers of the outline."""
    rng = np.random.default_rng(map_seed)
    most = 1 + int(cover * height * width / (math.pi * (SMALLEST_DROP * radius_px) ** 2))
    drops = rng.uniform(size=(most, 9))  # row by row, so that more cover adds drops to those there are
    drops = drops * (width, height, (1 - SMALLEST_DROP) * radius_px, 0.16, 0.08, 0.05, *(2 * math.pi,) * 3)
    drops[:, 2] += SMALLEST_DROP * radius_px
    number = int(np.searchsorted(np.cumsum(math.pi * drops[:, 2] ** 2), cover * height * width))
    return drops[: max(number, int(cover > 0))]  # a small picture gets its drop too


def _render(
    cover: float, radius_px: float, map_seed: int, window: Window
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Opacity (h, w) of the drops and, for each pixel, how far away what it shows is: (x, y), each (h, w)."""
    mask = np.zeros((window.height, window.width), np.float32)
    shift = np.zeros_like(mask), np.zeros_like(mask)
    drops = _drops(cover, radius_px, map_seed, window.full_height, window.full_width)
    centre, edge = drops[:, :2] - (window.left, window.top), 1.3 * radius_px + 3
    near = ((centre > -edge) & (centre < (window.width + edge, window.height + edge))).all(axis=1)
    for x, y, radius, *outline in drops[near]:
        x, y, reach = x - window.left - 0.5, y - window.top - 0.5, math.ceil(1.3 * radius) + 2
        top, left = max(0, int(y) - reach), max(0, int(x) - reach)
        part = np.s_[top : max(0, int(y) + reach + 1), left : max(0, int(x) + reach + 1)]
        if mask[part].size == 0:
            continue
        h, w = mask[part].shape
        dx, dy = (left - x + np.arange(w))[None, :], (top - y + np.arange(h))[:, None]
        distance, turn = np.hypot(dx, dy), np.arctan2(dy, dx)
        rim = radius * (1 + sum(outline[k] * np.cos((k + 2) * turn + outline[k + 3]) for k in range(3)))
        alpha = np.clip((rim - distance) / 2 + 0.5, 0, 1)
        better = alpha > mask[part]
        mask[part][better] = alpha[better]
        look = -np.minimum(4 * distance, DEEPEST_LOOK * radius) / np.maximum(distance, 1e-6)
        shift[0][part][better] = (look * dx)[better]
        shift[1][part][better] = (look * dy)[better]
    return mask, shift


def _inward(mask: np.ndarray, radius_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Look towards the middle of each blob of a mask, and beyond: along the gradient of the smoothed mask."""
    smooth = cv2.GaussianBlur(mask, (0, 0), radius_px / 3)
    x, y = cv2.Sobel(smooth, -1, 1, 0, scale=1 / 8), cv2.Sobel(smooth, -1, 0, 1, scale=1 / 8)
    scale = DEEPEST_LOOK * radius_px / np.maximum(np.hypot(x, y), 1 / radius_px)
    return x * scale, y * scale
