"""Pictures for training: LMDBs, how they are written, checked and read.

Importing it is cheap: writing and checking LMDBs needs neither torch nor BasicSR. The data sets, which do, are in
:mod:`basicsr_unirestorer.data.datasets`.
"""

from __future__ import annotations

from basicsr_unirestorer import compat

compat.shim_imports()  # so that a data set may be imported by itself
