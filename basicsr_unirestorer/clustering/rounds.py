"""How a group of samples fills epochs that take more or fewer samples than the group has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from basicsr_unirestorer.degradations import sample_rng


@dataclass(frozen=True)
class Rounds:
    """A group goes round and round; each epoch takes the next ``quota`` samples of the endless row.

    So a group of more samples than its quota shows others each epoch until all have been seen, a group of fewer comes
    several times an epoch, and over many epochs every sample comes equally often. Each round has a seeded order of its
    own, and the number of the round tells one appearance of a sample from the next.

    Attributes:
        size: Samples of the group.
        quota: Samples an epoch takes.
        seed, name: Seed the orders.
    """

    size: int
    quota: int
    seed: int = 0
    name: str = ''

    def draw(self, epoch: int, place: int) -> tuple[int, int]:
        """Return (member, round) at a place of an epoch, 0 <= place < quota."""
        lap, offset = divmod(epoch * self.quota + place, self.size)
        if self.quota % self.size == 0:  # an epoch holds whole rounds, and its order is the caller's anyway
            return offset, lap
        return int(_permutation(self.seed, self.name, lap, self.size)[offset]), lap


@lru_cache(maxsize=32)
def _permutation(seed: int, name: str, lap: int, size: int) -> np.ndarray:
    return sample_rng(seed, name, 'round', lap).permutation(size)
