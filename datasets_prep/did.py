"""DID-Data (Rain1200): rainy and clean halves side by side in one file, or re-packed into input and target.

python datasets_prep/did.py DOWNLOADED datasets/unirestorer/derain/did
"""

from __future__ import annotations

from basicsr_unirestorer.data.family_command import main

if __name__ == '__main__':
    raise SystemExit(main('did', {'did': 'did'}))
