"""Door to BasicSR's training pipeline: ``python -m basicsr_unirestorer.train -opt X.yml``, or ``unirestorer train``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from basicsr_unirestorer.launch import launch


def main(argv: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run BasicSR's ``train_pipeline`` with this package registered; see :func:`basicsr_unirestorer.launch.launch`."""
    return launch('train', argv, root)


if __name__ == '__main__':
    sys.exit(main())
