"""What a router learns from: the assigned samples, and others that no expert was trained for, by row number."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset

from basicsr_unirestorer.data.mixed_degradation_lmdb_dataset import MixedDegradationLMDBDataset
from basicsr_unirestorer.data.source_options import FLAT_KEYS, listed_sources
from basicsr_unirestorer.errors import OptionError, check_keys

HELD_OUT = 10  # every tenth picture, with all its samples, is kept from training for the calibration
ALSO_KEYS = ('recipe', 'variants', 'max_pictures', 'max_samples', 'enlarge')


@DATASET_REGISTRY.register()
class RoutingSamplesDataset(Dataset):
    """Rows of the table that ``objective: regret`` learns from. An item is a row number; ``realise`` makes pictures.

    The rows are one epoch of a ``MixedDegradationLMDBDataset``, so its ``enlarge``, ``max_samples`` and weights say how
    many there are. One picture in ten, the same in every part, is held out of training.

    Args:
        opt: The options of ``MixedDegradationLMDBDataset``, without ``expert_batch``, and

            - route_also: Recipes by which the same clean pictures are degraded once more, such as mixtures and
              strengths that no expert has seen. Their samples belong to no leaf. An entry is a recipe (file or packaged
              name), or a group of keys that replace those of the clean sources: ``{recipe: ..., max_samples: 500}``.

    Raises:
        OptionError, DataError, TreeMismatchError: As ``MixedDegradationLMDBDataset``.
    """

    def __init__(self, opt: dict) -> None:
        super().__init__()
        self.check_options(opt, f'datasets.{opt.get("phase", "train")}')
        self.opt = opt
        assigned = {key: value for key, value in opt.items() if key != 'route_also'}
        self.parts = [MixedDegradationLMDBDataset(part) for part in (assigned, *_unassigned(opt))]
        self._first_rows = np.cumsum([0, *(len(part) for part in self.parts)])
        self.num_rows = int(self._first_rows[-1])
        held_out = np.asarray([_held_out(part.sample_id(part.draw(0, place)[0])) for part, place in self._places()])
        if held_out.all() or not held_out.any():  # a handful of pictures
            held_out = np.zeros(self.num_rows, bool)
        self.rows = np.flatnonzero(~held_out)
        self.held_out_rows = np.flatnonzero(held_out)

    @classmethod
    def check_options(cls, opt: Mapping, where: str) -> None:
        """Look for mistakes without touching a file; raises OptionError naming the first wrong key or value."""
        if opt.get('expert_batch'):
            raise OptionError(f'{where}.expert_batch belongs to the experts stage; remove it.')
        assigned = {key: value for key, value in opt.items() if key != 'route_also'}
        MixedDegradationLMDBDataset.check_options(assigned, where)
        for place, part in enumerate(_unassigned(opt, where)):
            MixedDegradationLMDBDataset.check_options(part, f'{where}.route_also.{place}')

    def _places(self):  # noqa: ANN202
        return ((part, place) for part in self.parts for place in range(len(part)))

    @property
    def fingerprint(self) -> str:
        """Short hash of what the rows show: samples, seed, crops and flips."""
        shown = [self.opt.get(key) for key in ('seed', 'gt_size', 'use_hflip', 'use_rot')]
        facts = [shown, [[part.fingerprint, len(part)] for part in self.parts]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def realise(self, row: int) -> dict:
        """Return a row's item as ``MixedDegradationLMDBDataset`` gives it; ``leaf`` is -1 outside the assignment."""
        place = int(np.searchsorted(self._first_rows, row, side='right')) - 1
        part = self.parts[place]
        return part.item(*part.draw(0, row - int(self._first_rows[place])))

    def __len__(self) -> int:
        return len(self.rows)

    def epoch_order(self, epoch: int) -> list[int]:
        """Return an epoch's indices, shuffled."""
        generator = torch.Generator().manual_seed(self.opt.get('seed', 0) + epoch)
        return (epoch * len(self) + torch.randperm(len(self), generator=generator)).tolist()

    def __getitem__(self, index: int) -> dict:
        return {'row': int(self.rows[int(index) % len(self)])}


def _held_out(sample_id: str) -> bool:
    """Decide by the picture, so that no variant of a held-out picture is trained on."""
    return zlib.crc32(sample_id.partition('#')[0].encode()) % HELD_OUT == 0


def _unassigned(opt: Mapping, where: str = 'datasets.train') -> list[dict]:
    """Return the options of a dataset for each entry of ``route_also``."""
    entries = opt.get('route_also') or []
    if not isinstance(entries, (list, tuple)):
        raise OptionError(f"Option '{where}.route_also' is {entries!r}, expected a list of recipes: [tiny_also].")
    clean = [dict(source) for source in listed_sources(opt, where) if source.get('recipe') is not None]
    if entries and not clean:
        raise OptionError(f'{where}.route_also needs clean pictures with a recipe, and {where} has pairs alone.')
    rest = {
        key: value
        for key, value in opt.items()
        if key not in (*FLAT_KEYS, 'sources', 'epoch_samples', 'tree', 'assignments', 'route_also')
    }
    parts = []
    for place, entry in enumerate(entries):
        entry = entry if isinstance(entry, Mapping) else {'recipe': entry}
        check_keys(entry, ALSO_KEYS, f'{where}.route_also.{place}')
        if not entry.get('recipe'):
            raise OptionError(f'{where}.route_also.{place} lacks a recipe, by which the clean pictures are degraded.')
        changed = [{**{k: v for k, v in source.items() if k != 'weight'}, **entry} for source in clean]
        parts.append({**rest, **(changed[0] if opt.get('sources') is None else {'sources': changed})})
    return parts
