"""The quality report: closed forms, bounds, what it says of bad trees, table and pictures."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from basicsr_unirestorer.clustering.build import build_tree
from basicsr_unirestorer.clustering.quality import purity, quality_report, report_table
from basicsr_unirestorer.clustering.quality_pictures import draw_projection, draw_quality, draw_tree
from tests.clustering.samples import mixture


def report(captions: list[str] | None = None, sizes: tuple = (1, 3, 6), settings: dict | None = None, **data) -> tuple:
    embeddings, own, cells = mixture(**data)
    captions = captions or own
    types = [caption.split()[-1] for caption in captions]
    tree, leaf_ids = build_tree(embeddings, captions, list(sizes))
    return (
        quality_report(tree, embeddings, leaf_ids, captions, types, 0, settings),
        tree,
        embeddings,
        leaf_ids,
        captions,
    )


def test_purity_counts_the_commonest_label_of_each_group():
    assert purity(np.array([0, 0, 0, 7, 7]), ['a', 'a', 'b', 'b', 'c']) == pytest.approx(3 / 5)
    assert purity(np.array([1, 2, 3]), ['a', 'a', 'a']) == 1


def test_a_perfect_tree_measures_one():
    levels = report()[0]['levels']
    for level, kind in ((levels[0], 'type'), (levels[1], 'caption')):
        for measure in ('purity', 'nmi', 'ari'):
            assert level[f'{measure}_by_{kind}'] == pytest.approx(1)
    for level in levels:
        assert level['stability'] == pytest.approx(1) and level['nearest'] == 1
        assert level['silhouette'] > 0.6 and not level['starved'] and sum(level['counts']) == 240
    assert levels[1]['purity_by_type'] == pytest.approx(1)
    assert levels[0]['purity_by_caption'] == pytest.approx(0.5)


def test_labels_without_relation_to_the_tree_measure_chance():
    rng = np.random.default_rng(0)
    shuffled = [str(word) for word in rng.permutation(mixture()[1])]
    for level in report(shuffled)[0]['levels']:
        assert abs(level['ari_by_type']) < 0.03 and level['nmi_by_type'] < 0.05


def test_clusters_where_there_are_none_are_unstable():
    rng = np.random.default_rng(0)
    cloud = rng.standard_normal((300, 16)).astype(np.float32)
    tree, leaf_ids = build_tree(cloud, ['small rain'] * 300, [1, 6])
    level = quality_report(tree, cloud, leaf_ids, ['small rain'] * 300, ['rain'] * 300)['levels'][0]
    assert level['stability'] < 0.6 and level['silhouette'] < 0.2


def test_starved_nodes_are_named_and_settings_are_heard():
    result = report(per_cell=8, settings={'min_samples': 10, 'stability_seeds': 0, 'method': 'bisecting'})[0]
    assert result['levels'][1]['starved'] == [f'l2_{i:02d}' for i in range(6)] and not result['levels'][0]['starved']
    assert 'Level 2 has nodes with fewer than 10 samples (l2_00' in result['notes'][0]
    assert result['levels'][0]['stability'] is None and result['method'] == 'bisecting'


@pytest.mark.parametrize(
    ('captions', 'note'),
    [
        (['large noise'] * 240, "All samples are called 'large noise'"),
        (['small rain', 'large rain'] * 120, "of type 'rain'"),
    ],
)
def test_one_label_only_is_said_and_not_measured(captions, note):
    result = report(captions)[0]
    assert note in result['notes'][0] and 'say nothing' in result['notes'][0]
    assert result['levels'][0]['nmi_by_type'] is None and result['levels'][0]['ari_by_type'] is None
    assert '| - |' in report_table(result)


def test_table_json_and_pictures_can_be_written(tmp_path):
    result, tree, embeddings, leaf_ids, captions = report(per_cell=10)
    assert json.loads(json.dumps(result)) == result
    table = report_table(result).splitlines()
    assert table[0].count('|') == table[2].count('|') and len([line for line in table if line.startswith('| l')]) == 11
    draw_quality(tmp_path / 'quality.png', result)
    draw_quality(tmp_path / 'adaptive.png', result, {'1': {'2': 0.1, '3': 0.7}, '2': {'6': 0.5}})
    draw_tree(tmp_path / 'tree.png', tree)
    draw_projection(tmp_path / 'map.png', embeddings, [str(leaf) for leaf in leaf_ids], captions)
    root = report(per_cell=10, sizes=(1,))  # a tree of one node, the baseline without routing
    assert root[0]['levels'] == [] and report_table(root[0]).splitlines()[-1].startswith('| l0_00 |  | 60 |')
    draw_quality(tmp_path / 'root.png', root[0])
    draw_tree(tmp_path / 'root_tree.png', root[1])
    for name in ('root.png', 'root_tree.png'):
        (tmp_path / name).unlink()
    assert {path.name for path in tmp_path.iterdir()} == {'quality.png', 'adaptive.png', 'tree.png', 'map.png'}
    for path in tmp_path.iterdir():
        picture = cv2.imread(str(path))
        assert min(picture.shape[:2]) > 200 and picture.std() > 10, path
