"""BasicSR as it is found: everything that depends on the version of BasicSR, torch or torchvision lives here.

:func:`apply` mends the installed BasicSR in memory; no file of it is touched. Each patch looks at what is there rather
than at version numbers, so that BasicSR 1.4.2 from PyPI and a checkout of its master branch are both served.

Two moments call it. Usually :func:`basicsr_unirestorer.register` does, and BasicSR is imported here in one go. In a
linked BasicSR (see :mod:`basicsr_unirestorer.linking`) its own scan of ``archs/``, ``data/``, ``losses/`` and
``models/`` imports our packages while ``import basicsr`` is still under way; each of them calls :func:`apply`, and each
call patches the parts that are complete enough by then. What ``python basicsr/train.py`` defines in ``__main__`` does
not exist yet at that time; it is patched when its pipeline begins, which is when it parses its options.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import queue
import re
import sys
import threading
import weakref
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from basicsr_unirestorer.errors import DataError, OptionError, did_you_mean
from basicsr_unirestorer.resume import find_state

_MARK = '_unirestorer_patch'


def apply() -> None:
    """Mend the installed BasicSR in memory; calling it again only does what was not possible before.

    Raises:
        ModuleNotFoundError: BasicSR, or a package that it needs, is not installed.
    """
    shim_imports()
    importlib.import_module('basicsr')  # returns at once when its own scan is what imports us
    for needed, module_name, patch in _PATCHES:
        if needed in sys.modules:  # else: BasicSR is still on its way there, and a later call patches it
            patch(importlib.import_module(module_name))


def provide_registry() -> None:
    """Make ``basicsr.utils.registry`` importable without the rest of BasicSR, where that is not imported yet.

    Restoring a picture needs the registry of networks alone; all of BasicSR takes twice the time and memory of torch. A
    later ``import basicsr`` finds the registry in place and uses it.

    Raises:
        ModuleNotFoundError: BasicSR is not installed.
    """
    name = 'basicsr.utils.registry'
    if 'basicsr' in sys.modules or name in sys.modules:
        return
    package = importlib.util.find_spec('basicsr')
    if package is None:
        importlib.import_module('basicsr')  # raises what a missing package raises
    file = Path(package.submodule_search_locations[0], 'utils', 'registry.py')
    spec = importlib.util.spec_from_file_location(name, file)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


# ------------------------------------------------------------------------------------------ modules that are gone


class _MissingModules(MetaPathFinder, Loader):
    """Stand-ins for modules that BasicSR imports and newer surroundings no longer have.

    It is asked last, so that a module that does exist is never hidden, and it imports nothing until it is asked.
    """

    makers: dict[str, Callable[[ModuleType], None]]

    def __init__(self) -> None:
        self.makers = {
            'torchvision.transforms.functional_tensor': _fill_functional_tensor,  # gone since torchvision 0.17
            'scipy.ndimage.filters': _fill_ndimage_filters,  # announced to go in SciPy 2.0
            'distutils': _fill_distutils,  # gone since Python 3.12, unless setuptools brings it back
            'distutils.version': _fill_distutils_version,
        }

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in self.makers:
            return None
        return ModuleSpec(fullname, self, is_package=fullname == 'distutils')

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        self.makers[module.__name__](module)


def _fill_functional_tensor(module: ModuleType) -> None:
    module.rgb_to_grayscale = importlib.import_module('torchvision.transforms.functional').rgb_to_grayscale


def _fill_ndimage_filters(module: ModuleType) -> None:
    module.convolve = importlib.import_module('scipy.ndimage').convolve


def _fill_distutils(module: ModuleType) -> None:
    module.__path__ = []


def _fill_distutils_version(module: ModuleType) -> None:

    @functools.total_ordering
    class LooseVersion:
        """The leading numbers of a version: enough for BasicSR, which compares torchvision's with ``'0.9.0'``."""

        def __init__(self, text: str) -> None:
            self.version = [int(part) for part in re.match(r'[\d.]*', text)[0].split('.') if part]

        def __eq__(self, other: object) -> bool:
            return isinstance(other, LooseVersion) and self.version == other.version

        def __lt__(self, other: LooseVersion) -> bool:
            return self.version < other.version

    module.LooseVersion = LooseVersion


def shim_imports() -> None:
    """Let BasicSR's imports of vanished modules succeed; costs nothing until BasicSR is imported."""
    if not any(type(finder).__name__ == _MissingModules.__name__ for finder in sys.meta_path):
        sys.meta_path.append(_MissingModules())


# ------------------------------------------------------------------------------------------------ small helpers


def _replace(owner: Any, name: str, make: Callable[[Callable], Callable]) -> None:
    """Set ``owner.name`` to ``make(stock)``, once; the stock function stays readable under ``__wrapped__``."""
    stock = getattr(owner, name)
    if not hasattr(stock, _MARK):
        patched = functools.wraps(stock)(make(stock))
        setattr(patched, _MARK, True)
        setattr(owner, name, patched)


# --------------------------------------------------------------------------------------- sampler: order and resume

_resume_position: tuple[int, int, int] | None = None
_sampler: Any = None  # of the training that was built last


def note_resume(epoch: int, iteration: int, batch_factor: int = 1) -> None:
    """Remember where a resumed training stopped, so that its first epoch goes on there instead of starting anew.

    ``BaseModel.resume_training`` calls this; a model that overrides it without ``super()`` must call it too. The
    position holds for samplers that exist already and is forgotten when the next training builds its sampler.

    Args:
        epoch: Number of the epoch that was interrupted, counted from 0, as saved in the training state.
        iteration: Iterations done since the start of the training, all epochs together.
        batch_factor: A batch holds so many times ``batch_size_per_gpu`` samples: the number of GPUs where one process
            drives several, 1 otherwise.
    """
    global _resume_position
    _resume_position = (int(epoch), int(iteration), int(batch_factor))


def forget_resume() -> None:
    """Drop the position that :func:`note_resume` left, as every newly built training sampler does."""
    global _resume_position
    _resume_position = None


def current_epoch() -> int:
    """Return the epoch that the training is in, which BasicSR tells a model only when it saves."""
    sampler = _sampler and _sampler()
    return 0 if sampler is None else sampler.epoch


def _consumed_samples(epoch: int, num_samples: int, batch_size: int) -> int:
    """Samples of ``epoch`` that a resumed training has used up before it stopped.

    Every epoch has ``num_samples // batch_size`` iterations, since BasicSR's training loader drops the last, smaller
    batch. Keyed by the epoch, and not consumed on reading: the prefetchers open the loader twice.
    """
    if _resume_position is None or _resume_position[0] != epoch or batch_size < 1:
        return 0
    _, iteration, batch_factor = _resume_position
    batch_size *= batch_factor
    iters_per_epoch = num_samples // batch_size
    done = iteration - epoch * iters_per_epoch
    # A number outside the epoch comes from another batch size or data set: there is no place to continue from.
    return done * batch_size if 0 <= done <= iters_per_epoch else 0


def _patch_sampler(module: ModuleType) -> None:

    def make_init(stock: Callable) -> Callable:

        def __init__(self, *args, **kwargs):
            global _sampler
            forget_resume()  # a sampler is built once a training, before its state is loaded
            stock(self, *args, **kwargs)
            _sampler = weakref.ref(self)

        return __init__

    def make_iter(stock: Callable) -> Callable:

        def __iter__(self):
            if getattr(self, 'own_order', None) is not None:
                return iter(self.own_order if self.epoch == 0 else ())
            if hasattr(self.dataset, 'epoch_order'):
                # An enlarged epoch is several rounds of the dataset, each in an order of its own.
                rounds = max(1, round(self.num_samples * self.num_replicas / len(self.dataset)))
                numbers = range(self.epoch * rounds, (self.epoch + 1) * rounds)
                order = [index for number in numbers for index in self.dataset.epoch_order(number)]
                # Equally many for every rank: one more batch on one of them would wait for the others for ever.
                count = min(self.num_samples, len(order) // self.num_replicas)
                indices = [order[self.rank + i * self.num_replicas] for i in range(count)]
            else:
                indices = list(stock(self))
            batch_size = int((getattr(self.dataset, 'opt', None) or {}).get('batch_size_per_gpu', 0))
            return iter(indices[_consumed_samples(self.epoch, len(indices), batch_size) :])

        return __iter__

    _replace(module.EnlargedSampler, '__init__', make_init)
    _replace(module.EnlargedSampler, '__iter__', make_iter)


# ------------------------------------------------------------------------------------------- model base and schedule


def _patch_base_model(module: ModuleType) -> None:

    def make_get_optimizer(stock: Callable) -> Callable:

        def get_optimizer(self, optim_type, params, lr, **kwargs):
            import torch

            known = {
                name: cls
                for name, cls in vars(torch.optim).items()
                if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and name != 'Optimizer'
            }
            if optim_type not in known:
                raise OptionError(
                    f"Unknown optimizer '{optim_type}'.{did_you_mean(optim_type, known)} "
                    f'Every class of torch.optim can be named: Adam, AdamW, SGD, ...'
                )
            return known[optim_type](params, lr=lr, **kwargs)

        return get_optimizer

    def make_model_to_device(stock: Callable) -> Callable:

        def model_to_device(self, net):
            if not (self.opt['dist'] and self.device.type == 'cpu'):
                return stock(self, net)
            find_unused = self.opt.get('find_unused_parameters', False)
            return module.DistributedDataParallel(net.to(self.device), find_unused_parameters=find_unused)

        return model_to_device

    def make_resume_training(stock: Callable) -> Callable:

        def resume_training(self, resume_state):
            batch_factor = 1 if self.opt['dist'] else max(1, self.opt['num_gpu'])  # as build_dataloader counts
            note_resume(resume_state['epoch'], resume_state['iter'], batch_factor)
            return stock(self, resume_state)

        return resume_training

    _replace(module.BaseModel, 'get_optimizer', make_get_optimizer)
    _replace(module.BaseModel, 'model_to_device', make_model_to_device)
    _replace(module.BaseModel, 'resume_training', make_resume_training)


def _patch_lr_scheduler(module: ModuleType) -> None:

    def make_get_lr(stock: Callable) -> Callable:

        def get_lr(self):
            # Past the last period stock BasicSR finds no period and fails: stay at the last value instead.
            true_epoch = self.last_epoch
            self.last_epoch = min(true_epoch, self.cumulative_period[-1])
            try:
                return stock(self)
            finally:
                self.last_epoch = true_epoch

        return get_lr

    _replace(module.CosineAnnealingRestartLR, 'get_lr', make_get_lr)


# ----------------------------------------------------------------------------------------------- several processes


def _patch_dist_util(module: ModuleType) -> None:

    def make_init(stock: Callable) -> Callable:

        def init(backend, *args, **kwargs):
            import torch

            if torch.cuda.is_available():
                return stock(backend, *args, **kwargs)
            return module.dist.init_process_group(backend='gloo')

        return init

    def make_init_slurm(stock: Callable) -> Callable:

        def init(backend, port=None):
            from unittest import mock

            import torch

            if torch.cuda.is_available():
                return stock(backend, port)
            # stock divides by the number of GPUs: it shall find one, and choose it in vain
            with mock.patch.multiple(torch.cuda, device_count=lambda: 1, set_device=lambda device: None):
                return stock('gloo', port)

        return init

    _replace(module, '_init_dist_pytorch', make_init)
    _replace(module, '_init_dist_slurm', make_init_slurm)


# ------------------------------------------------------------------------------------------- prefetching in a thread


def _patch_prefetcher(module: ModuleType) -> None:
    """Let ``prefetch_mode: cpu`` pass errors on, and let go of what it prefetches in vain.

    Stock waits for ever where reading a sample fails, and goes on holding the workers of every iterator that is left
    before its end; the first one always is, since the training loop opens its loader twice.
    """

    def make_run(stock: Callable) -> Callable:

        def run(self):
            try:
                for item in self.generator:
                    if not _offer(self, item):
                        break
            except Exception as error:  # whatever it is, the training waits for it
                self.error = error
            self.generator = None  # ends its workers
            _offer(self, None)

        return run

    def make_next(stock: Callable) -> Callable:

        def __next__(self):
            try:
                return stock(self)
            except StopIteration:
                if getattr(self, 'error', None) is not None:
                    raise self.error from None
                raise

        return __next__

    def make_iter(stock: Callable) -> Callable:

        def __iter__(self):
            if getattr(self, '_stop_running', None) is not None:
                self._stop_running()
            generator = stock(self)
            self._stop_running = weakref.finalize(self, _abandon, generator)
            return generator

        return __iter__

    _replace(module.PrefetchGenerator, 'run', make_run)
    _replace(module.PrefetchGenerator, '__next__', make_next)
    _replace(module.PrefetchDataLoader, '__iter__', make_iter)


def _offer(thread: Any, item: Any) -> bool:
    """Put an item into a prefetching thread's queue; returns False where nobody wants it any more."""
    while not getattr(thread, 'abandoned', False):
        try:
            thread.queue.put(item, timeout=0.2)
            return True
        except queue.Full:
            pass
    return False


def _abandon(thread: Any) -> None:
    """End a prefetching thread, so that its workers end too, or can serve the next iterator."""
    thread.abandoned = True
    if thread is not threading.current_thread():
        thread.join()


# ------------------------------------------------------------------------------------- the training loop's functions


def _patch_train(module: ModuleType) -> None:
    if not {'load_resume_state', 'create_train_val_dataloader', 'train_pipeline'} <= vars(module).keys():
        return  # still being imported, or another project's script with a pipeline of its own

    resumed = []  # the state that this training began with, if any

    def make_load_resume_state(stock: Callable) -> Callable:

        def load_resume_state(opt):
            resumed.clear()
            found = find_state(opt)
            if found is None:
                return None
            path, state = found
            opt['path']['resume_state'] = str(path)
            module.check_resume(opt, state['iter'])
            resumed.append(state)
            return state

        return load_resume_state

    def make_create_loaders(stock: Callable) -> Callable:

        def create_train_val_dataloader(opt, logger):
            train_loader, sampler, val_loaders, total_epochs, total_iters = stock(opt, logger)
            model = importlib.import_module('basicsr.utils.registry').MODEL_REGISTRY.get(opt['model_type'])
            if hasattr(model, 'divide'):
                sampler.own_order, done = model.divide(opt, train_loader.dataset)
                for state in resumed:
                    state['iter'] = done  # the loop goes on counting there
                opt['train']['total_iter'] = done + len(sampler.own_order)
                return train_loader, sampler, val_loaders, 0, opt['train']['total_iter']
            if len(train_loader) == 0:
                raise DataError(
                    f'The training set gives {len(sampler)} samples an epoch, fewer than one batch of '
                    f'{train_loader.batch_size}: lower datasets:train:batch_size_per_gpu or raise '
                    'datasets:train:dataset_enlarge_ratio.'
                )
            # Stock counts the last, smaller batch that its loader drops, and so may stop before total_iter.
            total_epochs = max(total_epochs, math.ceil(total_iters / len(train_loader)))
            return train_loader, sampler, val_loaders, total_epochs, total_iters

        return create_train_val_dataloader

    _replace(module, 'parse_options', _make_parse_options)  # imported by name, before it could be patched
    _replace(module, 'load_resume_state', make_load_resume_state)
    _replace(module, 'create_train_val_dataloader', make_create_loaders)


def _make_parse_options(stock: Callable) -> Callable:

    def parse_options(*args, **kwargs):
        main = sys.modules['__main__']
        if getattr(getattr(main, 'train_pipeline', None), '__module__', None) == '__main__':
            _patch_train(main)  # BasicSR's train.py, run as a script
        opt, parsed = stock(*args, **kwargs)
        importlib.import_module('basicsr_unirestorer.clustering.expert_plan').take_chosen_experts(opt)
        return opt, parsed

    return parse_options


def _patch_options(module: ModuleType) -> None:
    _replace(module, 'parse_options', _make_parse_options)


# (module that must have been reached, module to patch, patch), in the order in which BasicSR imports its parts
_PATCHES: tuple[tuple[str, str, Callable[[ModuleType], None]], ...] = (
    ('basicsr.utils', 'basicsr.utils.dist_util', _patch_dist_util),
    ('basicsr.utils', 'basicsr.utils.options', _patch_options),
    ('basicsr.data', 'basicsr.data.data_sampler', _patch_sampler),
    ('basicsr.data', 'basicsr.data.prefetch_dataloader', _patch_prefetcher),
    ('basicsr.models', 'basicsr.models.base_model', _patch_base_model),
    ('basicsr.models', 'basicsr.models.lr_scheduler', _patch_lr_scheduler),
    ('basicsr.train', 'basicsr.train', _patch_train),
)
