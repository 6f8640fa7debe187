"""``unirestorer benchmark``: one table with the honest baselines, picture by picture.

results/<name>/  table.md  summary.json  pictures.csv  journal.jsonl  report.html (--report)
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from basicsr_unirestorer.errors import OptionError, check_keys, need_keys
from basicsr_unirestorer.inference import tables
from basicsr_unirestorer.inference.benchmark_results import Result, device_name, statement, versions, write_results
from basicsr_unirestorer.inference.contest import ORACLES, Contest, make_contest
from basicsr_unirestorer.inference.journal import Journal, fingerprint
from basicsr_unirestorer.inference.metrics import perceptual_metrics, to_uint8
from basicsr_unirestorer.inference.protocols import Case, Pair, Protocol, protocol_files

KEYS = (
    'name',
    'num_gpu',
    'manual_seed',
    'datasets',
    'protocols',
    'data',
    'max_pictures',
    'metrics',
    'bundle',
    'mode',
    'labels',
    'top_k',
    'level',
    'self_ensemble',
    'oracle',
    'rivals',
)
STANDARD_METRICS = {
    'psnr': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': False},
    'ssim': {'type': 'calculate_ssim', 'crop_border': 0, 'test_y_channel': False},
}
JOURNAL_FORMAT = 1


def dataset_cases(options: Mapping, metrics: Mapping[str, Mapping]) -> list[Case]:
    """List the virtual samples or pairs of a data set, by caption."""
    from basicsr.data import build_dataset

    def load(number: int) -> Pair:
        item = dataset.item(number)
        lq, gt = (np.ascontiguousarray(item[key].permute(1, 2, 0).numpy()) for key in ('lq', 'gt'))
        return lq, to_uint8(gt)

    dataset = build_dataset({**options, 'phase': 'test'})
    if not hasattr(dataset, 'caption'):
        raise OptionError(
            f"The data set '{options['name']}' is a {options['type']}, whose pictures have no captions; name a "
            'protocol for plain folders (protocols: {NAME: FOLDER}), or use MixedDegradationLMDBDataset.'
        )
    cases = []
    for place in range(len(dataset)):
        number, _ = dataset.draw(0, place)
        caption, name = dataset.caption(number), dataset.sample_id(number)
        facts = [dataset.fingerprint, name]
        cases.append(Case(options['name'], caption, caption, name, metrics, facts, partial(load, number)))
    return sorted(cases, key=lambda case: case.degradation)


def all_cases(opt: Mapping) -> tuple[list[Case], list[Protocol]]:
    """List every picture of the data sets and protocols of an option file, and the protocols."""
    extra = perceptual_metrics(list(opt.get('metrics') or ()))
    cases = []
    for _, options in sorted((opt.get('datasets') or {}).items()):
        cases += dataset_cases(options, {**STANDARD_METRICS, **extra})
    wanted = opt.get('protocols') or {}
    folders = dict(wanted) if isinstance(wanted, Mapping) else dict.fromkeys(wanted)
    protocols = [Protocol.load(name) for name in folders]
    for protocol, folder in zip(protocols, folders.values(), strict=True):
        for case in protocol.cases(folder or opt.get('data'), opt.get('max_pictures')):
            cases.append(replace(case, metrics={**case.metrics, **extra}))
    return cases, protocols


def check(opt: Mapping) -> None:
    """Look for mistakes in an option file; raises OptionError naming the first."""
    check_keys(opt, KEYS, 'options')
    need_keys(opt, ('name', 'bundle'), 'options')
    if not opt.get('datasets') and not opt.get('protocols'):
        raise OptionError(
            f'Nothing to measure: give datasets or protocols in the option file, or name protocols in the command '
            f'({", ".join(protocol_files())}).'
        )
    if opt.get('oracle', 'caption') not in ORACLES:
        raise OptionError(f"oracle is '{opt['oracle']}'; write all, caption or none.")


def measured(contest: Contest, cases: Sequence[Case], journal: Journal) -> Iterator[dict]:
    """Yield the row of every picture, from the journal where the same comparison was made before."""
    comparison = {key: value for key, value in contest.facts.items() if key != 'bundle'}
    keys = [
        fingerprint([JOURNAL_FORMAT, comparison, case.dataset, case.degradation, case.name, case.metrics, case.facts])
        for case in cases
    ]
    known = sum(key in journal.rows for key in keys)
    with tqdm(total=len(cases), initial=known, desc='measuring', unit='picture') as bar:
        for key, case in zip(keys, cases, strict=True):
            if key not in journal.rows:
                journal.add(key, contest.measure(case))
                bar.update()
            yield journal.rows[key]


def run(opt: dict, root: Path, device: str | None = None) -> Result:
    """Run a benchmark option file; pictures that an earlier, stopped run measured are not measured again.

    Args:
        opt: Its content.
        root: Folder under which ``results/<name>`` is written.
        device: Where the networks run; a GPU where None and ``num_gpu`` asks for one.

    Raises:
        OptionError, DataError: What ``check``, the protocols, the bundle and the rivals refuse, before anything is
            written.
    """
    from basicsr_unirestorer import register

    register()
    check(opt)
    contest = make_contest(opt, device or ('cuda' if opt.get('num_gpu', 0) else 'cpu'))
    cases, protocols = all_cases(opt)
    start = time.time()
    folder = root / 'results' / opt['name']
    rows = list(measured(contest, cases, Journal(folder / 'journal.jsonl')))
    facts = {
        **contest.facts,
        'device': device_name(contest.restorer.device),
        'versions': versions(),
        'seconds': round(time.time() - start, 1),
        'protocols': {protocol.name: statement(protocol, rows, opt.get('max_pictures')) for protocol in protocols},
        'leaf_type_accuracy': {
            name: tables.leaf_type_accuracy([row for row in rows if row['dataset'] == name])
            for name in dict.fromkeys(row['dataset'] for row in rows)
        },
    }
    result = Result(folder, contest, cases, rows, facts, protocols)
    write_results(result)
    return result


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='unirestorer benchmark',
        description='Compare routed restoration with its input, the root expert, rivals and the best expert.',
        epilog='example: unirestorer benchmark cbsd68_noise --data CBSD68/ --bundle BUNDLE --report',
    )
    parser.add_argument(
        'protocols', nargs='*', metavar='PROTOCOL', help='test protocols by name, or yml files (--list)'
    )
    parser.add_argument('-opt', help='option file, for data sets of your own and rivals')
    parser.add_argument('-b', '--bundle', help='bundle folder (default: the one that ships with us)')
    parser.add_argument(
        '--data',
        action='append',
        metavar='[NAME=]FOLDER',
        help='folder of a protocol, or the root of the prepared sets',
    )
    parser.add_argument('-n', '--name', help='results go to results/NAME (default: benchmark)')
    parser.add_argument(
        '--oracle', choices=ORACLES, help='all tries every expert and tells the regret (default: caption)'
    )
    parser.add_argument('--metrics', help='lpips,dists: besides what the protocol measures')
    parser.add_argument('--max-pictures', type=int, help='only the first so many of each column, to try things out')
    parser.add_argument('--device', help='auto, cpu, cuda:N or mps')
    parser.add_argument('--report', action='store_true', help='write results/NAME/report.html')
    parser.add_argument('--json', action='store_true', help='print the summary as JSON instead of the tables')
    parser.add_argument('--list', action='store_true', help='list the protocols')
    return parser


def options_of(args: argparse.Namespace) -> dict:
    """Combine the option file, if any, with what the command says; the command wins."""
    from basicsr_unirestorer.preflight import read_options

    opt = dict(read_options(Path(args.opt))) if args.opt else {'name': 'benchmark'}
    said = {'bundle': args.bundle, 'name': args.name, 'oracle': args.oracle, 'max_pictures': args.max_pictures}
    said['metrics'] = args.metrics.split(',') if args.metrics else None
    opt |= {key: value for key, value in said.items() if value is not None}
    if args.protocols:
        opt['protocols'] = dict.fromkeys(args.protocols)
    named = opt.get('protocols') or {}
    named = dict(named) if isinstance(named, Mapping) else dict.fromkeys(named)
    for entry in args.data or ():
        name, equals, folder = entry.partition('=')
        if equals and name not in named:
            raise OptionError(f"--data names '{name}', which is none of the protocols to run: {', '.join(named)}.")
        if equals:
            named[name] = folder
        else:
            opt['data'] = entry
    if named:
        opt['protocols'] = named
    if not opt.get('bundle') and not args.opt:
        from basicsr_unirestorer.inference.bundle import SHIPPED_BUNDLE

        opt['bundle'] = str(SHIPPED_BUNDLE)
    return opt


def main(argv: list[str]) -> int:
    """Run ``unirestorer benchmark``."""
    args = parser().parse_args(argv)
    if args.list:
        for name in protocol_files():
            protocol = Protocol.load(name)
            print(f'{name:18} {protocol.title}: {", ".join(protocol.options["columns"])}')
        return 0
    opt = options_of(args)
    device = None
    if args.device:
        from basicsr_unirestorer.inference.restorer import pick_device

        device = pick_device(args.device)
    try:
        result = run(opt, Path.cwd(), device)
    except KeyboardInterrupt:
        print('unirestorer: interrupted; what was measured is kept, and the same command goes on', file=sys.stderr)
        return 130
    if args.report:
        from basicsr_unirestorer.inference.benchmark_report import write_benchmark_report

        write_benchmark_report(result, result.folder / 'report.html')
    print((result.folder / ('summary.json' if args.json else 'table.md')).read_text(encoding='utf-8'))
    if not args.json:
        print(f'Written to {result.folder}')
    return 0
