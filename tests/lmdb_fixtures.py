"""LMDBs of pictures that a test makes up."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from basicsr_unirestorer.data.lmdb_writer import WriteJob, WriteReport, write_lmdb


def lmdb_of(path: str | Path, pictures: Iterable[tuple[str, np.ndarray]]) -> WriteReport:
    """Write (key, BGR uint8 (h, w, 3)) pairs into an LMDB, by way of picture files that are gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for key, picture in pictures:
            jobs.append(WriteJob(key, Path(folder, f'{key}.bmp')))
            cv2.imwrite(str(jobs[-1].path), picture)
        return write_lmdb(path, jobs, workers=1)
