"""Named test protocols: which pictures, how they are degraded or paired, and what is measured on them.

A protocol is a yml file, ``options/test/NAME.yml`` or one of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from basicsr_unirestorer.data.pairing import name_rule, pair_names, stem
from basicsr_unirestorer.degradations import parse_caption
from basicsr_unirestorer.errors import DataError, OptionError, check_keys, did_you_mean, need_keys
from basicsr_unirestorer.image_files import find_pictures, read_picture
from basicsr_unirestorer.inference.metrics import check_metrics
from basicsr_unirestorer.option_files import options_dir

DATA_ROOT = Path('datasets/unirestorer')
PROTOCOL_KEYS = ('title', 'family', 'pictures', 'columns', 'metrics')
MADE_FROM_CLEAN = {'noise': ('sigma_255', 'clip', 'seed'), 'jpeg': ('quality',), 'clean': ()}
COLUMN_KEYS = (*MADE_FROM_CLEAN, 'lq', 'gt', 'rule', 'caption', 'pictures')

Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One picture to restore and measure.

    Attributes:
        dataset: Name of its test set.
        degradation: Row of the table that it counts for: a protocol's column, or the caption of a virtual sample.
        caption: What is wrong with it, where that is known.
        name: Its name, unique within test set and row.
        metrics: What is measured: name -> options, see ``metrics.measure``.
        facts: All that its two pictures depend on, fit for JSON.
        load: Returns lq (RGB, float32, (h, w, 3); [0, 1], or beyond where noise is not clipped) and gt (RGB, uint8, of
            the same size).
    """

    dataset: str
    degradation: str
    caption: str | None
    name: str
    metrics: Mapping[str, Mapping]
    facts: Any
    load: Callable[[], Pair]


@dataclass(frozen=True)
class Protocol:
    """A checked protocol file. ``heading`` is the comment it begins with."""

    name: str
    heading: str
    options: Mapping

    @classmethod
    def load(cls, name: str | Path) -> Protocol:
        """Read a protocol by name or from a file.

        Raises:
            OptionError: There is no such protocol, or its file makes no sense.
        """
        files = protocol_files()
        path = files.get(str(name), Path(name))
        if path.suffix != '.yml' or not path.is_file():
            raise OptionError(
                f"There is no test protocol '{name}'.{did_you_mean(str(name), files)} Known: {', '.join(files)}; or "
                'give a yml file like those in options/test.'
            )
        text = path.read_text(encoding='utf-8')
        try:
            options = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise OptionError(f"Protocol '{path}' is not valid yml: {' '.join(str(error).split())}.") from error
        if not isinstance(options, Mapping):
            raise OptionError(f"Protocol '{path}' must hold 'key: value' lines like those of options/test.")
        protocol = cls(path.stem, _heading(text), options)
        protocol._check()
        return protocol

    def _check(self) -> None:
        check_keys(self.options, PROTOCOL_KEYS, self.name)
        need_keys(self.options, ('title', 'columns', 'metrics'), self.name)
        check_metrics(self.options['metrics'], f'{self.name}.metrics')
        if self.options['metrics'].get('psnr', {}).get('type') != 'calculate_psnr':
            raise OptionError(
                f"Protocol '{self.name}' must measure 'psnr' (calculate_psnr): it says which expert is best."
            )
        for name, column in self.options['columns'].items():
            where = f'{self.name}.columns.{name}'
            check_keys(column, COLUMN_KEYS, where)
            kinds = [key for key in (*MADE_FROM_CLEAN, 'lq') if key in column]
            if len(kinds) != 1:
                raise OptionError(f"Option '{where}' must have exactly one of {', '.join(MADE_FROM_CLEAN)} and lq.")
            need_keys(column, ('gt',), where)
            wanted = MADE_FROM_CLEAN.get(kinds[0])
            if wanted:
                check_keys(column[kinds[0]], wanted, f'{where}.{kinds[0]}')
                absent = next((key for key in wanted if key not in column[kinds[0]]), None)
                if absent:
                    raise OptionError(f"Option '{where}.{kinds[0]}.{absent}' is missing.")
            parse_caption(column.get('caption') or 'clean')

    @property
    def title(self) -> str:
        return self.options['title']

    def folder(self, data: str | Path | None = None) -> Path:
        """Find the folder of the test set: ``family`` below a data root, or the very folder that is given."""
        given = Path(data or DATA_ROOT).expanduser()
        family = given / self.options.get('family', '')
        return family if family.is_dir() else given

    def cases(self, data: str | Path | None = None, max_pictures: int | None = None) -> list[Case]:
        """List the pictures of every column; only names are read.

        Args:
            data: The set's own folder, or the data root that the scripts of ``datasets_prep`` write into.
            max_pictures: Take only the first so many of each column.

        Raises:
            DataError: A folder is missing or empty, or a degraded picture has no partner.
        """
        folder = self.folder(data)
        return [
            case
            for name, column in self.options['columns'].items()
            for case in list(self._column(folder, name, column))[:max_pictures]
        ]

    def expected(self, column: str) -> int | None:
        """Return how many pictures a column has as published."""
        return self.options['columns'][column].get('pictures', self.options.get('pictures'))

    def _column(self, folder: Path, name: str, column: Mapping) -> Iterator[Case]:
        kind = next(key for key in (*MADE_FROM_CLEAN, 'lq') if key in column)
        clean = folder / column['gt']
        if kind == 'lq':
            pairs = _paired(self._existing(folder / column['lq']), self._existing(clean), column.get('rule', 'same'))
        else:
            clean = clean if clean.is_dir() else self._existing(folder)  # a plain folder of clean pictures will do
            pairs = [(None, file) for file in find_pictures(clean)]
        for lq, gt in pairs:
            if kind == 'lq':
                load = partial(load_pair, lq, gt)
            else:
                load = partial(load_degraded, gt, kind, column[kind])
            facts = [[str(file), *_stamp(file)] for file in (lq, gt) if file]
            made = None if kind == 'lq' else {kind: column[kind]}
            key = stem((lq or gt).relative_to(folder / column['lq'] if lq else clean).as_posix())
            caption = column.get('caption')
            yield Case(self.name, name, caption, key, self.options['metrics'], [made, facts], load)

    def _existing(self, folder: Path) -> Path:
        if not folder.is_dir():
            family = self.options.get('family')
            raise DataError(
                f"Protocol '{self.name}' needs the folder {folder}, which does not exist; give --data "
                f'{self.name}=FOLDER with its pictures' + (f', or the data root above {family}.' if family else '.')
            )
        return folder


def protocol_files() -> dict[str, Path]:
    """Return the packaged protocols by name; files called ``unirestorer_*`` are for BasicSR's tester."""
    files = sorted((options_dir() / 'test').glob('*.yml'))
    return {file.stem: file for file in files if not file.name.startswith('unirestorer_')}


def _heading(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith('#'):
            break
        lines.append(line.removeprefix('#').removeprefix(' '))
    return '\n'.join(lines)


def _stamp(file: Path) -> tuple[int, int]:
    """Return size and time of change of a file, which tell a changed one without reading it."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _paired(lq: Path, gt: Path, rule: str) -> list[tuple[Path, Path]]:
    """Pair the pictures of two folders; raises DataError where a degraded one has no partner."""
    degraded, clean = ([file.relative_to(folder).as_posix() for file in find_pictures(folder)] for folder in (lq, gt))
    names = pair_names(degraded, clean, name_rule(rule))
    lone = [*(file for file, _ in names.alone), *names.unfit]
    if lone:
        raise DataError(
            f'{lq / lone[0]} and {len(lone) - 1} others have no clean partner in {gt} by the rule {rule!r}; copy the '
            'set again, or prepare it with its script in datasets_prep.'
        )
    return [(lq / file, gt / partner) for file, partner, _ in names.pairs]


def read_rgb(path: Path) -> np.ndarray:
    """Read a picture as RGB, uint8, (h, w, 3)."""
    return np.ascontiguousarray(read_picture(path)[..., ::-1])


def load_pair(lq: Path, gt: Path) -> Pair:
    """Read two partners; raises DataError where their sizes differ."""
    degraded, clean = read_rgb(lq), read_rgb(gt)
    if degraded.shape != clean.shape:
        raise DataError(
            f'{lq} has {degraded.shape[1]}x{degraded.shape[0]} pixels but {gt} {clean.shape[1]}x{clean.shape[0]}; the '
            "set's script in datasets_prep brings both to one size."
        )
    return degraded.astype(np.float32) / 255, clean


def load_degraded(gt: Path, kind: str, params: Mapping) -> Pair:
    """Read a clean picture and degrade it: the same picture and parameters give the same result, in any order.

    Args:
        gt: The picture.
        kind: ``noise``, ``jpeg`` or ``clean``, which changes nothing.
        params: ``sigma_255``, ``clip`` and ``seed``; or ``quality``.
    """
    clean = read_rgb(gt)
    if kind == 'noise':
        return add_noise(clean, **params), clean
    if kind == 'jpeg':
        coded = cv2.imencode('.jpg', clean[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, params['quality']])[1]
        return cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255, clean
    return clean.astype(np.float32) / 255, clean


def add_noise(clean: np.ndarray, sigma_255: float, clip: bool, seed: int = 0) -> np.ndarray:
    """Add white Gaussian noise, drawn afresh from the seed for this picture.

    Args:
        clean: RGB, uint8, (h, w, 3).
        sigma_255: Standard deviation on the 0..255 scale.
        clip: Clip to [0, 255] and round to whole numbers, as an 8-bit file would hold it.
        seed: Of numpy's ``RandomState``, whose numbers never change between versions.

    Returns:
        RGB, float32, (h, w, 3); beyond [0, 1] unless clipped.
    """
    noise = np.random.RandomState(seed).normal(0, sigma_255 / 255, clean.shape)
    noisy = clean / 255 + noise
    return ((noisy.clip(0, 1) * 255).round() / 255 if clip else noisy).astype(np.float32)
