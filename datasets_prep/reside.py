"""RESIDE: OTS with SOTS-outdoor, whose pictures are taken out of OTS, or ITS with SOTS-indoor.

python datasets_prep/reside.py OTS SOTS datasets/unirestorer/dehaze/reside_outdoor --set outdoor
"""

from __future__ import annotations

from basicsr_unirestorer.data.family_command import main

if __name__ == '__main__':
    raise SystemExit(main('reside', {'outdoor': 'reside_outdoor', 'indoor': 'reside_indoor'}))
