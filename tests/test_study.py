"""The study: which stages it has, how they are run and gone on with, and what its table says."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from basicsr_unirestorer import register
from basicsr_unirestorer.errors import DataError, OptionError, UniRestorerError
from basicsr_unirestorer.option_files import options_dir
from basicsr_unirestorer.study import Runner, main, merged, plan
from basicsr_unirestorer.study_report import spread, write_report

PACKAGED = options_dir() / 'study'
ROWS = {'input': ['test', 'input'], 'routed': ['test', 'routed'], 'leaves': ['leaves', 'routed']}


def packaged_study() -> dict:
    return yaml.safe_load((PACKAGED / 'study.yml').read_text())


def small_study(folder: Path, **changes) -> dict:
    """Write a study of one training and two tests, which nothing but a pretended command can run."""
    (folder / 'train.yml').write_text('name: x\nmodel_type: M\ndatasets: {train: {seed: 7}}\n')
    (folder / 'test.yml').write_text('bundle: experiments/toy_s0_train/bundle\ndatasets: {test_1: {seed: 1000}}\n')
    stages = {'train': {'file': 'train.yml'}, 'test': {'file': 'test.yml'}}
    stages['leaves'] = {'file': 'test.yml', 'set': {'level': 1}}
    return {'name': 'toy', 'seeds': [0, 1], 'stages': stages, 'reference': 'test', 'rows': ROWS, **changes}


def pretended(tmp_path: Path, body: str) -> tuple[str, ...]:
    """Return a command that takes the place of ``unirestorer``; ``verb``, ``opt`` and ``extra`` are set in its body."""
    script = tmp_path / 'pretended.py'
    script.write_text(
        'import os, sys, time, yaml\nfrom pathlib import Path\nverb, _, path, *extra = sys.argv[1:]\n'
        'opt = yaml.safe_load(open(path))\nprint(verb, opt["name"], *extra, file=open("calls.txt", "a"))\n' + body
    )
    return (sys.executable, str(script))


def runner(tmp_path: Path, body: str, jobs: int = 2) -> Runner:
    return Runner(tmp_path, tmp_path / 'results/toy', jobs, pretended(tmp_path, body))


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(0.05)


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / 'calls.txt').read_text().splitlines()


# ------------------------------------------------------------------------------------------------------------- plan


def test_the_packaged_study_makes_option_files_that_every_stage_accepts():
    from basicsr_unirestorer.clustering.build import check_clustering
    from basicsr_unirestorer.embed import check_stage
    from basicsr_unirestorer.inference import benchmark
    from basicsr_unirestorer.preflight import check_options

    register()
    stages = plan(packaged_study(), PACKAGED)
    assert len({stage.key for stage in stages}) == len(stages)
    for stage in stages:
        if stage.verb == 'train':
            check_options(stage.options, is_train=True)
        elif stage.verb == 'cluster':
            check_stage(stage.options)
            check_clustering(stage.options['clustering'])
        else:
            benchmark.check(stage.options)


def test_every_stage_stands_after_those_that_it_needs_and_reads_its_own_seed():
    stages = plan(packaged_study(), PACKAGED)
    seen = set()
    for stage in stages:
        assert {(other, stage.seed) for other in stage.needs} <= seen
        seen.add((stage.name, stage.seed))
        text = yaml.safe_dump(stage.options)
        assert f'study_s{stage.seed}_' in text
        assert not any(f'study_s{seed}_' in text for seed in {0, 1, 2} - {stage.seed})


def test_the_baseline_has_the_steps_of_all_experts_and_the_tested_pictures_are_the_same_for_every_seed():
    stages = {stage.title: stage.options for stage in plan(packaged_study(), PACKAGED)}
    root, middle, leaf = stages['s0_experts']['datasets']['train']['expert_batch']['steps_per_level']
    steps = stages['s0_one_for_all']['datasets']['train']['expert_batch']['steps_per_level']
    assert steps == [root + 7 * middle + 21 * leaf, 0, 0]
    assert stages['s0_test']['datasets'] == stages['s2_test']['datasets']
    assert stages['s2_encoder']['datasets']['train']['seed'] == stages['s2_encoder']['manual_seed'] == 2


def test_what_depends_on_a_changed_stage_is_run_again_and_nothing_else(tmp_path):
    opt = small_study(tmp_path)
    before = {stage.title: stage.key for stage in plan(opt, tmp_path)}
    opt['stages']['leaves']['set'] = {'level': 2}
    after = {stage.title: stage.key for stage in plan(opt, tmp_path)}
    assert {title for title in before if before[title] != after[title]} == {'s0_leaves', 's1_leaves'}
    opt['stages']['train']['set'] = {'train': {'total_iter': 3}}
    again = {stage.title: stage.key for stage in plan(opt, tmp_path)}
    assert not set(after.values()) & set(again.values())


def test_a_stage_may_be_run_for_some_seeds_only(tmp_path):
    opt = small_study(tmp_path)
    opt['stages']['leaves']['seeds'] = [1]
    assert [s.title for s in plan(opt, tmp_path)] == ['s0_train', 's1_train', 's0_test', 's1_test', 's1_leaves']


def test_options_are_merged_group_by_group_and_none_takes_one_out():
    options = {'a': {'b': 1, 'c': [1, 2]}, 'd': 4}
    assert merged(options, {'a': {'c': [3]}, 'd': None, 'e': 5}) == {'a': {'b': 1, 'c': [3]}, 'e': 5}
    assert options == {'a': {'b': 1, 'c': [1, 2]}, 'd': 4}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'stages': {'train': {'file': 'nothing.yml'}}}, 'nothing.yml, which does not exist'),
        ({'rows': {'x': ['tset', 'routed']}}, "'tset', which the study does not have. Did you mean 'test'"),
        ({'rows': {'x': 'test'}}, r"Row 'x' is 'test'; write the test and its column"),
        ({'rows': {'input': ['test', 'input']}}, r"needs a row of its own: \[test, routed\]"),
        ({'seeds': []}, "'study.seeds' is missing"),
        ({'colour': 1}, "Unknown option 'study.colour'"),
    ],
)
def test_mistakes_in_a_study_are_named_before_anything_is_run(tmp_path, change, message):
    with pytest.raises(OptionError, match=message):
        plan(small_study(tmp_path, **change), tmp_path)


def test_a_stage_that_reads_a_stage_that_is_not_there_is_refused(tmp_path):
    opt = small_study(tmp_path)
    opt['stages']['leaves']['set'] = {'bundle': 'experiments/toy_s0_trian/bundle'}
    with pytest.raises(OptionError, match="no stage 'trian'. Did you mean 'train'"):
        plan(opt, tmp_path)


def test_stages_that_need_each_other_are_refused(tmp_path):
    opt = small_study(tmp_path)
    opt['stages']['train']['set'] = {'tree': 'experiments/toy_s0_test'}
    with pytest.raises(OptionError, match='need each other: '):
        plan(opt, tmp_path)


def test_a_seed_that_a_needed_stage_is_not_run_for_is_refused(tmp_path):
    opt = small_study(tmp_path)
    opt['stages']['train']['seeds'] = [0]
    with pytest.raises(OptionError, match="'train' is needed for seed 1"):
        plan(opt, tmp_path)


@pytest.mark.parametrize('wrong', [('--seeds', 'a'), ('--seeds', '0,'), ('--jobs', '0'), ('--jobs', 'two')])
def test_wrong_arguments_are_refused(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit):
        main(['-opt', str(tmp_path / 'x.yml'), *wrong])
    assert f"'{wrong[1]}' is no" in capsys.readouterr().err


def test_a_damaged_option_file_of_a_stage_is_one_sentence(tmp_path):
    opt = small_study(tmp_path)
    (tmp_path / 'test.yml').write_text('a: [1')
    with pytest.raises(OptionError, match='test.yml.* is not valid yml'):
        plan(opt, tmp_path)


# -------------------------------------------------------------------------------------------------------------- run


def test_every_stage_is_run_once_after_what_it_needs(tmp_path):
    stages = plan(small_study(tmp_path), tmp_path)
    runner(tmp_path, '').run(stages)
    made = calls(tmp_path)
    assert sorted(made) == sorted(f'{s.verb} toy_{s.title}' for s in stages)
    for seed in (0, 1):
        assert made.index(f'train toy_s{seed}_train') < made.index(f'benchmark toy_s{seed}_test')
    runner(tmp_path, '').run(stages)
    assert calls(tmp_path) == made


def test_a_failed_stage_ends_the_study_stops_the_others_and_is_gone_on_with(tmp_path):
    stages = plan(small_study(tmp_path), tmp_path)
    body = (
        'if opt["name"] == "toy_s1_train":\n'
        '    while not Path("other").exists(): time.sleep(0.05)\n    sys.exit("no space left")\n'
        'Path("other").write_text(str(os.getpid()))\ntime.sleep(600)\n'
    )
    start = time.time()
    with pytest.raises(UniRestorerError, match=r's1_train failed \(no space left\); the whole log is .*s1_train.txt'):
        runner(tmp_path, body).run(stages)
    assert time.time() - start < 60
    other = int((tmp_path / 'other').read_text())
    assert not Path(f'/proc/{other}').exists()
    runner(tmp_path, '').run(stages)
    assert {'train toy_s0_train --auto_resume', 'train toy_s1_train --auto_resume'} <= set(calls(tmp_path))
    assert 'benchmark toy_s0_test' in calls(tmp_path)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_study_leaves_no_stage_running(tmp_path, number):
    (tmp_path / 'study.yml').write_text(yaml.safe_dump(small_study(tmp_path, seeds=[0])))
    pretend = pretended(tmp_path, 'Path("begun").write_text(str(os.getpid()))\ntime.sleep(600)\n')
    code = (
        'import signal, sys\nfrom basicsr_unirestorer import cli, study\nstudy.COMMAND = tuple(sys.argv[1:3])\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'  # ignored in what a shell starts with &
        'sys.exit(cli.main(["study", "-opt", "study.yml"]))\n'
    )
    process = subprocess.Popen([sys.executable, '-c', code, *pretend], cwd=tmp_path, stderr=subprocess.PIPE)
    wait_for(lambda: (tmp_path / 'begun').is_file() and (tmp_path / 'begun').read_text())
    process.send_signal(number)
    assert process.wait(60) == 130
    assert not Path('/proc', (tmp_path / 'begun').read_text()).exists()
    assert b'interrupted' in process.stderr.read()


def test_no_more_stages_than_jobs_run_at_once(tmp_path):
    body = 'time.sleep(0.3)\nprint(verb, opt["name"], "ended", file=open("calls.txt", "a"))\n'
    runner(tmp_path, body, jobs=1).run(plan(small_study(tmp_path), tmp_path))
    made = calls(tmp_path)
    assert all(after == f'{before} ended' for before, after in zip(made[::2], made[1::2], strict=True))


# ------------------------------------------------------------------------------------------------------------ report


def write_pictures(results: Path, name: str, rows: list[dict]) -> None:
    (results / name).mkdir(parents=True, exist_ok=True)
    with open(results / name / 'pictures.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def picture(number: int, labels: str, routed: float, level: int, **more) -> dict:
    common = {
        'dataset': 'seen',
        'sample_id': str(number),
        'labels': labels,
        'leaf_labels': 'rain',
        'leaf': 'l2_00',
        'level': level,
    }
    return {**common, 'input': 10.0, 'routed': routed, **more}


@pytest.fixture
def finished(tmp_path):
    """A study of two seeds whose tests are done, with numbers made up."""
    opt, results = small_study(tmp_path), tmp_path / 'results'
    for seed in (0, 1):
        best = {'best node': 30.0 + seed}
        pictures = [picture(0, 'rain', 29.0 + seed, 2, **best), picture(1, 'haze', 20.0, 0, **best)]
        pictures.append(picture(2, 'haze+rain', 28.0, 1, **best))
        write_pictures(results, f'toy_s{seed}_test', pictures)
        write_pictures(results, f'toy_s{seed}_leaves', [picture(n, 'rain', 25.0, 2) for n in range(3)])
    (results / 'toy').mkdir()
    return opt, plan(opt, tmp_path), results


def test_the_report_tells_means_and_spread_over_seeds_and_regret_against_the_best_expert(finished):
    opt, stages, results = finished
    write_report(opt, stages, results, results / 'toy')
    numbers = json.loads((results / 'toy/study.json').read_text())['rows']
    assert numbers['routed']['seen']['psnr'] == pytest.approx([77 / 3, 78 / 3])
    assert numbers['routed']['seen']['regret'] == pytest.approx([30 - 77 / 3, 31 - 78 / 3])
    assert numbers['leaves']['seen']['regret'] == pytest.approx([5, 6])  # its test tried no expert: the reference did
    text = (results / 'toy/study.md').read_text()
    assert '| routed | 25.83 ± 0.24 |' in text
    assert '| seen, one degradation | 50% | 0: 50%, 2: 50% |' in text
    assert '| seen, two degradations | 100% | 1: 100% |' in text
    for name in ('psnr.png', 'degradations.png'):
        assert (results / 'toy' / name).stat().st_size > 5000


def test_a_leaf_counts_as_right_for_single_degradations_alone(finished):
    opt, stages, results = finished
    write_report(opt, stages, results, results / 'toy')
    line = next(row for row in (results / 'toy/study.md').read_text().splitlines() if row.startswith('| routed | 4'))
    assert ' 50% ' in line  # rain yes, haze no, haze and rain not counted


def test_rows_of_tests_that_no_seed_was_run_for_are_left_out_and_told(finished, tmp_path):
    opt, _, results = finished
    opt['stages']['leaves']['seeds'] = [1]
    write_report(opt, plan(opt, tmp_path), results, results / 'toy')
    assert 'Of fewer seeds: leaves.' in (results / 'toy/study.md').read_text()
    write_report({**opt, 'seeds': [0]}, plan({**opt, 'seeds': [0]}, tmp_path), results, results / 'toy')
    text = (results / 'toy/study.md').read_text()
    assert 'Not run: leaves.' in text and '| leaves |' not in text


def test_a_row_without_its_column_or_its_test_is_told(finished):
    opt, stages, results = finished
    with pytest.raises(DataError, match="'leaves' tried no expert"):
        swapped = {'reference': 'leaves', 'rows': {'leaves': ['leaves', 'routed']}}
        write_report({**opt, **swapped}, stages, results, results / 'toy')
    with pytest.raises(DataError, match="'x' wants the column 'rooted'"):
        write_report({**opt, 'rows': {**ROWS, 'x': ['test', 'rooted']}}, stages, results, results / 'toy')
    (results / 'toy_s1_leaves/pictures.csv').unlink()
    with pytest.raises(DataError, match='run `unirestorer study` again'):
        write_report(opt, stages, results, results / 'toy')


def test_spread_of_one_seed_is_no_spread():
    assert spread([1.234]) == '1.23'
    assert spread([1.0, 2.0]) == '1.50 ± 0.71'
    assert spread([]) == '-'
