"""``unirestorer restore``: pictures, folders and patterns in, restored pictures out."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import TextIO

from PIL import Image
from tqdm import tqdm

from basicsr_unirestorer.errors import OptionError
from basicsr_unirestorer.inference.bundle import SHIPPED_BUNDLE
from basicsr_unirestorer.inference.restore_files import Record, restore_files
from basicsr_unirestorer.inference.restore_plan import Pair, plan_files
from basicsr_unirestorer.inference.restore_report import RestoreReport
from basicsr_unirestorer.inference.restorer import PRECISIONS, Restorer


def line(record: Record) -> str:
    """Tell in a line what became of a picture that did not fail."""
    if record.skipped:
        return f'{record.output}: exists, skipped (--overwrite writes it again)'
    d = record.decision
    text = f'{record.output}: expert {d.expert} (leaf {d.leaf_confidence:.0%}, level {d.level_confidence:.0%} sure)'
    if len(d.shares) > 1:
        text += ', with ' + ', '.join(f'{name} ({share:.0%})' for name, share in list(d.shares.items())[1:])
    if d.regions:
        text += f', {len({region.expert for region in d.regions})} experts in {len(d.regions)} parts'
    if d.tiling.tile_size:
        exact = '' if d.tiling.exact else ', approximate: the network looks at the whole picture'
        text += f', tiles of {d.tiling.tile_size}{exact}'
    return text + (f' [{record.note}]' if record.note else '')


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the command's arguments."""
    parser = argparse.ArgumentParser(
        prog='unirestorer restore',
        description='Restore pictures: PNG, JPEG, TIFF, WebP and BMP, 8 and 16 bit, grey, colour and alpha.',
        epilog='example: unirestorer restore photos/ restored/ --bundle experiments/NAME/bundle',
    )
    parser.add_argument('input', nargs='+', help="pictures, folders, patterns such as 'photos/**/*.png'")
    parser.add_argument('output', type=Path, help='folder to write or, for one picture, its file')
    parser.add_argument('-b', '--bundle', type=Path, help='bundle folder (default: the one that ships with us)')
    choice = parser.add_argument_group('which expert')
    choice.add_argument(
        '--mode', choices=('auto', 'instruction'), help='default: instruction if labels are given, else auto'
    )
    choice.add_argument('--labels', help='what is wrong with the pictures, e.g. rain or "rain, large noise"')
    choice.add_argument('--node', metavar='NAME', help='take the expert of this node, e.g. l1_03')
    choice.add_argument('--level', type=int, help='take the expert of this level of the tree; 0 is the root')
    choice.add_argument('--top-k', type=int, default=1, metavar='K', help='experts a picture, weighted (default: 1)')
    choice.add_argument('--local-routing', action='store_true', help='choose an expert for each tile')
    choice.add_argument(
        '--self-ensemble', action='store_true', help='average all eight orientations: a little better, 8 times the time'
    )
    size = parser.add_argument_group('size and speed')
    size.add_argument(
        '-t', '--tile', type=int, metavar='PIXELS', help='longest side of a tile (default: as memory allows)'
    )
    size.add_argument('--tile-overlap', type=int, metavar='PIXELS', help='default: 48, a quarter of small tiles')
    size.add_argument('--precision', choices=tuple(PRECISIONS), default='fp32', help='default: fp32')
    size.add_argument('--device', default='auto', help='auto, cpu, cuda:N or mps')
    size.add_argument('--cache-mb', type=float, default=2048, help='memory for loaded experts (default: 2048)')
    parser.add_argument('--overwrite', action='store_true', help='write again what exists')
    parser.add_argument('--explain', action='store_true', help='write the decision beside each picture, as .json')
    parser.add_argument(
        '--report',
        nargs='?',
        const='',
        metavar='FILE.html',
        help='write one HTML page with before, after and why (default: report.html in the output folder)',
    )
    parser.add_argument('--dry-run', action='store_true', help='say what would be written')
    parser.add_argument('--json', action='store_true', help='print what became of each picture as JSON')
    return parser.parse_args(argv)


def restorer_of(args: argparse.Namespace) -> Restorer:
    """Open the bundle; raises as ``Restorer`` and ``UniRestorer`` do."""
    labels = None if args.labels is None else [label.strip() for label in args.labels.split(',') if label.strip()]
    if labels == []:
        raise OptionError(f"--labels '{args.labels}' names nothing; write e.g. --labels rain, or leave it out.")
    if labels and args.mode == 'auto':
        raise OptionError('--labels are given but --mode auto looks at the picture alone; leave out one of them.')
    return Restorer.from_bundle(
        args.bundle or SHIPPED_BUNDLE,
        'instruction' if labels else args.mode or 'auto',
        labels,
        args.device,
        args.cache_mb,
        args.top_k,
        tile_size=args.tile,
        tile_overlap=args.tile_overlap,
        precision=args.precision,
        node=args.node,
        level=args.level,
        local_routing=args.local_routing,
        self_ensemble=args.self_ensemble,
    )


def preview(files: list[Pair], report: RestoreReport | None, overwrite: bool) -> None:
    """Print what would be written."""
    for source, target in files:
        print(f'{source} -> {target}{" (exists, skipped)" if target.exists() and not overwrite else ""}')
    if report:
        print(f'report -> {report.place()}')


def write_page(report: RestoreReport, restorer: Restorer, stream: TextIO) -> None:
    """Write the report and say where; raises as it does."""
    print('writing the report ...', file=sys.stderr)  # a hundred large pictures take about a minute
    path = report.write(restorer)
    print(f'report: {path}' if path else 'report: none, since no picture was restored', file=stream)


def main(argv: list[str]) -> int:
    """Run ``unirestorer restore``; returns 0, 1 where a picture failed, or 130 after ctrl-C."""
    args = arguments(argv)
    warnings.filterwarnings('ignore', module='PIL')  # what matters is raised
    logging.getLogger('tifffile').setLevel(logging.CRITICAL)
    files = plan_files(args.input, args.output)
    report = None if args.report is None else RestoreReport(args.report, args.output, files, args.overwrite)
    if args.dry_run:
        preview(files, report, args.overwrite)
        return 0
    restorer = restorer_of(args)
    Image.MAX_IMAGE_PIXELS = None  # the user's own pictures; too large ones for the memory are refused before decoding
    records: list[Record] = []
    failed: list[Record] = []

    def done(record: Record) -> None:
        if record.error:
            failed.append(record)
        elif not args.json:
            tqdm.write(line(record), file=sys.stdout)
        if args.json:
            records.append(record)
        if report:
            report.add(record)

    interrupted = False
    try:
        restore_files(restorer, files, args.overwrite, args.explain, done)
    except KeyboardInterrupt:
        interrupted = True
    if args.json:
        order = {source: place for place, (source, _) in enumerate(files)}
        print(json.dumps([r.to_dict() for r in sorted(records, key=lambda r: order[r.input])], indent=1))
    for record in failed:
        print(f'failed: {record.error}', file=sys.stderr)
    if interrupted:
        print('unirestorer: interrupted; finished pictures stay, and are skipped when started again', file=sys.stderr)
    if report:
        write_page(report, restorer, sys.stderr if args.json else sys.stdout)
    return 130 if interrupted else 1 if failed else 0
