"""The bundle: a folder with everything that restoring takes. Safetensors and yml, never pickle.

bundle.yml  degradation_tree.json  degradation_tree.npz  encoder.safetensors  router.safetensors
experts/l0_00.safetensors  experts/l1_00.safetensors ...
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from basicsr_unirestorer.archs.building import frozen, load_into, make_network, weights_fingerprint
from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.errors import DataError, TreeMismatchError

FORMAT_VERSION = 1
# what bundle.yml holds beside its format
CONTENT = {
    'tree_fingerprint': str,
    'encoder_fingerprint': str,
    'encoder': dict,
    'router': dict,
    'experts': dict,
    'files': dict,
}


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_bundle(
    folder: str | Path,
    tree: DegradationTree,
    encoder: tuple[Mapping, nn.Module],
    router: tuple[Mapping, nn.Module],
    experts: Mapping[str, tuple[Mapping, Callable[[], Mapping[str, Tensor]]]],
) -> None:
    """Write a bundle aside, expert by expert, then put it in place of an earlier one.

    Args:
        folder: The bundle folder.
        tree: The degradation tree.
        encoder: Network options (with ``type``) and the network.
        router: The same for the router, without its ``tree``.
        experts: For each node name, network options and a function that reads the weights.
    """
    folder = Path(folder)
    scratch = folder.with_name(folder.name + '.part')
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / 'experts').mkdir(parents=True)
    content = {
        'format': FORMAT_VERSION,
        'tree_fingerprint': tree.fingerprint,
        'encoder_fingerprint': weights_fingerprint(encoder[1].state_dict()),
        'encoder': _plain(encoder[0]),
        'router': _plain(router[0]),
        'experts': {},
        'files': {},
    }
    weights = {'encoder': lambda: encoder[1].state_dict(), 'router': lambda: router[1].state_dict()}
    for name, (options, read) in experts.items():
        content['experts'][name] = _plain(options)
        weights[f'experts/{name}'] = read
    for part, read in weights.items():
        path = scratch / f'{part}.safetensors'
        save_file({key: value.detach().cpu().contiguous() for key, value in read().items()}, path)
        content['files'][f'{part}.safetensors'] = file_hash(path)
    tree.save(scratch / 'degradation_tree.json')
    (scratch / 'bundle.yml').write_text(yaml.safe_dump(content, sort_keys=False))
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
                    raise TypeError(f'{key} is no {kind.__name__}')
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
        nodes = {node.name for node in self.tree.nodes}
        missing = sorted(nodes - set(self.content['experts']))
        if missing:
            raise DataError(
                f'{self.folder} lacks the expert of node {missing[0]}; train it and write the bundle again.'
            )
        for name in self.content['files']:
            if not (self.folder / name).is_file():
                raise DataError(f'{self.folder} lacks {name}; copy the whole bundle again.')

    def _network(self, part: str, options: Mapping) -> nn.Module:
        path = self.folder / f'{part}.safetensors'
        if not path.is_file() or file_hash(path) != self.content['files'].get(path.relative_to(self.folder).as_posix()):
            raise DataError(f'{path} is missing or damaged (its checksum differs); copy the whole bundle again.')
        return frozen(load_into(make_network(options, part), load_file(path), path))

    def encoder(self) -> nn.Module:
        """Read the frozen degradation encoder; raises DataError for a missing or damaged file."""
        return self._network('encoder', self.content['encoder'])

    def router(self) -> nn.Module:
        """Read the frozen router; raises DataError for a missing or damaged file."""
        options = {**self.content['router'], 'num_leaves': self.tree.num_leaves, 'num_levels': self.tree.num_levels}
        return self._network('router', options)

    def expert(self, name: str) -> nn.Module:
        """Read one node's frozen expert; raises DataError for a missing or damaged file."""
        return self._network(f'experts/{name}', self.content['experts'][name])
