"""GoPro: the official sequences, or the re-packings of AdaIR and Restormer.

python datasets_prep/gopro.py GOPRO_Large datasets/unirestorer/deblur/gopro
"""

from __future__ import annotations

from basicsr_unirestorer.data.family_command import main

if __name__ == '__main__':
    raise SystemExit(main('gopro', {'blur': 'gopro', 'blur_gamma': 'gopro_gamma'}, option='folder', default='blur'))
