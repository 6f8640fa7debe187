"""Put a folder of clean pictures into an LMDB, optionally cut into sub-images.

python datasets_prep/prepare_images.py photos/ datasets/photos.lmdb
python datasets_prep/prepare_images.py DIV2K_train_HR/ datasets/div2k_sub.lmdb --crop 480 --step 240
"""

from __future__ import annotations

from basicsr_unirestorer.data.prepare import main

if __name__ == '__main__':
    raise SystemExit(main())
