"""Every option file that ships can be read, names only what exists, and agrees with the other stages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from basicsr_unirestorer.clustering.expert_plan import steps_of_experts
from basicsr_unirestorer.clustering.tree import DegradationTree, Node, node_name
from basicsr_unirestorer.data.mixed_degradation_lmdb_dataset import MixedDegradationLMDBDataset
from basicsr_unirestorer.data.source_options import FLAT_KEYS, listed_sources
from basicsr_unirestorer.degradations import DegradationRecipe
from basicsr_unirestorer.errors import OptionError
from basicsr_unirestorer.preflight import check_options, read_options

OPTIONS = Path(__file__).parents[1] / 'options'
STAGES = ('encoder', 'clustering', 'experts', 'routing')
FILES = sorted(path for path in OPTIONS.rglob('unirestorer_*.yml'))
BASICSR_FILES = [path for path in FILES if path.stem.split('_', 1)[1] not in ('clustering', 'grow', 'benchmark')]


def relative(path: Path) -> str:
    return path.relative_to(OPTIONS).as_posix()


def tree_of(level_sizes: list[int]) -> DegradationTree:
    """A tree of the given shape; who is whose child does not matter here."""
    nodes = [Node(node_name(level, i), level, level - 1) for level, n in enumerate(level_sizes) for i in range(n)]
    return DegradationTree(tuple(nodes), None)


def test_the_promised_files_are_there():
    for folder in ('', 'tiny/', 'zoo/'):
        assert {f'{folder}unirestorer_{stage}.yml' for stage in STAGES} <= set(map(relative, FILES))
    assert any(relative(path).startswith('test/') for path in FILES)


@pytest.mark.parametrize('path', BASICSR_FILES, ids=relative)
def test_names_only_what_exists(path, registered):
    opt = read_options(path)
    opt['num_gpu'] = 0  # files for a GPU must be checkable without one
    check_options(opt, is_train='train' in opt)


@pytest.mark.parametrize('path', FILES, ids=relative)
def test_datasets_have_known_keys_and_recipes(path):
    for phase, dataset in read_options(path)['datasets'].items():
        if dataset['type'] != 'MixedDegradationLMDBDataset':
            continue
        MixedDegradationLMDBDataset.check_options(dataset, f'datasets.{phase}')
        for source in listed_sources(dataset):
            if 'recipe' in source:
                DegradationRecipe.load(source['recipe'])


@pytest.mark.parametrize('path', sorted((OPTIONS / 'sources').glob('*.yml')), ids=relative)
def test_lists_of_sources_can_take_the_place_of_a_single_one(path):
    for stage in STAGES:
        data = read_options(OPTIONS / f'unirestorer_{stage}.yml')['datasets']['train']
        data = {key: value for key, value in data.items() if key not in FLAT_KEYS}
        data |= {'sources': path.stem, 'epoch_samples': 140000}
        data.pop('route_also', None)  # of the routing stage's own data set
        MixedDegradationLMDBDataset.check_options(data, 'datasets.train')
        for source in listed_sources(data):
            assert re.fullmatch(r'datasets/(unirestorer/\w+/\w+/train/gt|zoo/\w+).lmdb', source['dataroot_gt'])
            if 'recipe' in source:
                DegradationRecipe.load(source['recipe'])


@pytest.mark.parametrize(('section', 'message'), [('train', 'train.ema_decy'), ('datasets', 'datasets.train.ema_decy')])
def test_a_misspelt_option_is_found_before_anything_is_touched(section, message, registered):
    opt = read_options(OPTIONS / 'tiny/unirestorer_experts.yml')
    (opt['train'] if section == 'train' else opt['datasets']['train'])['ema_decy'] = 1
    with pytest.raises(OptionError, match=f"Unknown option '{message}'"):
        check_options(opt, is_train=True)


def test_a_misspelt_key_of_a_source_is_found_before_anything_is_touched(registered):
    opt = read_options(OPTIONS / 'tiny/unirestorer_encoder.yml')
    data = opt['datasets']['train']
    source = {'name': 'a', **{key: data.pop(key) for key in ('dataroot_gt', 'recipe', 'variants')}}
    data['sources'] = [source, {**source, 'name': 'b', 'max_sample': 9}]
    with pytest.raises(OptionError, match="'datasets.train.sources.1.max_sample'. Did you mean 'max_samples'"):
        check_options(opt, is_train=True)


@pytest.mark.parametrize('path', FILES, ids=relative)
def test_says_what_it_is_and_how_to_run_it(path):
    head = path.read_text().split('\nname:')[0]
    command = next(line for line in head.splitlines() if line.startswith('# Command:'))
    assert f'-opt options/{relative(path)}' in command


@pytest.mark.parametrize('folder', ['', 'tiny/', 'zoo/'], ids=['full', 'tiny', 'zoo'])
def test_stages_fit_together(folder):
    stage = {name: read_options(OPTIONS / f'{folder}unirestorer_{name}.yml') for name in STAGES}
    batch = stage['experts']['datasets']['train']['expert_batch']
    tree = tree_of(stage['clustering']['clustering']['level_sizes'])
    assert stage['experts']['train']['total_iter'] == sum(steps_of_experts(tree, batch).values())
    built_on = stage['clustering']['datasets']['train']
    for later in ('experts', 'routing'):
        data = stage[later]['datasets']['train']
        samples = ('dataroot_gt', 'recipe', 'variants', 'sources', 'seed')
        assert [data.get(key) for key in samples] == [built_on.get(key) for key in samples]
        assert Path(data['tree']).parent == Path('experiments') / stage['clustering']['name']
    for key in ('default', 'by_label'):
        assert stage['routing']['experts'].get(key) == stage['experts']['experts'].get(key)
    assert stage['routing']['encoder'] == stage['clustering']['encoder']
    trained = {key: value for key, value in stage['routing']['encoder'].items() if key != 'weights'}
    assert trained == stage['encoder']['network_g']
    assert f'experiments/{stage["encoder"]["name"]}/' in stage['routing']['encoder']['weights']
    assert f'experiments/{stage["experts"]["name"]}/' in str(stage['routing']['experts']['weights'])


def test_growing_fits_the_stages_that_it_builds_on():
    stage = {name: read_options(OPTIONS / f'tiny/unirestorer_{name}.yml') for name in STAGES}
    grown = {
        name: read_options(OPTIONS / f'tiny/unirestorer_{name}.yml')
        for name in ('grow', 'grow_experts', 'grow_routing')
    }
    old = tree_of(stage['clustering']['clustering']['level_sizes'])
    branch = tree_of(grown['grow']['clustering']['level_sizes'])
    assert grown['grow']['grow']['tree'] == f'experiments/{stage["clustering"]["name"]}'
    for opt in grown.values():
        sources = [dict(source) for source in opt['datasets']['train']['sources']]
        for source in sources:
            source.pop('max_samples', None)
        assert sources == grown['grow']['datasets']['train']['sources']
    for name in ('grow_experts', 'grow_routing'):
        assert Path(grown[name]['datasets']['train']['tree']).parent == Path('experiments') / grown['grow']['name']
    batch = grown['grow_experts']['datasets']['train']['expert_batch']
    levels = range(1, old.num_levels)
    names = [node_name(n, old.level_sizes[n] + i) for n in levels for i in range(branch.level_sizes[n])]
    assert batch['experts'] == names
    steps = sum(batch['steps_per_level'][n] * branch.level_sizes[n] for n in levels)
    assert grown['grow_experts']['train']['total_iter'] == steps
    folders = [f'experiments/{opt["name"]}/models' for opt in (grown['grow_experts'], stage['experts'])]
    assert grown['grow_routing']['experts']['weights'] == folders
    assert grown['grow_experts']['path']['pretrain_network_experts'] == folders[1]
    assert grown['grow_routing']['experts']['default'] == stage['experts']['experts']['default']
    assert grown['grow_routing']['encoder'] == grown['grow']['encoder'] == stage['clustering']['encoder']
