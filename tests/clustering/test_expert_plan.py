"""ExpertPlan: order, reach, independence of the experts."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr_unirestorer.clustering.assignments import read_assignments, write_assignments
from basicsr_unirestorer.clustering.expert_plan import ExpertPlan
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import DataError, OptionError, TreeMismatchError

TREE = DegradationTree.star(num_leaves=2)
LEAVES = np.array([0, 1, 0, 1, 1])


def plan(**changes) -> ExpertPlan:
    return ExpertPlan(TREE, **{'leaf_ids': LEAVES, 'steps_per_level': [4, 3], 'batch_size': 2, **changes})


def test_experts_follow_each_other_coarse_to_fine():
    located = [plan().locate(step) for step in range(plan().total)]
    assert located == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]


def test_an_expert_sees_its_group_evenly_and_nothing_else():
    seen = [sample for step in range(7, 10) for sample in plan().batch(step)]  # six places over the three of leaf 1
    assert sorted(sample for sample, _ in seen) == [1, 1, 3, 3, 4, 4]
    assert [lap for _, lap in seen] == [0, 0, 0, 1, 1, 1]


def test_an_expert_alone_gets_the_batches_it_gets_among_others():
    alone = plan(experts=['l1_01'])
    assert [alone.batch(step) for step in range(3)] == [plan().batch(step) for step in range(7, 10)]


def test_batches_do_not_depend_on_the_order_of_asking():
    forwards, backwards = plan(), plan()
    assert [forwards.batch(s) for s in range(10)] == [backwards.batch(s) for s in reversed(range(10))][::-1]


def test_equal_rates_are_no_rates():
    assert [plan(rates=np.full(5, 0.3)).batch(s) for s in range(10)] == [plan().batch(s) for s in range(10)]


def test_a_group_takes_its_samples_at_their_rates():
    """Leaf 1 holds 1, 3 and 4: sample 1 three times a pass, the others every other pass."""
    rated = plan(rates=np.array([1, 3, 1, 0.5, 0.5]), steps_per_level=[1, 8], experts=['l1_01'])
    seen = [sample for step in range(8) for sample in rated.batch(step)]
    assert len(set(seen)) == len(seen)  # a sample that comes again is realised anew
    counts = [[sample for sample, _ in seen].count(number) for number in (1, 3, 4)]
    assert counts == [12, 2, 2]  # four passes of 3 + 1


def test_bad_plans_are_refused():
    with pytest.raises(OptionError, match='steps_per_level has 3 numbers'):
        plan(steps_per_level=[1, 2, 3])
    with pytest.raises(DataError, match='No samples for node l1_01'):
        plan(leaf_ids=np.zeros(5, np.int64))


def test_assignment_survives_its_file(tmp_path):
    samples = [f'a#{i}' for i in range(5)]
    write_assignments(tmp_path, TREE, samples, LEAVES, [(4, 6, 3)] * 5)
    assert read_assignments(tmp_path / 'assignments.csv', TREE, samples).tolist() == LEAVES.tolist()
    assert (tmp_path / 'meta_info_l0_00.txt').read_text().count('\n') == 5
    assert (tmp_path / 'meta_info_l1_01.txt').read_text().splitlines()[0] == 'a#1.png (4,6,3) 1'


def test_assignments_of_others_are_refused(tmp_path):
    write_assignments(tmp_path, TREE, ['a#0'], LEAVES[:1], [(4, 6, 3)])
    with pytest.raises(TreeMismatchError, match=r"1 of 2 samples \(first: 'b#0'\)"):
        read_assignments(tmp_path / 'assignments.csv', TREE, ['a#0', 'b#0'])
    (tmp_path / 'assignments.csv').write_text('sample_id,leaf\na#0,l7_00\n')
    with pytest.raises(TreeMismatchError, match="'l7_00', which is no leaf"):
        read_assignments(tmp_path / 'assignments.csv', TREE, ['a#0'])
    with pytest.raises(DataError, match='No assignment at'):
        read_assignments(tmp_path / 'none.csv', TREE, ['a#0'])
