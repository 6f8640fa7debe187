"""The test sets of MiOIR (MiO100).

python datasets_prep/mio.py MiO_test datasets/unirestorer/mixed/mio
"""

from __future__ import annotations

from basicsr_unirestorer.data.family_command import main

if __name__ == '__main__':
    raise SystemExit(main('mio', {'mio': 'mio'}))
