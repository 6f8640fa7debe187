"""UniRestorer as a BasicSR plugin: expert networks on a degradation tree, and the router that picks among them.

Importing this package is cheap (neither torch nor BasicSR); :func:`register` makes our names known to BasicSR.
"""

from __future__ import annotations

__version__ = '0.1.0'
__all__ = ['__version__', 'register']


def register() -> None:
    """File every network, dataset, loss and model of this package in BasicSR's registries.

    Also mends the installed BasicSR where it no longer fits its surroundings (see :mod:`basicsr_unirestorer.compat`).
    Calling it again does nothing.
    """
    from importlib import import_module

    from basicsr_unirestorer import compat

    compat.apply()
    for part in ('archs', 'data.datasets', 'losses', 'models'):
        import_module(f'{__name__}.{part}')
