"""Embed every sample of a training dataset: what both building and growing a tree start from."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import DataError, TreeMismatchError, check_keys, need_keys

TOP_KEYS = ('name', 'datasets', 'encoder', 'clustering', 'num_gpu', 'manual_seed', 'scale')
CLUSTERING_KEYS = (
    'level_sizes',
    'method',
    'prepare',
    'adaptive',
    'min_samples',
    'stability_seeds',
    'num_crops',
    'batch_size',
    'num_worker',
    'seed',
    'max_samples_per_source',
    'embeddings',
)
EMBEDDINGS = 'embeddings.npy'


class Crops:
    """Every sample of a dataset, caps and weights aside, in ``num_crops`` realisations each."""

    def __init__(self, dataset, num_crops: int) -> None:  # noqa: ANN001
        self.dataset, self.num_crops = dataset, num_crops

    def __len__(self) -> int:
        return self.dataset.num_samples * self.num_crops

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.dataset.item(*divmod(index, self.num_crops))


def check_stage(opt: Mapping, more: tuple[str, ...] = ()) -> None:
    """Refuse unknown or missing keys of an option file of the clustering stage, or of one like it."""
    check_keys(opt, TOP_KEYS + more, 'options')
    need_keys(opt, ('name', 'datasets', 'encoder', 'clustering', *more), 'options')
    need_keys(opt['datasets'], ('train',), 'datasets')
    check_keys(opt['clustering'], CLUSTERING_KEYS, 'clustering')


def embed_samples(
    dataset,  # noqa: ANN001
    encoder,  # noqa: ANN001
    path: Path,
    num_crops: int = 4,
    batch_size: int = 64,
    num_worker: int = 0,
    device: str = 'cpu',
) -> np.ndarray:
    """Embed every sample of a training dataset: the mean over several crops, each with a realisation of its own.

    Args:
        dataset: A ``MixedDegradationLMDBDataset`` in its training phase, without expert batches.
        encoder: A degradation encoder, frozen.
        path: The .npy file to write, batch by batch.
        num_crops: Crops a sample.
        batch_size: Crops a batch.
        num_worker: Processes that degrade.
        device: Where the encoder runs.

    Returns:
        Unit vectors, shape (dataset.num_samples, embed_dim), float32, memory-mapped from the file.
    """
    import torch
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    per_batch = max(1, batch_size // num_crops) * num_crops
    loader = DataLoader(Crops(dataset, num_crops), per_batch, num_workers=num_worker)
    file, done = None, 0
    encoder = encoder.to(device)
    with torch.no_grad():
        for data in tqdm(loader, desc='embedding', unit='batch'):
            crops = encoder(data['lq'].to(device)).unflatten(0, (-1, num_crops))  # (samples, crops, embed_dim)
            batch = torch.nn.functional.normalize(crops.mean(dim=1), dim=1).cpu().numpy()
            if file is None:
                shape = (dataset.num_samples, batch.shape[1])
                file = np.lib.format.open_memmap(path, 'w+', np.float32, shape)
            file[done : done + len(batch)] = batch
            done += len(batch)
    if file is None:
        raise DataError('The training data set holds no samples to embed; correct datasets.train.')
    file.flush()
    return np.load(path, mmap_mode='r')


def frozen_encoder(opt: Mapping, dataset) -> tuple:  # noqa: ANN001
    """Build the encoder of a stage; returns it, and the facts that a tree keeps about its embeddings.

    Raises:
        OptionError, DataError: As ``build_encoder``.
    """
    from basicsr_unirestorer.archs.building import build_encoder, weights_fingerprint

    encoder = build_encoder(opt['encoder'])
    return encoder, {
        'encoder': {key: value for key, value in opt['encoder'].items() if key != 'weights'},
        'encoder_fingerprint': weights_fingerprint(encoder.state_dict()),
        'data_fingerprint': dataset.fingerprint,
        'clustering': dict(opt['clustering']),
    }


def embed_stage(opt: Mapping, dataset, encoder, build: Mapping, folder: Path) -> np.ndarray:  # noqa: ANN001
    """Embed the samples of a stage, or take over the embeddings of an earlier run of it.

    Args:
        opt: The option file's content. ``clustering.embeddings`` names the folder of an earlier run.
        dataset: The training dataset.
        encoder: The frozen encoder.
        build: The facts about both, see ``frozen_encoder``.
        folder: Where ``embeddings.npy`` is written.

    Returns:
        Embeddings, shape (dataset.num_samples, embed_dim), float32, memory-mapped.

    Raises:
        DataError: The earlier run has no embeddings.
        TreeMismatchError: The earlier run had other samples, another encoder or another number of crops.
    """
    settings = opt['clustering']
    if settings.get('embeddings'):
        return _earlier_embeddings(Path(settings['embeddings']).expanduser(), build, folder)
    numbers = {key: settings[key] for key in ('num_crops', 'batch_size', 'num_worker') if key in settings}
    device = 'cuda' if opt.get('num_gpu', 0) else 'cpu'
    return embed_samples(dataset, encoder, folder / EMBEDDINGS, device=device, **numbers)


def _earlier_embeddings(earlier: Path, build: Mapping, folder: Path) -> np.ndarray:
    if not (earlier / EMBEDDINGS).is_file():
        raise DataError(
            f'There are no embeddings at {earlier / EMBEDDINGS}; give clustering.embeddings the folder of an earlier '
            '`unirestorer cluster`, or leave it out.'
        )
    made = DegradationTree.load(earlier).build
    made, given = {**made.get('clustering', {}), **made}, {**build['clustering'], **build}
    for key, what in (
        ('encoder_fingerprint', 'another encoder'),
        ('data_fingerprint', 'other samples'),
        ('num_crops', 'another number of crops'),
    ):
        if made.get(key) != given.get(key):
            raise TreeMismatchError(
                f'The embeddings of {earlier} were made with {what}; leave clustering.embeddings out, and they are '
                'made again.'
            )
    shutil.copyfile(earlier / EMBEDDINGS, folder / EMBEDDINGS)
    return np.load(folder / EMBEDDINGS, mmap_mode='r')


def captions_of(dataset) -> list[str]:  # noqa: ANN001
    """Return each sample's caption; equal ones are one string in memory."""
    return [sys.intern(dataset.caption(number)) for number in range(dataset.num_samples)]


def types_of(caption: str) -> str:
    """Return a caption's degradation types as one string."""
    from basicsr_unirestorer.degradations import parse_caption

    return '+'.join(label for _, label in parse_caption(caption))


@contextmanager
def new_experiment(root: Path, name: str) -> Iterator[Path]:
    """Give a folder to write into; it becomes ``experiments/<name>`` when all went well.

    An earlier experiment of that name is set aside then, as BasicSR does.
    """
    from basicsr.utils import mkdir_and_rename

    folder = root / 'experiments' / name
    made = not folder.parent.exists()
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f'.{folder.name}.'))
    scratch.chmod(0o755)
    try:
        yield scratch
        mkdir_and_rename(str(folder))
        folder.rmdir()
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if made and not folder.exists():
            with suppress(OSError):  # others may have begun to write there
                folder.parent.rmdir()
