"""``unirestorer tree grow``: new leaves for a new degradation; centres, names and experts that are there stay."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from basicsr_unirestorer.cluster import build_settings, write_tree
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.embed import captions_of, check_stage, embed_stage, frozen_encoder, new_experiment
from basicsr_unirestorer.errors import OptionError, TreeMismatchError, check_keys, did_you_mean, need_keys

GROW_KEYS = ('tree', 'under', 'new')


def new_rows(names: Sequence[str], sizes: Sequence[int], new: Sequence[str] | None) -> np.ndarray:
    """Tell which samples are new.

    Args:
        names: Names of the sources.
        sizes: Samples of each.
        new: Names of the new sources; may be left out where there is one source.

    Returns:
        Shape (samples,), bool.

    Raises:
        OptionError: An unknown source, or none is named among several.
    """
    if not new and len(names) > 1:
        raise OptionError(f'grow.new is missing; name the sources of the new degradation, of {", ".join(names)}.')
    for name in new or ():
        if name not in names:
            raise OptionError(
                f"grow.new names the source '{name}'.{did_you_mean(name, names)} There are {', '.join(names)}."
            )
    return np.concatenate([np.full(size, not new or name in new) for name, size in zip(names, sizes, strict=True)])


def run(opt: dict, root: Path) -> tuple[Path, list[str]]:
    """Grow a tree by an option file.

    Args:
        opt: As of the clustering stage, and ``grow``: ``tree`` (folder of the tree), ``under`` (default the root), and
            ``new`` (sources of the new samples; the others are the old ones, on which the router is taught again).
            ``clustering.level_sizes`` describes the branch, 1 standing for the node ``under``.
        root: Folder under which ``experiments/<name>`` is written.

    Returns:
        The folder, and the names of the new nodes.

    Raises:
        OptionError, DataError: From the options, the data and the tree builder.
        TreeMismatchError: The tree was built with another encoder.
    """
    from basicsr_unirestorer import register

    register()
    from basicsr.data import build_dataset

    from basicsr_unirestorer.clustering.build import build_tree, check_clustering
    from basicsr_unirestorer.clustering.grow import check_branch, grow_tree, separation
    from basicsr_unirestorer.clustering.levels import check_samples

    check_stage(opt, ('grow',))
    check_keys(opt['grow'], GROW_KEYS, 'grow')
    need_keys(opt['grow'], ('tree',), 'grow')
    settings, under = opt['clustering'], opt['grow'].get('under') or 'l0_00'
    check_clustering(settings)
    old = DegradationTree.load(Path(opt['grow']['tree']).expanduser())
    check_branch(old, under, settings['level_sizes'])
    dataset = build_dataset({**opt['datasets']['train'], 'phase': 'train'})
    names = [source.prefix.rstrip('/') for source in dataset.sources]
    is_new = new_rows(names, [len(source) for source in dataset.sources], opt['grow'].get('new'))
    rows = np.flatnonzero(is_new)
    check_samples(len(rows), settings['level_sizes'])
    encoder, build = frozen_encoder(opt, dataset)
    _check_encoder(old, build, opt['grow']['tree'])
    with new_experiment(root, opt['name']) as folder:
        embeddings = embed_stage(opt, dataset, encoder, build, folder)
        captions = captions_of(dataset)
        branch, branch_ids = build_tree(embeddings[rows], [captions[i] for i in rows], **build_settings(settings))
        grown, new = grow_tree(old, branch, under)
        step = {'tree': old.fingerprint, 'under': under, 'nodes': new, 'data': old.build.get('data_fingerprint')}
        grown.build.update({**old.build, **build, 'grown': [*old.build.get('grown', []), step]})
        leaf_ids = old.assign(embeddings)
        leaf_ids[rows] = old.num_leaves + branch_ids
        notes = _notes(new, *separation(grown, old.num_leaves, embeddings, is_new))
        write_tree(folder, grown, embeddings, leaf_ids, dataset, {**settings, 'stability_seeds': 0}, notes)
    return root / 'experiments' / opt['name'], new


def _check_encoder(tree: DegradationTree, build: Mapping, path: str) -> None:
    if tree.build.get('encoder_fingerprint', build['encoder_fingerprint']) != build['encoder_fingerprint']:
        raise TreeMismatchError(
            f'{path} was built with another encoder than these options name; its centres mean nothing to it: give '
            'encoder.weights the encoder that made the tree.'
        )


def _notes(new: Sequence[str], found: float, lost: float) -> list[str]:
    notes = [f'New nodes: {", ".join(new)}. The nearest centres lead {found:.1%} of the new samples to a new leaf.']
    if not np.isnan(lost):
        notes.append(f'They lead {lost:.1%} of the old samples there, which stay in their old leaves all the same.')
    if found < 0.8 or lost > 0.1:
        notes.append('The encoder hardly tells the new degradation apart; train it on that, and cluster everything.')
    return notes


def main(argv: list[str]) -> int:
    """Run ``unirestorer tree grow``."""
    parser = argparse.ArgumentParser(
        prog='unirestorer tree grow',
        description='Add leaves for a new degradation to a tree; centres, names and experts that are there stay.',
        epilog='example: unirestorer tree grow -opt options/tiny/unirestorer_grow.yml',
    )
    parser.add_argument('-opt', required=True, help='option file')
    args = parser.parse_args(argv)
    from basicsr_unirestorer.preflight import read_options

    folder, new = run(read_options(Path(args.opt)), Path.cwd())
    print((folder / 'quality.md').read_text())
    print(
        f'Tree and assignment written to {folder}. Next: train the new experts with tree and assignments of this '
        f'folder and expert_batch: experts: [{", ".join(new)}], then the router.'
    )
    return 0
