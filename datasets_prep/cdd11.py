"""CDD-11: eleven degradations of every clean picture.

python datasets_prep/cdd11.py DOWNLOADED datasets/unirestorer/mixed/cdd11
"""

from __future__ import annotations

from basicsr_unirestorer.data.family_command import main

if __name__ == '__main__':
    raise SystemExit(main('cdd11', {'cdd11': 'cdd11'}))
