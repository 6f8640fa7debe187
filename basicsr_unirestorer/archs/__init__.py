"""Networks: every ``*_arch.py`` here is imported, which files its classes in BasicSR's registry."""

from __future__ import annotations

import importlib
from pathlib import Path

from basicsr_unirestorer import compat

compat.provide_registry()  # all that the files below need of BasicSR

for _file in sorted(Path(__file__).parent.glob('*_arch.py')):
    importlib.import_module(f'{__name__}.{_file.stem}')
