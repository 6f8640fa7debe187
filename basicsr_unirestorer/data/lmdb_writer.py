"""Write pictures into an LMDB that BasicSR reads: a folder with the database and its ``meta_info.txt``."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import lmdb
import numpy as np
from tqdm import tqdm

from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.image_files import find_pictures, read_picture

COMMIT_EVERY = 200


def safe_key(relative: Path) -> str:
    """Turn a relative path into an LMDB key: ASCII, without dots (BasicSR cuts keys at the first dot) or slashes."""
    stem = '-'.join(relative.with_suffix('').parts).replace('.', 'p')
    return re.sub(r'[^A-Za-z0-9_\-]', '_', stem)


def windows(length: int, size: int, step: int) -> list[int]:
    """Return the starts of windows along one axis; the last one is aligned to the border so that nothing is lost."""
    starts = list(range(0, max(length - size, 0) + 1, step))
    if starts[-1] + size < length:
        starts.append(length - size)
    return starts


def sub_images(picture: np.ndarray, crop: int, step: int) -> Iterator[np.ndarray]:
    """Cut a (h, w, c) picture into overlapping squares of side ``crop``; a smaller picture comes whole."""
    for top in windows(picture.shape[0], crop, step):
        for left in windows(picture.shape[1], crop, step):
            yield picture[top : top + crop, left : left + crop]


def named_pictures(
    folder: Path, crop: int | None, step: int | None, skip_bad: bool, dropped: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (key, BGR uint8 picture) of a folder, cut into sub-images on request; bad files end in ``dropped``."""
    seen: dict[str, Path] = {}
    for path in tqdm(find_pictures(folder), desc='pictures', unit='file'):
        relative = path.relative_to(folder)
        key = safe_key(relative)
        if key in seen:
            raise DataError(f"{seen[key]} and {relative} would share the LMDB key '{key}'; rename one of them.")
        seen[key] = relative
        try:
            picture = read_picture(path)
        except DataError as error:
            if not skip_bad:
                raise DataError(f'{error} (or pass --skip-bad to leave it out)') from error
            dropped.append(str(error))
            continue
        if crop is None:
            yield key, picture
        else:
            for index, part in enumerate(sub_images(picture, crop, step or crop), start=1):
                yield f'{key}_s{index:03d}', part


def write_lmdb(path: str | Path, pictures: Iterable[tuple[str, np.ndarray]], compress_level: int = 1) -> int:
    """Write pictures to ``path`` as PNG, aside first and renamed when complete.

    Args:
        path: The LMDB folder; its name must end in ``.lmdb`` and it must not exist.
        pictures: (key, picture) pairs; pictures BGR, uint8, shape (h, w, 3); keys as ``safe_key`` makes them.
        compress_level: PNG compression, 0-9.

    Returns:
        The number of pictures written.

    Raises:
        DataError: The name does not end in .lmdb, the folder exists, or there is no picture to write.
    """
    path = Path(path)
    if path.suffix != '.lmdb':
        raise DataError(
            f"The LMDB folder is called '{path.name}', but BasicSR only opens folders ending in .lmdb; "
            f"write '{path.name}.lmdb'."
        )
    if path.exists():
        raise DataError(f'{path} exists already; remove it first, or choose another output.')
    scratch = path.with_name(path.name + '.part')
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        meta = _fill(scratch, pictures, compress_level)
        if not meta:
            raise DataError(f'No picture could be written to {path}; check the input folder.')
        (scratch / 'meta_info.txt').write_text('\n'.join(meta) + '\n')
        scratch.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return len(meta)


def _fill(folder: Path, pictures: Iterable[tuple[str, np.ndarray]], compress_level: int) -> list[str]:
    environment = lmdb.open(str(folder), map_size=2**26)
    meta, batch = [], []
    with environment:
        for key, picture in pictures:
            png = cv2.imencode('.png', picture, [cv2.IMWRITE_PNG_COMPRESSION, compress_level])[1].tobytes()
            batch.append((key.encode('ascii'), png))
            meta.append(f'{key}.png ({picture.shape[0]},{picture.shape[1]},{picture.shape[2]}) {compress_level}')
            if len(batch) == COMMIT_EVERY:
                _commit(environment, batch)
                batch = []
        _commit(environment, batch)
    return meta


def _commit(environment: lmdb.Environment, batch: list[tuple[bytes, bytes]]) -> None:
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, value in batch:
                    transaction.put(key, value)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()['map_size'])
