"""Pair any two folders: your own data, RealRain-1k, SPA-Data, RainDrop, UIEB, UDC ...

python datasets_prep/paired_folder.py my/foggy my/clear datasets/mine/fog --task haze
python datasets_prep/paired_folder.py RainDrop/train/data RainDrop/train/gt datasets/raindrop --rule raindrop
"""

from __future__ import annotations

from basicsr_unirestorer.data.paired_folder import main

if __name__ == '__main__':
    raise SystemExit(main())
