"""Records of restored pictures, which of them a report shows, and how they are embedded in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from basicsr_unirestorer.errors import DataError, UniRestorerError
from basicsr_unirestorer.inference.decision import Decision
from basicsr_unirestorer.inference.photo import read_photo
from basicsr_unirestorer.inference.restorer import colours_of
from basicsr_unirestorer.inference.tables import number

MAX_SIDE = 960
DETAIL = (400, 600)  # rows and columns of what is shown pixel by pixel
WORST = 6

Pictures = tuple[np.ndarray, np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class ReportEntry:
    """One restored picture.

    Attributes:
        name: What to call it.
        decision: What the router decided.
        pictures: Returns before, after and, where there is one, the clean picture: RGB, uint8, (h, w, 3), one size.
            Called only where the page shows the picture; None where it cannot be shown.
        dataset, degradation: Where it belongs in the table: test set, and true degradation.
        psnr: dB by method (``input``, ``routed``, ...), and ``regret``; empty where the clean picture is unknown.
        right: Whether the chosen leaf has the true degradation types; None where they are unknown.
        others: Values by method of further metrics, by metric.
    """

    name: str
    decision: Decision
    pictures: Callable[[], Pictures] | None = None
    dataset: str = ''
    degradation: str = ''
    psnr: Mapping[str, float] = field(default_factory=dict)
    right: bool | None = None
    others: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def of_files(cls, before: str | Path, after: str | Path, decision: Decision, name: str = '') -> ReportEntry:
        """Make the entry of a file that was restored to another file; ``name``: what to call it instead of its own."""
        return cls(name or Path(before).name, decision, partial(_read_both, Path(before), Path(after)))

    @property
    def sureness(self) -> float:
        return self.decision.leaf_confidence * self.decision.level_confidence

    @property
    def badness(self) -> float:
        """How bad it came out, larger is worse: regret, else what restoring lost, else how unsure the router was."""
        if 'regret' in self.psnr:
            return self.psnr['regret']
        if 'routed' in self.psnr and np.isfinite(self.psnr['input']):
            return self.psnr['input'] - self.psnr['routed']
        return -self.psnr['routed'] if 'routed' in self.psnr else 1 - self.sureness


def _read_both(before: Path, after: Path) -> Pictures:
    one, other = _as_shown(before), _as_shown(after)
    if one.shape != other.shape:
        raise DataError(f'{before} and {after} have different sizes by now; restore it again.')
    return one, other, None


def _as_shown(path: Path) -> np.ndarray:
    """Read a picture as restoring reads it, and reduce it to RGB, uint8, (h, w, 3)."""
    colours = colours_of(read_photo(path).pixels)
    eight = colours if colours.dtype == np.uint8 else np.rint(colours / np.float32(257)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(eight, (*eight.shape[:2], 3)))


def choose(records: Sequence[ReportEntry], most: int) -> tuple[list[ReportEntry], list[ReportEntry]]:
    """Choose the pictures to show: the worst cases, and examples, first one of every degradation (or expert).

    Returns:
        The worst, worst first, and the examples in their order; together at most ``most``.
    """
    able = [record for record in records if record.pictures]
    worst = sorted(able, key=lambda record: -record.badness)[: min(WORST, len(able) // 4, most)]
    if all(record.psnr.get('regret') == 0 for record in worst):
        worst = []
    seen: set[tuple] = set()
    first, later = [], []
    for place, record in enumerate(able):
        kind = (record.dataset, record.degradation or record.decision.expert)
        (later if kind in seen else first).append(place)
        seen.add(kind)
    places = sorted([*first, *later][: max(most - len(worst), 0)])
    return worst, [able[place] for place in places]


def embed(pictures: Sequence[np.ndarray], budget: int) -> tuple[list[str], tuple[int, int]]:
    """Encode pictures of one size as WebP data URLs that together keep to a budget.

    They are made smaller rather than coarser, since strong compression would remove the very noise they should show.

    Args:
        pictures: RGB, uint8, (h, w, 3).
        budget: Bytes of all together, before base64.

    Returns:
        The URLs, and the (width, height) of every copy.
    """
    copies = [Image.fromarray(picture) for picture in pictures]
    for copy in copies:
        copy.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    contents = _webp(copies, 86)
    if sum(map(len, contents)) > budget:
        contents = _webp(copies, 72)
    while (total := sum(map(len, contents))) > budget and max(copies[0].size) > 32:
        shrink = min(0.95, max(0.5, (budget / total) ** 0.5))
        size = [max(1, round(side * shrink)) for side in copies[0].size]
        copies = [copy.resize(size, Image.Resampling.LANCZOS) for copy in copies]
        contents = _webp(copies, 72)
    return ['data:image/webp;base64,' + base64.b64encode(content).decode() for content in contents], copies[0].size


def _webp(pictures: Sequence[Image.Image], quality: int) -> list[bytes]:
    contents = []
    for picture in pictures:
        buffer = io.BytesIO()
        picture.save(buffer, 'WEBP', quality=quality)
        contents.append(buffer.getvalue())
    return contents


def detail(before: np.ndarray, after: np.ndarray) -> tuple[slice, slice] | None:
    """Choose the part of a large picture to show pixel by pixel, where restoring changed most.

    Args:
        before, after: RGB, uint8, (h, w, 3).

    Returns:
        Rows and columns of ``DETAIL`` pixels; None where the whole picture is shown at nearly its own size.
    """
    h, w = before.shape[:2]
    if max(h, w) <= 1.5 * MAX_SIDE:
        return None
    height, width = min(DETAIL[0], h), min(DETAIL[1], w)
    rows, columns = (max(1, round(side / 16)) for side in (h, w))
    changed = cv2.resize(cv2.absdiff(before, after), (columns, rows), interpolation=cv2.INTER_AREA).mean(axis=2)
    size = (max(1, round(columns * width / w)), max(1, round(rows * height / h)))
    blurred = cv2.blur(changed, size)
    row, column = np.unravel_index(blurred.argmax(), blurred.shape)
    top = int(np.clip((row + 0.5) / rows * h - height / 2, 0, h - height))
    left = int(np.clip((column + 0.5) / columns * w - width / 2, 0, w - width))
    return slice(top, top + height), slice(left, left + width)


def gallery(shown: Sequence[ReportEntry], total: int, budget: int) -> str:
    """Return the examples among all pictures; ``budget``: bytes of each."""
    if not shown:
        return ''
    some = f'{len(shown):,} of {total:,} pictures are shown. ' if len(shown) < total else ''
    return (
        f'<p class="lead">{some}Move the slider: by finger, mouse, or arrow keys. Below each picture: the expert that '
        'restored it, and how sure the router was of the kind of degradation (leaf) and of how special an expert may '
        f'be (level).</p><div class="pictures">{"".join(figure(record, budget) for record in shown)}</div>'
    )


def worst_cases(worst: Sequence[ReportEntry], budget: int) -> str:
    """Return the worst pictures, each with the reason."""
    if not worst:
        return ''
    words = 'Where the router was least sure.'
    if 'regret' in worst[0].psnr:
        words = 'Where another expert would have done better, by its true PSNR.'
    elif 'routed' in worst[0].psnr:
        words = 'Where restoring gained least, or lost.'
    figures = ''.join(figure(record, budget, _reason(record)) for record in worst)
    return f'<p class="lead">{words}</p><div class="pictures">{figures}</div>'


def _reason(record: ReportEntry) -> str:
    if 'regret' in record.psnr:
        return f'{number(record.psnr["regret"])} dB below the best expert'
    if 'routed' in record.psnr and np.isfinite(record.psnr['input']):
        return f'{record.psnr["routed"] - record.psnr["input"]:+.2f} dB'
    return f'{record.sureness:.0%} sure of leaf and level'


def figure(record: ReportEntry, budget: int, reason: str = '') -> str:
    """Return sliders between before and after, and what was decided below; ``budget``: bytes of the pictures."""
    try:
        before, after, clean = record.pictures()
    except UniRestorerError as error:  # a file moved or damaged since: the other pictures shall still be seen
        return f'<figure><figcaption><p class="reason">{escape(str(error))}</p>{_words(record)}</figcaption></figure>'
    shown = [picture for picture in (before, after, clean) if picture is not None]
    part = detail(before, after)
    sliders = _slider(record.name, shown, budget if part is None else budget // 2)
    if part is not None:
        sliders += _slider(f'{record.name}, detail', [picture[part] for picture in shown], budget // 2, 'detail, ')
    button = '<button type="button" aria-pressed="false" hidden>Compare with the original</button>'
    button = button if clean is not None else ''
    reason = f'<p class="reason">{escape(reason)}</p>' if reason else ''
    return f'<figure>{sliders}<figcaption>{reason}{_words(record)}{button}</figcaption></figure>'


def _slider(name: str, pictures: Sequence[np.ndarray], budget: int, what: str = '') -> str:
    """Return a slider over before, after and, if given, the clean picture."""
    urls, size = embed(pictures, budget)
    images = list(zip(('before', 'after', 'clean'), urls, strict=False))
    words = {'before': 'before', 'after': 'restored', 'clean': 'original'}
    name = escape(name, quote=True)
    tags = ''.join(
        f'<img class="{kind}" src="{url}" width="{size[0]}" height="{size[1]}" alt="{name}, {words[kind]}">'
        for kind, url in (images[1], *images[2:], images[0])  # before lies on top of both
    )
    return (
        f'<div class="compare" style="aspect-ratio:{max(size[0] / size[1], 1):.3f}">{tags}'
        f'<input type="range" min="0" max="100" value="50" aria-label="{name}: from restored to before">'
        f'<span class="bar"></span><span class="tag left" aria-hidden="true">{what}before</span>'
        '<span class="tag right" aria-hidden="true">restored</span></div>'
    )


def main_labels(labels: Mapping[str, int]) -> list[str]:
    """Return the degradation types that an expert was mainly trained on: not those a fifth as common as the first."""
    most = max(labels.values(), default=0)
    return [label.replace('_', ' ') for label, count in labels.items() if count > 0.2 * most]


def _words(record: ReportEntry) -> str:
    """Tell the name, what it is, how it came out, which experts restored it, and how sure the router was."""
    decision = record.decision
    values = ''
    if 'routed' in record.psnr:
        values = f'<span class="db">{number(record.psnr["input"])} → {number(record.psnr["routed"])} dB</span>'
    about = ' · '.join(part for part in (record.dataset, record.degradation) if part)
    lines = [escape(about)] if about else []
    labels = main_labels(decision.labels)
    trained = ', '.join(labels[:3]) or 'everything'
    more = f' and {len(labels) - 3} more' if len(labels) > 3 else ''
    lines.append(f'Expert <b>{escape(decision.expert)}</b>, trained on {escape(trained)}{more}')
    if len(decision.shares) > 1:
        lines.append(escape('Together: ' + ', '.join(f'{name} {share:.0%}' for name, share in decision.shares.items())))
    if decision.regions:
        used = len({region.expert for region in decision.regions})
        lines.append(f'{used} experts in {len(decision.regions)} parts of the picture')
    if decision.tiling.tile_size:
        exact = '' if decision.tiling.exact else ', approximate: the network looks at the whole picture'
        lines.append(f'In tiles of {decision.tiling.tile_size} pixels{exact}')
    if decision.distance is not None and decision.radius:
        lines.append(
            f'{decision.distance / decision.radius:.1f} times as far from its centre as what it was trained on'
        )
    return (
        f'<div class="head"><strong>{escape(record.name)}</strong>{values}</div>'
        + ''.join(f'<p class="why">{line}</p>' for line in lines)
        + _meter(f'leaf {decision.leaf}', decision.leaf_confidence)
        + _meter(f'level {decision.level}', decision.level_confidence)
    )


def _meter(what: str, share: float) -> str:
    return f'<div class="meter"><span>{escape(what)}</span><i style="--share:{share:.0%}"></i><b>{share:.0%}</b></div>'
