"""Door to BasicSR's testing pipeline: ``python -m basicsr_unirestorer.test -opt X.yml``, or ``unirestorer test``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from basicsr_unirestorer.launch import launch


def main(argv: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run BasicSR's ``test_pipeline`` with this package registered; see :func:`basicsr_unirestorer.launch.launch`."""
    return launch('test', argv, root)


if __name__ == '__main__':
    sys.exit(main())
