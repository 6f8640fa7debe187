"""DDN-Data (Rain1400): fourteen rainy pictures to a clean one.

python datasets_prep/ddn.py DOWNLOADED datasets/unirestorer/derain/ddn
"""

from __future__ import annotations

from basicsr_unirestorer.data.family_command import main

if __name__ == '__main__':
    raise SystemExit(main('ddn', {'ddn': 'ddn'}))
