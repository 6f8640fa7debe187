"""Miniature copies of every layout that data sets are distributed in: a few tiny pictures under the real names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from basicsr_unirestorer.data.families import CDD11_FOLDERS, MIO_TYPES

H, W = 24, 32


def picture(seed: int, h: int = H, w: int = W) -> np.ndarray:
    """Smooth content that differs from seed to seed, so that perceptual hashes do not collide; BGR uint8 (h, w, 3)."""
    grid = np.random.default_rng(seed).uniform(20, 235, (9, 9, 3)).astype(np.float32)
    return np.clip(cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def degraded(seed: int, kind: int = 1, h: int = H, w: int = W) -> np.ndarray:
    noise = np.random.default_rng((seed, kind)).normal(0, 12, (h, w, 3))
    return np.clip(picture(seed, h, w) + noise, 0, 255).astype(np.uint8)


def put(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def pairs(root: Path, lq: str, gt: str, seeds: range | list[int]) -> None:
    """Write degraded and clean pictures under patterns such as ``'rain-{}.png'``, numbered as the seeds."""
    for seed in seeds:
        put(root / lq.format(seed), degraded(seed))
        put(root / gt.format(seed), picture(seed))


def rain100_prenet(root: Path, letter: str = 'L') -> None:
    pairs(root, f'train/RainTrain{letter}/rain-{{}}.png', f'train/RainTrain{letter}/norain-{{}}.png', range(1, 5))
    place = f'test/Rain100{letter}'
    pairs(root, place + '/rain-{:03d}.png', place + '/norain-{:03d}.png', range(11, 14))


def rain100_airnet(root: Path) -> None:
    pairs(root, 'Derain/rainy/rain-{}.png', 'Derain/gt/norain-{}.png', range(1, 5))
    pairs(root, 'test/derain/Rain100L/input/{}.png', 'test/derain/Rain100L/target/{}.png', range(11, 14))


def rain100_restormer(root: Path) -> None:
    pairs(root, 'test/Rain100L/input/{}.png', 'test/Rain100L/target/{}.png', range(11, 14))


def rain200_original(root: Path) -> None:
    for subset, seeds in (('train', range(1, 5)), ('test', range(11, 14))):
        place = f'rain_data_{subset}_Heavy'
        pairs(root, place + '/rain/X2/norain-{}x2.png', place + '/norain-{}.png', seeds)


def rain200_drsformer(root: Path) -> None:
    for subset, seeds in (('train', range(1, 5)), ('test', range(11, 14))):
        pairs(root, f'Rain200H/{subset}/input/{{}}.png', f'Rain200H/{subset}/target/{{}}.png', seeds)


def did_original(root: Path) -> None:
    for i, kind in enumerate(('Heavy', 'Medium', 'Light')):
        for number in range(2):
            seed = 10 * i + number
            both = np.hstack([degraded(seed), picture(seed)])
            put(root / f'DID-MDN-training/Rain_{kind}/train2018new/{number}.png', both)
    for seed in range(40, 42):
        put(root / f'DID-MDN-test/{seed}.png', np.hstack([degraded(seed), picture(seed)]))


def did_packed(root: Path) -> None:
    pairs(root, 'DID-Data/train/input/{}.jpg', 'DID-Data/train/target/{}.jpg', range(1, 4))
    pairs(root, 'DID-Data/test/input/{}.jpg', 'DID-Data/test/target/{}.jpg', range(11, 14))


def ddn_original(root: Path) -> None:
    for word, seeds in (('training', range(1, 4)), ('testing', range(901, 903))):
        _fourteen(root / word, seeds)


def ddn_unsplit(root: Path) -> None:
    _fourteen(root, [899, 900, 901])


def _fourteen(root: Path, seeds: range | list[int]) -> None:
    for seed in seeds:
        put(root / f'ground_truth/{seed}.jpg', picture(seed))
        for j in range(1, 15):
            put(root / f'rainy_image/{seed}_{j}.jpg', degraded(seed, j))


def reside_outdoor(root: Path, clean: str = 'clear', packed: bool = False) -> None:
    """OTS 25 (by number) and 40 (as picture 1 of SOTS) are also in the test set; 30 and 35 are not."""
    for part, (seed, strengths) in enumerate(
        ((25, ('0.8_0.04', '1_0.2')), (30, ('0.8_0.1', '0.85_0.12')), (35, ('1_0.06',)), (40, ('0.95_0.08', '1_0.16'))),
        start=1,
    ):
        ots = 'Dehaze/synthetic' if packed else 'OTS'
        put(root / ots.split('/')[0] / f'{clean}/{seed:04d}.jpg', picture(seed))
        for strength in strengths:
            put(root / f'{ots}/part{part}/{seed:04d}_{strength}.jpg', degraded(seed))
    lq, gt = ('test/dehaze/input', 'test/dehaze/target') if packed else ('SOTS/outdoor/hazy', 'SOTS/outdoor/gt')
    for number, seed in ((1, 40), (25, 90), (77, 91)):
        put(root / f'{gt}/{number:04d}.png', picture(seed))
        put(root / f'{lq}/{number:04d}_0.8_0.2.jpg', degraded(seed))
    put(root / f'{lq}/0077_0.9_0.08.jpg', degraded(91, 2))


def reside_indoor(root: Path) -> None:
    for seed in (1, 2):
        put(root / f'ITS/clear/{seed}.png', picture(seed))
        for index in (1, 2):
            put(root / f'ITS/hazy/{seed}_{index}_0.9{index}.png', degraded(seed, index))
    for seed in (1400, 1401):
        put(root / f'SOTS/indoor/gt/{seed}.png', picture(seed, H + 20, W + 20))
        for index in (1, 2):
            put(root / f'SOTS/indoor/hazy/{seed}_{index}.png', degraded(seed, index))


def reside_dehazeformer(root: Path) -> None:
    for subset, seeds in (('train', range(1, 4)), ('test', range(11, 14))):
        place, names = f'RESIDE-OUT/{subset}', '{:04d}_0.8_0.2.png'
        pairs(root, f'{place}/hazy/{names}', f'{place}/GT/{names}', seeds)


def snow100k(root: Path, lq: str = 'synthetic') -> None:
    names = 'beautiful_smile_{:05d}.jpg'
    pairs(root, f'all/{lq}/{names}', f'all/gt/{names}', range(1, 5))
    for seed in range(1, 5):
        put(root / ('all/mask/' + names.format(seed)), np.full((H, W), 20 * seed, np.uint8))
    for i, size in enumerate('SML'):
        place = f'test/Snow100K-{size}'
        pairs(root, f'{place}/{lq}/{names}', f'{place}/gt/{names}', range(10 * i + 11, 10 * i + 13))


def gopro_official(root: Path) -> None:
    for subset, sequences in (('train', ('GOPR0372_07_00', 'GOPR0374_11_00')), ('test', ('GOPR0384_11_00',))):
        for i, sequence in enumerate(sequences):
            for number in (47, 48):
                seed = number + 10 * i + (100 if subset == 'test' else 0)
                place = root / subset / sequence
                put(place / f'sharp/{number:06d}.png', picture(seed))
                put(place / f'blur/{number:06d}.png', degraded(seed))
                put(place / f'blur_gamma/{number:06d}.png', degraded(seed, 2))


def gopro_adair(root: Path) -> None:
    pairs(root, 'Train/Deblur/blur/S_{:06d}.png', 'Train/Deblur/sharp/S_{:06d}.png', range(1, 4))
    pairs(root, 'test/deblur/gopro/input/S_{:06d}.png', 'test/deblur/gopro/target/S_{:06d}.png', range(11, 13))


def gopro_restormer(root: Path) -> None:
    pairs(root, 'train/GoPro/input_crops/S_{}-1.png', 'train/GoPro/target_crops/S_{}-1.png', range(1, 4))
    pairs(root, 'test/GoPro/input/S_{}.png', 'test/GoPro/target/S_{}.png', range(11, 13))


def lol_official(root: Path) -> None:
    pairs(root, 'our485/low/{}.png', 'our485/high/{}.png', range(2, 6))
    pairs(root, 'eval15/low/{}.png', 'eval15/high/{}.png', [1, 22])


def lol_retinexformer(root: Path) -> None:
    pairs(root, 'LOLv1/Train/input/{}.png', 'LOLv1/Train/target/{}.png', range(2, 6))
    pairs(root, 'LOLv1/Test/input/{}.png', 'LOLv1/Test/target/{}.png', [1, 22])


def lol_v2(root: Path) -> None:
    for subset, seeds in (('Train', range(1, 4)), ('Test', [690, 691])):
        pairs(
            root,
            f'LOLv2/Real_captured/{subset}/Low/{{:05d}}.png',
            f'LOLv2/Real_captured/{subset}/Normal/{{:05d}}.png',
            seeds,
        )


def cdd11(root: Path) -> None:
    for subset, seeds in (('train', (1, 2)), ('test', (11, 12))):
        for seed in seeds:
            put(root / f'CDD-11_{subset}/clear/{seed:05d}.png', picture(seed))
            for kind, name in enumerate(CDD11_FOLDERS):
                put(root / f'CDD-11_{subset}/{name}/{seed:05d}.png', degraded(seed, kind))


def mio(root: Path) -> None:
    for seed in (1, 2):
        put(root / f'original/GT/{seed}.png', picture(seed))
        for kind, name in enumerate(MIO_TYPES):
            put(root / f'single_indis/{name}/{seed}.png', degraded(seed, kind))
            put(root / f'single_outbig/{name}_outbig/{seed}.png', degraded(seed, kind + 20))
    pairs(root, 'Toled_val/LQ/{}.png', 'Toled_val/HQ/{}.png', [31, 32])


def clean_sets(root: Path) -> None:
    for seed, name in enumerate(
        (
            'DIV2K_train_HR/0001.png',
            'DIV2K_train_HR/0002.png',
            'DIV2K_valid_HR/0801.png',
            'Flickr2K/Flickr2K_HR/000001.png',
            'WED/00001.bmp',
            'WED/00002.bmp',
            'BSD400/a100007.jpg',
        )
    ):
        put(root / name, picture(seed))


def one_folder(root: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        put(root / name, picture(seed))
