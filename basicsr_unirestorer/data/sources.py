"""Where samples come from: clean pictures degraded on the fly, or pairs of degraded and clean ones."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from basicsr_unirestorer.data.crops import Cutting, to_float_rgb
from basicsr_unirestorer.data.lmdb_reader import LMDBPictures
from basicsr_unirestorer.data.pairs import Pair, read_pairs
from basicsr_unirestorer.data.source_options import listed_sources
from basicsr_unirestorer.degradations import (
    DegradationRecipe,
    DegradationRecord,
    Window,
    degrade,
    parse_caption,
    sample_rng,
)
from basicsr_unirestorer.degradations.record import CLEAN
from basicsr_unirestorer.errors import DataError


class Sample(NamedTuple):
    """A realised sample: ``lq`` and ``gt`` are RGB, float32, (h, w, 3), [0, 1], of one size."""

    lq: np.ndarray
    gt: np.ndarray
    caption: str
    labels: tuple[str, ...]


class Source(ABC):
    """A numbered list of samples. What a sample is depends on (seed, its id); how it looks on the lap as well.

    Attributes:
        options: As written, with keys of ``source_options.SOURCE_KEYS``.
        prefix: Stands before every sample id where a dataset has several sources, so that ids stay unique; else ''.
        seed: Seeds parameters and realisations.
    """

    def __init__(self, options: Mapping, seed: int, prefix: str = '') -> None:
        self.options, self.seed, self.prefix = options, seed, prefix

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def local_id(self, number: int) -> str:
        """Return the sample's id without the prefix: ``key`` or ``key#variant``."""

    @abstractmethod
    def shape(self, number: int) -> tuple[int, int, int]:
        """Return (height, width, channels) of the sample's clean picture."""

    @abstractmethod
    def record(self, number: int) -> DegradationRecord | None:
        """Return what is done to the sample; None where it was done by the world."""

    @abstractmethod
    def caption(self, number: int) -> str:
        """Return the sample's degradation caption."""

    @abstractmethod
    def paths(self, number: int) -> tuple[str, str]:
        """Return the names that BasicSR shall know the lq and the gt picture by."""

    @abstractmethod
    def item(self, number: int, lap: int | str, cutting: Cutting) -> Sample:
        """Realise a sample, as a pure function of (seed, id, lap).

        Args:
            number: 0 <= number < len(self).
            lap: Names the realisation: crop, noise field, flips.
            cutting: Crop size and flips.

        Raises:
            DataError: A picture cannot be read or does not fit its partner.
        """

    @abstractmethod
    def facts(self) -> Any:
        """Return what its samples depend on beside their ids and the seed, fit for JSON."""

    def sample_id(self, number: int) -> str:
        return f'{self.prefix}{self.local_id(number)}'

    def sample_ids(self) -> list[str]:
        return [self.sample_id(number) for number in range(len(self))]

    @property
    def fingerprint(self) -> str:
        """Short hash of all that an assignment of the samples depends on."""
        facts = json.dumps([self.sample_ids(), self.facts(), self.seed], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:16]


class CleanSource(Source):
    """Virtual samples: variant v of the clean picture ``key``, degraded as a recipe says, is the sample ``key#v``."""

    def __init__(self, options: Mapping, seed: int, prefix: str = '') -> None:
        super().__init__(options, seed, prefix)
        self.pictures = LMDBPictures(options['dataroot_gt'])
        self.keys = self.pictures.keys[: options.get('max_pictures')]
        self.variants = options.get('variants', 1)
        self.recipe = DegradationRecipe.load(options['recipe'])

    def __len__(self) -> int:
        return len(self.keys) * self.variants

    def _key(self, number: int) -> tuple[str, int]:
        picture, variant = divmod(number, self.variants)
        return self.keys[picture], variant

    def local_id(self, number: int) -> str:
        key, variant = self._key(number)
        return f'{key}#{variant}'

    def shape(self, number: int) -> tuple[int, int, int]:
        return self.pictures.shapes[self._key(number)[0]]

    def record(self, number: int) -> DegradationRecord:
        key, variant = self._key(number)
        return self.recipe.draw(sample_rng(self.seed, self.prefix + key, variant, 'params'))

    def caption(self, number: int) -> str:
        return self.record(number).caption

    def paths(self, number: int) -> tuple[str, str]:
        key, variant = self._key(number)
        return f'{key}_v{variant}', key

    def facts(self) -> dict:
        return self.recipe.identity()

    def item(self, number: int, lap: int | str, cutting: Cutting) -> Sample:
        key, variant = self._key(number)
        record = self.record(number)
        rng = sample_rng(self.seed, self.prefix + key, variant, 'realise', lap)
        lq, gt = degraded_crop(self.pictures.read(key), key, record, cutting, rng)
        return Sample(*cutting.turn((lq, gt), rng), record.caption, record.labels)


class PairedSource(Source):
    """Degraded pictures and their clean partners: equal keys in two LMDBs, or what a ``pairs.txt`` says."""

    def __init__(self, options: Mapping, seed: int, prefix: str = '') -> None:
        super().__init__(options, seed, prefix)
        self.gt, self.lq = LMDBPictures(options['dataroot_gt']), LMDBPictures(options['dataroot_lq'])
        self._caption = options.get('caption')
        parse_caption(self._caption or CLEAN)  # refuses what is no caption
        self.pairs = self._read_pairs()[: options.get('max_pictures')]
        self._check_partners()
        self._check_sizes()

    def __len__(self) -> int:
        return len(self.pairs)

    def local_id(self, number: int) -> str:
        return self.pairs[number].lq

    def shape(self, number: int) -> tuple[int, int, int]:
        return self.gt.shapes[self.pairs[number].gt]

    def record(self, number: int) -> None:
        return None

    def caption(self, number: int) -> str:
        pair = self.pairs[number]
        return pair.caption or self._caption or pair.plain_caption or CLEAN

    def paths(self, number: int) -> tuple[str, str]:
        return self.pairs[number].lq, self.pairs[number].gt

    def facts(self) -> Any:
        if not self.options.get('pairs'):
            return self.options.get('caption')
        return [[pair.gt, self.caption(number)] for number, pair in enumerate(self.pairs)]

    def item(self, number: int, lap: int | str, cutting: Cutting) -> Sample:
        pair = self.pairs[number]
        lq, gt = self.lq.read(pair.lq), self.gt.read(pair.gt)
        if lq.shape != gt.shape:  # the meta files agree, the pictures do not
            raise DataError(self._unequal(pair, lq.shape, gt.shape))
        rng = sample_rng(self.seed, self.prefix + pair.lq, 0, 'realise', lap)
        if cutting.size is not None:
            lq, gt = cutting.pad(lq), cutting.pad(gt)
            top, left, h, w = cutting.place(*gt.shape[:2], rng)
            lq, gt = lq[top : top + h, left : left + w], gt[top : top + h, left : left + w]
        caption = self.caption(number)
        labels = pair.types or tuple(kind for _, kind in parse_caption(caption))
        return Sample(*cutting.turn((to_float_rgb(lq), to_float_rgb(gt)), rng), caption, labels)

    def _read_pairs(self) -> list[Pair]:
        if self.options.get('pairs'):
            return read_pairs(Path(self.options['pairs']).expanduser())
        return [Pair(key, key) for key in self.gt.keys]

    def _check_partners(self) -> None:
        listing = self.options.get('pairs')
        lq_keys, gt_keys = [pair.lq for pair in self.pairs], [pair.gt for pair in self.pairs]
        for pictures, keys in ((self.lq, lq_keys), (self.gt, gt_keys)):
            absent = [key for key in keys if key not in pictures]
            if not absent:
                continue
            beside = Path(self.gt.root).with_name('pairs.txt')
            if listing:
                advice = f'{listing} belongs to other LMDBs'
            elif beside.is_file():
                advice = f'their partners have other names, so write pairs: {beside}'
            else:
                advice = 'prepare both from the same pairs'
            raise DataError(
                f"{pictures.root} lacks {len(absent)} of {len(keys)} pictures of {listing or self.gt.root} "
                f"(first: '{absent[0]}'); {advice}."
            )

    def _check_sizes(self) -> None:
        for pair in self.pairs:
            lq, gt = self.lq.shapes[pair.lq], self.gt.shapes[pair.gt]
            if lq[:2] != gt[:2]:
                raise DataError(self._unequal(pair, lq, gt))

    def _unequal(self, pair: Pair, lq: tuple[int, ...], gt: tuple[int, ...]) -> str:
        partner = '' if pair.lq == pair.gt else f"'{pair.gt}' "
        return (
            f"'{pair.lq}' is {lq[1]}x{lq[0]} in {self.lq.root} but {partner}{gt[1]}x{gt[0]} in {self.gt.root}; pairs "
            'need equal sizes, so prepare them again with a script of datasets_prep/.'
        )


def degraded_crop(
    picture: np.ndarray, key: str, record: DegradationRecord, cutting: Cutting, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Degrade only a crop and the context its operators reach into.

    Args:
        picture: BGR, uint8, (h, w, 3).
        key: Its name; depth maps belong to it.
        record: What to do.
        cutting: Size of the crop.
        rng: Drives place and realisation.

    Returns:
        lq and gt: RGB, float32, [0, 1].
    """
    picture = cutting.pad(picture)
    (h, w), margin = picture.shape[:2], record.margin
    top, left, size_h, size_w = cutting.place(h, w, rng)
    y0, x0 = max(0, top - margin), max(0, left - margin)
    y1, x1 = min(h, top + size_h + margin), min(w, left + size_w + margin)
    context = to_float_rgb(picture[y0:y1, x0:x1])
    lq = degrade(context, record, rng, Window(y0, x0, y1 - y0, x1 - x0, h, w, key))
    crop = np.s_[top - y0 : top - y0 + size_h, left - x0 : left - x0 + size_w]
    return lq[crop], context[crop]


def make_sources(opt: Mapping) -> list[Source]:
    """Make the sources of a dataset: those listed under ``sources``, or the one that its flat keys describe.

    Raises:
        OptionError: Keys that need each other, or a value that makes no sense.
        DataError: An LMDB or a ``pairs.txt`` is missing, damaged or not the other's partner.
    """
    seed, several = opt.get('seed', 0), listed_sources(opt)
    prefixes = [f'{options["name"]}/' if len(several) > 1 else '' for options in several]
    return [
        (PairedSource if options.get('dataroot_lq') else CleanSource)(options, seed, prefix)
        for options, prefix in zip(several, prefixes, strict=True)
    ]
