"""What was decided for one picture, in words and numbers that a reader understands."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np

from basicsr_unirestorer.archs.unirestorer_arch import Route, UniRestorer


@dataclass(frozen=True)
class Tiling:
    """How a picture was taken through the network: as a whole (no tile) or in tiles."""

    tile_size: int | None = None
    tile_overlap: int = 0
    exact: bool = True  # False: the network looks at the whole picture, so its tiles differ a little from the whole


@dataclass(frozen=True)
class Region:
    """A part of a picture that was routed on its own, in pixels from the top left, and its expert."""

    top: int
    left: int
    height: int
    width: int
    expert: str


@dataclass(frozen=True)
class Decision:
    """The expert chosen for one picture, and how sure the router was of leaf and level."""

    expert: str
    leaf: str
    leaf_confidence: float
    level: int
    level_confidence: float
    labels: dict[str, int]  # degradation types of the samples that the expert was trained on, with their number
    leaf_probs: dict[str, float] = field(default_factory=dict)
    level_probs: list[float] = field(default_factory=list)  # root first
    distance: float | None = None  # of the embedding to the centre of the expert's node; None without an encoder
    radius: float | None = None  # RMS of that distance over the samples that the expert was trained on
    shares: dict[str, float] = field(default_factory=dict)  # of the experts that restore it together, best first
    tiling: Tiling = Tiling()
    precision: str = 'fp32'
    regions: tuple[Region, ...] = ()

    @classmethod
    def of(cls, net: UniRestorer, route: Route, row: int = 0) -> Decision:
        """Describe the decision for one picture of a batch."""
        tree = net.tree
        leaf, level, node_id = int(route.leaf_id[row]), int(route.level[row]), int(route.node_id[row])
        node = tree.nodes[node_id]
        leaf_probs, level_probs = route.leaf_probs[row].tolist(), route.level_probs[row].tolist()
        embedding = route.embedding[row].float().cpu().numpy()
        embedded = embedding.size == tree.embed_dim
        return cls(
            node.name,
            tree.nodes[tree.leaves[leaf]].name,
            leaf_probs[leaf],
            level,
            level_probs[level],
            node.labels,
            {tree.nodes[node_id].name: prob for node_id, prob in zip(tree.leaves, leaf_probs, strict=True)},
            level_probs,
            float(np.linalg.norm(embedding - tree.centres[node_id])) if embedded else None,
            node.radius if embedded else None,
            {tree.nodes[node_id].name: share for node_id, share in shares_of(route, row)},
        )

    def to_dict(self) -> dict:
        """Return what JSON can hold."""
        return asdict(self)


def shares_of(route: Route, row: int = 0) -> list[tuple[int, float]]:
    """Return the nodes whose experts restore a picture, and each one's share of the output."""
    if route.gate is None:
        return [(int(route.node_id[row]), 1.0)]
    pairs = zip(route.candidates[row].tolist(), route.gate[row].tolist(), strict=True)
    return [(node_id, share) for node_id, share in pairs if share > 0]
