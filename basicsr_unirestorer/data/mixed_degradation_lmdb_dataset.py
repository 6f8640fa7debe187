"""Training and test samples of one or several sources: degraded as a recipe says, or read as real lq/gt pairs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset, get_worker_info

from basicsr_unirestorer import stopping
from basicsr_unirestorer.clustering.assignments import read_assignments
from basicsr_unirestorer.clustering.expert_plan import ExpertPlan, check_expert_batch
from basicsr_unirestorer.clustering.rounds import Rounds
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.data.crops import Cutting, to_tensor
from basicsr_unirestorer.data.source_options import FLAT_KEYS, check_sources, listed_sources, quotas
from basicsr_unirestorer.data.sources import Source, make_sources
from basicsr_unirestorer.degradations import DegradationRecord
from basicsr_unirestorer.errors import OptionError, TreeMismatchError, check_keys

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
    *FLAT_KEYS,
    'sources',
    'epoch_samples',
    'io_backend',
    'seed',
    'gt_size',
    'use_hflip',
    'use_rot',
    'tree',
    'assignments',
    'expert_batch',
)
MOST_PARTS = 4096  # processes that may share a batch


@DATASET_REGISTRY.register()
class MixedDegradationLMDBDataset(Dataset):
    """Virtual samples of clean LMDBs, pairs of lq/gt LMDBs, or a mixture of such sources.

    A virtual sample ``key#v`` is picture ``key`` with degradation variant v. Its degradation *parameters* are a pure
    function of (seed, key, v); its *realisation* (crop, noise field, flips) is drawn anew each time it comes, as a pure
    function of (seed, key, v, how often it came before). A pair is called by the key of its lq picture. Where there are
    several sources, ``name/`` stands before each id. An index is ``epoch * len(self) + place``, so workers hold no
    state.

    Args:
        opt: Options; besides BasicSR's loader keys:

            - dataroot_gt: LMDB of clean pictures.
            - recipe: File, packaged name or inline dict of a degradation recipe.
            - variants: Virtual samples a picture (default 1).
            - dataroot_lq: LMDB of degraded ones; then no recipe is used.
            - pairs: The ``pairs.txt`` that says which lq picture belongs to which gt picture, and what is wrong with
              it; without it partners have equal keys.
            - caption: Degradation caption of the pairs whose strength ``pairs`` does not tell, e.g. ``large rain``.
            - max_pictures: Use only the first so many pictures (or pairs).
            - enlarge: How often each sample comes in an epoch of training (default 1).
            - max_samples: At most so many samples an epoch, others each epoch until all have come.
            - sources: In place of the keys above: a list of groups of them, each with a ``name`` and, where they shall
              share an epoch in given proportions, a ``weight``; or a yml file that holds such a list.
            - epoch_samples: With weights: samples of an epoch.
            - io_backend: ``{type: lmdb}``, the only one.
            - seed: Seeds parameters and realisations (default 0).
            - gt_size: Side of training crops in pixels; whole pictures where None or outside training.
            - use_hflip, use_rot: Random flips and quarter turns in training.
            - tree, assignments: Files of the clustering stage; samples then know their leaf.
            - expert_batch: ``{batch_size, steps_per_level, ...}``, see ``ExpertPlan``; one item is then a whole batch
              of one expert. Sources keep their proportions inside each expert's group.

    Raises:
        OptionError: Unknown keys, or keys that need each other.
        DataError: An LMDB or a ``pairs.txt`` is missing or damaged.
        TreeMismatchError: The assignment belongs to other samples.

    An item holds ``lq`` and ``gt`` (RGB, float32, (3, h, w), [0, 1]), ``lq_path``, ``gt_path``, ``sample_id``,
    ``caption``, ``labels`` (comma-separated), and ``leaf`` (int, -1 without an assignment). An expert batch holds
    ``lq`` and ``gt`` (batch, 3, h, w), ``sample_id`` (list), ``node`` and ``step``.
    """

    def __init__(self, opt: dict) -> None:
        super().__init__()
        self.check_options(opt, f'datasets.{opt.get("phase", "train")}')
        self.opt = opt
        self.train = opt.get('phase', 'train') == 'train'
        self.seed = opt.get('seed', 0)
        self.cutting = (
            Cutting(opt.get('gt_size'), opt.get('use_hflip', False), opt.get('use_rot', False))
            if self.train
            else Cutting()
        )
        self.sources = make_sources(opt)
        sizes = [len(source) for source in self.sources]
        self.num_samples = sum(sizes)
        self._first_samples = np.cumsum([0, *sizes])
        self.rounds = self._make_rounds(sizes)
        self._first_places = np.cumsum([0, *(rounds.quota for rounds in self.rounds)])
        self.tree = self.leaf_ids = self.plan = None
        self.signals_set = False
        if opt.get('assignments'):
            self._read_assignment()

    @classmethod
    def check_options(cls, opt: Mapping, where: str) -> None:
        """Look for mistakes in the options of one dataset without touching a file.

        Args:
            opt: As written in the option file, or as BasicSR completes it.
            where: Dotted place of them, quoted in messages, e.g. ``'datasets.train'``.

        Raises:
            OptionError: Naming the first wrong key or value.
        """
        check_keys(opt, LOADER_KEYS + OWN_KEYS, where)
        backend = (opt.get('io_backend') or {'type': 'lmdb'}).get('type')
        if backend != 'lmdb':
            raise OptionError(
                f"io_backend.type is '{backend}', but this dataset reads LMDBs: "
                'make one with datasets_prep/prepare_images.py and write io_backend: {type: lmdb}.'
            )
        check_sources(opt, where)
        train = str(opt.get('phase', where.rpartition('.')[2])).startswith('train')
        clean = any(source.get('recipe') is not None for source in listed_sources(opt, where))
        if train and opt.get('gt_size') is None and clean:
            raise OptionError('A training dataset needs gt_size, the side of its crops in pixels.')
        _check_assignment(opt, where, train)

    def _make_rounds(self, sizes: list[int]) -> list[Rounds]:
        options = [source.options for source in self.sources]
        counts = quotas(sizes, options, self.opt.get('epoch_samples'))
        if not self.train:  # a test takes no sample twice
            counts = [min(size, option.get('max_samples') or size) for size, option in zip(sizes, options, strict=True)]
        return [
            Rounds(size, count, self.seed, source.prefix)
            for size, count, source in zip(sizes, counts, self.sources, strict=True)
        ]

    # ----------------------------------------------------------------- samples

    def __len__(self) -> int:
        return self.plan.total if self.plan else int(self._first_places[-1])

    def locate(self, number: int) -> tuple[Source, int]:
        """Return the source of a sample, 0 <= number < num_samples, and its number there."""
        place = int(np.searchsorted(self._first_samples, number, side='right')) - 1
        return self.sources[place], number - int(self._first_samples[place])

    def draw(self, epoch: int, place: int) -> tuple[int, int]:
        """Return (sample number, how often it came before) at a place of an epoch, before any shuffling."""
        source = int(np.searchsorted(self._first_places, place, side='right')) - 1
        member, lap = self.rounds[source].draw(epoch, place - int(self._first_places[source]))
        return int(self._first_samples[source]) + member, lap

    def sample_id(self, number: int) -> str:
        source, own = self.locate(number)
        return source.sample_id(own)

    def sample_ids(self) -> list[str]:
        return [sample_id for source in self.sources for sample_id in source.sample_ids()]

    def shapes(self) -> list[tuple[int, int, int]]:
        """Return (height, width, channels) of each sample's clean picture."""
        return [source.shape(number) for source in self.sources for number in range(len(source))]

    def record(self, number: int) -> DegradationRecord | None:
        """Return a virtual sample's record: the same for the same (seed, key, v) in any process and order."""
        source, own = self.locate(number)
        return source.record(own)

    def caption(self, number: int) -> str:
        source, own = self.locate(number)
        return source.caption(own)

    @property
    def fingerprint(self) -> str:
        """Short hash of what an assignment depends on: pictures, recipes or captions, variants and seed."""
        if len(self.sources) == 1:
            return self.sources[0].fingerprint
        facts = [[source.prefix, source.fingerprint] for source in self.sources]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def epoch_order(self, epoch: int) -> list[int]:
        """Return an epoch's indices: shuffled samples or, in expert batches, the plan's own order."""
        base = epoch * len(self)
        if self.plan:
            return list(range(len(self)))
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return (base + torch.randperm(len(self), generator=generator)).tolist()

    def __getitem__(self, index: int) -> dict:
        if not self.signals_set and get_worker_info() is not None:
            stopping.outlive_signals_in_worker()
            self.signals_set = True
        epoch, place = divmod(int(index), len(self))
        if self.plan:
            return self._expert_batch(place, *divmod(epoch, MOST_PARTS))
        return self.item(*self.draw(epoch, place))

    def item(self, number: int, lap: int = 0) -> dict:
        """Realise a sample as it looks after it came ``lap`` times before; outside training it never changes."""
        source, own = self.locate(number)
        sample = source.item(own, lap if self.train else 'test', self.cutting)
        group = source.prefix.replace('/', '.')
        lq_name, gt_name = source.paths(own)
        return {
            'lq': to_tensor(sample.lq),
            'gt': to_tensor(sample.gt),
            'caption': sample.caption,
            'labels': ','.join(sample.labels),
            'lq_path': f'{group}{lq_name}.png',
            'gt_path': f'{group}{gt_name}.png',
            'sample_id': source.sample_id(own),
            'leaf': -1 if self.leaf_ids is None else int(self.leaf_ids[number]),
        }

    def batch_index(self, step: int, part: int = 0, parts: int = 1) -> int:
        """Return the index of a step of the plan, or of one part of its batch where several processes share it.

        Parts are ``0 <= part < parts``; each takes every ``parts``-th sample, and together they are the batch.
        """
        return step + len(self) * (0 if parts == 1 else parts * MOST_PARTS + part)

    def _expert_batch(self, step: int, parts: int, part: int) -> dict:
        place, own_step = self.plan.locate(step)
        items = [self.item(number, lap) for number, lap in self.plan.batch(step)[part :: parts or 1]]
        return {
            'lq': torch.stack([item['lq'] for item in items]),
            'gt': torch.stack([item['gt'] for item in items]),
            'sample_id': [item['sample_id'] for item in items],
            'node': self.plan.nodes[place],
            'step': own_step,
        }

    # ----------------------------------------------------------------- files

    def _read_assignment(self) -> None:
        self.tree = DegradationTree.load(Path(self.opt['tree']).expanduser())
        trained_on = self.tree.build.get('data_fingerprint')
        if trained_on is not None and trained_on != self.fingerprint:
            raise TreeMismatchError(
                f'{self.opt["tree"]} was built from other samples than these (pictures, recipe, variants or seed '
                'differ); use the same dataset options in clustering and training, or cluster again.'
            )
        path = Path(self.opt['assignments']).expanduser()
        self.leaf_ids = read_assignments(path, self.tree, self.sample_ids())
        batch = self.opt.get('expert_batch')
        if batch and self.train:
            rates = np.concatenate([np.full(rounds.size, rounds.quota / rounds.size) for rounds in self.rounds])
            self.plan = ExpertPlan(self.tree, self.leaf_ids, batch, self.seed, rates)


def _check_assignment(opt: Mapping, where: str, train: bool) -> None:
    if opt.get('assignments') and not opt.get('tree'):
        raise OptionError('assignments needs tree, the degradation_tree.json written beside it.')
    batch = opt.get('expert_batch')
    if not batch:
        return
    if not opt.get('assignments'):
        raise OptionError('expert_batch needs tree and assignments, the files that `unirestorer cluster` wrote.')
    check_expert_batch(batch, f'{where}.expert_batch')
    if train and opt.get('batch_size_per_gpu', 1) != 1:
        raise OptionError(
            f'batch_size_per_gpu is {opt["batch_size_per_gpu"]}, but with expert_batch one '
            'item is a whole batch; write batch_size_per_gpu: 1 and set expert_batch.batch_size.'
        )
