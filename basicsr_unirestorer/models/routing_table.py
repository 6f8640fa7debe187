"""What a router needs to know of its training samples, measured once: embeddings, and what experts reach on them."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.losses.router_loss import serving_leaves

CHUNK_ROWS = 128  # rows a file; what a stop can lose


@dataclass(frozen=True)
class RoutingTable:
    """One row a sample."""

    embedding: Tensor  # (rows, embed_dim)
    psnr: Tensor  # (rows, num_nodes), dB; NaN where the expert was not run
    leaf: Tensor  # (rows,) int64; -1 outside the assignment

    def __getitem__(self, rows: Tensor | np.ndarray) -> RoutingTable:
        return RoutingTable(self.embedding[rows], self.psnr[rows], self.leaf[rows])

    def __len__(self) -> int:
        return len(self.leaf)

    @property
    def path_leaf(self) -> Tensor:
        """The leaf of samples that only the experts on its path were tried on; -1 where every expert was."""
        return torch.where(self.psnr.isnan().any(dim=1), self.leaf, -1)

    def taught(self, paths: Tensor) -> RoutingTable:
        """Return the table with the leaves that a router is taught, see ``serving_leaves``."""
        return replace(self, leaf=serving_leaves(self.leaf, self.psnr, paths))

    def to(self, device: torch.device | str) -> RoutingTable:
        return RoutingTable(self.embedding.to(device), self.psnr.to(device), self.leaf.to(device))


class Measurement:
    """Embed samples and run experts on them.

    An assigned sample is restored by the experts on its leaf's path, or by all of them (``try_all``). One without a
    leaf has no path, so every node is tried: it may well be served best by a node that nobody would have guessed.

    Args:
        encoder: The frozen encoder.
        expert: Returns the frozen expert of a node id.
        tree: The degradation tree.
        expert_size: The experts restore a centre crop of this side; the whole patch where None.
        device: Where the networks run.
        try_all: Try every node on assigned samples, too: many times the work, and the truth about each of them.
    """

    def __init__(
        self,
        encoder: nn.Module,
        expert: Callable[[int], nn.Module],
        tree: DegradationTree,
        expert_size: int | None,
        device: torch.device | str,
        try_all: bool = False,
    ) -> None:
        self.encoder, self.expert, self.tree = encoder, expert, tree
        self.expert_size, self.device, self.try_all = expert_size, device, try_all

    @torch.no_grad()
    def __call__(self, batches: Sequence[Mapping]) -> dict[str, np.ndarray]:
        """Measure the rows of a few batches; each expert is loaded at most once.

        Args:
            batches: Each with ``lq`` and ``gt``, (n, 3, h, w), RGB, [0, 1], and ``leaf``, (n,).

        Returns:
            The fields of ``RoutingTable`` as arrays, in the order of the rows.
        """
        embedding = torch.cat([self.encoder.embed(batch['lq'].to(self.device)).cpu() for batch in batches])
        leaf = torch.cat([batch['leaf'] for batch in batches])
        lq, gt = (torch.cat([centre(batch[key], self.expert_size) for batch in batches]) for key in ('lq', 'gt'))
        wanted = torch.ones(len(leaf), len(self.tree.nodes), dtype=torch.bool)
        assigned = (leaf >= 0) & (not self.try_all)
        wanted[assigned] = False
        wanted[assigned.nonzero(), torch.as_tensor(self.tree.paths)[leaf[assigned]]] = True
        psnr = torch.full(wanted.shape, torch.nan)
        for node_id in wanted.any(0).nonzero().flatten().tolist():
            for rows in wanted[:, node_id].nonzero().flatten().split(len(batches[0]['leaf'])):
                picture = lq[rows].to(self.device, memory_format=torch.channels_last)
                psnr[rows, node_id] = psnr_of(self.expert(node_id)(picture).cpu(), gt[rows])
        return {'embedding': embedding.numpy(), 'psnr': psnr.numpy(), 'leaf': leaf.numpy()}


def centre(pictures: Tensor, size: int | None) -> Tensor:
    """Return the centre crops of pictures, shape (n, c, h, w), of side ``size``; all of them where None."""
    h, w = pictures.shape[-2:]
    size = size or max(h, w)
    top, left = max(0, (h - size) // 2), max(0, (w - size) // 2)
    return pictures[..., top : top + size, left : left + size]


def psnr_of(restored: Tensor, gt: Tensor) -> Tensor:
    """Return the PSNR in dB of pictures in [0, 1], shape (n, 3, h, w); at most 80."""
    mse = ((restored.clamp(0, 1) - gt) ** 2).mean(dim=(1, 2, 3))
    return -10 * torch.log10(mse + 1e-8)


class _Rows(Dataset):
    """Some rows of a ``RoutingSamplesDataset``, realised."""

    def __init__(self, dataset, rows: Sequence[int]) -> None:  # noqa: ANN001
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        item = self.dataset.realise(self.rows[index])
        return {key: item[key] for key in ('lq', 'gt', 'leaf')}


def table_fingerprint(
    dataset,  # noqa: ANN001
    encoder: str,
    tree: DegradationTree,
    experts: Mapping,
    expert_size: int | None,
    try_all: bool = False,
) -> str:
    """Return a short hash of all that a table depends on.

    Args:
        dataset: The ``RoutingSamplesDataset``.
        encoder: Fingerprint of the encoder's weights, with its options.
        tree: The degradation tree.
        experts: For each node name, whatever tells its network and weights, fit for JSON.
        expert_size, try_all: As in ``Measurement``.
    """
    facts = [dataset.fingerprint, encoder, tree.fingerprint, dict(experts), expert_size]
    facts += ['try_all'] if try_all else []
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    if dataset.parts[0].leaf_ids is not None:
        digest.update(np.ascontiguousarray(dataset.parts[0].leaf_ids).tobytes())
    return digest.hexdigest()[:16]


def measured_table(
    folder: Path,
    dataset,  # noqa: ANN001
    measure: Callable[[Sequence[Mapping]], dict[str, np.ndarray]],
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    batch_size: int = 16,
) -> RoutingTable:
    """Read a table, after measuring what is missing of it.

    Processes share the work: each measures every n-th missing file and waits for the others'. A stopped run goes on
    with the file it was at.

    Args:
        folder: Where the table's files lie; made where missing.
        dataset: The ``RoutingSamplesDataset``.
        measure: A ``Measurement``.
        workers: Processes that degrade.
        rank, world_size: Which of how many processes this one is.
        batch_size: Samples a forward pass.

    Returns:
        The table, its rows as numbered by the dataset.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, dataset.num_rows, CHUNK_ROWS)
    files = [folder / f'{start:08d}.npz' for start in starts]
    mine = [place for place in range(rank, len(files), world_size) if _read(files[place]) is None]
    for place in tqdm(mine, desc='measuring experts', unit='file', disable=not mine or rank > 0):
        rows = range(starts[place], min(starts[place] + CHUNK_ROWS, dataset.num_rows))
        loader = DataLoader(_Rows(dataset, rows), batch_size, num_workers=min(workers, len(rows)))
        _write(files[place], measure(list(loader)))
    chunks = [_await(file) for file in files]
    return RoutingTable(
        *(torch.from_numpy(np.concatenate([c[key] for c in chunks])) for key in ('embedding', 'psnr', 'leaf'))
    )


def _read(file: Path) -> dict[str, np.ndarray] | None:
    """Read one file of a table; None where it is missing or damaged."""
    try:
        with np.load(file) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(file: Path, content: Mapping[str, np.ndarray]) -> None:
    scratch = file.with_suffix('.part')
    with open(scratch, 'wb') as stream:
        np.savez(stream, **content)
    os.replace(scratch, file)


def _await(file: Path) -> dict[str, np.ndarray]:
    """Read a file that another process may still be measuring; torchrun ends this one where the other fails."""
    while (content := _read(file)) is None:
        time.sleep(0.2)
    return content
