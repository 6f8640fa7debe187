"""Instruction mode: labels with strengths prune the tree; several at once; unknown ones get the nearest."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr_unirestorer.clustering.tree import DegradationTree, Node
from basicsr_unirestorer.errors import OptionError

LEAVES = (
    {'small noise': 90, 'large noise': 5},
    {'large noise': 80, 'small noise': 20},
    {'small rain': 50, 'large rain, small noise': 40},
    {'very dark': 60, 'slightly dark': 40},
    {'small rain': 50, 'thick haze': 50},
    {'small rain, thick haze': 30, 'small rain': 70, 'medium snow': 2},
)


def tree() -> DegradationTree:
    everything: dict[str, int] = {}
    for captions in LEAVES:
        for caption, count in captions.items():
            everything[caption] = everything.get(caption, 0) + count
    nodes = [Node('l0_00', 0, -1, sum(everything.values()), everything)]
    nodes += [Node(f'l1_{i:02d}', 1, 0, sum(captions.values()), captions) for i, captions in enumerate(LEAVES)]
    return DegradationTree(tuple(nodes), np.zeros((len(nodes), 2), np.float32))


@pytest.mark.parametrize(
    ('labels', 'leaves'),
    [
        (['noise'], [0, 1, 2]),
        (['small noise'], [0, 1, 2]),
        (['large noise'], [1]),
        (['rain'], [2, 4, 5]),
        (['large rain'], [2]),
        (['low_light'], [3]),
        (['Low light'], [3]),
        (['very dark'], [3]),
        (['rain', 'noise'], [2]),  # together in one picture
        (['large rain, small noise'], [2]),  # one entry may hold several
        (['small rain', 'haze'], [5]),  # leaf 4 has both, but never in one picture
        (['haze', 'noise'], [0, 1, 2, 4, 5]),  # no leaf has both: any of them
        (['snow'], [5]),  # rare everywhere: the leaf with most of it
    ],
)
def test_a_wish_chooses_leaves(labels, leaves):
    assert np.flatnonzero(tree().leaf_mask(labels)).tolist() == leaves


@pytest.mark.parametrize(
    ('label', 'message'),
    [
        ('rian', r"no degradation 'rian'. Did you mean 'rain'\? It knows haze, low_light, noise, rain, snow"),
        ('large haze', r"no degradation 'large haze'.* Of that it knows thick haze\."),
        ('medium noise', r"'medium noise'.* Of that it knows large noise, small noise\."),
        ('large nois', r"Did you mean 'large noise'\?"),
    ],
)
def test_an_unknown_wish_gets_the_nearest_known_one(label, message):
    with pytest.raises(OptionError, match=message):
        tree().leaf_mask(['rain', label])


def test_trees_and_wishes_without_words_are_refused():
    with pytest.raises(OptionError, match='carries no degradation labels; use auto mode'):
        DegradationTree.star(2).leaf_mask(['rain'])
    with pytest.raises(OptionError, match='No degradation is named; write for example'):
        tree().leaf_mask([' , '])


def test_a_leaf_without_captions_is_never_chosen():
    bare = tree()
    nodes = (*bare.nodes[:1], Node('l1_00', 1, 0), *bare.nodes[2:])
    assert not DegradationTree(nodes, bare.centres).leaf_mask(['noise'])[0]
