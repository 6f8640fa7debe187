"""Datasets: every ``*_dataset.py`` here is imported, which files its classes in BasicSR's registry."""

from __future__ import annotations

import importlib
from pathlib import Path

from basicsr_unirestorer import compat

compat.apply()  # BasicSR must be importable, and imported, before the files below ask it for a registry

for _file in sorted(Path(__file__).parent.glob('*_dataset.py')):
    importlib.import_module(f'{__package__}.{_file.stem}')
