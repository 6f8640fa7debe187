"""Restorer: numpy in and out, what it refuses, and files that are whole or not there."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from basicsr_unirestorer.errors import DataError, OptionError
from basicsr_unirestorer.inference import restorer as module
from basicsr_unirestorer.inference.restorer import Restorer, pick_device, plan_files, write_picture


def picture(*size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture
def restorer(smoke_demo) -> Restorer:
    return Restorer.from_bundle(smoke_demo / 'bundle')


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (3, 3), (37, 53), (8, 200)])
def test_any_size_comes_back_as_it_went_in(restorer, size):
    restored, decision = restorer.restore(picture(*size))
    assert restored.shape == (*size, 3) and restored.dtype == np.uint8
    assert decision == restorer.route(picture(*size))
    assert np.array_equal(restorer(picture(*size)), restored)


def test_input_is_left_alone(restorer):
    image = picture(20, 20)
    image.setflags(write=False)
    mirrored = image[:, ::-1]  # a view with a negative stride
    assert np.array_equal(restorer(mirrored), restorer(np.ascontiguousarray(mirrored)))
    assert np.array_equal(image, picture(20, 20))


@pytest.mark.parametrize(
    'image',
    [
        picture(8, 8).astype(np.float32) / 255,
        picture(8, 8)[..., 0],
        picture(8, 8)[..., :1],
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=lambda image: f'{image.dtype}-{image.shape}',
)
def test_other_arrays_are_refused(restorer, image):
    with pytest.raises(DataError, match=r'must be RGB, uint8, shape \(h, w, 3\); this one is'):
        restorer.restore(image)


def test_decision_describes_the_chosen_expert(restorer):
    decision = restorer.route(picture(40, 40))
    node = restorer.net.tree.nodes[restorer.net.tree.node_id(decision.expert)]
    assert node.level == decision.level and node.labels == decision.labels
    assert decision.leaf in [restorer.net.tree.nodes[leaf].name for leaf in restorer.net.tree.leaves]
    assert 0 < decision.leaf_confidence <= 1 and 0 < decision.level_confidence <= 1


def test_picture_is_routed_once_however_many_tiles_it_has(smoke_demo, monkeypatch):
    tiled = Restorer.from_bundle(smoke_demo / 'bundle', tile_size=32, tile_overlap=8)
    asked = []
    route = tiled.net.route
    monkeypatch.setattr(tiled.net, 'route', lambda *args, **kwargs: asked.append(1) or route(*args, **kwargs))
    restored, decision = tiled.restore(picture(70, 50))
    assert restored.shape == (70, 50, 3) and len(asked) == 1
    assert list(tiled.net.bank.cached) == [decision.expert]


@pytest.mark.parametrize(('tile', 'overlap'), [(0, 0), (32, 32), (32, -1)])
def test_impossible_tiles_are_refused(smoke_demo, tile, overlap):
    with pytest.raises(OptionError, match='tile overlap is'):
        Restorer.from_bundle(smoke_demo / 'bundle', tile_size=tile, tile_overlap=overlap)


def test_device_that_is_not_there_is_refused():
    with pytest.raises(OptionError, match="device 'cuda:99' cannot be used here .*try --device cpu"):
        pick_device('cuda:99')


@pytest.mark.parametrize('name', ['a.png', 'deeper/a.jpg', 'a.webp', 'a.tif'])
def test_written_picture_can_be_read_again(tmp_path, name):
    write_picture(tmp_path / name, picture(9, 11))
    with Image.open(tmp_path / name) as again:
        assert again.size == (11, 9) and again.mode == 'RGB'
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == [(tmp_path / name).name]


def test_failed_write_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch):
    write_picture(tmp_path / 'a.png', picture(4, 4))
    before = (tmp_path / 'a.png').read_bytes()

    def save(self, path, **kwargs):
        path.write_bytes(b'half a pict')
        raise OSError('No space left on device')

    monkeypatch.setattr(module.Image.Image, 'save', save)
    with pytest.raises(OSError, match='No space left'):
        write_picture(tmp_path / 'a.png', picture(8, 8))
    assert [path.name for path in tmp_path.iterdir()] == ['a.png']
    assert (tmp_path / 'a.png').read_bytes() == before


def test_files_are_paired_with_their_outputs(tmp_path):
    source = tmp_path / 'in'
    for name in ('a.png', 'deep/er/b.jpg', 'notes.txt'):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b'')
    out = tmp_path / 'out'
    assert plan_files(source, out) == [
        (source / 'a.png', out / 'a.png'),
        (source / 'deep/er/b.jpg', out / 'deep/er/b.jpg'),
    ]
    assert plan_files(source / 'a.png', out) == [(source / 'a.png', out / 'a.png')]
    assert plan_files(source / 'a.png', tmp_path / 'b.jpg') == [(source / 'a.png', tmp_path / 'b.jpg')]
    with pytest.raises(DataError, match='lies inside the input'):
        plan_files(source, source / 'deep' / 'out')
    with pytest.raises(DataError, match='does not exist'):
        plan_files(tmp_path / 'nowhere.png', out)
