"""Looking at every picture before anything is written: damaged files, sizes of partners, what a file is short of."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from basicsr_unirestorer.data.leaks import is_flat
from basicsr_unirestorer.data.parallel import in_order
from basicsr_unirestorer.data.picture_hash import dhash
from basicsr_unirestorer.data.samples import Collected, Sample, Source
from basicsr_unirestorer.errors import DataError
from basicsr_unirestorer.image_files import decode_noted

CROP_AT_MOST = 20  # pixels by which partners may differ and be cropped around the centre; SOTS-indoor needs all of them


@dataclass(frozen=True)
class Facts:
    """What was seen in a picture file.

    Attributes:
        height, width: In pixels, of the half where the source is one; 0 where it cannot be read.
        lost: What it is short of or loses: ``'grey'``, ``'alpha'``, ``'16 bit'``, joined by commas.
        sha1: Of the file.
        dhash: 64 bit perceptual hash of the picture; None where nobody asked, or without contrast.
        fault: Why it cannot be read, in words that follow its name; empty for a good file.
    """

    height: int = 0
    width: int = 0
    lost: str = ''
    sha1: str = ''
    dhash: int | None = None
    fault: str = ''

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width


def look(asked: tuple[Source, bool]) -> Facts:
    """Read and decode a picture completely; ``asked`` says whether its perceptual hash is wanted, too."""
    source, hashed = asked
    try:
        content = source.path.read_bytes()
    except OSError as error:
        return Facts(fault=f'cannot be read ({error.strerror})')
    sha1 = hashlib.sha1(content).hexdigest()
    try:
        picture, lost = decode_noted(content, source.name)
    except DataError as error:
        return Facts(sha1=sha1, fault=str(error).removeprefix(source.name).split(';')[0].strip())
    if source.half:
        side = picture.shape[1] // 2
        picture = picture[:, :side] if source.half == 'left' else picture[:, picture.shape[1] - side :]
    if not picture.size:
        return Facts(sha1=sha1, fault='is one pixel wide and has no halves')
    return Facts(*picture.shape[:2], lost, sha1, dhash(picture) if hashed and not is_flat(picture) else None)


def look_at_all(samples: Sequence[Sample], workers: int) -> dict[Source, Facts]:
    """Look at every picture of the samples once; the clean ones are hashed."""
    clean = {sample.gt: True for sample in samples}
    degraded = {sample.lq: False for sample in samples if sample.lq is not None}
    asked = list({**degraded, **clean}.items())
    seen = in_order(look, asked, min(workers, len(asked)))
    bar = tqdm(seen, desc='checking', total=len(asked), unit='file', disable=len(asked) < 500)
    return {source: facts for (source, _), facts in zip(asked, bar, strict=True)}


def common_size(sample: Sample, facts: dict[Source, Facts]) -> tuple[int, int]:
    """Return the (height, width) that both pictures of a sample have, the smaller of each."""
    sizes = [facts[source].size for source in (sample.lq, sample.gt) if source is not None]
    return min(h for h, _ in sizes), min(w for _, w in sizes)


def check(collected: Collected, facts: dict[Source, Facts], min_side: int = 0) -> None:
    """Take off samples that cannot be used, and note what is unusual about the rest.

    Args:
        collected: Changed in place.
        facts: Of every picture, see ``look_at_all``.
        min_side: Samples with a shorter side, in pixels, are left out.
    """
    fault = partial(_fault, facts=facts, min_side=min_side)
    good: list[Sample] = []
    for sample in collected.samples:
        reason, bad = fault(sample)
        if reason:
            collected.drop(sample, reason, bad)
        else:
            good.append(sample)
    collected.samples = good
    for unit in ('train', 'test'):
        samples = [sample for sample in good if sample.unit == unit]
        collected.notes += [(unit, sentence) for sentence in (*_crops(samples, facts), *_losses(samples, facts))]


def _fault(sample: Sample, facts: dict[Source, Facts], min_side: int) -> tuple[str, bool]:
    """Return why a sample cannot be used, and whether that is the download's fault."""
    gt, lq = facts[sample.gt], facts[sample.lq or sample.gt]
    if lq.fault:
        return lq.fault, True
    if gt.fault:
        return f'has the partner {sample.gt.name}, which {gt.fault}', True
    if max(abs(lq.height - gt.height), abs(lq.width - gt.width)) > CROP_AT_MOST:
        sizes = f'is {lq.width}x{lq.height} and its partner {sample.gt.name} {gt.width}x{gt.height}'
        return f'{sizes}, more than {CROP_AT_MOST} pixels apart', True
    shortest = min(common_size(sample, facts))
    if shortest < min_side:
        return f'has a side of {shortest} pixels, less than {min_side}', False
    return '', False


def _crops(samples: Sequence[Sample], facts: dict[Source, Facts]) -> Iterator[str]:
    odd = [sample for sample in samples if sample.lq is not None and facts[sample.lq].size != facts[sample.gt].size]
    if odd:
        lq, gt = facts[odd[0].lq], facts[odd[0].gt]
        yield (
            f'{len(odd)} pairs differ in size by at most {CROP_AT_MOST} pixels and are cropped around the centre '
            f'(first: {odd[0].lq.name}, {lq.width}x{lq.height} with {gt.width}x{gt.height}).'
        )


def _losses(samples: Sequence[Sample], facts: dict[Source, Facts]) -> Iterator[str]:
    sources = {source: None for sample in samples for source in (sample.lq, sample.gt) if source is not None}
    lost = [(source, facts[source].lost) for source in sources if facts[source].lost]
    for kind, count in sorted(Counter(kind for _, kind in lost).items()):
        first = next(source.name for source, what in lost if what == kind)
        yield f'{count} pictures are {kind}; they are read as three channels of 8 bit (first: {first}).'
