"""The table a router learns from: what is measured on whom, what a stop loses, and what makes it another table."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from basicsr_unirestorer.clustering.tree import DegradationTree, Node

# root -> two families: leaves 0, 1 and a single leaf 2
TREE = DegradationTree(
    tuple(
        Node(name, level, parent)
        for name, level, parent in (
            ('l0_00', 0, -1),
            ('l1_00', 1, 0),
            ('l1_01', 1, 0),
            ('l2_00', 2, 1),
            ('l2_01', 2, 1),
            ('l2_02', 2, 2),
        )
    ),
    np.zeros((6, 4), np.float32),
)
ERRORS = [0.30, 0.20, 0.25, 0.40, 0.05, 0.10]  # of each node's expert, on a picture whose truth is its input


class Encoder(torch.nn.Module):
    def embed(self, lq):
        return lq.mean(dim=(2, 3)) @ torch.ones(3, 4)


class Samples:
    """Rows 0, 1 and 2 have a leaf, row 3 has none; then they start again."""

    fingerprint = 'samples'

    def __init__(self, num_rows: int, leaf_ids=None) -> None:
        self.num_rows, self.parts = num_rows, [self]
        self.leaf_ids = np.arange(3) if leaf_ids is None else leaf_ids

    def realise(self, row: int) -> dict:
        picture = torch.full((3, 8, 8), 0.5) + row / 1000
        return {'lq': picture, 'gt': picture, 'leaf': [0, 1, 2, -1][row % 4], 'caption': 'large noise'}


@pytest.fixture
def table_module(registered):
    from basicsr_unirestorer.models import routing_table

    return routing_table


@pytest.fixture
def asked() -> list[tuple[int, tuple]]:
    """The expert calls of a test: node and shape."""
    return []


@pytest.fixture
def measure(table_module, asked):
    def expert(node_id):
        def restore(lq):
            asked.append((node_id, tuple(lq.shape)))
            return lq + ERRORS[node_id]

        return restore

    return table_module.Measurement(Encoder(), expert, TREE, 4, 'cpu')


def test_assigned_samples_try_their_path_and_the_others_every_node(table_module, measure, asked, tmp_path):
    table = table_module.measured_table(tmp_path, Samples(8), measure)
    assert table.leaf.tolist() == [0, 1, 2, -1] * 2
    measured = ~table.psnr.isnan()
    assert [row.nonzero().flatten().tolist() for row in measured[:4]] == [[0, 1, 3], [0, 1, 4], [0, 2, 5], [*range(6)]]
    expected = -20 * np.log10(ERRORS)
    for row in range(8):
        for node_id in measured[row].nonzero().flatten().tolist():
            assert table.psnr[row, node_id].item() == pytest.approx(expected[node_id], abs=1e-3)
    assert torch.allclose(table.embedding[:, 0], 3 * (0.5 + torch.arange(8) / 1000))
    assert all(shape[-2:] == (4, 4) for _, shape in asked)  # experts see the centre alone


def test_every_expert_is_tried_on_every_sample_where_asked_for(table_module, measure, tmp_path):
    measure.try_all = True
    table = table_module.measured_table(tmp_path, Samples(4), measure)
    assert not table.psnr.isnan().any() and table.path_leaf.tolist() == [-1] * 4
    assert table.leaf.tolist() == [0, 1, 2, -1]
    assert table.taught(torch.as_tensor(TREE.paths)).leaf.tolist() == [1, 1, 1, 1]  # its expert is the best by far


def test_leaves_stay_where_their_path_alone_was_tried(table_module, measure, tmp_path):
    table = table_module.measured_table(tmp_path, Samples(4), measure)
    assert table.path_leaf.tolist() == [0, 1, 2, -1]
    assert table.taught(torch.as_tensor(TREE.paths)).leaf.tolist() == [0, 1, 2, 1]


def test_each_expert_is_asked_for_in_one_go(table_module, measure, asked, tmp_path):
    """So that one that does not stay in memory is loaded once a file of the table."""
    table_module.measured_table(tmp_path, Samples(40), measure, batch_size=4)
    order = [node_id for node_id, _ in asked]
    assert order == sorted(order) and max(shape[0] for _, shape in asked) == 4


@pytest.mark.parametrize('damage', ['missing', 'cut', 'not yet renamed'])
def test_a_stopped_measurement_goes_on_where_it_was(table_module, measure, asked, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(table_module, 'CHUNK_ROWS', 4)
    first = table_module.measured_table(tmp_path, Samples(10), measure)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ['00000000.npz', '00000004.npz', '00000008.npz']
    whole = files[1].read_bytes()
    files[1].unlink()
    if damage != 'missing':
        (files[1] if damage == 'cut' else files[1].with_suffix('.part')).write_bytes(whole[: len(whole) // 2])
    asked.clear()
    again = table_module.measured_table(tmp_path, Samples(10), measure)
    assert {shape[0] for _, shape in asked} <= {1, 2, 3, 4} and 0 < len(asked) <= 6  # one file's rows
    for one, other in zip(vars(first).values(), vars(again).values(), strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())
    asked.clear()
    table_module.measured_table(tmp_path, Samples(10), measure)
    assert not asked


def test_processes_share_the_files(table_module, measure, tmp_path, monkeypatch):
    """Each measures its own part; the last one finds all others done."""
    monkeypatch.setattr(table_module, 'CHUNK_ROWS', 2)
    monkeypatch.setattr(table_module, '_await', lambda file: table_module._read(file) or measure([batch]))
    batch = {key: torch.zeros(1, 3, 8, 8) for key in ('lq', 'gt')} | {'leaf': torch.zeros(1, dtype=torch.int64)}
    written = []
    for rank in range(2):
        before = set(tmp_path.iterdir())
        table_module.measured_table(tmp_path, Samples(10), measure, rank=rank, world_size=2)
        written.append({file.stem for file in set(tmp_path.iterdir()) - before})
    assert written == [{'00000000', '00000004', '00000008'}, {'00000002', '00000006'}]


def test_the_fingerprint_tells_tables_apart(table_module):
    def fingerprint(leaf_ids=(0, 1, 2), encoder='e', tree=TREE, experts='w', size=4):
        samples = Samples(4, np.asarray(leaf_ids))
        return table_module.table_fingerprint(samples, encoder, tree, {'l0_00': experts}, size)

    same = fingerprint()
    others = [
        fingerprint(leaf_ids=(0, 1, 1)),
        fingerprint(encoder='f'),
        fingerprint(tree=DegradationTree.star(3)),
        fingerprint(experts='v'),
        fingerprint(size=None),
    ]
    assert fingerprint() == same and len({same, *others}) == 6


def test_centre_crops():
    from basicsr_unirestorer.models.routing_table import centre

    pictures = torch.arange(35.0).reshape(1, 1, 5, 7)
    assert centre(pictures, 3).flatten().tolist() == [9, 10, 11, 16, 17, 18, 23, 24, 25]
    assert torch.equal(centre(pictures, None), pictures) and torch.equal(centre(pictures, 99), pictures)
