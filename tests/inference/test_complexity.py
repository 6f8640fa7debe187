"""Counting parameters and multiply-accumulates: exact where a hand can count."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.cli import main
from basicsr_unirestorer.inference.complexity import bundle_complexity, complexity_table, count_macs


class Attention(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize(
    ('net', 'shape', 'macs'),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 12), 10 * 12 * 8 * 3 * 9),
        (nn.Linear(5, 7, bias=False), (2, 5), 2 * 5 * 7),
        (Attention(), (2, 3, 11, 4), 2 * 3 * 11 * 11 * 4 * 2),  # (batch, heads, tokens, width)
    ],
)
def test_counts_equal_those_by_hand(net, shape, macs):
    assert count_macs(net, torch.zeros(shape)) == macs


def test_rows_cover_the_bundle_and_sums_add_up(smoke_demo):
    rows = bundle_complexity(smoke_demo / 'bundle', 32)
    experts = [row for row in rows if row.part not in ('encoder', 'router')]
    assert [row.part for row in rows[:3]] == ['encoder', 'router', 'l0_00']
    assert all(row.parameters > 0 and row.macs > 0 for row in rows)
    active = rows[0].parameters + rows[1].parameters + max(row.parameters for row in experts)
    total, used = complexity_table(rows, 32).splitlines()[-2:]
    assert f'| {sum(row.parameters for row in rows) / 1e6:.2f} |' in total
    assert f'| {active / 1e6:.2f} |' in used


def test_four_times_the_pixels_take_four_times_the_work_of_an_expert(smoke_demo):
    small, large = (bundle_complexity(smoke_demo / 'bundle', size)[2].macs for size in (32, 64))
    assert large == pytest.approx(4 * small, rel=0.01)


def test_the_command_prints_a_table_or_json(smoke_demo, capsys):
    command = ['tree', str(smoke_demo / 'bundle'), '--complexity', '--size', '32']
    assert main(command) == 0
    assert '| l0_00 | NAFNetExpert |' in capsys.readouterr().out
    assert main([*command, '--json']) == 0
    assert json.loads(capsys.readouterr().out)[2]['part'] == 'l0_00'


def test_a_tree_without_networks_is_refused(smoke_demo, capsys):
    assert main(['tree', str(smoke_demo / 'experiments' / 'demo_clustering'), '--complexity']) == 1
    assert 'is no bundle' in capsys.readouterr().err
