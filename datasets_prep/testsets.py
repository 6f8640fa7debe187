"""Clean test pictures: CBSD68, Kodak24, Urban100, McMaster, LIVE1.

python datasets_prep/testsets.py CBSD68 datasets/unirestorer/clean/cbsd68 --set cbsd68
"""

from __future__ import annotations

from basicsr_unirestorer.data.family_command import main

if __name__ == '__main__':
    raise SystemExit(main('testsets', {name: name for name in ('cbsd68', 'kodak24', 'urban100', 'mcmaster', 'live1')}))
