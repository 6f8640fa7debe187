"""Rain200L and Rain200H: the original archives, or the re-packing of DRSformer.

python datasets_prep/rain200.py DOWNLOADED datasets/unirestorer/derain/rain200h --set H
"""

from __future__ import annotations

from basicsr_unirestorer.data.family_command import main

if __name__ == '__main__':
    raise SystemExit(main('rain200', {'L': 'rain200l', 'H': 'rain200h'}))
