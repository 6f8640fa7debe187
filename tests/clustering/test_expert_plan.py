"""ExpertPlan: order, reach, independence of the experts; steps that follow the groups; starved groups enriched."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr_unirestorer.clustering.assignments import read_assignments, write_assignments
from basicsr_unirestorer.clustering.expert_plan import (
    EnrichedFeed,
    ExpertPlan,
    check_expert_batch,
    share_out,
    steps_of_experts,
)
from basicsr_unirestorer.clustering.tree import DegradationTree, Node
from basicsr_unirestorer.errors import DataError, OptionError, TreeMismatchError

TREE = DegradationTree.star(num_leaves=2)
LEAVES = np.array([0, 1, 0, 1, 1])


BATCH = {'batch_size': 2, 'steps_per_level': [4, 3]}


def plan(leaf_ids: np.ndarray = LEAVES, rates: np.ndarray | None = None, **changes) -> ExpertPlan:
    return ExpertPlan(TREE, leaf_ids, {**BATCH, **changes}, rates=rates)


def tree_of_groups(*counts: int) -> DegradationTree:
    """A root with a leaf for each count."""
    leaves = [Node(f'l1_{i:02d}', 1, 0, count) for i, count in enumerate(counts)]
    return DegradationTree((Node('l0_00', 0, -1, sum(counts)), *leaves), np.zeros((len(counts) + 1, 1), np.float32))


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


def test_samples_stay_what_earlier_versions_drew():
    """A resumed training goes on with the samples it was planned with."""
    root = [sample for step in range(4) for sample in plan().batch(step)]
    assert root == [(0, 0), (2, 0), (3, 0), (4, 0), (1, 0), (1, 1), (2, 1), (4, 1)]
    leaf = [sample for step in range(7, 10) for sample in plan().batch(step)]
    assert leaf == [(1, 0), (3, 0), (4, 0), (1, 1), (4, 1), (3, 1)]


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


# ------------------------------------------------------------------------------------------------- steps


def steps(*counts: int, **options) -> list[int]:
    options = {'batch_size': 1, 'steps_per_level': [50, 100], **options}
    return list(steps_of_experts(tree_of_groups(*counts), options).values())


def test_steps_follow_the_groups():
    groups = (100, 400, 1600)
    assert steps(*groups) == steps(*groups, steps_follow='equal') == [50, 100, 100, 100]
    assert steps(*groups, steps_follow='sqrt', min_steps_share=0) == [50, 43, 86, 171]  # as 1 to 2 to 4
    assert steps(*groups, steps_follow='proportional', min_steps_share=0) == [50, 14, 57, 229]  # as 1 to 4 to 16
    assert steps(*groups, steps_follow='proportional') == [50, 25, 55, 220]  # the first at the floor


def test_an_expert_alone_gets_the_steps_it_gets_among_others():
    follow = {'steps_follow': 'proportional', 'steps_per_level': [1, 33], 'batch_size': 1}
    tree = tree_of_groups(3, 5, 11)
    among = steps_of_experts(tree, follow)
    assert among != steps_of_experts(tree, {**follow, 'steps_follow': 'equal'})
    for name, count in among.items():
        assert steps_of_experts(tree, {**follow, 'experts': [name]}) == {name: count}


def test_the_sum_of_a_level_stays_and_nobody_falls_below_the_floor():
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = rng.integers(0, rng.choice([3, 50, 10**6]), rng.integers(1, 30)).tolist()
        mean, share = int(rng.integers(0, 1000)), float(rng.choice([0, 0.1, 0.25, 0.7, 1]))
        for follow in ('equal', 'proportional', 'sqrt'):
            got = steps(*counts, steps_follow=follow, min_steps_share=share, steps_per_level=[1, mean])[1:]
            assert sum(got) == mean * len(counts)
            assert min(got) >= share * mean
            by_count = [step for _, step in sorted(zip(counts, got, strict=True))]
            assert all(a <= b + 1 for a, b in zip(by_count, by_count[1:], strict=False))  # larger groups get more


def test_sharing_out_by_largest_remainders():
    assert share_out(10, [1, 1, 1], 0) == [4, 3, 3]
    assert share_out(10, [0, 0], 3) == [5, 5]
    assert share_out(0, [2, 1], 0) == [0, 0]
    assert share_out(12, [1, 9, 90], 2) == [2, 2, 8]  # the second falls below the floor once the first is given it


# ------------------------------------------------------------------------------------------------- starved groups

SHARE = 0.3


def starved(below: int = 4, **changes) -> ExpertPlan:
    """Leaf 0 has three samples, leaf 1 has nine; both train for 20 steps of 8."""
    options = {'batch_size': 8, 'steps_per_level': [20, 20], 'enrich': {'below': below, 'share': SHARE}, **changes}
    return ExpertPlan(TREE, np.array([0, 0, 0, *[1] * 9]), options)


def test_a_starved_group_takes_its_share_from_its_parents_other_samples():
    batches = [starved().expert_batch(1, step) for step in range(20)]
    foreign = [sum(sample >= 3 for sample, _ in batch) for batch in batches]
    assert set(foreign) == {2, 3}  # 2.4 of 8
    assert sum(foreign) == 20 * 8 * SHARE
    drawn = [sample for batch in batches for sample in batch]
    assert len(set(drawn)) == len(drawn)  # a sample that comes again is realised anew
    counts = np.bincount([sample for sample, _ in drawn], minlength=12)
    assert np.ptp(counts[:3]) <= 1 and np.ptp(counts[3:]) <= 1  # all of a kind equally often


def test_a_group_that_is_large_enough_and_the_root_stay_as_they_are():
    plain = starved(enrich=None)
    assert [starved().expert_batch(2, s) for s in range(20)] == [plain.expert_batch(2, s) for s in range(20)]
    assert [starved(below=100).expert_batch(0, s) for s in range(20)] == [plain.expert_batch(0, s) for s in range(20)]
    assert [starved(below=3).expert_batch(1, s) for s in range(20)] == [plain.expert_batch(1, s) for s in range(20)]
    assert [isinstance(feed, EnrichedFeed) for feed in starved(below=100).feeds] == [False, True, True]


def test_enriched_batches_depend_on_name_and_step_alone():
    among, alone = starved(), starved(experts=['l1_00'])
    backwards = [alone.batch(step) for step in reversed(range(20))][::-1]
    assert backwards == [among.expert_batch(1, step) for step in range(20)]


def test_an_only_child_has_no_others_to_learn_from():
    tree = DegradationTree.star(num_leaves=1)
    options = {'batch_size': 2, 'steps_per_level': [1, 4], 'enrich': {'below': 10, 'share': 0.5}}
    only = ExpertPlan(tree, np.zeros(3, np.int64), options)
    assert {sample for step in range(4) for sample, _ in only.expert_batch(1, step)} == {0, 1, 2}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'step_follow': 'sqrt'}, "batch.step_follow'. Did you mean 'steps_follow'"),
        ({'batch_size': 0}, 'batch_size is 0; give a whole number from 1'),
        ({'batch_size': None}, 'batch_size is None'),
        ({'steps_per_level': 5}, 'steps_per_level is 5; give a whole number'),
        ({'steps_per_level': [5, -1]}, r'steps_per_level is \[5, -1\]'),
        ({'steps_per_level': [5, float('inf')]}, r'steps_per_level is \[5, inf\]'),
        ({'steps_follow': 'proportionl'}, r"'proportionl'; write one of equal, .* Did you mean 'proportional'"),
        ({'min_steps_share': 1.5}, 'min_steps_share is 1.5; give a number from 0 to 1'),
        ({'enrich': {'bellow': 3}}, "Unknown option 'datasets.train.expert_batch.enrich.bellow'. Did you mean 'below'"),
        ({'enrich': {'share': 0.3}}, 'enrich.below is None; give the size'),
        ({'enrich': {'below': 200}}, 'enrich.share is None; give a number from 0 to 0.9'),
        ({'enrich': {'below': 200, 'share': 1}}, 'enrich.share is 1;'),
    ],
)
def test_bad_options_are_refused(changes, message):
    check_expert_batch(BATCH)
    with pytest.raises(OptionError, match=message):
        check_expert_batch({**BATCH, **changes}, 'datasets.train.expert_batch')


# ------------------------------------------------------------------------------------------------- the file


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
