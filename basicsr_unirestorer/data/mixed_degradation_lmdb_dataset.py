"""Training and test samples whose degradation is drawn from a recipe, or read as real lq/gt pairs."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from basicsr.utils import FileClient
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset

from basicsr_unirestorer.clustering.assignments import read_assignments
from basicsr_unirestorer.clustering.expert_plan import ExpertPlan
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.degradations import DegradationRecipe, DegradationRecord, Window, degrade, sample_rng
from basicsr_unirestorer.errors import DataError, OptionError, TreeMismatchError, check_keys

LOADER_KEYS = (
    'name',
    'type',
    'phase',
    'scale',
    'batch_size_per_gpu',
    'num_worker_per_gpu',
    'dataset_enlarge_ratio',
    'prefetch_mode',
    'num_prefetch_queue',
    'pin_memory',
    'persistent_workers',
)
OWN_KEYS = (
    'dataroot_gt',
    'dataroot_lq',
    'io_backend',
    'recipe',
    'variants',
    'seed',
    'gt_size',
    'use_hflip',
    'use_rot',
    'max_pictures',
    'caption',
    'tree',
    'assignments',
    'expert_batch',
)
EXPERT_BATCH_KEYS = ('batch_size', 'steps_per_level', 'experts')


def read_keys(root: str) -> list[tuple[str, tuple[int, int, int]]]:
    """Read (key, (height, width, channels)) of every picture of a BasicSR LMDB, in the order of its meta file.

    Raises:
        DataError: The folder, its database or its ``meta_info.txt`` is missing, or a line is malformed.
    """
    folder = Path(root)
    for part, advice in (
        ('', 'make it with datasets_prep/prepare_images.py'),
        ('data.mdb', 'it is no LMDB; make it with datasets_prep/prepare_images.py'),
        ('meta_info.txt', 'LMDBs of other tools lack it; make it with datasets_prep/prepare_images.py'),
    ):
        if not (folder / part).exists():
            raise DataError(f'{folder / part} does not exist: {advice}.')
    entries = []
    for line in (folder / 'meta_info.txt').read_text().splitlines():
        try:
            name, shape, _ = line.split(' ')
            h, w, c = (int(side) for side in shape.strip('()').split(','))
        except ValueError as error:
            raise DataError(
                f"{folder / 'meta_info.txt'} has the line '{line}', expected 'NAME.png (h,w,c) LEVEL'; "
                'make the LMDB again with datasets_prep/prepare_images.py.'
            ) from error
        entries.append((name.split('.')[0], (h, w, c)))
    return entries


def open_lmdb(root: str) -> FileClient:
    """Open an LMDB once a process, which is as often as LMDB allows; a forked worker reads on through its parent's map.

    That is safe here because the map is read-only and takes no locks. A file written anew is opened anew, and one that
    two paths lead to is opened once.
    """
    facts = os.stat(Path(root) / 'data.mdb')
    return _open_lmdb(os.path.realpath(root), facts.st_ino, facts.st_mtime_ns)


@lru_cache(maxsize=16)
def _open_lmdb(root: str, inode: int, modified: int) -> FileClient:
    return FileClient('lmdb', db_paths=root, client_keys='lmdb')


@DATASET_REGISTRY.register()
class MixedDegradationLMDBDataset(Dataset):
    """Virtual samples of clean LMDBs, or pairs of real lq/gt LMDBs.

    A virtual sample ``key#v`` is picture ``key`` with degradation variant v. Its degradation *parameters* are a pure
    function of (seed, key, v); its *realisation* (crop, noise field, flips) is drawn anew each epoch, as a pure
    function of (seed, key, v, epoch). An index is ``epoch * len(self) + sample``, so workers hold no state.

    Args:
        opt: Options; besides BasicSR's loader keys:

            - dataroot_gt: LMDB of clean pictures.
            - dataroot_lq: LMDB of degraded ones with the same keys; then no recipe is used.
            - io_backend: ``{type: lmdb}``, the only one.
            - recipe: File, packaged name or inline dict of a degradation recipe.
            - variants: Virtual samples a picture (default 1).
            - seed: Seeds parameters and realisations (default 0).
            - gt_size: Side of training crops in pixels; whole pictures where None or outside training.
            - use_hflip, use_rot: Random flips and quarter turns in training.
            - max_pictures: Use only the first so many pictures.
            - caption: Degradation caption of all pairs of a paired LMDB, e.g. ``large rain``.
            - tree, assignments: Files of the clustering stage; samples then know their leaf.
            - expert_batch: ``{batch_size, steps_per_level, experts}``; one item is then a whole batch of one expert,
              see ``ExpertPlan``.

    Raises:
        OptionError: Unknown keys, or keys that need each other.
        DataError: An LMDB is missing or damaged.
        TreeMismatchError: The assignment belongs to other samples.

    An item holds ``lq`` and ``gt`` (RGB, float32, (3, h, w), [0, 1]), ``lq_path``, ``gt_path``, ``sample_id``,
    ``caption``, ``labels`` (comma-separated), and ``leaf`` (int, -1 without an assignment). An expert batch holds
    ``lq`` and ``gt`` (batch, 3, h, w), ``sample_id`` (list), ``node`` and ``step``.
    """

    known_options = LOADER_KEYS + OWN_KEYS

    def __init__(self, opt: dict) -> None:
        super().__init__()
        check_keys(opt, LOADER_KEYS + OWN_KEYS, f'datasets.{opt.get("phase", "train")}')
        self.opt = opt
        self.train = opt.get('phase', 'train') == 'train'
        self.seed = opt.get('seed', 0)
        self.variants = opt.get('variants', 1)
        self.gt_size = opt.get('gt_size') if self.train else None
        if opt.get('io_backend', {'type': 'lmdb'}).get('type') != 'lmdb':
            raise OptionError(
                f"io_backend.type is '{opt['io_backend'].get('type')}', but this dataset reads LMDBs: "
                'make one with datasets_prep/prepare_images.py and write io_backend: {type: lmdb}.'
            )
        self.entries = read_keys(opt['dataroot_gt'])[: opt.get('max_pictures')]
        self.paired = opt.get('dataroot_lq') is not None
        if self.paired == (opt.get('recipe') is not None):
            raise OptionError(
                'A dataset needs either a recipe (clean pictures, degraded on the fly) or a dataroot_lq '
                '(real pairs), and has ' + ('both.' if self.paired else 'neither.')
            )
        if self.paired:
            self._check_pairs()
        else:
            self.recipe = DegradationRecipe.load(opt['recipe'])
        if self.train and self.gt_size is None and not self.paired:
            raise OptionError('A training dataset needs gt_size, the side of its crops in pixels.')
        self.tree = self.leaf_ids = self.plan = None
        if opt.get('expert_batch') and not opt.get('assignments'):
            raise OptionError('expert_batch needs tree and assignments, the files that `unirestorer cluster` wrote.')
        if opt.get('assignments'):
            self._read_assignment()

    # ----------------------------------------------------------------- samples

    @property
    def num_samples(self) -> int:
        return len(self.entries) * (1 if self.paired else self.variants)

    def __len__(self) -> int:
        return self.plan.total if self.plan else self.num_samples

    def sample(self, number: int) -> tuple[str, int, str]:
        """Return (key, variant, sample id) of a sample number; real pairs have variant 0 and the key as id."""
        if self.paired:
            key = self.entries[number][0]
            return key, 0, key
        picture, variant = divmod(number, self.variants)
        key = self.entries[picture][0]
        return key, variant, f'{key}#{variant}'

    def sample_ids(self) -> list[str]:
        return [self.sample(number)[2] for number in range(self.num_samples)]

    def shapes(self) -> list[tuple[int, int, int]]:
        """Return (height, width, channels) of each sample's picture."""
        return [
            self.entries[number if self.paired else number // self.variants][1] for number in range(self.num_samples)
        ]

    def record(self, number: int) -> DegradationRecord:
        """Return a virtual sample's record: the same for the same (seed, key, v) in any process and order."""
        key, variant, _ = self.sample(number)
        return self.recipe.draw(sample_rng(self.seed, key, variant, 'params'))

    def caption(self, number: int) -> str:
        return self.opt.get('caption', 'clean') if self.paired else self.record(number).caption

    @property
    def fingerprint(self) -> str:
        """Short hash of what an assignment depends on: pictures, recipe, variants and seed."""
        facts = [self.sample_ids(), self.opt.get('caption') if self.paired else self.recipe.to_dict(), self.seed]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def epoch_order(self, epoch: int) -> list[int]:
        """Return an epoch's indices: shuffled samples or, in expert batches, the plan's own order."""
        base = epoch * len(self)
        if self.plan:
            return list(range(base, base + len(self)))
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return (base + torch.randperm(len(self), generator=generator)).tolist()

    def __getitem__(self, index: int) -> dict:
        epoch, number = divmod(int(index), len(self))
        if self.plan:
            return self._expert_batch(number)
        item = self._item(number, epoch)
        key, variant, sample_id = self.sample(number)
        name = key if self.paired else f'{key}_v{variant}'
        item.update(
            lq_path=f'{name}.png',
            gt_path=f'{key}.png',
            sample_id=sample_id,
            leaf=-1 if self.leaf_ids is None else int(self.leaf_ids[number]),
        )
        return item

    def _expert_batch(self, step: int) -> dict:
        place, own_step = self.plan.locate(step)
        samples = self.plan.batch(step)
        items = [self._item(number, lap) for number, lap in samples]
        return {
            'lq': torch.stack([item['lq'] for item in items]),
            'gt': torch.stack([item['gt'] for item in items]),
            'sample_id': [self.sample(number)[2] for number, _ in samples],
            'node': self.plan.nodes[place],
            'step': own_step,
        }

    def _item(self, number: int, epoch: int) -> dict:
        key, variant, _ = self.sample(number)
        rng = sample_rng(self.seed, key, variant, 'realise', epoch if self.train else 'test')
        gt = self._read('gt', key)
        if self.paired:
            lq = self._read('lq', key)
            if lq.shape != gt.shape:
                raise DataError(
                    f"'{key}' is {lq.shape[1]}x{lq.shape[0]} in {self.opt['dataroot_lq']} but "
                    f'{gt.shape[1]}x{gt.shape[0]} in {self.opt["dataroot_gt"]}; pairs need equal sizes.'
                )
            caption, labels = self.caption(number), ''
            if self.gt_size:
                lq, gt = self._crop_pair(lq, gt, rng)
        else:
            record = self.record(number)
            caption, labels = record.caption, ','.join(record.labels)
            lq, gt = self._degraded_crop(gt, record, rng)
        if self.train:
            lq, gt = self._augment(lq, gt, rng)
        return {'lq': to_tensor(lq), 'gt': to_tensor(gt), 'caption': caption, 'labels': labels}

    def _degraded_crop(
        self, gt: np.ndarray, record: DegradationRecord, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Degrade only the crop and the context its operators reach into. Returns float32 [0, 1] pictures."""
        if self.gt_size:
            gt = pad_to(gt, self.gt_size)
        h, w = gt.shape[:2]
        size_h, size_w = (self.gt_size, self.gt_size) if self.gt_size else (h, w)
        top, left = int(rng.integers(h - size_h + 1)), int(rng.integers(w - size_w + 1))
        y0, x0 = max(0, top - record.margin), max(0, left - record.margin)
        y1, x1 = min(h, top + size_h + record.margin), min(w, left + size_w + record.margin)
        context = gt[y0:y1, x0:x1].astype(np.float32) / 255
        lq = degrade(context, record, rng, Window(y0, x0, y1 - y0, x1 - x0, h, w))
        crop = np.s_[top - y0 : top - y0 + size_h, left - x0 : left - x0 + size_w]
        return lq[crop], context[crop]

    def _crop_pair(self, lq: np.ndarray, gt: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        lq, gt = pad_to(lq, self.gt_size), pad_to(gt, self.gt_size)
        top = int(rng.integers(gt.shape[0] - self.gt_size + 1))
        left = int(rng.integers(gt.shape[1] - self.gt_size + 1))
        crop = np.s_[top : top + self.gt_size, left : left + self.gt_size]
        return lq[crop], gt[crop]

    def _augment(self, lq: np.ndarray, gt: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        flip, turns = int(rng.integers(2)), int(rng.integers(4))
        if self.opt.get('use_hflip', False) and flip:
            lq, gt = lq[:, ::-1], gt[:, ::-1]
        if self.opt.get('use_rot', False):
            lq, gt = np.rot90(lq, turns), np.rot90(gt, turns)
        return lq, gt

    # ----------------------------------------------------------------- files

    def _read(self, role: str, key: str) -> np.ndarray:
        """Read one picture: RGB, uint8, (h, w, 3)."""
        content = open_lmdb(self.opt[f'dataroot_{role}']).get(key, 'lmdb')
        picture = None if content is None else cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise DataError(
                f"{self.opt['dataroot_' + role]} lists '{key}' but holds no readable picture of it; "
                'make the LMDB again.'
            )
        return picture[..., ::-1]

    def _check_pairs(self) -> None:
        gt = {key for key, _ in self.entries}
        lq = {key for key, _ in read_keys(self.opt['dataroot_lq'])}
        if gt - lq:
            only = sorted(gt - lq)
            raise DataError(
                f'{self.opt["dataroot_lq"]} lacks {len(only)} of {len(gt)} pictures of '
                f"{self.opt['dataroot_gt']} (first: '{only[0]}'); prepare both from the same pairs."
            )

    def _read_assignment(self) -> None:
        if not self.opt.get('tree'):
            raise OptionError('assignments needs tree, the degradation_tree.json written beside it.')
        self.tree = DegradationTree.load(self.opt['tree'])
        trained_on = self.tree.build.get('data_fingerprint')
        if trained_on is not None and trained_on != self.fingerprint:
            raise TreeMismatchError(
                f'{self.opt["tree"]} was built from other samples than these (pictures, recipe, variants or seed '
                'differ); use the same dataset options in clustering and training, or cluster again.'
            )
        self.leaf_ids = read_assignments(self.opt['assignments'], self.tree, self.sample_ids())
        batch = self.opt.get('expert_batch')
        if batch and self.train:
            check_keys(batch, EXPERT_BATCH_KEYS, 'datasets.train.expert_batch')
            if self.opt.get('batch_size_per_gpu', 1) != 1:
                raise OptionError(
                    f'batch_size_per_gpu is {self.opt["batch_size_per_gpu"]}, but with expert_batch one '
                    'item is a whole batch; write batch_size_per_gpu: 1 and set expert_batch.batch_size.'
                )
            self.plan = ExpertPlan(
                self.tree, self.leaf_ids, batch['steps_per_level'], batch['batch_size'], batch.get('experts'), self.seed
            )


def pad_to(picture: np.ndarray, size: int) -> np.ndarray:
    """Mirror a (h, w, c) picture at its right and lower border until both sides are at least ``size``."""
    grow = [max(0, size - side) for side in picture.shape[:2]]
    return np.pad(picture, ((0, grow[0]), (0, grow[1]), (0, 0)), mode='symmetric') if any(grow) else picture


def to_tensor(picture: np.ndarray) -> torch.Tensor:
    """Turn (h, w, 3) uint8 or float [0, 1] into a float32 tensor (3, h, w), [0, 1]."""
    scale = 255 if picture.dtype == np.uint8 else 1
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32) / scale)
