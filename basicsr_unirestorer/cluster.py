"""Stage 2, the door of ``unirestorer cluster`` and ``unirestorer tree``: embed the samples and build the tree."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import check_keys, need_keys

TOP_KEYS = ('name', 'datasets', 'encoder', 'clustering', 'num_gpu', 'manual_seed', 'scale')
CLUSTERING_KEYS = ('level_sizes', 'num_crops', 'batch_size', 'num_worker', 'seed', 'max_samples_per_source')


class Crops:
    """Every sample of a dataset, caps and weights aside, in ``num_crops`` realisations each."""

    def __init__(self, dataset, num_crops: int) -> None:  # noqa: ANN001
        self.dataset, self.num_crops = dataset, num_crops

    def __len__(self) -> int:
        return self.dataset.num_samples * self.num_crops

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.dataset.item(*divmod(index, self.num_crops))


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


def embed_samples(dataset, encoder, num_crops: int, batch_size: int, num_worker: int, device: str) -> np.ndarray:  # noqa: ANN001
    """Embed every sample of a training dataset: the mean over several crops, each with a realisation of its own.

    Args:
        dataset: A ``MixedDegradationLMDBDataset`` in its training phase, without expert batches.
        encoder: A degradation encoder, frozen.
        num_crops: Crops a sample.
        batch_size: Crops a batch.
        num_worker: Processes that degrade.
        device: Where the encoder runs.

    Returns:
        Unit vectors, shape (dataset.num_samples, embed_dim), float32.
    """
    import torch
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    per_batch = max(1, batch_size // num_crops) * num_crops
    loader = DataLoader(Crops(dataset, num_crops), per_batch, num_workers=num_worker)
    embeddings = []
    with torch.no_grad():
        for data in tqdm(loader, desc='embedding', unit='batch'):
            crops = encoder(data['lq'].to(device)).unflatten(0, (-1, num_crops))  # (samples, crops, embed_dim)
            embeddings.append(torch.nn.functional.normalize(crops.mean(dim=1), dim=1).cpu())
    return torch.cat(embeddings).numpy()


def run(opt: dict, root: Path) -> Path:
    """Run the clustering stage.

    Args:
        opt: The option file's content.
        root: Folder under which ``experiments/<name>`` is written; an earlier one is set aside, as BasicSR does.

    Returns:
        The folder with tree, assignment, meta files, embeddings, quality table and picture.

    Raises:
        OptionError, DataError: From the options, the data and the tree builder.
    """
    from basicsr_unirestorer import register

    register()
    from basicsr.data import build_dataset
    from basicsr.utils import mkdir_and_rename

    from basicsr_unirestorer.archs.building import build_encoder, weights_fingerprint
    from basicsr_unirestorer.clustering.assignments import write_assignments
    from basicsr_unirestorer.clustering.build import build_tree, check_level_sizes
    from basicsr_unirestorer.clustering.quality import draw_projection, quality_report, report_table

    check_keys(opt, TOP_KEYS, 'options')
    need_keys(opt, ('name', 'datasets', 'encoder', 'clustering'), 'options')
    need_keys(opt['datasets'], ('train',), 'datasets')
    settings = opt['clustering']
    check_keys(settings, CLUSTERING_KEYS, 'clustering')
    check_level_sizes(settings.get('level_sizes') or [])
    dataset = build_dataset({**opt['datasets']['train'], 'phase': 'train'})
    encoder = build_encoder(opt['encoder'])
    device = 'cuda' if opt.get('num_gpu', 0) else 'cpu'
    embeddings = embed_samples(
        dataset,
        encoder.to(device),
        settings.get('num_crops', 4),
        settings.get('batch_size', 64),
        settings.get('num_worker', 0),
        device,
    )
    captions = [dataset.caption(number) for number in range(dataset.num_samples)]
    build = {
        'encoder': {key: value for key, value in opt['encoder'].items() if key != 'weights'},
        'encoder_fingerprint': weights_fingerprint(encoder.state_dict()),
        'data_fingerprint': dataset.fingerprint,
        'clustering': dict(settings),
    }
    seed = settings.get('seed', 0)
    sizes = [len(source) for source in dataset.sources]
    rows = rows_to_cluster(sizes, settings.get('max_samples_per_source'), seed)
    shaping = [captions[row] for row in rows]
    tree, own_leaves = build_tree(embeddings[rows], shaping, settings['level_sizes'], seed, build)
    leaf_ids = tree.assign(embeddings)  # the samples that did not shape the tree, too
    leaf_ids[rows] = own_leaves
    report = quality_report(tree, embeddings, leaf_ids, captions, [_types(caption) for caption in captions], seed)

    folder = root / 'experiments' / opt['name']
    mkdir_and_rename(str(folder))
    tree.save(folder / 'degradation_tree.json')
    write_assignments(folder, tree, dataset.sample_ids(), leaf_ids, dataset.shapes())
    np.savez_compressed(folder / 'embeddings.npz', embeddings=embeddings.astype(np.float16), leaf_ids=leaf_ids)
    (folder / 'quality.json').write_text(json.dumps(report, indent=1) + '\n')
    (folder / 'quality.md').write_text(report_table(tree, report))
    leaves = [tree.nodes[leaf].name for leaf in tree.leaves]
    draw_projection(folder / 'tree.png', embeddings, [leaves[leaf] for leaf in leaf_ids], captions, seed)
    return folder


def _types(caption: str) -> str:
    from basicsr_unirestorer.degradations import parse_caption

    return '+'.join(label for _, label in parse_caption(caption))


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


def tree_main(argv: list[str]) -> int:
    """Run ``unirestorer tree``: draw a saved tree as text."""
    parser = argparse.ArgumentParser(
        prog='unirestorer tree',
        description='Show a degradation tree.',
        epilog='example: unirestorer tree experiments/tiny_clustering',
    )
    parser.add_argument('path', help='degradation_tree.json, or a folder (clustering run or bundle) that holds it')
    parser.add_argument('--json', action='store_true', help='print the nodes, or the costs, as JSON')
    parser.add_argument('--complexity', action='store_true', help='parameters and MACs of the networks of a bundle')
    parser.add_argument('--size', type=int, default=256, help='side of the picture that MACs are counted for')
    args = parser.parse_args(argv)
    if args.complexity:
        return _print_complexity(args)
    tree = DegradationTree.load(args.path)
    if args.json:
        print(
            json.dumps(
                [
                    {
                        'name': n.name,
                        'parent': tree.nodes[n.parent].name if n.parent >= 0 else None,
                        'count': n.count,
                        'labels': n.labels,
                        'captions': n.captions,
                    }
                    for n in tree.nodes
                ],
                indent=1,
            )
        )
    else:
        print('\n'.join(tree_lines(tree)))
    return 0


def _print_complexity(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from basicsr_unirestorer.inference.complexity import bundle_complexity, complexity_table

    rows = bundle_complexity(args.path, args.size)
    print(json.dumps([asdict(row) for row in rows], indent=1) if args.json else complexity_table(rows, args.size))
    return 0


def tree_lines(tree: DegradationTree, node_id: int = 0, indent: str = '') -> list[str]:
    """Draw a tree as lines of text: name, samples, commonest captions."""
    node = tree.nodes[node_id]
    captions = ', '.join(f'{caption} ({count})' for caption, count in list(node.captions.items())[:3])
    more = f' and {len(node.captions) - 3} more' if len(node.captions) > 3 else ''
    lines = [f'{indent}{node.name}  {node.count} samples: {captions}{more}']
    for child in tree.children(node_id):
        lines += tree_lines(tree, child, indent + '    ')
    return lines
