"""Snow100K: training set, and the test sets S, M and L.

python datasets_prep/snow100k.py DOWNLOADED datasets/unirestorer/desnow/snow100k
"""

from __future__ import annotations

from basicsr_unirestorer.data.family_command import main

if __name__ == '__main__':
    raise SystemExit(main('snow100k', {'snow100k': 'snow100k'}))
