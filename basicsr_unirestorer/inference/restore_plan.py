"""Which pictures are restored, and where each result goes."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.image_files import SUFFIXES, find_pictures, is_picture

Pair = tuple[Path, Path]


def plan_files(sources: Path | str | Sequence[Path | str], target: Path) -> list[Pair]:
    """Pair each input picture with its output.

    Args:
        sources: Pictures, folders, and patterns such as ``photos/**/*.png``; one or several. The tree below a folder,
            or below the fixed part of a pattern, is mirrored.
        target: The output folder or, for a single picture, its file.

    Raises:
        DataError: An input does not exist or holds no pictures; an output would be an input or lie inside an input
            folder; or two outputs would be the same file.
    """
    sources = [sources] if isinstance(sources, Path | str) else list(sources)
    if len(sources) == 1 and Path(sources[0]).is_file():
        pairs = [_single(Path(sources[0]), target)]
    else:
        pairs = [pair for source in sources for pair in _mirrored(source, target)]
    owners: dict[Path, Path] = {}
    for source, output in pairs:
        first = owners.setdefault(output, source)
        if first is not source:
            raise DataError(f'{first} and {source} would both become {output}; restore them into two folders.')
    for source, output in pairs:
        if output.resolve() == source.resolve():
            raise DataError(f'The output {output} is the input itself; choose another folder.')
    return pairs


def _single(source: Path, target: Path) -> Pair:
    if target.suffix.lower() in SUFFIXES and not target.is_dir():
        return source, target
    if source.suffix.lower() not in SUFFIXES:
        raise DataError(f'{source} has no suffix of a picture; name the output, e.g. {target / source.stem}.png.')
    return source, target / source.name


def _mirrored(source: Path | str, target: Path) -> list[Pair]:
    path = Path(source)
    if path.is_dir():
        if target.resolve().is_relative_to(path.resolve()):
            raise DataError(f'The output {target} lies inside the input {source}; choose a folder beside it.')
        return [(picture, target / picture.relative_to(path)) for picture in find_pictures(path)]
    if path.is_file():
        return [_single(path, _folder(target))]
    if not glob.has_magic(str(source)):
        raise DataError(f'{source} does not exist; give a picture, a folder of pictures, or a pattern.')
    fixed = Path(*_fixed_part(path))
    found = [Path(name) for name in sorted(glob.glob(str(source), recursive=True))]
    inside = target.resolve()
    pictures = [name for name in found if is_picture(name) and not name.resolve().is_relative_to(inside)]
    if not pictures:
        raise DataError(f"The pattern '{source}' matches no pictures; quote it, and check it with ls.")
    return [(picture, _folder(target) / picture.relative_to(fixed)) for picture in pictures]


def _fixed_part(pattern: Path) -> list[str]:
    """Return the folders of a pattern before its first wildcard."""
    parts = list(pattern.parts[:-1])
    wild = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return parts[:wild]


def _folder(target: Path) -> Path:
    """Return the target where it can be a folder; raises DataError where it is, or is named like, one picture."""
    if target.is_file() or (target.suffix.lower() in SUFFIXES and not target.is_dir()):
        raise DataError(f'{target} is one picture but several are to be restored; give a folder.')
    return target
