"""BasicSR's own loader and prefetchers drive the dataset: same items in the same order, and errors arrive."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

from basicsr_unirestorer import compat
from basicsr_unirestorer.errors import DataError
from tests.data.samples import equal, make_lmdb, noise_pictures, options


@pytest.fixture
def roots(tmp_path) -> dict:
    return {
        'dataroot_gt': make_lmdb(tmp_path / 'gt.lmdb', noise_pictures(6)),
        'dataroot_lq': make_lmdb(tmp_path / 'lq.lmdb', noise_pictures(6, seed=1)),
    }


@pytest.fixture(autouse=True)
def no_resume():
    yield
    compat.forget_resume()


def build(workers: int = 0, **changes):
    """Return (loader, sampler) as BasicSR's training loop makes them."""
    from basicsr.data import build_dataloader, build_dataset
    from basicsr.data.data_sampler import EnlargedSampler

    opt = options(batch_size_per_gpu=2, num_worker_per_gpu=workers, **changes)
    dataset = build_dataset(opt)
    sampler = EnlargedSampler(dataset, 1, 0, 2)
    return build_dataloader(dataset, opt, num_gpu=0, sampler=sampler, seed=0), sampler


def epochs(loader, sampler, numbers) -> list[dict]:
    """Go through epochs as ``basicsr.train`` does."""
    from basicsr.data.prefetch_dataloader import CPUPrefetcher

    batches, prefetcher = [], CPUPrefetcher(loader)  # opens the loader once in vain
    for number in numbers:
        sampler.set_epoch(number)
        prefetcher.reset()
        while (batch := prefetcher.next()) is not None:
            batches.append(batch)
    return batches


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('more', [{}, {'num_prefetch_queue': 3}, {'persistent_workers': True}])
def test_prefetching_changes_nothing(roots, registered, workers, more):
    if more.get('persistent_workers') and not workers:
        pytest.skip('torch keeps workers only where there are some')
    plain = epochs(*build(**roots), range(2))
    assert len(plain) == 12
    prefetched = epochs(*build(workers, **roots, prefetch_mode='cpu', **more), range(2))
    assert all(equal(a, b) for a, b in zip(plain, prefetched, strict=True))


def test_a_resumed_epoch_goes_on_under_prefetching(roots, registered):
    whole = epochs(*build(**roots), [1])
    loader, sampler = build(**roots, prefetch_mode='cpu')
    compat.note_resume(epoch=1, iteration=6 + 4)
    rest = epochs(loader, sampler, [1])
    assert len(rest) == 2
    assert all(equal(a, b) for a, b in zip(whole[4:], rest, strict=True))


def test_an_error_arrives_where_the_training_waits(roots, registered, tmp_path):
    sizes = make_lmdb(tmp_path / 'other.lmdb', noise_pictures(6, size=(40, 44)))
    meta = (tmp_path / 'gt.lmdb' / 'meta_info.txt').read_text()
    (tmp_path / 'other.lmdb' / 'meta_info.txt').write_text(meta)  # a lie, found when the pictures are read
    loader, sampler = build(dataroot_gt=roots['dataroot_gt'], dataroot_lq=sizes, prefetch_mode='cpu')
    with pytest.raises(DataError, match='pairs need equal sizes'):
        epochs(loader, sampler, [0])


def test_what_is_prefetched_in_vain_is_let_go(roots, registered):
    before = threading.active_count()
    loader, _ = build(**roots, prefetch_mode='cpu')
    for _ in range(3):
        next(iter(loader))  # leaves an iterator before its end
    assert threading.active_count() == before + 1
    del loader
    gc.collect()
    assert threading.active_count() == before


@pytest.mark.gpu
def test_cuda_prefetching_changes_nothing(roots, registered):
    from basicsr.data.prefetch_dataloader import CUDAPrefetcher

    plain = epochs(*build(**roots), [0])
    loader, sampler = build(**roots, prefetch_mode='cuda', pin_memory=True)
    sampler.set_epoch(0)
    prefetcher = CUDAPrefetcher(loader, {'num_gpu': 1})
    for batch in plain:
        found = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in prefetcher.next().items()}
        assert equal(batch, found)
    assert prefetcher.next() is None
