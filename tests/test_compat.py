"""BasicSR as it is found: the patches, and whole runs through both doors with nothing but BasicSR's own parts."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from basicsr_unirestorer import compat
from basicsr_unirestorer.errors import DataError, OptionError
from basicsr_unirestorer.resume import read_state


class Numbers(torch.utils.data.Dataset):
    """Ten numbers in a loader with batches of two, and nothing else."""

    def __init__(self):
        self.opt = {'batch_size_per_gpu': 2}

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index


class OrderedNumbers(Numbers):
    """The same, with an order of its own that carries the epoch inside the index."""

    def epoch_order(self, epoch):
        return [100 * epoch + i for i in range(10)]


@pytest.fixture
def sampler_class(registered):
    from basicsr.data.data_sampler import EnlargedSampler

    yield EnlargedSampler
    compat.forget_resume()


def order_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_sampler_goes_through_an_enlarged_dataset_several_times(sampler_class):
    sampler = sampler_class(OrderedNumbers(), 1, 0, ratio=3)
    assert order_of(sampler, 0) == [*range(10), *range(100, 110), *range(200, 210)]
    assert order_of(sampler, 1)[0] == 300
    assert len(order_of(sampler, 2)) == len(sampler) == 30


def test_sampler_leaves_other_datasets_alone(sampler_class):
    for rank in (0, 1):
        sampler = sampler_class(Numbers(), 2, rank, ratio=3)
        for epoch in (0, 4):
            generator = torch.Generator().manual_seed(epoch)
            stock = [v % 10 for v in torch.randperm(30, generator=generator).tolist()][rank::2]
            assert order_of(sampler, epoch) == stock
        assert len(sampler) == 15


def test_sampler_asks_the_dataset_for_its_order(sampler_class):
    assert order_of(sampler_class(OrderedNumbers(), 1, 0), 2) == list(range(200, 210))
    assert order_of(sampler_class(OrderedNumbers(), 2, 1), 0) == [1, 3, 5, 7, 9]
    ranks = [order_of(sampler_class(OrderedNumbers(), 3, rank), 0) for rank in range(3)]
    assert ranks == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]  # equally many, or one rank would wait for ever


@pytest.mark.parametrize('dataset', [Numbers, OrderedNumbers])
def test_sampler_goes_on_where_a_resumed_epoch_stopped(sampler_class, dataset):
    sampler = sampler_class(dataset(), 1, 0)
    whole = {epoch: order_of(sampler, epoch) for epoch in range(4)}
    compat.note_resume(epoch=2, iteration=13)  # five iterations an epoch: three of epoch 2 are done
    for _ in range(2):  # the prefetchers open the loader twice
        assert order_of(sampler, 2) == whole[2][6:]
    assert order_of(sampler, 3) == whole[3]
    assert order_of(sampler, 0) == whole[0]


def test_sampler_starts_the_epoch_anew_when_the_position_does_not_fit(sampler_class):
    sampler = sampler_class(Numbers(), 1, 0)
    compat.note_resume(epoch=1, iteration=100)
    assert len(order_of(sampler, 1)) == 10
    compat.note_resume(epoch=1, iteration=10)  # saved at the last iteration of the epoch
    assert order_of(sampler, 1) == []


def test_sampler_counts_the_batches_of_several_gpus_in_one_process(sampler_class):
    sampler = sampler_class(Numbers(), 1, 0)
    whole = order_of(sampler, 1)
    compat.note_resume(epoch=1, iteration=3, batch_factor=2)  # batches of four: two iterations an epoch
    assert order_of(sampler, 1) == whole[4:]


def test_new_sampler_forgets_an_earlier_resume(sampler_class):
    compat.note_resume(epoch=0, iteration=2)
    assert len(order_of(sampler_class(Numbers(), 1, 0), 0)) == 10


def test_apply_patches_once(registered):
    from basicsr.data.data_sampler import EnlargedSampler
    from basicsr.models.base_model import BaseModel

    before = EnlargedSampler.__iter__, BaseModel.get_optimizer, len(sys.meta_path)
    compat.apply()
    assert before == (EnlargedSampler.__iter__, BaseModel.get_optimizer, len(sys.meta_path))
    assert not hasattr(EnlargedSampler.__iter__.__wrapped__, '__wrapped__')


def test_optimizer_is_any_of_torch(registered):
    from basicsr.models.base_model import BaseModel

    params = [torch.nn.Parameter(torch.zeros(1))]
    build = BaseModel.get_optimizer
    adam = build(None, 'Adam', params, 1e-3, betas=(0.9, 0.99))
    assert type(adam) is torch.optim.Adam and adam.defaults['betas'] == (0.9, 0.99) and adam.defaults['lr'] == 1e-3
    adamw = build(None, 'AdamW', [{'params': params}], 1e-3, weight_decay=0.5)
    assert type(adamw) is torch.optim.AdamW and adamw.defaults['weight_decay'] == 0.5
    with pytest.raises(OptionError, match="'AdamV'. Did you mean 'Adam"):
        build(None, 'AdamV', params, 1e-3)


def test_cosine_schedule_stays_at_its_end(registered):
    from basicsr.models.lr_scheduler import CosineAnnealingRestartLR

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = CosineAnnealingRestartLR(optimizer, periods=[4, 4], restart_weights=[1, 0.5], eta_min=0.1)
    rates = []
    for _ in range(12):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]['lr'])
    assert rates[1] == pytest.approx(0.1 + 0.5 * 0.9 * (1 + math.cos(math.pi / 2)))
    assert rates[7:] == [pytest.approx(0.1)] * 5
    assert scheduler.last_epoch == 12


def test_missing_modules_have_stand_ins(registered):
    from torchvision.transforms.functional_tensor import rgb_to_grayscale

    assert rgb_to_grayscale(torch.ones(3, 2, 2)).shape == (1, 2, 2)
    version = type(sys)('distutils.version')
    compat._fill_distutils_version(version)
    assert version.LooseVersion('0.29.2+cpu') >= version.LooseVersion('0.9.0')
    assert version.LooseVersion('0.8') < version.LooseVersion('0.9.0')


# -------------------------------------------------------------------------------------- whole runs of BasicSR itself


def train(work, *args, stage='train'):
    from basicsr_unirestorer import test as test_door
    from basicsr_unirestorer import train as train_door

    door = {'train': train_door, 'test': test_door}[stage]
    return door.main(['-opt', str(work / f'{stage}.yml'), *args], root=work)


def weights(work, name='tiny', which='latest'):
    path = work / 'experiments' / name / 'models' / f'net_g_{which}.pth'
    return torch.load(path, weights_only=True)


def assert_same(one, other):
    for key in ('params', 'params_ema'):
        assert one[key].keys() == other[key].keys()
        for name, value in one[key].items():
            assert torch.equal(value, other[key][name]), name


def test_doors_train_resume_and_test_in_one_process(work, capfd):
    """Eight iterations equal four, then a resume in the middle of an epoch, bit for bit; each run has its own log."""
    argv = list(sys.argv)
    assert train(work) == 0
    assert train(work, '--force_yml', 'name=parts', 'train:total_iter=4') == 0
    assert train(work, '--auto_resume', '--force_yml', 'name=parts') == 0
    assert_same(weights(work, 'tiny'), weights(work, 'parts'))
    assert weights(work, 'parts', 4)['params'].keys() == weights(work, 'parts')['params'].keys()
    assert 'Resuming training from epoch: 1, iter: 4.' in capfd.readouterr().err
    assert train(work, stage='test') == 0
    logs = {path.parent.relative_to(work).as_posix(): path.read_text() for path in work.glob('*/*/*.log')}
    assert 'End of training' in logs['experiments/tiny'] and 'iter:       8' in logs['experiments/tiny']
    assert 'Testing val' in logs['results/tiny'] and 'End of training' not in logs['results/tiny']
    assert sys.argv == argv


def test_damaged_state_falls_back_to_the_one_before(work, capsys):
    assert train(work) == 0
    states = work / 'experiments' / 'tiny' / 'training_states'
    whole = (states / '8.state').read_bytes()
    (states / '8.state').write_bytes(whole[: len(whole) // 2])
    assert train(work, '--auto_resume') == 0
    out = capsys.readouterr()
    assert '8.state is damaged' in out.err and 'net_g_6.pth' in out.out
    for path in states.iterdir():
        path.write_bytes(b'')
    assert train(work, '--auto_resume') == 1
    assert 'None of the 4 training states' in capsys.readouterr().err
    assert (work / 'experiments' / 'tiny').is_dir() and not list((work / 'experiments').glob('*archived*'))


def test_state_with_objects_is_trusted_only_at_home(tmp_path):
    opt = {'path': {'experiments_root': str(tmp_path / 'experiments' / 'x')}}
    state = {'epoch': 0, 'iter': 1, 'optimizers': [Path('anything')], 'schedulers': [{'milestones': Counter([3])}]}
    home = tmp_path / 'experiments' / 'y' / '1.state'
    home.parent.mkdir(parents=True)
    for path in (home, tmp_path / '1.state'):
        torch.save(state, path)
    assert read_state(home, opt)['optimizers'] == [Path('anything')]
    with pytest.raises(DataError, match='holds Python objects beyond tensors'):
        read_state(tmp_path / '1.state', opt)
    torch.save({'params': {}}, home)
    with pytest.raises(DataError, match='not a training state'):
        read_state(home, opt)


def test_plain_state_needs_no_trust(tmp_path):
    opt = {'path': {'experiments_root': str(tmp_path / 'experiments' / 'x')}}
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    state = {
        'epoch': 0,
        'iter': 1,
        'optimizers': [optimizer.state_dict()],
        'schedulers': [{'milestones': Counter([3])}],
    }
    torch.save(state, tmp_path / '1.state')
    assert read_state(tmp_path / '1.state', opt)['schedulers'] == state['schedulers']


def test_set_smaller_than_a_batch_is_one_sentence(work, capsys):
    assert train(work, '--force_yml', 'datasets:train:batch_size_per_gpu=8') == 1
    assert 'gives 7 samples an epoch, fewer than one batch of 8' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('model_type=SRModl', "names 'SRModl'.*Did you mean 'SRModel'"),
        ('datasets:train:type=PairedImgDataset', "'datasets.train.type'.*Did you mean 'PairedImageDataset'"),
        ('network_g:type=SRVGGNetCompat', "'network_g.type'.*Did you mean 'SRVGGNetCompact'"),
        ('network_g:num_feats=4', "the option file has no 'network_g:num_feats'. Did you mean 'num_feat'"),
        ('network_g:bias=true', "Unknown option 'network_g.bias'. Allowed: act_type, "),
        ('train:pixel_opt:type=L2Los', "'train.pixel_opt.type'.*Did you mean"),
        ('val:metrics:psnr:type=calculate_psn', "'val.metrics.psnr.type'.*Did you mean 'calculate_psnr'"),
        ('num_gpus=0', "the option file has no 'num_gpus'. Did you mean 'num_gpu'"),
        ('trian:total_iter=5', "the option file has no 'trian'. Did you mean 'train'"),
        ('train:optim_g:lr=1e-4', 'write train:optim_g:lr=!!float1e-4'),
        ('train:total_iter', 'must look like train:ema_decay=0.999'),
        ('train:milestones=[1,', 'is not a list'),
        ('num_gpu=-1', 'would take'),
        ('datasets:train:batch_size_per_gpu=0', 'must be a whole number from 1'),
        ('logger:print_freq=~', "'logger.print_freq' is missing"),
    ],
)
def test_wrong_options_touch_nothing(work, capsys, change, message):
    experiment = work / 'experiments' / 'tiny'
    experiment.mkdir(parents=True)
    assert train(work, '--force_yml', change) == 1
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and err.startswith('unirestorer: error: ')
    assert re.search(message, err), err
    assert list((work / 'experiments').iterdir()) == [experiment] and not list(experiment.iterdir())


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('name: [', 'is not valid yml'),
        ('', "must hold 'key: value' lines"),
        ('- a', "must hold 'key: value' lines"),
        ('name: x\nmodel_type: SRModel\nnum_gpu: 0\ndatsets: {}', "Unknown option 'datsets'. Did you mean 'datasets'"),
        ('name: x\nmodel_type: SRModel\nnum_gpu: 0\ndatasets: {}\npath: {}\ntrain: 3\nlogger: {}', "'train' must be"),
    ],
)
def test_unreadable_option_file_is_one_sentence(work, capsys, text, message):
    (work / 'train.yml').write_text(text)
    assert train(work) == 1
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1


def test_two_processes_train_on_the_cpu(work):
    """torchrun with gloo: without a GPU BasicSR's own launcher divides by zero."""
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--nproc_per_node=2',
        '--standalone',
        '-m',
        'basicsr_unirestorer.train',
        '-opt',
        str(work / 'train.yml'),
        '--launcher',
        'pytorch',
        '--force_yml',
        'train:total_iter=2',
    ]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'world_size: 2' in done.stderr and 'End of training' in done.stderr


# ------------------------------------------------------------------------------------------------- the registry alone


def test_restoring_imports_no_more_of_basicsr_than_its_registry():
    """And BasicSR, imported afterwards, keeps that registry with our networks in it and adds its own."""
    code = """
import sys
import basicsr_unirestorer.inference.restorer
from basicsr.utils.registry import ARCH_REGISTRY
assert 'basicsr' not in sys.modules and 'torchvision' not in sys.modules
assert 'NAFNetExpert' in ARCH_REGISTRY and 'RRDBNet' not in ARCH_REGISTRY
from basicsr_unirestorer.archs.building import make_network
make_network({'type': 'SRVGGNetCompact', 'num_conv': 1}, 'expert')
import basicsr.utils.registry
assert basicsr.archs.ARCH_REGISTRY is ARCH_REGISTRY
assert 'NAFNetExpert' in ARCH_REGISTRY and 'RRDBNet' in ARCH_REGISTRY
from basicsr_unirestorer import register
register()
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
