"""``unirestorer demo``: the whole method at toy scale on the photographs that scikit-image and scikit-learn ship."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from PIL import Image

from basicsr_unirestorer.errors import DataError, UniRestorerError
from basicsr_unirestorer.option_files import options_dir

if TYPE_CHECKING:  # heavy, and while the stages run the memory is theirs
    from basicsr_unirestorer.inference.benchmark_results import Result

# (package, picture): what the test set shows is never trained on
TRAIN_PICTURES = (
    ('skimage', 'astronaut.png'),
    ('skimage', 'coffee.png'),
    ('skimage', 'rocket.jpg'),
    ('skimage', 'hubble_deep_field.jpg'),
    ('skimage', 'ihc.png'),
    ('skimage', 'motorcycle_left.png'),
    ('skimage', 'retina.jpg'),
    ('sklearn', 'flower.jpg'),
)
TEST_PICTURES = (('skimage', 'chelsea.png'), ('sklearn', 'china.jpg'))
MAX_SIDE = 768


@dataclass(frozen=True)
class Scale:
    """How long the demo trains: iterations, and sizes that decide what an iteration costs."""

    encoder_iters: int
    steps_per_level: tuple[int, int, int]
    routing_iters: int
    routing_samples: int
    patch: int
    width: int
    variants: int
    test_variants: int
    test_side: int

    @property
    def expert_steps(self) -> int:
        root, child, leaf = self.steps_per_level
        return root + 5 * child + 10 * leaf


SCALES = {
    'demo': Scale(
        encoder_iters=260,
        steps_per_level=(900, 320, 120),
        routing_iters=300,
        routing_samples=600,
        patch=48,
        width=16,
        variants=8,
        test_variants=12,
        test_side=320,
    ),
    # wiring only: seconds a stage, for tests; its pictures come out no better
    'smoke': Scale(
        encoder_iters=6,
        steps_per_level=(3, 2, 2),
        routing_iters=4,
        routing_samples=40,
        patch=16,
        width=4,
        variants=1,
        test_variants=1,
        test_side=64,
    ),
}


@contextmanager
def working_folder(folder: Path) -> Iterator[None]:
    """Work inside a folder and come back: option files name their data relative to it."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def collect_pictures(folder: Path, pictures: tuple[tuple[str, str], ...], max_side: int) -> None:
    """Copy sample photographs as PNG, no larger than ``max_side``; raises DataError where a package lacks one."""
    folder.mkdir(parents=True)
    for package, name in pictures:
        root = Path(__import__(f'{package}').__file__).parent
        path = root / ('data' if package == 'skimage' else 'datasets/images') / name
        if not path.is_file():
            raise DataError(
                f'{package} does not ship {name} here; install it again: pip install -U scikit-image scikit-learn.'
            )
        with Image.open(path) as picture:
            picture = picture.convert('RGB')
            picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
            picture.save(folder / f'{path.stem}.png')


def stage_options(scale: Scale) -> dict[str, dict]:
    """Return the option files of ``options/tiny`` with the demo's data and sizes, by stage."""

    def load(stage: str) -> dict:
        return yaml.safe_load((options_dir() / 'tiny' / f'unirestorer_{stage}.yml').read_text())

    stages = {
        stage: load(stage) for stage in ('encoder', 'clustering', 'experts', 'one_for_all', 'routing', 'benchmark')
    }
    for stage, opt in stages.items():
        opt['name'] = f'demo_{stage}'
        for phase, data in opt['datasets'].items():
            data['dataroot_gt'] = 'datasets/train.lmdb' if phase == 'train' else 'datasets/test.lmdb'
            data['variants'] = scale.variants if phase == 'train' else scale.test_variants
            for key in ('tree', 'assignments'):
                if key in data:
                    data[key] = data[key].replace('tiny_', 'demo_')
        for holder, key in (
            (opt.get('encoder'), 'weights'),
            (opt.get('experts'), 'weights'),
            (opt.get('network_g'), 'tree'),
            (opt, 'bundle'),
        ):
            if holder and key in holder:
                holder[key] = holder[key].replace('tiny_', 'demo_')
        if 'experts' in opt:
            opt['experts']['default']['width'] = scale.width
        if 'logger' in opt:
            opt['logger'].update(use_tb_logger=False, save_checkpoint_freq=10**6)
        if 'train' in opt:
            opt['train']['total_iter'] = {'encoder': scale.encoder_iters, 'routing': scale.routing_iters}.get(
                stage, scale.expert_steps
            )
            if 'periods' in opt['train']['scheduler']:
                opt['train']['scheduler']['periods'] = [opt['train']['total_iter']]
    for stage in ('experts', 'one_for_all'):
        data = stages[stage]['datasets']['train']
        data['gt_size'] = scale.patch
        data['expert_batch']['steps_per_level'] = (
            list(scale.steps_per_level) if stage == 'experts' else [scale.expert_steps, 0, 0]
        )
    data = stages['routing']['datasets']['train']
    data['gt_size'] = max(2 * scale.patch, 32)
    data['max_samples'] = scale.routing_samples
    data['route_also'][0]['max_samples'] = scale.routing_samples // 4
    stages['routing']['train']['expert_size'] = scale.patch
    stages['encoder']['datasets'].pop('val')
    stages['encoder'].pop('val')
    stages['benchmark']['datasets']['test_2']['variants'] = max(1, scale.test_variants // 5)
    rival = stages['benchmark']['rivals']['one for all']
    rival['network']['width'] = scale.width
    rival['weights'] = 'experiments/demo_one_for_all/models/net_l0_00_latest.pth'
    return stages


STAGES = (
    ('encoder', 'training the degradation encoder'),
    ('clustering', 'clustering degradations into a tree'),
    ('experts', 'training one expert a tree node'),
    ('routing', 'training the router'),
)


def run(output: Path, scale: Scale, say: Callable[[str], None] = print) -> list[dict]:
    """Run every stage and write pictures, weights, bundle, table and page below ``output``.

    Args:
        output: A folder that does not exist yet, or an earlier demo's, which is replaced.
        scale: How long to train.
        say: Receives a line before each stage and while it runs.

    Returns:
        The benchmark's summary.

    Raises:
        UniRestorerError: ``output`` is a folder of something else, or a stage failed.
    """
    output = output.resolve()
    if output.exists() and any(output.iterdir()) and not (output / 'options').is_dir():
        raise DataError(f'{output} exists and is no earlier demo; choose another folder with --output.')
    shutil.rmtree(output, ignore_errors=True)
    (output / 'options').mkdir(parents=True)
    (output / 'logs').mkdir()
    clock = Clock(say)
    with working_folder(output):
        clock.start('collecting the sample photographs')
        collect_pictures(Path('pictures/train'), TRAIN_PICTURES, MAX_SIDE)
        collect_pictures(Path('pictures/test'), TEST_PICTURES, scale.test_side)
        for part, more in (('train', ('--crop', '160')), ('test', ())):
            module = ('-m', 'basicsr_unirestorer.data.prepare')
            watch(part, start(part, *module, f'pictures/{part}', f'datasets/{part}.lmdb', *more), say)
        stages = stage_options(scale)
        for stage, opt in stages.items():
            Path(f'options/{stage}.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
        rival = None
        try:
            for stage, what in STAGES:
                clock.start(what)
                if stage == 'experts':  # the baseline trains beside them: each on half of the processor cores
                    rival = start_stage('one_for_all')
                watch(stage, start_stage(stage), say)
                if stage == 'clustering':
                    say(Path('experiments/demo_clustering/quality.md').read_text())
            clock.start('training one network for everything, with as many steps')
            watch('one_for_all', rival, say)
        finally:
            if rival is not None and rival.poll() is None:
                rival.kill()
        shutil.copytree('experiments/demo_routing/bundle', 'bundle')
        clock.start('restoring the test photographs')
        from basicsr_unirestorer.inference import benchmark  # heavy, and while the stages run the memory is theirs

        result = benchmark.run(deepcopy(stages['benchmark']), Path.cwd())
        say(result.table())
        page(result, scale)
    clock.stop()
    say(f'Page: {output / "index.html"}   bundle: {output / "bundle"}   total {clock.total():.0f} s')
    return result.summary


def start_stage(stage: str) -> subprocess.Popen:
    """Start a stage with its option file."""
    verb = 'cluster' if stage == 'clustering' else 'train'
    return start(stage, '-m', 'basicsr_unirestorer.cli', verb, '-opt', f'options/{stage}.yml')


def start(name: str, *arguments: str) -> subprocess.Popen:
    """Start Python in a process of its own, its log in ``logs``, on half of the cores: the loader needs some too."""
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    environment = {**os.environ, 'OMP_NUM_THREADS': threads, 'MKL_NUM_THREADS': threads}
    with open(f'logs/{name}.txt', 'w') as log:
        return subprocess.Popen([sys.executable, *arguments], stdout=log, stderr=subprocess.STDOUT, env=environment)


def watch(name: str, process: subprocess.Popen, say: Callable[[str], None], every: float = 15) -> None:
    """Wait for a stage to end, passing on its newest progress line now and then.

    Raises:
        UniRestorerError: The stage failed; its last words and its log are named.
    """
    log = Path(f'logs/{name}.txt')
    told = ''
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(every)
        lines = [line for line in log.read_text(errors='replace').replace('\r', '\n').splitlines() if line.strip()]
        progress = next((line for line in reversed(lines) if 'iter:' in line or 'batch/s' in line), '')
        if progress != told:
            say(f'   {name}: {progress.partition(" INFO: ")[2] or progress}')
            told = progress
        if process.returncode is None:
            continue
        if process.returncode:
            last = lines[-1] if lines else f'exit code {process.returncode}'
            raise UniRestorerError(f'The demo stopped in stage {name} ({last}); the whole log is {log.resolve()}.')
        return


class Clock:
    """Announce stages and say how long each took."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.begin = time.time()
        self.stage: tuple[str, float] | None = None

    def start(self, what: str) -> None:
        self.stop()
        self.stage = (what, time.time())
        self.say(f'== {what} ...')

    def stop(self) -> None:
        if self.stage:
            self.say(f'== {self.stage[0]}: {time.time() - self.stage[1]:.0f} s')
        self.stage = None

    def total(self) -> float:
        return time.time() - self.begin


def page(result: Result, scale: Scale) -> None:
    """Write ``index.html``: the report of the demo's benchmark."""
    from basicsr_unirestorer.inference.benchmark_report import write_benchmark_report

    intro = (
        f'Trained here on {len(TRAIN_PICTURES)} photographs, tested on {len(TEST_PICTURES)} others. "one for all" is a '
        f'single network given the training steps of all experts together ({scale.expert_steps}); "root" is the expert '
        'that was trained on everything, "by label" the expert of the true degradation, "best node" the best expert of '
        'each picture by its true PSNR.'
    )
    drawn = Path('experiments/demo_clustering/tree.png')
    write_benchmark_report(result, Path('index.html'), 'UniRestorer demo', intro, drawn)


def main(argv: list[str]) -> int:
    """Run ``unirestorer demo``."""
    parser = argparse.ArgumentParser(
        prog='unirestorer demo',
        description='Train and test everything at toy scale.',
        epilog='example: unirestorer demo --output demo_output',
    )
    parser.add_argument('-o', '--output', type=Path, default=Path('demo_output'), help='folder to write')
    parser.add_argument('--scale', choices=tuple(SCALES), default='demo', help='smoke: wiring only, a minute')
    args = parser.parse_args(argv)
    run(args.output, SCALES[args.scale], partial(print, flush=True))
    return 0
