"""Cut, turn and convert pictures: from what an LMDB holds to what a network takes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

LEVELS = np.arange(256, dtype=np.float32) / 255


@dataclass(frozen=True)
class Cutting:
    """What happens to every sample of a data set; the defaults leave pictures whole.

    Attributes:
        size: Side of the square crop in pixels; the whole picture where None.
        hflip, rot: Random flips and quarter turns.
    """

    size: int | None = None
    hflip: bool = False
    rot: bool = False

    def place(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw (top, left, height, width) of a crop inside a picture that is no smaller than it."""
        size_h, size_w = (height, width) if self.size is None else (self.size, self.size)
        return int(rng.integers(height - size_h + 1)), int(rng.integers(width - size_w + 1)), size_h, size_w

    def pad(self, picture: np.ndarray) -> np.ndarray:
        """Mirror a (h, w, c) picture at its right and lower border where it is smaller than a crop."""
        return picture if self.size is None else pad_to(picture, self.size)

    def turn(self, pictures: tuple[np.ndarray, ...], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Flip and turn (h, w, c) pictures at random, all alike. Returns views."""
        flip, turns = int(rng.integers(2)), int(rng.integers(4))
        if self.hflip and flip:
            pictures = tuple(picture[:, ::-1] for picture in pictures)
        return tuple(np.rot90(picture, turns) for picture in pictures) if self.rot and turns else pictures


def pad_to(picture: np.ndarray, size: int) -> np.ndarray:
    """Mirror a (h, w, c) picture at its right and lower border until both sides are at least ``size``."""
    grow = [max(0, size - side) for side in picture.shape[:2]]
    return np.pad(picture, ((0, grow[0]), (0, grow[1]), (0, 0)), mode='symmetric') if any(grow) else picture


def to_float_rgb(picture: np.ndarray) -> np.ndarray:
    """Turn (h, w, 3) BGR uint8, which may be a view, into RGB float32, [0, 1]."""
    return cv2.LUT(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), LEVELS)


def to_tensor(picture: np.ndarray) -> torch.Tensor:
    """Turn (h, w, 3) float32 into a tensor (3, h, w) with memory of its own."""
    return torch.from_numpy(picture.transpose(2, 0, 1).copy())
