"""A self-contained HTML page: the table, before-after rows with the chosen expert and its confidence, and the tree."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from basicsr_unirestorer.inference.restorer import Decision

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
tr.average { font-weight: 700; background: var(--soft); }
figure { margin: 0 0 2rem; } figcaption { margin-bottom: .4rem; }
.row { display: grid; grid-template-columns: repeat(3, 1fr); gap: .5rem; }
.row div { font-size: .85rem; } .row img { width: 100%; display: block; border-radius: .3rem; }
.bar { display: inline-block; width: 6rem; height: .6rem; background: var(--soft); border-radius: .3rem; }
.bar i { display: block; height: 100%; border-radius: .3rem; background: #3a7; }
pre { overflow-x: auto; background: var(--soft); padding: .8rem; border-radius: .3rem; font-size: .85rem; }
img.tree { max-width: 100%; background: #fff; border-radius: .3rem; }
@media (max-width: 40rem) { .row { grid-template-columns: 1fr; } }
"""


@dataclass(frozen=True)
class Example:
    """One restored test picture. Pictures are RGB, uint8, (h, w, 3); PSNR in dB."""

    name: str
    caption: str
    lq: np.ndarray
    restored: np.ndarray
    gt: np.ndarray
    psnr_lq: float
    psnr_restored: float
    decision: Decision


def image_source(rgb: np.ndarray, max_side: int = 640) -> str:
    """Encode a picture as a data URL, no larger than ``max_side``: the page must open from disk, without a network."""
    picture = Image.fromarray(rgb)
    picture.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    picture.save(buffer, 'JPEG', quality=90)
    return 'data:image/jpeg;base64,' + base64.b64encode(buffer.getvalue()).decode()


def example_html(example: Example) -> str:
    """Return a before-after row with the decision above it."""
    d = example.decision
    knows = ', '.join(d.labels)
    head = (
        f'<b>{html.escape(example.name)}</b>: {html.escape(example.caption)}. Expert <b>{d.expert}</b> '
        f'(trained on {html.escape(knows)}); leaf {d.leaf} {confidence_bar(d.leaf_confidence)}, '
        f'level {d.level} {confidence_bar(d.level_confidence)}'
    )
    cells = ''.join(
        f'<div><img alt="{title} of {html.escape(example.name)}" src="{image_source(picture)}">{title}{note}</div>'
        for title, picture, note in (
            ('input', example.lq, f', {example.psnr_lq:.2f} dB'),
            ('restored', example.restored, f', {example.psnr_restored:.2f} dB'),
            ('original', example.gt, ''),
        )
    )
    return f'<figure><figcaption>{head}</figcaption><div class="row">{cells}</div></figure>'


def confidence_bar(share: float) -> str:
    return f'<span class="bar" title="{share:.0%} sure"><i style="width:{share:.0%}"></i></span> {share:.0%}'


def table_html(summary: Sequence[dict], columns: Sequence[str]) -> str:
    """Return the benchmark's summary as a table; PSNR in dB."""
    head = ''.join(
        f'<th scope="col">{html.escape(name)}</th>'
        for name in ('test set', 'degradation', 'pictures', *columns, 'levels chosen')
    )
    body = ''
    for row in summary:
        levels = ', '.join(f'{level}: {share:.0%}' for level, share in row['levels'].items())
        cells = [
            row['dataset'],
            row['caption'],
            str(row['pictures']),
            *(f'{row[column]:.2f}' for column in columns),
            levels,
        ]
        kind = ' class="average"' if row['caption'] == 'average' else ''
        body += f'<tr{kind}>' + ''.join(f'<td>{html.escape(cell)}</td>' for cell in cells) + '</tr>'
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def write_report(
    path: str | Path,
    title: str,
    intro: str,
    summary: Sequence[dict],
    columns: Sequence[str],
    examples: Sequence[Example],
    tree_lines: Sequence[str],
    tree_picture: Path | None = None,
) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        title: Heading.
        intro: A sentence or two under it.
        summary: Rows as ``benchmark.summarise`` returns them.
        columns: The PSNR columns of those rows.
        examples: Before-after rows.
        tree_lines: The tree as text.
        tree_picture: The projection drawn by the clustering stage.
    """
    drawn = ''
    if tree_picture is not None and Path(tree_picture).is_file():
        content = base64.b64encode(Path(tree_picture).read_bytes()).decode()
        drawn = f'<p><img class="tree" alt="embeddings in two dimensions" src="data:image/png;base64,{content}"></p>'
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f'<h1>{html.escape(title)}</h1><p>{html.escape(intro)}</p>'
        f'<h2>PSNR in dB, pictures never trained on</h2>{table_html(summary, columns)}'
        f'<h2>Before and after</h2>{"".join(map(example_html, examples))}'
        f'<h2>The degradation tree</h2><pre>{html.escape(chr(10).join(tree_lines))}</pre>{drawn}</body></html>'
    )
    scratch = Path(path).with_suffix('.part')
    scratch.write_text(text)
    os.replace(scratch, path)
