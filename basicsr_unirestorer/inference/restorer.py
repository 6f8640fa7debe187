"""The object behind every use of a trained bundle, and the command ``unirestorer restore``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from basicsr_unirestorer.archs.unirestorer_arch import Route, UniRestorer
from basicsr_unirestorer.errors import DataError, OptionError, UniRestorerError
from basicsr_unirestorer.image_files import SUFFIXES, find_pictures, read_picture
from basicsr_unirestorer.inference.tiling import tiled

DEFAULT_BUNDLE = Path('demo_output/bundle')


@dataclass(frozen=True)
class Decision:
    """What was decided for one picture: the expert, and how sure the router was of leaf and level."""

    expert: str
    leaf: str
    leaf_confidence: float
    level: int
    level_confidence: float
    labels: dict[str, int]

    @classmethod
    def of(cls, net: UniRestorer, route: Route) -> Decision:
        tree = net.tree
        leaf, level, node_id = int(route.leaf_id[0]), int(route.level[0]), int(route.node_id[0])
        return cls(
            tree.nodes[node_id].name,
            tree.nodes[tree.leaves[leaf]].name,
            float(route.leaf_probs[0, leaf]),
            level,
            float(route.level_probs[0, level]),
            tree.nodes[node_id].labels,
        )


class Restorer:
    """Restore numpy pictures with a bundle.

    Args:
        net: The routed network.
        device: Where it runs.
        tile_size: Side of a tile in pixels; larger pictures are restored tile by tile.
        tile_overlap: Pixels that neighbouring tiles share.
    """

    def __init__(self, net: UniRestorer, device: str = 'cpu', tile_size: int = 1024, tile_overlap: int = 32) -> None:
        if not 0 <= tile_overlap < tile_size:
            raise OptionError(f'The tile overlap is {tile_overlap} but must be smaller than the tile size {tile_size}.')
        self.net = net.to(device)
        self.device = device
        self.tile_size = tile_size
        self.tile_overlap = tile_overlap

    @classmethod
    def from_bundle(
        cls,
        bundle: str | Path,
        mode: str = 'auto',
        labels: Sequence[str] | None = None,
        device: str = 'cpu',
        tile_size: int = 1024,
        tile_overlap: int = 32,
    ) -> Restorer:
        """Open a bundle; see ``UniRestorer`` for the arguments and errors."""
        return cls(UniRestorer(bundle, mode, labels), device, tile_size, tile_overlap)

    def _tensor(self, image: np.ndarray) -> Tensor:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise DataError(f'A picture must be RGB, uint8, shape (h, w, 3); this one is {image.dtype} {image.shape}.')
        tensor = torch.from_numpy(np.array(image.transpose(2, 0, 1)))[None].to(self.device).float() / 255
        return tensor.contiguous(memory_format=torch.channels_last)

    def route(self, image: np.ndarray) -> Decision:
        """Decide which expert a picture needs. ``image``: RGB, uint8, shape (h, w, 3)."""
        return Decision.of(self.net, self.net.route(self._tensor(image)))

    def restore(self, image: np.ndarray) -> tuple[np.ndarray, Decision]:
        """Restore a picture and tell what was decided.

        Args:
            image: RGB, uint8, shape (h, w, 3), any size.

        Returns:
            The restored picture, same shape and type, and the decision.
        """
        lq = self._tensor(image)
        route = self.net.route(lq)  # once a picture, however many tiles it has
        output = tiled(lambda tile: self.net(tile, route), lq, self.tile_size, self.tile_overlap)
        restored = (output[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        return restored, Decision.of(self.net, route)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Restore a picture: RGB, uint8, shape (h, w, 3), in and out."""
        return self.restore(image)[0]


def write_picture(path: Path, rgb: np.ndarray) -> None:
    """Write an RGB uint8 picture aside and rename it, so that a file under its name is always complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f'.{path.stem}.part{path.suffix}')
    try:
        Image.fromarray(rgb).save(
            scratch, **({'quality': 95} if path.suffix.lower() in ('.jpg', '.jpeg', '.webp') else {})
        )
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def plan_files(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Pair each input picture with its output; a folder's tree is mirrored, a file may go to a file or a folder.

    Raises:
        DataError: The input does not exist or holds no pictures, or the output lies inside the input folder.
    """
    if source.is_dir():
        if target.resolve().is_relative_to(source.resolve()):
            raise DataError(f'The output {target} lies inside the input {source}; choose a folder beside it.')
        return [(path, target / path.relative_to(source)) for path in find_pictures(source)]
    if not source.is_file():
        raise DataError(f'{source} does not exist; give a picture or a folder of pictures.')
    is_file = target.suffix.lower() in SUFFIXES and not target.is_dir()
    return [(source, target if is_file else target / source.name)]


def restore_files(
    restorer: Restorer, files: Sequence[tuple[Path, Path]], overwrite: bool
) -> tuple[list[dict], list[str]]:
    """Restore pictures one by one; a bad one does not stop the others.

    Returns:
        A dict for each written or skipped picture, and one sentence for each that failed.
    """
    done, failed = [], []
    for source, target in tqdm(files, desc='restoring', unit='picture', disable=len(files) < 2):
        if target.exists() and not overwrite:
            done.append({'input': str(source), 'output': str(target), 'skipped': True})
            continue
        try:
            restored, decision = restorer.restore(np.ascontiguousarray(read_picture(source)[..., ::-1]))
            write_picture(target, restored)
        except (UniRestorerError, OSError) as error:
            failed.append(str(error) if str(source) in str(error) else f'{source}: {error}')
            continue
        done.append({'input': str(source), 'output': str(target), 'skipped': False, **decision.__dict__})
    return done, failed


def pick_device(name: str) -> str:
    """Turn ``auto`` into cuda, mps or cpu; raises OptionError for a device that is not there."""
    if name == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"The device '{name}' cannot be used here ({str(error).splitlines()[0]}); try --device cpu."
        ) from error
    return name


def default_bundle() -> Path:
    """Return the bundle of a demo that ran in the current folder; raises OptionError where there is none."""
    if not (DEFAULT_BUNDLE / 'bundle.yml').is_file():
        raise OptionError(
            f'No bundle is given and there is none in {DEFAULT_BUNDLE}; give --bundle FOLDER, or run `unirestorer '
            'demo` here to train a small one.'
        )
    return DEFAULT_BUNDLE


def main(argv: list[str]) -> int:
    """Run ``unirestorer restore``; returns 0, or 1 where a picture failed."""
    parser = argparse.ArgumentParser(
        prog='unirestorer restore',
        description='Restore a picture or a folder of pictures.',
        epilog='example: unirestorer restore photos/ restored/ --bundle experiments/NAME/bundle',
    )
    parser.add_argument('input', type=Path, help='picture or folder')
    parser.add_argument('output', type=Path, help='picture or folder to write')
    parser.add_argument('-b', '--bundle', type=Path, help=f'bundle folder (default: {DEFAULT_BUNDLE}, if it is there)')
    parser.add_argument(
        '--mode', choices=('auto', 'instruction'), help='default: instruction if labels are given, else auto'
    )
    parser.add_argument('--labels', help='what is wrong with the pictures, e.g. rain,noise')
    parser.add_argument('-t', '--tile', type=int, default=1024, help='tile size in pixels for large pictures')
    parser.add_argument('--tile-overlap', type=int, default=32)
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda:N or mps')
    parser.add_argument('--overwrite', action='store_true', help='write again what exists')
    parser.add_argument('--json', action='store_true', help='print the decisions as JSON')
    args = parser.parse_args(argv)
    labels = [label.strip() for label in args.labels.split(',') if label.strip()] if args.labels else None
    files = plan_files(args.input, args.output)
    mode = args.mode or ('instruction' if labels else 'auto')
    bundle = args.bundle or default_bundle()
    restorer = Restorer.from_bundle(bundle, mode, labels, pick_device(args.device), args.tile, args.tile_overlap)
    done, failed = restore_files(restorer, files, args.overwrite)
    if args.json:
        print(json.dumps(done, indent=1))
    else:
        for item in done:
            print(
                f'{item["output"]}: exists, skipped (--overwrite writes it again)'
                if item['skipped']
                else f'{item["output"]}: expert {item["expert"]} (leaf {item["leaf_confidence"]:.0%}, '
                f'level {item["level_confidence"]:.0%} sure)'
            )
    for sentence in failed:
        print(f'failed: {sentence}', file=sys.stderr)
    return 1 if failed else 0
