"""Restorer: numpy in and out, tiles from free memory, running out of it, and the choice of the expert."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from basicsr_unirestorer.archs.expert import Expert, ExpertFacts
from basicsr_unirestorer.errors import DataError, OptionError, UniRestorerError
from basicsr_unirestorer.inference import restorer as module
from basicsr_unirestorer.inference.decision import Tiling
from basicsr_unirestorer.inference.restorer import Restorer, pick_device


class LocalExpert(Expert):
    """Three 3x3 convolutions between a halving and a doubling of the resolution: it sees 8 pixels around."""

    facts = ExpertFacts('none', 'none', multiple=2, tiles='exact')

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 8, 3, padding=1), nn.GELU()]
            layers += [nn.Conv2d(8, 8, 3, padding=1), nn.GELU(), nn.ConvTranspose2d(8, 3, 2, stride=2)]
            self.body = nn.Sequential(*layers).eval().requires_grad_(False)

    def restore(self, padded: torch.Tensor) -> torch.Tensor:
        return padded + self.body(padded)


def picture(*size: int, seed: int = 0, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == np.float32:
        return rng.random((*size, channels), np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, (*size, channels), dtype)


@pytest.fixture(scope='module')
def demo_restorer(smoke_demo) -> Restorer:
    return Restorer.from_bundle(smoke_demo / 'bundle')


@pytest.fixture
def restorer(smoke_demo) -> Restorer:
    return Restorer.from_bundle(smoke_demo / 'bundle')


@pytest.fixture
def local(smoke_demo) -> Restorer:
    """A restorer whose experts all are one small network with a local receptive field."""
    restorer = Restorer.from_bundle(smoke_demo / 'bundle')
    expert = LocalExpert()
    restorer.net.bank.load = lambda name: expert
    return restorer


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (3, 3), (37, 53), (8, 200)])
def test_any_size_comes_back_as_it_went_in(restorer, size):
    restored, decision = restorer.restore(picture(*size))
    assert restored.shape == (*size, 3) and restored.dtype == np.uint8
    assert decision == restorer.route(picture(*size))
    assert np.array_equal(restorer(picture(*size)), restored)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([0, 1, 2, 3, 4]),
    st.sampled_from([np.uint8, np.uint16, np.float32]),
    st.sampled_from([None, 32, 48]),
)
def test_any_picture_keeps_shape_type_and_alpha(demo_restorer, size, channels, dtype, tile):
    image = picture(*size, channels=channels or 1, dtype=dtype)
    image = image if channels else image[..., 0]
    demo_restorer.tile_size = tile
    restored, decision = demo_restorer.restore(image)
    assert restored.shape == image.shape and restored.dtype == image.dtype
    assert bool(decision.tiling.tile_size) == bool(tile and max(size) > tile)
    if channels in (2, 4):
        assert np.array_equal(restored[..., -1], image[..., -1])
    if dtype == np.float32:
        assert 0 <= restored.min() and restored.max() <= 1


def test_depths_agree(demo_restorer):
    """The same picture in 8 bit, 16 bit and float32 is restored to the same, up to rounding."""
    demo_restorer.tile_size = None
    eight = picture(20, 30)
    floats = demo_restorer((eight / np.float32(255)).astype(np.float32))
    assert np.abs(demo_restorer(eight) / 255 - floats).max() <= 0.5 / 255 + 1e-5
    assert np.abs(demo_restorer(eight * np.uint16(257)) / 65535 - floats).max() <= 0.5 / 65535 + 1e-5
    grey = demo_restorer(eight[..., 0])
    assert np.abs(grey.astype(float) - demo_restorer(np.repeat(eight[..., :1], 3, 2)).mean(2)).max() <= 1.01


def test_input_is_left_alone(restorer):
    image = picture(20, 20)
    image.setflags(write=False)
    mirrored = image[:, ::-1]  # a view with a negative stride
    assert np.array_equal(restorer(mirrored), restorer(np.ascontiguousarray(mirrored)))
    assert np.array_equal(image, picture(20, 20))


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (picture(8, 8).astype(np.float64), r'must be uint8, uint16 or float32, .*; this one is float64 \(8, 8, 3\)'),
        (np.zeros((0, 8, 3), np.uint8), r'this one is uint8 \(0, 8, 3\)'),
        (np.zeros((1, 8, 8, 3), np.uint8), r'this one is uint8 \(1, 8, 8, 3\)'),
        (np.zeros((8, 8, 5), np.uint8), r'has 1 to 4 channels .*; this one has 5'),
        (np.full((8, 8, 3), np.nan, np.float32), 'holds NaN or infinite values'),
        (np.full((8, 8, 3), -np.inf, np.float32), 'holds NaN or infinite values'),
        (np.full((8, 8, 3), 255, np.float32), r'is in \[0, 1\] but this one reaches 255'),
    ],
)
def test_other_arrays_are_refused(restorer, image, message):
    for use in (restorer, restorer.route):
        with pytest.raises(DataError, match=message):
            use(image)


def test_decision_describes_the_chosen_expert(restorer):
    decision = restorer.route(picture(40, 40))
    tree = restorer.net.tree
    node = tree.nodes[tree.node_id(decision.expert)]
    assert node.level == decision.level and node.labels == decision.labels
    assert decision.leaf_probs[decision.leaf] == decision.leaf_confidence == max(decision.leaf_probs.values())
    assert sum(decision.leaf_probs.values()) == pytest.approx(1) and len(decision.leaf_probs) == tree.num_leaves
    assert decision.level_probs[decision.level] == decision.level_confidence
    route = restorer.choose(picture(40, 40))
    centre = tree.centres[tree.node_id(decision.expert)]
    assert decision.distance == pytest.approx(np.sqrt(((route.embedding[0].numpy() - centre) ** 2).sum()), rel=1e-5)
    assert decision.radius == node.radius


def test_expert_of_a_node_or_a_level_is_taken(smoke_demo, restorer):
    image = picture(30, 30)
    free = restorer.route(image)
    tree = restorer.net.tree
    for level in range(tree.num_levels):
        decision = Restorer.from_bundle(smoke_demo / 'bundle', level=level).restore(image)[1]
        assert decision.expert == tree.nodes[tree.paths[list(free.leaf_probs).index(free.leaf), level]].name
        assert decision.leaf_probs == free.leaf_probs
    other = next(node.name for node in tree.nodes if node.name not in (free.expert, 'l0_00'))
    steered = Restorer.from_bundle(smoke_demo / 'bundle', node=other)
    assert steered.restore(image)[1].expert == other and list(steered.net.bank.cached) == [other]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'node': 'l1_99'}, "tree has no node 'l1_99'"),
        ({'level': 7}, r'no level 7; the tree has levels 0 \(root\) to 2'),
        ({'level': 0, 'node': 'l0_00'}, 'give one of them'),
        ({'precision': 'fp8'}, "no precision 'fp8'; choose one of fp32, bf16, fp16"),
        ({'tile_size': 0}, 'tile size is 0 but must be at least 1'),
        ({'tile_size': 32, 'tile_overlap': 32}, 'tile overlap is 32 but must be smaller than the tile size 32'),
        ({'tile_size': 32, 'tile_overlap': -1}, 'tile overlap is -1'),
    ],
)
def test_impossible_options_are_refused(smoke_demo, options, message):
    with pytest.raises(OptionError, match=message):
        Restorer.from_bundle(smoke_demo / 'bundle', **options)


def test_overlap_that_leaves_no_step_is_refused(smoke_demo):
    restorer = Restorer.from_bundle(smoke_demo / 'bundle', tile_size=20, tile_overlap=18)
    with pytest.raises(OptionError, match=r'overlap is 18 .* smaller than the tile size 20; give --tile \d+ or more'):
        restorer(picture(40, 40))


def test_picture_is_routed_once_however_many_tiles_it_has(smoke_demo, monkeypatch):
    tiled = Restorer.from_bundle(smoke_demo / 'bundle', tile_size=32, tile_overlap=8)
    asked = []
    route = tiled.net.route
    monkeypatch.setattr(tiled.net, 'route', lambda *args, **kwargs: asked.append(1) or route(*args, **kwargs))
    restored, decision = tiled.restore(picture(70, 50))
    assert restored.shape == (70, 50, 3) and len(asked) == 1
    assert list(tiled.net.bank.cached) == [decision.expert]
    assert decision.tiling == Tiling(32, 8, exact=False)  # NAFNet averages over the whole picture


@pytest.mark.parametrize('size', [(100, 130), (65, 64), (7, 150), (129, 1)])
def test_local_networks_give_in_tiles_what_they_give_whole(local, size):
    image = picture(*size)
    whole, decision = local.restore(image)
    assert decision.tiling == Tiling()
    local.tile_size, local.tile_overlap = 64, 36
    tiles, decision = local.restore(image)
    assert decision.tiling == Tiling(64, 36, exact=True)
    assert np.abs(whole.astype(int) - tiles).max() <= 1


def test_local_routing_routes_each_tile(smoke_demo):
    restorer = Restorer.from_bundle(smoke_demo / 'bundle', tile_size=48, tile_overlap=16, local_routing=True)
    image = picture(60, 100)
    rows: list[int] = []
    route, tree = restorer.net.route, restorer.net.tree

    def left_or_right(lq: torch.Tensor) -> object:
        """Tell tiles apart by their first pixel."""
        rows.append(lq.shape[-1])
        found = route(lq)
        return module.replace(found, node_id=torch.full_like(found.node_id, len(rows) % 2))

    restorer.net.route = left_or_right
    restored, decision = restorer.restore(image)
    places = [(region.top, region.left) for region in decision.regions]
    assert len(places) == len(set(places)) == len(rows) - 1 >= 4  # one more for the picture as a whole
    assert [region.expert for region in decision.regions[:2]] == [tree.nodes[0].name, tree.nodes[1].name]
    assert restored.shape == image.shape
    assert max(region.top + region.height for region in decision.regions) == 60


@contextmanager
def memory_of(restorer: Restorer, pixels: int, error: Exception):
    """Let the network fail at every picture of more pixels."""
    forward, tried = restorer.net.forward, []

    def limited(lq: torch.Tensor, route: object) -> torch.Tensor:
        tried.append(lq.shape[-1] * lq.shape[-2])
        if tried[-1] > pixels:
            raise error
        return forward(lq, route)

    restorer.net.forward = limited
    try:
        yield tried
    finally:
        del restorer.net.forward


@pytest.mark.parametrize(
    'error',
    [
        torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=['cuda', 'cpu', 'python'],
)
def test_tiles_are_halved_until_they_fit(local, error):
    image = picture(300, 200)
    whole = local(image)
    with memory_of(local, 100 * 100, error) as tried:
        restored, decision = local.restore(image)
    assert decision.tiling.tile_size == 74 and max(tried[2:]) <= 74 * 74  # 300, 150, 74
    assert np.abs(whole.astype(int) - restored).max() <= 1


def test_memory_that_is_never_enough_is_told(local):
    with (
        memory_of(local, 0, MemoryError()),
        pytest.raises(UniRestorerError, match=r'cpu ran out of memory at tiles of 300, 150, 74 pixels and gave up'),
    ):
        local(picture(300, 200))


def test_other_errors_are_not_taken_for_missing_memory(local):
    with memory_of(local, 0, RuntimeError('shape mismatch')), pytest.raises(RuntimeError, match='shape mismatch'):
        local(picture(30, 20))


def test_tile_follows_free_memory(local, monkeypatch):
    image = picture(400, 300)
    monkeypatch.setattr(module, 'free_memory', lambda device: 2**34)
    assert local.restore(image)[1].tiling == Tiling()
    monkeypatch.setattr(module, 'WORST_NEED', 2**40)  # measure first, whatever the size
    assert local.restore(image)[1].tiling == Tiling()
    (need,) = local._needs.values()
    monkeypatch.setattr(module, 'free_memory', lambda device: int(2 * need * 128 * 128) + 2)
    assert local.restore(image)[1].tiling == Tiling(128, 32, exact=True)
    monkeypatch.setattr(module, 'free_memory', lambda device: 0)
    assert local.restore(image)[1].tiling.tile_size == module.SMALLEST_TILE


def test_answer_that_is_not_finite_is_told(local):
    local.net.forward = lambda lq, route: lq / 0 - lq / 0
    with pytest.raises(DataError, match='answered the picture with NaN or infinite values in fp32'):
        local(picture(8, 8))


def test_precision_is_used_where_it_is_safe(local):
    image = picture(24, 24, dtype=np.float32)
    full = local(image)
    local.precision = 'bf16'
    half, decision = local.restore(image)
    assert decision.precision == 'bf16' and 0 < np.abs(full - half).max() < 0.05
    expert = local.net.expert(0)
    expert.facts = ExpertFacts('none', 'none', multiple=2, tiles='exact', precisions=('fp32',))
    safe, decision = local.restore(image)
    assert decision.precision == 'fp32' and np.array_equal(full, safe)


def test_device_that_is_not_there_is_refused():
    with pytest.raises(OptionError, match="device 'cuda:99' cannot be used here .*try --device cpu"):
        pick_device('cuda:99')
