"""Clean pictures to degrade on the fly: DIV2K, Flickr2K, WED, BSD400, or several of them in one LMDB.

python datasets_prep/clean.py DIV2K_train_HR datasets/unirestorer/clean/div2k --set div2k --crop 480 --step 240
python datasets_prep/clean.py DIV2K_train_HR Flickr2K_HR WED BSD400 datasets/unirestorer/clean/dfwb --set dfwb
"""

from __future__ import annotations

from basicsr_unirestorer.data.family_command import main

if __name__ == '__main__':
    raise SystemExit(
        main('clean', {name: name for name in ('div2k', 'flickr2k', 'wed', 'bsd400', 'wed_bsd400', 'df2k', 'dfwb')})
    )
