"""The degradation tree: clusters of degradation embeddings from coarse (root) to fine (leaves)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from basicsr_unirestorer.clustering.instruction import leaf_mask, read_wishes
from basicsr_unirestorer.errors import DataError, OptionError, did_you_mean

FORMAT_VERSION = 1
MAX_DIFFERENCES = 2**24  # numbers held at once where embeddings are compared with centres: 64 MiB


@dataclass(frozen=True)
class Node:
    """One cluster. ``captions`` counts the captions of its samples; ``radius`` is their RMS distance to the centre."""

    name: str
    level: int
    parent: int  # node id; -1 for the root
    count: int = 0
    captions: dict[str, int] = field(default_factory=dict)
    radius: float = 0.0

    @property
    def labels(self) -> dict[str, int]:
        """Degradation types of the node's samples and how many samples have each (a mixed sample counts for each)."""
        from basicsr_unirestorer.degradations import parse_caption

        histogram: dict[str, int] = {}
        for caption, count in self.captions.items():
            for label in sorted({label for _, label in parse_caption(caption)}):
                histogram[label] = histogram.get(label, 0) + count
        return dict(sorted(histogram.items(), key=lambda item: -item[1]))

    @property
    def dominant_label(self) -> str | None:
        """The degradation type of more than half of the samples, by which ``experts: by_label`` chooses networks."""
        return next((label for label, count in self.labels.items() if count > self.count / 2), None)


def node_name(level: int, index: int) -> str:
    """Name a node as it is called everywhere: files, logs, options, TensorBoard tags."""
    return f'l{level}_{index:02d}'


@dataclass(frozen=True)
class DegradationTree:
    """A tree of any depth and width whose leaves all lie on the last level.

    Args:
        nodes: Level by level, the root first; a node's id is its place in this list.
        centres: Mean embedding of each node, shape (num_nodes, embed_dim), float32.
        build: How the tree was made (encoder and data fingerprints, options); for checks and for the reader.
    """

    nodes: tuple[Node, ...]
    centres: np.ndarray
    build: dict = field(default_factory=dict)

    @classmethod
    def star(cls, num_leaves: int, embed_dim: int = 1) -> DegradationTree:
        """Return the smallest routed tree: a root with ``num_leaves`` leaves, all centres zero."""
        nodes = [Node(node_name(0, 0), 0, -1)] + [Node(node_name(1, i), 1, 0) for i in range(num_leaves)]
        return cls(tuple(nodes), np.zeros((num_leaves + 1, embed_dim), np.float32))

    @property
    def embed_dim(self) -> int:
        return self.centres.shape[1]

    @cached_property
    def level_sizes(self) -> list[int]:
        """Number of nodes on each level, root first."""
        return np.bincount([node.level for node in self.nodes]).tolist()

    @property
    def num_levels(self) -> int:
        return len(self.level_sizes)

    @property
    def num_leaves(self) -> int:
        return self.level_sizes[-1]

    @cached_property
    def leaves(self) -> list[int]:
        """Node id of each leaf; a leaf id is a place in this list."""
        return [i for i, node in enumerate(self.nodes) if node.level == self.num_levels - 1]

    @cached_property
    def paths(self) -> np.ndarray:
        """Node ids from the root to each leaf, shape (num_leaves, num_levels), int64."""
        rows = []
        for leaf in self.leaves:
            row = [leaf]
            while self.nodes[row[0]].parent >= 0:
                row.insert(0, self.nodes[row[0]].parent)
            rows.append(row)
        return np.asarray(rows, np.int64)

    def children(self, node_id: int) -> list[int]:
        return [i for i, node in enumerate(self.nodes) if node.parent == node_id]

    def parent_name(self, name: str) -> str | None:
        """Return the name of a node's parent, None for the root; raises OptionError for an unknown node."""
        parent = self.nodes[self.node_id(name)].parent
        return self.nodes[parent].name if parent >= 0 else None

    def node_id(self, name: str) -> int:
        """Return the id of a node by name; raises OptionError with the nearest name for an unknown one."""
        names = [node.name for node in self.nodes]
        if name not in names:
            raise OptionError(f"The tree has no node '{name}'.{did_you_mean(name, names)} It has {', '.join(names)}.")
        return names.index(name)

    def assign(self, embeddings: np.ndarray) -> np.ndarray:
        """Send embeddings down the tree: at each level to the nearest centre inside the parent (method, section 1).

        Args:
            embeddings: Shape (n, embed_dim), in memory or memory-mapped; read in blocks.

        Returns:
            Leaf ids, shape (n,), int64.
        """
        position = np.zeros(len(embeddings), np.int64)
        for _ in range(self.num_levels - 1):
            for node_id in np.unique(position):
                children = np.asarray(self.children(node_id))
                centres = self.centres[children]
                members = np.flatnonzero(position == node_id)
                size = max(1, MAX_DIFFERENCES // centres.size)
                for rows in (members[start : start + size] for start in range(0, len(members), size)):
                    block = np.asarray(embeddings[rows], np.result_type(embeddings, np.float32))
                    distances = ((block[:, None] - centres) ** 2).sum(-1)  # (rows, children)
                    position[rows] = children[distances.argmin(1)]
        return position - self.leaves[0]

    def leaf_mask(self, labels: Sequence[str], min_share: float = 0.1) -> np.ndarray:
        """Prune the tree to what a user says is wrong with a picture (instruction mode).

        Args:
            labels: Degradations with or without strength, e.g. ``['rain', 'large noise']``.
            min_share: Share of a leaf's samples that must have it for the leaf to count as containing it.

        Returns:
            Shape (num_leaves,), bool: leaves containing all the labels or, where no leaf does, any of them.

        Raises:
            OptionError: A label, or a strength of it, that the tree has not seen.
        """
        wishes = read_wishes(labels, self.nodes[0].captions)
        return leaf_mask([self.nodes[leaf].captions for leaf in self.leaves], wishes, min_share)

    def node_for_caption(self, caption: str) -> int:
        """Return the finest node that knows a caption: the leaf holding most samples of it, else the root (oracle)."""
        counts = [self.nodes[leaf].captions.get(caption, 0) for leaf in self.leaves]
        return self.leaves[int(np.argmax(counts))] if max(counts) else 0

    @property
    def fingerprint(self) -> str:
        """Short hash of structure and centres; routers and bundles carry it to prove that they fit."""
        digest = hashlib.sha256(json.dumps([[n.name, n.level, n.parent] for n in self.nodes]).encode())
        digest.update(np.ascontiguousarray(self.centres, '<f4').tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write ``degradation_tree.json`` and its ``.npz``; each appears complete or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            'format': FORMAT_VERSION,
            'fingerprint': self.fingerprint,
            'build': self.build,
            'level_sizes': self.level_sizes,
            'nodes': [{**asdict(node), 'labels': node.labels} for node in self.nodes],
        }
        scratch = path.with_suffix('.tmp')
        with open(scratch, 'wb') as file:
            np.savez_compressed(file, centres=self.centres)
        os.replace(scratch, path.with_suffix('.npz'))
        scratch.write_text(json.dumps(content, indent=1) + '\n')
        os.replace(scratch, path)

    @classmethod
    def load(cls, path: str | Path) -> DegradationTree:
        """Read a saved tree.

        Args:
            path: The json file, or the folder that holds ``degradation_tree.json``.

        Raises:
            DataError: A file is missing, damaged, of another format version, or not the other's partner.
        """
        path = Path(path)
        path = path / 'degradation_tree.json' if path.is_dir() else path
        for part in (path, path.with_suffix('.npz')):
            if not part.is_file():
                raise DataError(f'No degradation tree at {part}; run `unirestorer cluster -opt ...` first.')
        try:
            content = json.loads(path.read_text())
            version = content['format']
            with np.load(path.with_suffix('.npz')) as arrays:
                centres = arrays['centres'].astype(np.float32)
            nodes = tuple(Node(**{k: v for k, v in node.items() if k != 'labels'}) for node in content['nodes'])
        except Exception as error:
            raise DataError(
                f'{path} cannot be read as a degradation tree ({error}); build it again with '
                '`unirestorer cluster -opt ...`.'
            ) from error
        if version != FORMAT_VERSION:
            raise DataError(
                f'{path} has format {version} but this version reads format {FORMAT_VERSION}; '
                'build the tree again with `unirestorer cluster -opt ...`.'
            )
        tree = cls(nodes, centres, content['build'])
        if len(nodes) != len(centres) or tree.fingerprint != content['fingerprint']:
            raise DataError(f'{path} and its .npz are not from the same run; copy both files together.')
        return tree
