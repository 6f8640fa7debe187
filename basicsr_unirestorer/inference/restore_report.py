"""The page of ``unirestorer restore --report``: where it goes, and what it shows."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import count
from pathlib import Path

from basicsr_unirestorer import __version__
from basicsr_unirestorer.errors import DataError, OptionError
from basicsr_unirestorer.inference.photo_writing import write_whole
from basicsr_unirestorer.inference.report import report_page
from basicsr_unirestorer.inference.report_pictures import ReportEntry
from basicsr_unirestorer.inference.restore_files import Record
from basicsr_unirestorer.inference.restore_plan import Pair
from basicsr_unirestorer.inference.restorer import Restorer

SUFFIXES = ('.html', '.htm')


class RestoreReport:
    """Collects what becomes of pictures, and writes the page once the run has ended, in whatever way.

    Pixels are read again for the page, and only those it shows; what is kept of each picture until then is its
    decision without the probabilities, less than 2 KB.

    Args:
        asked: The file the user names; an empty text takes the first free name of ``report.html``, ``report_2.html``
            and so on in the output folder.
        output: The output folder or, for a single picture, its file.
        files: Input and output of each picture.
        overwrite: Whether a file of that name is written again.

    Raises:
        OptionError: The name is not that of a page, so that ``--report a.png`` never takes a picture for it.
        DataError: The file exists already, or cannot be in that place.
    """

    def __init__(self, asked: str, output: Path, files: list[Pair], overwrite: bool) -> None:
        self.folder = output.parent if any(target == output for _, target in files) else output
        self.asked = Path(asked) if asked else None
        self.files = files
        self.overwrite = overwrite
        self.restored: dict[Path, ReportEntry] = {}
        self.failed: dict[Path, str] = {}
        self.skipped = 0
        if self.asked:
            self._check(self.asked)

    def _check(self, path: Path) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise OptionError(
                f'The report {path} does not end in .html; write --report=FILE.html, or --report behind the output.'
            )
        if path.exists() and not (self.overwrite and path.is_file()):
            raise DataError(f'The report {path} exists; choose another name, or --overwrite to write all again.')
        above = next(parent for parent in path.absolute().parents if parent.exists())
        if not (above.is_dir() and os.access(above, os.W_OK)):
            raise DataError(f'The report {path} cannot be written into {above}; choose another folder.')

    def place(self) -> Path:
        """Return where the page goes."""
        if self.asked:
            return self.asked
        names = (self.folder / f'report{f"_{number}" if number > 1 else ""}.html' for number in count(1))
        return next(path for path in names if self.overwrite or not path.exists())

    def add(self, record: Record) -> None:
        """Take note of one picture."""
        self.skipped += record.skipped
        if record.error:
            self.failed[record.output] = record.error
        elif record.decision:
            slim = replace(record.decision, leaf_probs={}, level_probs=[])
            inside = record.output.is_relative_to(self.folder)
            name = record.output.relative_to(self.folder) if inside else record.output
            self.restored[record.output] = ReportEntry.of_files(record.input, record.output, slim, name.as_posix())

    def write(self, restorer: Restorer) -> Path | None:
        """Write the page and return its place; None, and no page, where all were skipped.

        Raises:
            DataError: It cannot be written; the pictures stay.
        """
        if not self.restored and not self.failed:
            return None
        order = [target for _, target in self.files]
        entries = [self.restored[target] for target in order if target in self.restored]
        failed = [self.failed[target] for target in order if target in self.failed]
        page = report_page(
            entries, 'Restored pictures', self._intro(), restorer.net.tree, facts=facts_of(restorer), failed=failed
        )
        path = self.place()
        try:
            write_whole(path, page.encode(), self.overwrite)
        except OSError as error:
            raise DataError(
                f'The report {path} cannot be written ({error.strerror}); the restored pictures stay.'
            ) from error
        return path

    def _intro(self) -> str:
        """Tell how many pictures were restored, and what became of the others."""
        total = len(self.files)
        rest = total - len(self.restored) - len(self.failed) - self.skipped
        told = [f'{len(self.restored):,} of {total:,} {"picture" if total == 1 else "pictures"} restored']
        told += [f'{self.skipped:,} skipped, already there'] if self.skipped else []
        told += [f'{len(self.failed):,} failed'] if self.failed else []
        told += [f'stopped before the other {rest:,}'] if rest else []
        return '; '.join(told) + '.'


def facts_of(restorer: Restorer) -> dict[str, str]:
    """Tell what restored the pictures: bundle, routing, precision, versions."""
    net, tree = restorer.net, restorer.net.tree
    routing = f'by what you say is wrong: {", ".join(net.labels)}' if net.labels else 'by the pictures alone'
    if restorer.node_id is not None:
        routing = f'always the expert of node {tree.nodes[restorer.node_id].name}'
    elif restorer.level is not None:
        routing += f', experts of level {restorer.level}'
    elif net.top_k > 1:
        routing += f', {net.top_k} experts a picture'
    routing += ', chosen for each tile' if restorer.local_routing else ''
    return {
        'Bundle': f'{net.bundle.folder}, tree {tree.fingerprint}',
        'Experts chosen': routing,
        'Computed': f'{restorer.precision} on {restorer.device}',
        'Version': f'basicsr_unirestorer {__version__}',
    }
