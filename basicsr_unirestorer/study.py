"""``unirestorer study``: stages of training and testing, over several seeds, and one table of what they reach.

results/<name>/  study.md  study.json  *.png  stages.jsonl  options/  logs/
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from basicsr_unirestorer.errors import OptionError, UniRestorerError, check_keys, did_you_mean, need_keys
from basicsr_unirestorer.inference.journal import Journal, fingerprint
from basicsr_unirestorer.preflight import read_options

KEYS = ('name', 'seeds', 'jobs', 'stages', 'reference', 'rows')
FORMAT = 1
COMMAND = (sys.executable, '-m', 'basicsr_unirestorer.cli')


@dataclass(frozen=True)
class Stage:
    """One training, clustering or test of one seed.

    Attributes:
        name, seed: Which one it is.
        options: Its option file's content.
        needs: Names of the stages of this seed whose results it reads.
        key: Hash of the options and of the keys of all that it needs; a stage whose key is known was run.
    """

    name: str
    seed: int
    options: dict
    needs: tuple[str, ...]
    key: str

    @property
    def title(self) -> str:
        return f's{self.seed}_{self.name}'

    @property
    def verb(self) -> str:
        """What ``unirestorer`` is asked to do with the options."""
        return 'cluster' if 'clustering' in self.options else 'benchmark' if 'bundle' in self.options else 'train'


def merged(options: Mapping, changes: Mapping) -> dict:
    """Return options with changes: groups are merged key by key, None removes, everything else is replaced."""
    result = dict(options)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
            continue
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else deepcopy(value)
    return result


def of_seed(options: Any, study: str, seed: int) -> Any:
    """Return options, as plain dicts, with ``<study>_s0_`` in every text replaced by a seed's own."""
    if isinstance(options, Mapping):
        return {key: of_seed(value, study, seed) for key, value in options.items()}
    if isinstance(options, list):
        return [of_seed(value, study, seed) for value in options]
    return options.replace(f'{study}_s0_', f'{study}_s{seed}_') if isinstance(options, str) else options


def stage_options(study: str, name: str, seed: int, options: Mapping) -> dict:
    """Return the options of a stage for one seed: its name, its seeds, and the other stages that it names."""
    result = of_seed(dict(options), study, seed) | {'name': f'{study}_s{seed}_{name}', 'manual_seed': seed}
    for holder in (result.get('datasets', {}).get('train'), result.get('clustering')):
        if holder is not None:
            holder['seed'] = seed
    return result


def needed_stages(study: str, name: str, options: Mapping, known: Sequence[str]) -> tuple[str, ...]:
    """Return the stages that the options of seed 0 name as ``<study>_s0_<stage>``.

    Raises:
        OptionError: An option names a stage that the study does not have.
    """
    text = yaml.safe_dump({key: value for key, value in options.items() if key != 'name'})
    named = dict.fromkeys(re.findall(rf'\b{re.escape(study)}_s0_(\w+)', text))
    for other in named:
        if other not in known:
            raise OptionError(
                f"Stage '{name}' reads {study}_s0_{other}, but there is no stage '{other}'."
                f'{did_you_mean(other, known)} Stages: {", ".join(known)}.'
            )
    return tuple(other for other in named if other != name)


def plan(opt: Mapping, folder: Path) -> list[Stage]:
    """List all stages of all seeds, each after those that it needs.

    Args:
        opt: The study's options.
        folder: Where the option files of its stages lie.

    Raises:
        OptionError: A key, file, stage or row that does not exist, or stages that need each other.
    """
    check_keys(opt, KEYS, 'study')
    need_keys(opt, ('name', 'seeds', 'stages', 'reference', 'rows'), 'study')
    study, blocks = opt['name'], opt['stages']
    base = {}
    for name, block in blocks.items():
        check_keys(block, ('file', 'set', 'seeds'), f'stages.{name}')
        path = folder / str(block.get('file'))
        if not path.is_file():
            raise OptionError(f"Stage '{name}' has the option file {path}, which does not exist; correct its `file`.")
        base[name] = of_seed(merged(read_options(path), block.get('set') or {}), study, 0)
    needs = {name: needed_stages(study, name, options, tuple(blocks)) for name, options in base.items()}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        raise OptionError(f'These stages need each other: {" -> ".join(error.args[1])}.') from error
    check_rows(opt)
    seeds = {name: [s for s in opt['seeds'] if s in block.get('seeds', opt['seeds'])] for name, block in blocks.items()}
    stages: dict[tuple[str, int], Stage] = {}

    def add(name: str, seed: int) -> str:
        """Add a stage after those that it needs; returns its key."""
        if seed not in seeds[name]:
            raise OptionError(f"Stage '{name}' is needed for seed {seed}, but is not run for it; correct its `seeds`.")
        if (name, seed) not in stages:
            keys = [add(other, seed) for other in sorted(needs[name])]
            options = stage_options(study, name, seed, base[name])
            stages[name, seed] = Stage(name, seed, options, needs[name], fingerprint([FORMAT, options, keys]))
        return stages[name, seed].key

    for name in blocks:
        for seed in seeds[name]:
            add(name, seed)
    return list(stages.values())


def check_rows(opt: Mapping) -> None:
    """Refuse rows and a reference that are no tests of the study; raises OptionError naming the first."""
    for name, row in opt['rows'].items():
        if not isinstance(row, (list, tuple)) or len(row) != 2:
            raise OptionError(f"Row '{name}' is {row!r}; write the test and its column: [test, routed].")
    for test in (opt['reference'], *(row[0] for row in opt['rows'].values())):
        if test not in opt['stages']:
            raise OptionError(
                f"A row of the table is of stage '{test}', which the study does not have."
                f'{did_you_mean(test, opt["stages"])}'
            )
    if [opt['reference'], 'routed'] not in map(list, opt['rows'].values()):
        raise OptionError(f"The reference '{opt['reference']}' needs a row of its own: [{opt['reference']}, routed].")


class Runner:
    """Runs stages in processes of their own, several at once, each as soon as what it needs is done.

    Args:
        root: Folder that receives ``experiments`` and ``results``.
        folder: The study's folder in ``results``.
        jobs: Stages at once.
        command: What runs a stage; verb and option file are added.
    """

    def __init__(self, root: Path, folder: Path, jobs: int, command: Sequence[str] | None = None) -> None:
        self.root, self.folder, self.jobs = root, folder, jobs
        self.command = command or COMMAND
        self.journal = Journal(folder / 'stages.jsonl')
        self.running: dict[str, tuple[Stage, subprocess.Popen, float]] = {}
        for part in ('options', 'logs'):
            (folder / part).mkdir(exist_ok=True)

    def run(self, stages: Sequence[Stage]) -> None:
        """Run what no earlier call has run.

        Raises:
            UniRestorerError: A stage failed. The others are stopped; started again, trainings go on where they were.
        """
        waiting = [stage for stage in stages if stage.key not in self.journal.rows]
        with tqdm(total=len(stages), initial=len(stages) - len(waiting), desc='study', unit='stage') as bar:
            try:
                while waiting or self.running:
                    for stage in list(self._ready(stages, waiting)):
                        waiting.remove(stage)
                        self._start(stage)
                    for stage, seconds in self._finished():
                        bar.update()
                        bar.write(f'{stage.title}: {seconds:.0f} s', file=sys.stdout)
                    if (running := ', '.join(self.running)) != bar.postfix:
                        bar.set_postfix_str(running)
                    time.sleep(0.5)
            finally:
                self._stop()

    def _ready(self, stages: Sequence[Stage], waiting: Sequence[Stage]) -> Iterator[Stage]:
        done = {stage.title for stage in stages if stage.key in self.journal.rows}
        ready = [stage for stage in waiting if all(f's{stage.seed}_{other}' in done for other in stage.needs)]
        yield from ready[: max(0, self.jobs - len(self.running))]

    def _start(self, stage: Stage) -> None:
        path = self.folder / 'options' / f'{stage.title}.yml'
        path.write_text(yaml.safe_dump(stage.options, sort_keys=False), encoding='utf-8')
        command = [*self.command, stage.verb, '-opt', str(path)]
        begun = f'{stage.key} begun'
        if begun not in self.journal.rows:
            self.journal.add(begun, {'stage': stage.title})
        elif stage.verb == 'train':
            command.append('--auto_resume')
        one_thread = {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}
        with open(self._log(stage), 'ab') as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.root,
                env={**os.environ, **one_thread},
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
        self.running[stage.title] = (stage, process, time.time())

    def _finished(self) -> Iterator[tuple[Stage, float]]:
        for title, (stage, process, start) in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[title]
            if process.returncode:
                lines = self._log(stage).read_text(errors='replace').replace('\r', '\n').split('\n')
                last = next((line for line in reversed(lines) if line.strip()), f'exit code {process.returncode}')
                raise UniRestorerError(f'Stage {title} failed ({last.strip()}); the whole log is {self._log(stage)}.')
            seconds = time.time() - start
            self.journal.add(stage.key, {'stage': title, 'seconds': round(seconds, 1)})
            yield stage, seconds

    def _stop(self) -> None:
        """Let trainings save and end; none of them counts as done."""
        for _, process, _ in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for _, process, _ in self.running.values():
            process.wait()

    def _log(self, stage: Stage) -> Path:
        return self.folder / 'logs' / f'{stage.title}.txt'


def run(opt: Mapping, folder: Path, root: Path) -> Path:
    """Run a study and write its table and pictures; returns their folder.

    Args:
        opt: The study's options.
        folder: Where the option files of its stages lie.
        root: Folder that holds ``datasets`` and receives ``experiments`` and ``results``.

    Raises:
        OptionError, UniRestorerError: See ``plan`` and ``Runner.run``.
    """
    from basicsr_unirestorer.study_report import write_report

    stages = plan(opt, folder)
    results = root / 'results' / opt['name']
    Runner(root, results, opt.get('jobs') or 1).run(stages)
    write_report(opt, stages, root / 'results', results)
    return results


def _numbers(text: str) -> list[int]:
    if not all(part.strip().isdecimal() for part in text.split(',')):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of seeds; write 0,1,2")
    return [int(part) for part in text.split(',')]


def _from_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 1")
    return int(text)


def _interrupt(number: int, frame: object) -> None:
    """End on SIGTERM as on Ctrl-C, so that no stage is left running."""
    raise KeyboardInterrupt


def main(argv: list[str]) -> int:
    """Run ``unirestorer study``."""
    parser = argparse.ArgumentParser(
        prog='unirestorer study',
        description='Train and test everything that a study compares, over its seeds, and write one table.',
        epilog='example: unirestorer study -opt options/study/study.yml',
    )
    parser.add_argument('-opt', required=True, help='the study; option files of its stages lie beside it')
    parser.add_argument('--seeds', type=_numbers, help='only these of its seeds: 0,1')
    parser.add_argument('--jobs', type=_from_one, help='stages at once, in place of what the study says')
    parser.add_argument('--dry-run', action='store_true', help='list the stages, and which of them were run')
    args = parser.parse_args(argv)
    given = {'seeds': args.seeds, 'jobs': args.jobs}
    opt = {**read_options(Path(args.opt)), **{key: value for key, value in given.items() if value is not None}}
    folder = Path(args.opt).resolve().parent
    if args.dry_run:
        stages, results = plan(opt, folder), Path('results', opt['name'], 'stages.jsonl')
        known = Journal(results).rows if results.is_file() else {}
        for stage in stages:
            state = f'done in {known[stage.key]["seconds"]} s' if stage.key in known else 'to be run'
            print(f'{stage.title:24} {stage.verb:10} {state}, after {", ".join(stage.needs) or "nothing"}')
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    results = run(opt, folder, Path.cwd())
    print((results / 'study.md').read_text(encoding='utf-8'))
    print(f'Written to {results}')
    return 0
