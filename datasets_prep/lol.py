"""LOLv1, as distributed or re-packed by Retinexformer, and LOLv2-real.

python datasets_prep/lol.py LOLv1 datasets/unirestorer/low_light/lol_v1 --set v1
"""

from __future__ import annotations

from basicsr_unirestorer.data.family_command import main

if __name__ == '__main__':
    raise SystemExit(main('lol', {'v1': 'lol_v1', 'v2_real': 'lol_v2_real'}))
