"""The bundle: a folder with everything that restoring takes. Safetensors and yml, never pickle.

bundle.yml  degradation_tree.json  degradation_tree.npz  encoder.safetensors  router.safetensors
experts/l0_00.safetensors  experts/l1_00.safetensors ...

An expert whose options hold ``lora: {rank, alpha}`` is stored as its factors on the weights of ``l0_00``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from basicsr_unirestorer.archs.building import load_params, loaded_network, weights_fingerprint
from basicsr_unirestorer.archs.node_expert import loaded_expert
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import DataError, OptionError, TreeMismatchError, did_you_mean

SHIPPED_BUNDLE = Path(__file__).resolve().parent.parent / 'zoo' / 'universal_small'
FORMAT_VERSION = 1
PRECISIONS = {'fp32': None, 'fp16': torch.float16}  # of the stored weights; None: as they come
# what bundle.yml holds beside its format
CONTENT = {
    'tree_fingerprint': str,
    'encoder_fingerprint': str,
    'encoder': (dict, type(None)),
    'router': (dict, type(None)),
    'experts': dict,
    'files': dict,
}


Part = tuple[Mapping, Callable[[], Mapping[str, Tensor]]]  # network options, and what reads the weights


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def write_bundle(
    folder: str | Path,
    tree: DegradationTree,
    encoder: Part | None,
    router: Part | None,
    experts: Mapping[str, Part],
    precision: str = 'fp32',
) -> None:
    """Write a bundle aside, part by part, then put it in place of an earlier one.

    Args:
        folder: The bundle folder.
        tree: The degradation tree.
        encoder: Network options (with ``type``) and a function that reads the weights; None for a tree of one node.
        router: The same for the router, without its ``tree``.
        experts: The same for each node name. One part is held in memory at a time.
        precision: Of the stored weights: ``fp16`` takes half the space. Networks compute in float32 either way.

    Raises:
        DataError: Something that is no bundle stands at ``folder``, a part cannot be read, or a weight is too large
            for ``precision``. Nothing is changed.
        OptionError: ``precision`` is unknown.
    """
    check_precision(precision, 'precision')
    folder = Path(folder).expanduser().resolve()
    if folder.exists() and not (folder / 'bundle.yml').is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f'{folder} exists and is no bundle, so it is not replaced; choose a new folder.')
    scratch = folder.with_name(folder.name + '.part')
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        (scratch / 'experts').mkdir(parents=True)
        content = {
            'format': FORMAT_VERSION,
            'tree_fingerprint': tree.fingerprint,
            'encoder_fingerprint': weights_fingerprint(encoder[1]()) if encoder else '',
            'encoder': _plain(encoder[0]) if encoder else None,
            'router': _plain(router[0]) if router else None,
            'experts': {name: _plain(options) for name, (options, _) in experts.items()},
            'files': {},
        }
        parts = {'encoder': encoder, 'router': router, **{f'experts/{name}': part for name, part in experts.items()}}
        for part, (_, read) in tqdm([item for item in parts.items() if item[1]], desc='bundle', unit='network'):
            content['files'][f'{part}.safetensors'] = _write_weights(
                scratch / f'{part}.safetensors', read(), PRECISIONS[precision]
            )
        tree.save(scratch / 'degradation_tree.json')
        (scratch / 'bundle.yml').write_text(yaml.safe_dump(content, sort_keys=False))
        _swap(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def replace_expert(folder: str | Path, name: str, part: Part) -> None:
    """Put another network in the place of one node's expert; the bundle is changed as a whole or not at all.

    Raises:
        DataError: The folder is no sound bundle, or other experts are LoRA factors on this one.
        OptionError: The tree has no node of this name.
    """
    bundle = Bundle(folder)
    bundle.tree.node_id(name)
    adapted = [other for other, options in bundle.content['experts'].items() if 'lora' in options and other != name]
    if name == bundle.tree.nodes[0].name and adapted:
        raise DataError(
            f'{name} is the base of {len(adapted)} LoRA experts (first: {adapted[0]}), which would no longer fit; '
            'replace those by whole networks first.'
        )
    folder = bundle.folder.resolve()
    scratch = folder.with_name(folder.name + '.part')
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        shutil.copytree(folder, scratch, copy_function=_link)
        file = f'experts/{name}.safetensors'
        (scratch / file).unlink()
        content = bundle.content
        content['experts'][name] = _plain(part[0])
        content['files'][file] = _write_weights(scratch / file, part[1]())
        (scratch / 'bundle.yml').unlink()  # a link to the old one, which stays as it is
        (scratch / 'bundle.yml').write_text(yaml.safe_dump(content, sort_keys=False))
        _swap(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _link(source: str, target: str) -> None:
    """Link a file, or copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def check_precision(precision: str, where: str) -> None:
    """Refuse a precision that no bundle is stored in; raises OptionError naming the option ``where``."""
    if precision not in PRECISIONS:
        raise OptionError(
            f"{where} is '{precision}', expected one of {', '.join(PRECISIONS)}.{did_you_mean(precision, PRECISIONS)}"
        )


def _write_weights(path: Path, params: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """Write a state dict, floating-point values as ``dtype`` where one is given; return the hash of the file."""
    tensors, seen = {}, set()
    for key, value in params.items():
        value = value.detach().cpu().contiguous()
        if dtype and value.is_floating_point():
            value = value.to(dtype)
            if not torch.isfinite(value).all():
                raise DataError(
                    f'{path.stem}: the weight {key} is not finite or too large for {dtype}; write the bundle in fp32.'
                )
        tensors[key] = value.clone() if value.data_ptr() in seen else value  # safetensors refuse shared memory
        seen.add(value.data_ptr())
    save_file(tensors, path)
    return file_hash(path)


def _swap(scratch: Path, folder: Path) -> None:
    """Put a finished folder in place of an earlier one."""
    previous = folder.with_name(folder.name + '.old')
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        os.replace(folder, previous)
    os.replace(scratch, folder)
    shutil.rmtree(previous, ignore_errors=True)


def _plain(options: Mapping) -> dict:
    """Turn ordered or nested option dicts into what yml writes without tags."""
    return {
        key: _plain(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        for key, value in options.items()
    }


class Bundle:
    """A bundle on disk: opened and checked at once, its weights read when asked for.

    Args:
        folder: The bundle folder.

    Raises:
        DataError: The folder or one of its files is missing, or of another format version.
        TreeMismatchError: Tree, encoder, router and experts are not from one training.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        if not (self.folder / 'bundle.yml').is_file():
            raise DataError(
                f'{self.folder} is no bundle (it has no bundle.yml); give the bundle folder that the '
                'routing stage wrote, e.g. experiments/NAME/bundle.'
            )
        try:
            self.content = yaml.safe_load((self.folder / 'bundle.yml').read_text())
            version = self.content['format']
            for key, kind in CONTENT.items():
                if not isinstance(self.content[key], kind):
                    raise TypeError(f'{key} is a {type(self.content[key]).__name__}')
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
            reason = ' '.join(str(error).split())
            raise DataError(f'{self.folder / "bundle.yml"} is damaged ({reason}); copy the bundle again.') from error
        if version != FORMAT_VERSION:
            raise DataError(
                f'{self.folder} has bundle format {version} but this version reads format '
                f'{FORMAT_VERSION}; update basicsr_unirestorer.'
            )
        self.tree = DegradationTree.load(self.folder)
        self._check_partners()

    def _check_partners(self) -> None:
        if self.tree.fingerprint != self.content['tree_fingerprint']:
            raise TreeMismatchError(
                f'{self.folder} holds tree {self.tree.fingerprint}, but its router was trained on '
                f'tree {self.content["tree_fingerprint"]}; copy the whole bundle again.'
            )
        made_for = self.tree.build.get('encoder_fingerprint', self.content['encoder_fingerprint'])
        if made_for != self.content['encoder_fingerprint']:
            raise TreeMismatchError(
                f'{self.folder} holds a tree built with another encoder; copy the whole bundle again.'
            )
        if len(self.tree.nodes) > 1 and not (self.content['encoder'] and self.content['router']):
            raise DataError(f'{self.folder} names no encoder or no router; copy the whole bundle again.')
        nodes = {node.name for node in self.tree.nodes}
        missing = sorted(nodes - set(self.content['experts']))
        if missing:
            raise DataError(
                f'{self.folder} lacks the expert of node {missing[0]}; train it and write the bundle again.'
            )
        for name in self.content['files']:
            if not (self.folder / name).is_file():
                raise DataError(f'{self.folder} lacks {name}; copy the whole bundle again.')

    def _read(self, part: str) -> dict[str, Tensor]:
        path = self.folder / f'{part}.safetensors'
        if not path.is_file() or file_hash(path) != self.content['files'].get(path.relative_to(self.folder).as_posix()):
            raise DataError(f'{path} is missing or damaged (its checksum differs); copy the whole bundle again.')
        return load_params(path)

    def _network(self, part: str, options: Mapping) -> nn.Module:
        return loaded_network(options, self._read(part), part, self.folder / f'{part}.safetensors')

    def encoder(self) -> nn.Module | None:
        """Read the frozen degradation encoder, which a tree of one node has not; raises DataError for a bad file."""
        return self._network('encoder', self.content['encoder']) if self.content['encoder'] else None

    def router(self) -> nn.Module | None:
        """Read the frozen router, which a tree of one node has not; raises DataError for a bad file."""
        if not self.content['router']:
            return None
        options = {**self.content['router'], 'num_leaves': self.tree.num_leaves, 'num_levels': self.tree.num_levels}
        return self._network('router', options)

    def expert(self, name: str) -> nn.Module:
        """Read one node's frozen expert, factors fused; raises DataError for a missing or damaged file."""
        part, base = f'experts/{name}', f'experts/{self.tree.nodes[0].name}'
        source = self.folder / f'{part}.safetensors'
        return loaded_expert(self.content['experts'][name], self._read(part), lambda: self._read(base), part, source)

    def expert_size(self, name: str) -> int:
        """Return how many bytes of memory one node's expert takes: it computes in float32, however it is stored."""
        holder = self.tree.nodes[0].name if 'lora' in self.content['experts'][name] else name
        try:
            with safe_open(self.folder / f'experts/{holder}.safetensors', 'pt') as file:  # reads the heading alone
                return 4 * sum(prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        except (OSError, SafetensorError):  # reading it will say so
            return 0
