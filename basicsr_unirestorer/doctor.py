"""``unirestorer doctor``: does everything fit together, and if not, which one command repairs it."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

PIP = f'{sys.executable} -m pip install'
# folder of this package -> (end of the file names that BasicSR scans for, registry that they fill)
PARTS = {
    'archs': ('arch', 'ARCH_REGISTRY'),
    'data': ('dataset', 'DATASET_REGISTRY'),
    'losses': ('loss', 'LOSS_REGISTRY'),
    'models': ('model', 'MODEL_REGISTRY'),
}


@dataclass(frozen=True)
class Check:
    """One row of the table: what was looked at, whether it is fine, what was found, what repairs it if not."""

    name: str
    ok: bool
    found: str
    repair: str = ''


def check_python() -> Check:
    version = platform.python_version()
    return Check('Python', sys.version_info >= (3, 10), f'{version} ({sys.executable})', 'make venv PYTHON=python3.12')


def check_torch() -> Check:
    import torch

    return Check(
        'torch',
        tuple(map(int, re.findall(r'\d+', torch.__version__)[:2])) >= (2, 0),
        torch.__version__,
        f'{PIP} --upgrade torch torchvision',
    )


def check_torchvision() -> Check:
    """Torchvision's compiled operators load only beside the torch that it was built for."""
    import torch
    import torchvision

    repair = f'{PIP} --upgrade --force-reinstall torch torchvision'
    wanted = next(
        (
            m[1]
            for r in importlib.metadata.requires('torchvision') or ()
            if (m := re.match(r'torch\s*\(?==\s*([\d.]+)', r))
        ),
        None,
    )
    installed = torch.__version__.split('+')[0]
    if wanted is not None and wanted != installed:
        return Check(
            'torchvision', False, f'{torchvision.__version__} was built for torch {wanted}, not {installed}', repair
        )
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    torchvision.ops.nms(boxes, torch.ones(1), 0.5)
    return Check('torchvision', True, torchvision.__version__, repair)


def check_basicsr() -> Check:
    """Which BasicSR this is, where it lies, and whether it can be imported as :mod:`compat` finds it."""
    from basicsr_unirestorer import compat

    repair = f'{PIP} --force-reinstall --no-deps basicsr'
    spec = importlib.util.find_spec('basicsr')
    if spec is None:
        return Check('BasicSR', False, 'not installed', f'{PIP} basicsr')
    if spec.origin is None:
        places = ', '.join(spec.submodule_search_locations or ())
        return Check('BasicSR', False, f"only a folder called 'basicsr' without BasicSR in it ({places})", repair)
    compat.apply()
    return Check('BasicSR', True, f'{_basicsr_variant(Path(spec.origin).parent)} in {Path(spec.origin).parent}', repair)


def _basicsr_variant(package: Path) -> str:
    from basicsr.version import __version__

    linked = ', linked' if (package / '.unirestorer_link.json').is_file() else ''
    if 'site-packages' in package.parts or 'dist-packages' in package.parts:
        place = 'installed'
    else:
        place = 'checkout'
    degradations = package / 'data' / 'degradations.py'
    old = degradations.is_file() and 'functional_tensor' in degradations.read_text(encoding='utf-8')
    return f'{__version__} ({"as on PyPI" if old else "master"}, {place}{linked})'


def check_names() -> Check:
    """Every file that BasicSR's naming rule selects must have filed something in its registry."""
    import basicsr_unirestorer

    basicsr_unirestorer.register()
    registries = importlib.import_module('basicsr.utils.registry')
    counts, silent = [], []
    for part, (suffix, registry) in PARTS.items():
        modules = [value.__module__ for _, value in getattr(registries, registry)]
        files = sorted((Path(__file__).parent / part).glob(f'*_{suffix}.py'))
        silent += [
            f'{part}/{file.name}'
            for file in files
            if f'{basicsr_unirestorer.__name__}.{part}.{file.stem}' not in modules
        ]
        ours = sum(module.startswith(f'{basicsr_unirestorer.__name__}.') for module in modules)
        counts.append(f'{ours} in {registry.split("_")[0].lower()}')
    return Check(
        'registered names',
        not silent,
        f'nothing from {", ".join(silent)}' if silent else ', '.join(counts),
        f'{PIP} --force-reinstall --no-deps {_own_source()}',
    )


def check_gpu() -> Check:
    """Never wrong: everything runs on a CPU too, only slower."""
    import torch

    if torch.cuda.is_available():
        names = ', '.join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        found = f'{names} (CUDA {torch.version.cuda})'
    elif getattr(torch.backends, 'mps', None) is not None and torch.backends.mps.is_available():
        found = 'Apple GPU (MPS), for restoring; training takes the CPU'
    else:
        found = 'none: the CPU does the work'
    return Check('GPU', True, found)


def check_lmdb() -> Check:
    """Write one value and read it back: LMDB needs a file system with memory maps."""
    import lmdb

    with tempfile.TemporaryDirectory() as folder:
        with lmdb.open(folder, map_size=1 << 20) as env:
            with env.begin(write=True) as txn:
                txn.put(b'key', b'value')
            with env.begin() as txn:
                fine = txn.get(b'key') == b'value'
    return Check(
        'LMDB',
        fine,
        f'{lmdb.__version__}, writes and reads in {tempfile.gettempdir()}',
        f'{PIP} --upgrade --force-reinstall lmdb',
    )


def check_write_access() -> Check:
    """Experiments, results and logs go below the current folder."""
    folder = Path.cwd()
    fine = os.access(folder, os.W_OK)
    return Check('current folder', fine, f'{folder} is {"" if fine else "not "}writable', 'cd ~')


# check, its name if it fails with an exception, and what repairs it then
CHECKS: tuple[tuple[Callable[[], Check], str, str], ...] = (
    (check_python, 'Python', 'make venv PYTHON=python3.12'),
    (check_torch, 'torch', f'{PIP} --upgrade --force-reinstall torch torchvision'),
    (check_torchvision, 'torchvision', f'{PIP} --upgrade --force-reinstall torch torchvision'),
    (check_basicsr, 'BasicSR', f'{PIP} --force-reinstall basicsr'),
    (check_names, 'registered names', ''),
    (check_gpu, 'GPU', f'{PIP} --upgrade --force-reinstall torch torchvision'),
    (check_lmdb, 'LMDB', f'{PIP} --upgrade --force-reinstall lmdb'),
    (check_write_access, 'current folder', 'cd ~'),
)


def diagnose() -> list[Check]:
    """Run every check; one that raises counts as failed, with the last line of its error."""
    rows = []
    for check, name, repair in CHECKS:
        try:
            row = check()
            rows.append(replace(row, repair='') if row.ok else row)
        except Exception as error:  # whatever is broken, the table must be complete
            missing = getattr(error, 'name', None) if isinstance(error, ModuleNotFoundError) else None
            found = f'not installed: {missing}' if missing else f'{type(error).__name__}: {_first_line(error)}'
            rows.append(Check(name, False, found, repair or f'{PIP} {_own_source()}'))
    return rows


def main(argv: Sequence[str]) -> int:
    """The verb ``doctor``: print the table; 0 when all is well, 1 when something needs repair."""
    parser = argparse.ArgumentParser(
        prog='unirestorer doctor',
        epilog='example: unirestorer doctor --json',
        description='Check this installation and name the command that repairs it.',
    )
    parser.add_argument('--json', action='store_true', help='for programs instead of people')
    args = parser.parse_args(argv)
    rows = diagnose()
    healthy = all(row.ok for row in rows)
    if args.json:
        print(json.dumps({'ok': healthy, 'checks': [asdict(row) for row in rows]}, indent=1))
        return 0 if healthy else 1
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f'{"ok  " if row.ok else "FAIL"}  {row.name:{width}}  {row.found}')
        if not row.ok:
            print(f'{"":{width + 8}}repair: {row.repair}')
    print('Everything fits.' if healthy else 'Repair from the top; later lines may depend on earlier ones.')
    return 0 if healthy else 1


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [''])[0]


def _own_source() -> str:
    """The argument for pip that installs this package again: its checkout if there is one, else its name."""
    root = Path(__file__).resolve().parent.parent
    return f'-e {root}' if (root / 'setup.py').is_file() else 'basicsr-unirestorer'
