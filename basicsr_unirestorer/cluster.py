"""Stage 2, the door of ``unirestorer cluster``: embed the samples and build the tree."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.embed import captions_of, check_stage, embed_stage, frozen_encoder, new_experiment, types_of


def rows_to_cluster(sizes: Sequence[int], most: int | None, seed: int) -> np.ndarray:
    """Choose the samples that shape the tree, so that no huge source dominates it.

    Args:
        sizes: Samples of each source.
        most: Take at most so many of each, at random; all where None.
        seed: Seeds the choice.

    Returns:
        Sample numbers, rising.
    """
    from basicsr_unirestorer.degradations import sample_rng

    rows, first = [], 0
    for place, size in enumerate(sizes):
        chosen = np.arange(size)
        if most is not None and size > most:
            chosen = np.sort(sample_rng(seed, 'cluster', place).permutation(size)[:most])
        rows.append(first + chosen)
        first += size
    return np.concatenate(rows)


def build_settings(settings: Mapping) -> dict:
    """Return the arguments of ``build_tree`` that stand in a ``clustering`` block."""
    given = {key: settings[key] for key in ('level_sizes', 'seed', 'method', 'prepare') if settings.get(key)}
    least = {'min_samples': settings['min_samples']} if settings.get('min_samples') else {}
    return {**given, 'adaptive': {**least, **(settings.get('adaptive') or {})}}


def run(opt: dict, root: Path) -> Path:
    """Run the clustering stage.

    Args:
        opt: The option file's content.
        root: Folder under which ``experiments/<name>`` is written; an earlier one is set aside, as BasicSR does.

    Returns:
        The folder with tree, assignment, meta files, embeddings, quality report and pictures.

    Raises:
        OptionError, DataError: From the options, the data and the tree builder.
    """
    from basicsr_unirestorer import register

    register()
    from basicsr.data import build_dataset

    from basicsr_unirestorer.clustering.build import build_tree, check_clustering
    from basicsr_unirestorer.clustering.levels import check_samples

    check_stage(opt)
    settings = opt['clustering']
    check_clustering(settings)
    dataset = build_dataset({**opt['datasets']['train'], 'phase': 'train'})
    sizes = [len(source) for source in dataset.sources]
    rows = rows_to_cluster(sizes, settings.get('max_samples_per_source'), settings.get('seed', 0))
    check_samples(len(rows), settings['level_sizes'])
    encoder, build = frozen_encoder(opt, dataset)
    with new_experiment(root, opt['name']) as folder:
        embeddings = embed_stage(opt, dataset, encoder, build, folder)
        captions = captions_of(dataset)
        some = embeddings if len(rows) == len(embeddings) else embeddings[rows]
        tree, own_leaves = build_tree(some, [captions[row] for row in rows], build=build, **build_settings(settings))
        leaf_ids = own_leaves
        if len(rows) < len(embeddings):
            leaf_ids = tree.assign(embeddings)  # the samples that did not shape the tree, too
            leaf_ids[rows] = own_leaves
        write_tree(folder, tree, embeddings, leaf_ids, dataset, settings)
    return root / 'experiments' / opt['name']


def write_tree(
    folder: Path,
    tree: DegradationTree,
    embeddings: np.ndarray,
    leaf_ids: np.ndarray,
    dataset,  # noqa: ANN001
    settings: Mapping,
    notes: Sequence[str] = (),
) -> None:
    """Write a tree, the assignment of all samples to its leaves, and what there is to say about its quality.

    Args:
        folder: Where to write.
        tree: The tree.
        embeddings: Of each sample, shape (n, d).
        leaf_ids: Leaf of each sample, shape (n,).
        dataset: The samples.
        settings: The ``clustering`` block.
        notes: Sentences that come first in the quality report.
    """
    from basicsr_unirestorer.clustering.assignments import write_assignments
    from basicsr_unirestorer.clustering.quality import quality_report, report_table
    from basicsr_unirestorer.clustering.quality_pictures import draw_projection, draw_quality

    seed = settings.get('seed', 0)
    captions = captions_of(dataset)
    types = [types_of(caption) for caption in captions]
    report = quality_report(tree, embeddings, leaf_ids, captions, types, seed, settings)
    report['notes'] = [*notes, *report['notes']]
    tree.save(folder / 'degradation_tree.json')
    write_assignments(folder, tree, dataset.sample_ids(), leaf_ids, dataset.shapes())
    (folder / 'quality.json').write_text(json.dumps(report, indent=1) + '\n')
    (folder / 'quality.md').write_text(report_table(report))
    draw_quality(folder / 'quality.png', report, tree.build.get('adaptive_scores'))
    leaves = [tree.nodes[leaf].name for leaf in tree.leaves]
    draw_projection(folder / 'tree.png', embeddings, [leaves[leaf] for leaf in leaf_ids], captions, seed)


def main(argv: list[str]) -> int:
    """Run ``unirestorer cluster``."""
    parser = argparse.ArgumentParser(
        prog='unirestorer cluster',
        description='Embed all samples and build the tree.',
        epilog='example: unirestorer cluster -opt options/tiny/unirestorer_clustering.yml',
    )
    parser.add_argument('-opt', required=True, help='option file')
    args = parser.parse_args(argv)
    from basicsr_unirestorer.preflight import read_options

    opt = read_options(Path(args.opt))
    folder = run(opt, Path.cwd())
    print((folder / 'quality.md').read_text())
    print(f'Tree and assignment written to {folder}')
    return 0
