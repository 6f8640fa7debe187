"""Rain100L and Rain100H: the PReNet package, or the re-packings of AirNet, PromptIR, AdaIR and Restormer.

python datasets_prep/rain100.py DOWNLOADED datasets/unirestorer/derain/rain100l --set L
"""

from __future__ import annotations

from basicsr_unirestorer.data.family_command import main

if __name__ == '__main__':
    raise SystemExit(main('rain100', {'L': 'rain100l', 'H': 'rain100h'}))
