"""``unirestorer link`` and ``unlink``: let BasicSR's own commands find this package.

BasicSR imports every ``*_arch.py``, ``*_dataset.py``, ``*_loss.py`` and ``*_model.py`` below its package. Linking puts
one line there for each of the four, and, in a checkout, links our option files into ``options/``. Nothing that exists
is ever overwritten, a manifest beside the lines says what was made, and unlinking removes exactly that.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from basicsr_unirestorer.errors import UniRestorerError
from basicsr_unirestorer.option_files import options_dir

MANIFEST = '.unirestorer_link.json'
HEADER = '"""Written by \'unirestorer link\'; \'unirestorer unlink\' removes it."""\n'
# ``basicsr/__init__.py`` reaches the folders in this order. While ``archs`` is being scanned, BasicSR's build_network
# does not exist yet, and our networks need it: so the first line only makes the modules available that ``data`` would
# fail without, and our networks follow with the data sets. The models come when all that they build on is complete.
ONE_LINERS = {
    'archs/unirestorer_arch.py': 'from basicsr_unirestorer import compat; compat.apply()\n',
    'data/unirestorer_dataset.py': 'import basicsr_unirestorer.archs, basicsr_unirestorer.data.datasets\n',
    'losses/unirestorer_loss.py': 'import basicsr_unirestorer.losses\n',
    'models/unirestorer_model.py': 'import basicsr_unirestorer.models\n',
}


@dataclass(frozen=True)
class Target:
    """A BasicSR to link into: the folder of its package, and its root if it is a checkout with ``options/``."""

    package: Path
    checkout: Path | None

    @property
    def manifest(self) -> Path:
        return self.package / MANIFEST

    @property
    def base(self) -> Path:
        """The folder that the paths in the manifest are relative to."""
        return self.package.parent


@dataclass
class Plan:
    """What linking makes: text files, and links to (or copies of) our option files, by absolute path."""

    files: dict[Path, str] = field(default_factory=dict)
    links: dict[Path, Path] = field(default_factory=dict)

    def digest_of(self, path: Path) -> str:
        return _digest(self.files[path].encode()) if path in self.files else _digest(self.links[path].read_bytes())


def find_target(path: Path | None) -> Target:
    """Find the BasicSR to link into.

    Args:
        path: A checkout (a folder with ``basicsr/``), or None for the BasicSR that stock commands import.

    Raises:
        UniRestorerError: There is no BasicSR at that place.
    """
    if path is None:
        origin = _what_python_finds(Path.home())['basicsr']
        if origin is None:
            raise UniRestorerError(
                'No BasicSR is installed for this Python: pip install basicsr, or name a checkout: '
                'unirestorer link PATH.'
            )
        package = Path(origin)
        checkout = package.parent if (package.parent / 'setup.py').is_file() else None
    else:
        checkout = path.expanduser().resolve()
        package = checkout / 'basicsr'
    if not (package / 'archs' / '__init__.py').is_file():
        raise UniRestorerError(
            f'{package} is not the package of BasicSR: name the folder of a checkout, the one that '
            'contains basicsr/archs.'
        )
    return Target(package, checkout)


def link(target: Target, dry_run: bool = False) -> list[Path]:
    """Write the one-liners and link the options; doing so twice brings an older link up to date.

    Returns:
        The files that stand there now because of us, sorted.

    Raises:
        UniRestorerError: A file that is not ours is in the way, or the place is not writable. Nothing was changed.
    """
    plan = _plan(target)
    paths = sorted([*plan.files, *plan.links])
    old = _read_manifest(target)
    for path in paths:
        if os.path.lexists(path) and not _is_ours(path, plan, old, target):
            raise UniRestorerError(f'{path} exists and was not written by link: move it away, then link again.')
    if dry_run:
        return paths
    if old is not None:
        unlink(target)
    made: dict[str, str] = {}
    folders: list[str] = []
    try:
        for path in paths:
            folders += [_relative(f, target) for f in _make_folders(path.parent)]
            path.unlink(missing_ok=True)  # ours, as found above, without a manifest
            if path in plan.files:
                path.write_text(plan.files[path], encoding='utf-8')
            else:
                _link_or_copy(plan.links[path], path)
            made[_relative(path, target)] = plan.digest_of(path)
        _write_manifest(target, made, folders)
    except OSError as error:
        _remove(target, made, folders)
        raise UniRestorerError(
            f'Cannot write to {error.filename or target.package} ({error.strerror}): run link as a '
            'user who may, or link a checkout of your own: unirestorer link PATH.'
        ) from error
    return paths


def unlink(target: Target) -> tuple[int, list[Path]]:
    """Remove what :func:`link` made, also compiled one-liners and folders that are empty now.

    Returns:
        The number of removed files, and the files that were edited since and are therefore kept.

    Raises:
        UniRestorerError: It is not linked.
    """
    manifest = _read_manifest(target)
    if manifest is None:
        raise UniRestorerError(f'{target.base} is not linked: nothing to undo.')
    try:
        kept = _remove(target, manifest['files'], manifest['folders'])
        target.manifest.unlink()
    except OSError as error:
        raise UniRestorerError(
            f'Cannot remove {error.filename} ({error.strerror}): run unlink as the user who ran link.'
        ) from error
    return len(manifest['files']) - len(kept), kept


def advice(target: Target) -> list[str]:
    """Say what to type now, and what would go wrong with the plain command."""
    found = _what_python_finds(target.checkout or Path.home())
    lines = []
    if found['basicsr_unirestorer'] is None:
        lines.append(f'This Python does not find basicsr_unirestorer; once: pip install -e {_own_root()}')
    if target.checkout is None:
        lines.append(f'Train with: python -m basicsr.train -opt YOUR.yml (our option files: {options_dir()})')
        return lines
    names = ('unirestorer_experts.yml', 'tiny/unirestorer_experts.yml')
    example = next((name for name in names if (options_dir() / name).is_file()), 'YOUR.yml')
    command = f'python basicsr/train.py -opt options/{example}'
    if not (target.package / 'version.py').is_file():
        lines.append('BasicSR has not written its basicsr/version.py yet and cannot be imported; type:')
        lines.append(f'cd {target.checkout} && pip install -e . --no-deps --no-build-isolation && {command}')
        return lines
    if found['basicsr'] is not None and Path(found['basicsr']) == target.package:
        lines.append(f'Train with: cd {target.checkout} && {command}')
    else:
        other = f'would import the BasicSR in {found["basicsr"]}' if found['basicsr'] else 'would find no BasicSR'
        lines.append(f"'python basicsr/train.py' {other}; so put this checkout first:")
        lines.append(f'cd {target.checkout} && PYTHONPATH=. {command}')
    return lines


def link_main(argv: Sequence[str]) -> int:
    """The verb ``link``."""
    parser = argparse.ArgumentParser(
        prog='unirestorer link',
        description="Let BasicSR's own commands find the networks, data sets, losses, models "
        'and option files of this package.',
        epilog='example: unirestorer link ~/BasicSR',
    )
    parser.add_argument('path', nargs='?', type=Path, help='a BasicSR checkout; default: the installed BasicSR')
    parser.add_argument('--dry-run', action='store_true', help='only list the files that would be made')
    args = parser.parse_args(argv)
    target = find_target(args.path)
    paths = link(target, args.dry_run)
    if args.dry_run:
        print('\n'.join(f'would make {path}' for path in paths))
        return 0
    print(f'Linked {len(paths)} files into {target.base}.')
    print('\n'.join(advice(target)))
    return 0


def unlink_main(argv: Sequence[str]) -> int:
    """The verb ``unlink``."""
    parser = argparse.ArgumentParser(
        prog='unirestorer unlink',
        description='Remove exactly what link has made.',
        epilog='example: unirestorer unlink ~/BasicSR',
    )
    parser.add_argument('path', nargs='?', type=Path, help='a BasicSR checkout; default: the installed BasicSR')
    target = find_target(parser.parse_args(argv).path)
    count, kept = unlink(target)
    print(f'Unlinked {target.base}: removed {count} files.')
    for path in kept:
        print(f'Kept {path}: it was edited since it was linked.')
    return 0


# ------------------------------------------------------------------------------------------------------- below: files


def _plan(target: Target) -> Plan:
    plan = Plan()
    for name, line in ONE_LINERS.items():
        plan.files[target.package / name] = HEADER + line
    if target.checkout is not None:
        for source in _our_options(options_dir()):
            plan.links[target.checkout / 'options' / source.relative_to(options_dir())] = source
    return plan


def _our_options(folder: Path) -> Iterator[Path]:
    """Option files, but not those of the folder itself that do not carry our name (they would look like BasicSR's)."""
    for source in sorted(folder.rglob('*.yml')):
        if source.parent != folder or source.name.startswith('unirestorer_'):
            yield source


def _is_ours(path: Path, plan: Plan, manifest: dict | None, target: Target) -> bool:
    """Whether an earlier link made this file, by its manifest or, where that got lost, by the content."""
    if not path.exists():  # a dangling link: ours if the manifest knows it
        return manifest is not None and _relative(path, target) in manifest['files']
    if not path.is_file():
        return False
    digest = _digest(path.read_bytes())
    recorded = (manifest or {'files': {}})['files'].get(_relative(path, target))
    return digest in (recorded, plan.digest_of(path)) or (recorded is not None and path.is_symlink())


def _link_or_copy(source: Path, path: Path) -> None:
    try:
        path.symlink_to(source)
    except (OSError, NotImplementedError):  # Windows without the right to make links
        shutil.copyfile(source, path)


def _make_folders(folder: Path) -> list[Path]:
    """Create a folder and its parents; return those that are new, outermost first."""
    new = [f for f in (folder, *folder.parents) if not f.exists()][::-1]
    folder.mkdir(parents=True, exist_ok=True)
    return new


def _remove(target: Target, files: dict[str, str], folders: Sequence[str]) -> list[Path]:
    """Remove files that still are what link made, their compiled forms, and folders that are empty then."""
    kept = []
    for name, digest in files.items():
        path = target.base / name
        if path.is_symlink() or (path.is_file() and _digest(path.read_bytes()) == digest):
            path.unlink()
        elif path.exists():
            kept.append(path)
            continue
        if path.suffix == '.py':
            for compiled in (path.parent / '__pycache__').glob(f'{path.stem}.*.pyc'):
                compiled.unlink()
            with contextlib.suppress(OSError):  # not empty, or not there: not ours
                (path.parent / '__pycache__').rmdir()
    for name in reversed(folders):
        with contextlib.suppress(OSError):
            (target.base / name).rmdir()
    return kept


def _read_manifest(target: Target) -> dict | None:
    try:
        return json.loads(target.manifest.read_text(encoding='utf-8'))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UniRestorerError(f'{target.manifest} is damaged: remove it and link again.') from error


def _write_manifest(target: Target, files: dict[str, str], folders: list[str]) -> None:
    """Written aside and renamed, so that there is never half a manifest."""
    aside = target.manifest.with_suffix('.tmp')
    try:
        aside.write_text(json.dumps({'files': files, 'folders': folders}, indent=1), encoding='utf-8')
        aside.replace(target.manifest)
    finally:
        aside.unlink(missing_ok=True)


def _relative(path: Path, target: Target) -> str:
    return path.relative_to(target.base).as_posix()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _own_root() -> Path:
    return Path(__file__).resolve().parent.parent


def _what_python_finds(folder: Path) -> dict[str, str | None]:
    """Package folders that a script started in ``folder`` imports, None where there is no such package.

    Asked of a fresh Python without its first search path: a script searches its own folder, not the current one. A
    folder that merely is called ``basicsr`` (a namespace without ``__init__.py``) does not count.
    """
    code = (
        'import importlib.util, json, os, sys; sys.path[:] = [p for p in sys.path if p]; '
        'spec = {n: importlib.util.find_spec(n) for n in ("basicsr", "basicsr_unirestorer")}; '
        'print(json.dumps({n: os.path.dirname(os.path.realpath(s.origin)) if s and s.origin else None '
        'for n, s in spec.items()}))'
    )
    answer = subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])
