"""The object behind every use of a trained bundle: the command, the benchmark and the demo."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from math import lcm
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from basicsr_unirestorer.archs.expert import Expert
from basicsr_unirestorer.archs.unirestorer_arch import Route, UniRestorer
from basicsr_unirestorer.errors import DataError, OptionError, UniRestorerError
from basicsr_unirestorer.inference.decision import Decision, Region, Tiling, shares_of
from basicsr_unirestorer.inference.memory import bytes_per_pixel, fitting_tile, free_memory, is_out_of_memory
from basicsr_unirestorer.inference.self_ensemble import self_ensembled
from basicsr_unirestorer.inference.tiling import NotFiniteError, tile_places, tiled, to_tensor

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
MOST_ON_CPU = 2**30  # bytes for a tile; larger tiles are no faster there, and other programs want memory, too
WORST_NEED = 4096  # bytes a pixel that no network known here exceeds: what fits with it is not measured first
LOCAL_TILE = 512  # side of the parts that local routing routes, where memory allows
SMALLEST_TILE = 64
OVERLAP = 48
UNKNOWN_STRIDE = 16  # of networks that state no facts


class Restorer:
    """Restore numpy pictures with a bundle.

    Args:
        net: The routed network.
        device: Where it runs.
        tile_size: Longest side of a tile in pixels; None takes a picture as a whole where memory allows, else the
            largest tiles that it allows.
        tile_overlap: Pixels that neighbouring tiles share at least; None for 48, or a quarter of small tiles.
        precision: ``fp32``, ``bf16`` or ``fp16``; an expert for which that is not safe (its ``facts``) runs in fp32.
        node: Name of the node whose expert restores every picture; None lets the router choose.
        level: Level of the tree to take the expert from, on the path to the router's leaf.
        local_routing: Whether each tile is routed on its own, for pictures whose regions differ.
        self_ensemble: Whether pictures are restored in all eight orientations and averaged, in eight times the time.

    Raises:
        OptionError: A tile, overlap, precision, node or level that does not exist.
    """

    def __init__(
        self,
        net: UniRestorer,
        device: str = 'cpu',
        tile_size: int | None = None,
        tile_overlap: int | None = None,
        precision: str = 'fp32',
        node: str | None = None,
        level: int | None = None,
        local_routing: bool = False,
        self_ensemble: bool = False,
    ) -> None:
        if tile_size is not None and tile_size < 1:
            raise OptionError(f'The tile size is {tile_size} but must be at least 1; leave --tile out to let it fit.')
        if tile_overlap is not None and not 0 <= tile_overlap < (tile_size or SMALLEST_TILE):
            raise OptionError(
                f'The tile overlap is {tile_overlap} but must be smaller than the tile size '
                f'{tile_size or SMALLEST_TILE}, and not negative.'
            )
        if precision not in PRECISIONS:
            raise OptionError(f"There is no precision '{precision}'; choose one of {', '.join(PRECISIONS)}.")
        if node is not None and level is not None:
            raise OptionError(f"Both node '{node}' and level {level} are given; give one of them.")
        if level is not None and not 0 <= level < net.tree.num_levels:
            raise OptionError(f'There is no level {level}; the tree has levels 0 (root) to {net.tree.num_levels - 1}.')
        self.net = net.to(device)
        self.device = device
        self.tile_size = tile_size
        self.tile_overlap = tile_overlap
        self.precision = precision
        self.node_id = None if node is None else net.tree.node_id(node)
        self.level = level
        self.local_routing = local_routing
        self.self_ensemble = self_ensemble
        self._needs: dict[tuple, float] = {}  # bytes a pixel, by kind and size of the experts

    @classmethod
    def from_bundle(
        cls,
        bundle: str | Path,
        mode: str = 'auto',
        labels: Sequence[str] | None = None,
        device: str = 'cpu',
        cache_mb: float = 2048,
        top_k: int = 1,
        **options: object,
    ) -> Restorer:
        """Open a bundle.

        Args:
            bundle: Its folder.
            mode: See ``UniRestorer``, also for the errors.
            labels: Degradation types for instruction mode.
            device: ``cpu``, ``cuda:N``, ``mps``, or ``auto`` for the fastest there is.
            cache_mb: Memory that loaded experts may take, in MiB.
            top_k: Experts a picture, weighted by their probabilities.
            options: Further arguments of ``Restorer``.
        """
        return cls(UniRestorer(bundle, mode, labels, cache_mb, top_k), pick_device(device), **options)

    def choose(self, image: np.ndarray) -> Route:
        """Route a picture; cheap next to restoring it. ``image`` as in ``restore``."""
        return self._route(to_tensor(colours_of(image)))

    def route(self, image: np.ndarray) -> Decision:
        """Tell which expert a picture needs, and how sure the router is. ``image`` as in ``restore``."""
        return Decision.of(self.net, self.choose(image))

    def restore(
        self,
        image: np.ndarray,
        route: Route | None = None,
        progress: Callable[[float], object] = lambda done: None,
    ) -> tuple[np.ndarray, Decision]:
        """Restore a picture and tell what was decided.

        Args:
            image: Any size; shape (h, w) or (h, w, 1) grey, (h, w, 2) grey and alpha, (h, w, 3) RGB, (h, w, 4) RGB and
                alpha; uint8, uint16, or float32 in [0, 1] (noise may exceed it). Alpha is kept as it is.
            route: A decision made earlier by ``choose``; routed here where None.
            progress: Called with the share that is done.

        Returns:
            The restored picture, same shape and type, and the decision. Large pictures are restored in tiles; the
            decision says so, and whether the network's tiles can equal the whole.

        Raises:
            DataError: The array is no such picture, or the network answers it with NaN.
            UniRestorerError: Memory is short even for the smallest tile.
        """
        colours = colours_of(image)
        route = self._route(to_tensor(colours)) if route is None else route
        try:
            restored, decision = self._restore(colours, route, progress)
        except NotFiniteError as error:
            raise DataError(
                f'The expert answered the picture with NaN or infinite values in {self._precision(route)}; try '
                '--precision fp32, or another --node.'
            ) from error
        if image.ndim == 3 and image.shape[2] in (2, 4):
            restored = np.concatenate([restored, image[..., -1:]], axis=2)
        return restored.reshape(image.shape), decision

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Restore a picture; in and out as in ``restore``."""
        return self.restore(image)[0]

    def expert_names(self, route: Route) -> tuple[str, ...]:
        """Return the nodes whose experts a route uses."""
        return tuple(self.net.tree.nodes[node_id].name for node_id, _ in shares_of(route))

    def _route(self, lq: Tensor) -> Route:
        route = self.net.route(lq.to(self.device))
        if self.node_id is not None:
            return replace(route, node_id=torch.full_like(route.node_id, self.node_id), candidates=None, gate=None)
        if self.level is not None:
            nodes = torch.as_tensor(self.net.tree.paths)[route.leaf_id.cpu(), self.level]
            return replace(route, node_id=nodes.to(route.node_id), candidates=None, gate=None)
        return route

    def _experts(self, route: Route) -> list[torch.nn.Module]:
        return [self.net.expert(node_id, self.device) for node_id, _ in shares_of(route)]

    def _precision(self, route: Route) -> str:
        facts = [net.facts for net in self._experts(route) if isinstance(net, Expert)]
        return self.precision if all(self.precision in fact.precisions for fact in facts) else 'fp32'

    def _run(self, precision: str, route: Route, lq: Tensor) -> Tensor:
        """Restore one tile, (1, 3, h, w), with the experts of a route."""
        lq, run = lq.to(self.device), partial(self.net, route=route)
        half = torch.autocast(torch.device(self.device).type, PRECISIONS[precision]) if precision != 'fp32' else None
        with half or nullcontext():
            return self_ensembled(run, lq) if self.self_ensemble else run(lq)

    def _restore(self, colours: np.ndarray, route: Route, progress: Callable) -> tuple[np.ndarray, Decision]:
        """Restore a picture, again from its beginning with half the tile where memory runs out."""
        h, w = colours.shape[:2]
        side: int | None = None
        tried: list[int] = []
        while True:
            try:
                multiple, exact = self._grid(route)
                side = self._smaller(tried, multiple) if tried else self._tile_side(h, w, route, multiple)
                restored, regions = self._attempt(colours, route, side, multiple, progress)
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # out here, where nothing of the failed attempt is held any more
            tried.append(max(h, w) if side is None else min(side, max(h, w)))
            self._free()
        whole = side is None or max(h, w) <= side
        return restored, replace(
            Decision.of(self.net, route),
            tiling=Tiling() if whole else Tiling(side, self._overlap(side), exact),
            precision=self._precision(route),
            regions=regions,
        )

    def _attempt(
        self, colours: np.ndarray, route: Route, side: int | None, multiple: int, progress: Callable
    ) -> tuple[np.ndarray, tuple[Region, ...]]:
        """Restore a picture in tiles of one size; returns also which expert restored which part, if routed by tile."""
        precision, overlap = self._precision(route), self._overlap(side)
        if not self.local_routing:
            return tiled(partial(self._run, precision, route), colours, side, overlap, multiple, progress), ()
        names: list[str] = []
        restored = tiled(partial(self._run_local, precision, names), colours, side, overlap, multiple, progress)
        h, w = colours.shape[:2]
        places = tile_places(h, w, side or max(h, w), overlap, multiple)
        return restored, tuple(
            Region(row.start, column.start, row.stop - row.start, column.stop - column.start, name)
            for (row, column), name in zip(places, names, strict=True)
        )

    def _overlap(self, side: int | None) -> int:
        """Return the overlap of tiles of one size: the wanted one, as long as tiles are not too small for it."""
        if side is None:
            return 0
        if self.tile_overlap is None:
            return min(OVERLAP, side // 4)
        return self.tile_overlap if side == self.tile_size else min(self.tile_overlap, side // 2)

    def _run_local(self, precision: str, regions: list[str], lq: Tensor) -> Tensor:
        """Route a tile on its own, note its expert, and restore it."""
        route = self._route(lq)
        regions.append(self.expert_names(route)[0])
        return self._run(precision, route, lq)

    def _grid(self, route: Route) -> tuple[int, bool]:
        """Return where tiles may start for the route's experts, and whether their tiles can equal the whole."""
        experts = self._experts(route)
        facts = [net.facts for net in experts if isinstance(net, Expert)]
        unknown = len(facts) < len(experts)
        multiple = lcm(*(fact.multiple for fact in facts), UNKNOWN_STRIDE if unknown else 1)
        return multiple, not unknown and all(fact.tiles == 'exact' for fact in facts)

    def _tile_side(self, h: int, w: int, route: Route, multiple: int) -> int | None:
        """Return the longest side of a tile, None for the whole picture."""
        if self.tile_size is not None:
            return self.tile_size
        on_cpu = torch.device(self.device).type == 'cpu'
        budget = min(free_memory(self.device) // 2, MOST_ON_CPU) if on_cpu else 0.8 * free_memory(self.device)
        most = LOCAL_TILE if self.local_routing else None
        if h * w * WORST_NEED <= budget:
            return most
        fitting = fitting_tile(h, w, self._need(route), budget, multiple, self._smallest(multiple))
        return min((side for side in (most, fitting) if side), default=None)

    def _need(self, route: Route) -> float:
        """Return the bytes a pixel that restoring by a route takes, measured once for each kind of expert."""
        kinds = tuple((type(net).__name__, sum(p.numel() for p in net.parameters())) for net in self._experts(route))
        if kinds not in self._needs:
            self._needs[kinds] = bytes_per_pixel(partial(self._run, self._precision(route), route), self.device)
        return self._needs[kinds]

    def _smallest(self, multiple: int) -> int:
        return -(-SMALLEST_TILE // multiple) * multiple

    def _smaller(self, tried: Sequence[int], multiple: int) -> int:
        """Return half of the side that memory did not suffice for.

        Raises:
            UniRestorerError: It would be smaller than the smallest tile.
        """
        side = tried[-1] // 2 // multiple * multiple
        if side < self._smallest(multiple):
            raise UniRestorerError(
                f'{self.device} ran out of memory at tiles of {", ".join(map(str, tried))} pixels and gave up; try '
                f'{"--precision bf16" if self.precision == "fp32" else "--device cpu"}, or end other programs.'
            )
        return side

    def _free(self) -> None:
        gc.collect()
        if torch.device(self.device).type == 'cuda':
            torch.cuda.empty_cache()


def colours_of(image: np.ndarray) -> np.ndarray:
    """Return a picture's grey or RGB channels, shape (h, w, 1) or (h, w, 3), as a view.

    Raises:
        DataError: Another shape or type, NaN, or a range that is not [0, 1].
    """
    if image.dtype not in (np.uint8, np.uint16, np.float32) or image.ndim not in (2, 3) or 0 in image.shape:
        raise DataError(
            'A picture must be uint8, uint16 or float32, shape (h, w) or (h, w, channels); this one is '
            f'{image.dtype} {image.shape}.'
        )
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] > 4:
        raise DataError(
            f'A picture has 1 to 4 channels (grey or RGB, then alpha); this one has {image.shape[2]}: {image.shape}.'
        )
    colours = image[..., : 1 if image.shape[2] < 3 else 3]
    if image.dtype == np.float32:
        low, high = float(colours.min()), float(colours.max())
        if not np.isfinite([low, high]).all():
            raise DataError('The picture holds NaN or infinite values; repair it, e.g. with np.nan_to_num.')
        if high > 16:
            raise DataError(f'A float32 picture is in [0, 1] but this one reaches {high:g}; divide it by its maximum.')
    return colours


def pick_device(name: str) -> str:
    """Turn ``auto`` into cuda, mps or cpu; raises OptionError for a device that is not there."""
    if name == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"The device '{name}' cannot be used here ({str(error).splitlines()[0]}); try --device cpu."
        ) from error
    return name
