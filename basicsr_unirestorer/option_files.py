"""Where the option files are: recipes, the stages' yml files."""

from __future__ import annotations

from pathlib import Path


def options_dir() -> Path:
    """Return the folder of our option files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return next((d for d in (package / 'options', package.parent / 'options') if d.is_dir()), package / 'options')
