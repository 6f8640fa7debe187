"""One self-contained HTML file for demo, benchmark and restoring: pictures, tree, tables, how sure the router was.

It opens from disk without a network, in light and dark, on a phone, and by keyboard; without JavaScript only the
sliders stand still. Style and script lie beside this file.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median

import numpy as np

from basicsr_unirestorer.clustering.tree import DegradationTree
from basicsr_unirestorer.inference import report_charts as charts
from basicsr_unirestorer.inference.metrics import LOWER_IS_BETTER
from basicsr_unirestorer.inference.report_pictures import ReportEntry, choose, gallery, main_labels, worst_cases
from basicsr_unirestorer.inference.tables import AVERAGE, MAIN, TITLES, digits_of, groups, mean, number

HERE = Path(__file__).resolve().parent
PICTURE_BYTES = 10 * 2**20  # of all embedded pictures together; base64 makes 13.3 MiB of them
LARGEST_FIGURE = 400 * 2**10
MOST_FAILED = 100


def report_page(
    records: Sequence[ReportEntry],
    title: str,
    intro: str = '',
    tree: DegradationTree | None = None,
    columns: Sequence[str] = (),
    facts: Mapping[str, str] | None = None,
    max_shown: int = 100,
    tree_picture: str | Path | None = None,
    failed: Sequence[str] = (),
) -> str:
    """Return the page; a picture that cannot be read any more is told on it.

    Args:
        records: All restored pictures.
        title: Heading.
        intro: A sentence or two under it.
        tree: The degradation tree.
        columns: Entries of ``ReportEntry.psnr`` that the table by degradation shows.
        facts: What a reader must know of the numbers (protocol, weights, versions), by name.
        max_shown: Pictures to embed at most; together they take about 13 MiB, however many they are.
        tree_picture: A PNG of the embeddings, shown under the tree.
        failed: A sentence for each picture that was not restored; ``MOST_FAILED`` of them are shown.
    """
    worst, shown = choose(records, max_shown)
    budget = min(LARGEST_FIGURE, PICTURE_BYTES // max(len(worst) + len(shown), 1))
    sections = {
        'pictures': ('Before and after', gallery(shown, len(records), budget)),
        'degradations': ('By degradation' if columns else 'By expert', _tables(records, columns)),
        'tree': ('The tree and its traffic', _tree(records, tree, tree_picture)),
        'confidence': ('How sure the router was', _confidence(records)),
        'worst': ('Worst cases' if columns else 'Least sure', worst_cases(worst, budget)),
        'failed': ('Not restored', _failed(failed)),
        'facts': ('What was measured' if columns else 'How they were restored', _facts(facts or {})),
    }
    order = ('degradations', 'pictures') if columns else ('pictures', 'failed', 'degradations')
    order = dict.fromkeys((*order, *sections))
    sections = {key: sections[key] for key in order if sections[key][1]}
    lead = f'<p class="lead">{escape(intro)}</p>' if intro else ''
    return _document(title, lead + _tiles(records, columns, tree), sections)


def _document(title: str, lead: str, sections: Mapping[str, tuple[str, str]]) -> str:
    """Return the whole page; ``sections``: id -> heading and content."""
    style, script = ((HERE / name).read_text(encoding='utf-8') for name in ('report.css', 'report.js'))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    links = ''.join(f'<li><a href="#{key}">{heading}</a></li>' for key, (heading, _) in sections.items())
    body = ''.join(
        f'<section id="{key}" aria-labelledby="{key}-head"><h2 id="{key}-head">{heading}</h2>{content}</section>'
        for key, (heading, content) in sections.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<title>{escape(title)}</title><style>{style}</style></head><body>'
        f'<a class="skip" href="#main">Skip to the content</a><header><h1>{escape(title)}</h1>{lead}'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header><main id="main">{body}</main>'
        f'<footer>One file, no network: pictures are reduced copies.</footer><script>{script}</script></body></html>\n'
    )


# ----------------------------------------------------------------------------------------------- numbers


def _tiles(records: Sequence[ReportEntry], columns: Sequence[str], tree: DegradationTree | None) -> str:
    used = {record.decision.expert for record in records}
    tiles = [('pictures', str(len(records)), '')]
    values = [r.psnr for r in records if 'routed' in r.psnr and np.isfinite(r.psnr['input'])]  # clean inputs apart
    words = {
        'input': 'PSNR, input',
        'routed': 'PSNR, routed',
        'root': 'PSNR, root expert',
        'regret': 'below the best expert',
    }
    for column, what in words.items():
        average = mean([own[column] for own in values if column in own])
        if average is not None and column in columns:
            tiles.append((what, number(average), 'dB'))
    tiles.append(('experts used', str(len(used)), f'of {len(tree.nodes)}' if tree else ''))
    if records:
        sure = median(record.decision.leaf_confidence for record in records)
        tiles.append(('sure of the leaf', f'{sure:.0%}', 'median'))
    cells = ''.join(f'<div><dt>{what}</dt><dd>{value}<small>{unit}</small></dd></div>' for what, value, unit in tiles)
    return f'<dl class="tiles">{cells}</dl>'


def _tables(records: Sequence[ReportEntry], columns: Sequence[str]) -> str:
    """Return the metrics by degradation or, where no clean pictures are known, what each expert restored."""
    if not columns:
        return _expert_table(records)
    methods = [name for name in columns if name != 'regret']
    others = ''
    for metric in dict.fromkeys(metric for record in records for metric in record.others):
        title = escape(TITLES.get(metric, metric))
        others += f'<details><summary>{title}</summary>{_metric_table(records, methods, metric)}</details>'
    return (
        '<p class="lead">PSNR in dB, averaged over pictures; the best of each row stands out, not counting what takes '
        f'the truth to know.</p>{_metric_table(records, columns)}{others}'
    )


def _metric_table(records: Sequence[ReportEntry], columns: Sequence[str], metric: str = MAIN) -> str:
    """Return one table a test set: degradations down, methods across."""
    rows = [{'dataset': r.dataset, 'degradation': r.degradation, 'record': r} for r in records]
    bodies: dict[str, list[list[str]]] = {}
    for dataset, kind, group in groups(rows):
        members = [row['record'] for row in group]
        values = [r.psnr if metric == MAIN else r.others.get(metric, {}) for r in members]
        if not any(values):
            continue
        means = [mean([own[column] for own in values if column in own]) for column in columns]
        experts = Counter(r.decision.expert for r in members).most_common(3 if kind != AVERAGE else 0)
        chosen = ', '.join(f'{name}\u00a0{count / len(members):.0%}' for name, count in experts)
        shown = [number(value, digits_of(metric)) for value in means]
        bodies.setdefault(dataset, []).append([kind, str(len(members)), *shown, chosen])
    head = ['degradation', 'pictures', *columns, 'experts chosen']
    known = ('by label', 'best node', 'regret')
    compared = [place for place, name in enumerate(head) if name in columns and name not in known]
    best = min if metric in LOWER_IS_BETTER else max
    return ''.join(_table(dataset, head, body, compared, best) for dataset, body in bodies.items())


def _expert_table(records: Sequence[ReportEntry]) -> str:
    body = []
    for name, count in Counter(record.decision.expert for record in records).most_common():
        mine = [record for record in records if record.decision.expert == name]
        labels = ', '.join(main_labels(mine[0].decision.labels))
        sure = [median(getattr(r.decision, key) for r in mine) for key in ('leaf_confidence', 'level_confidence')]
        body.append([name, str(count), *(f'{value:.0%}' for value in sure), labels or '-'])
    head = ['expert', 'pictures', 'sure of the leaf', 'sure of the level', 'trained on']
    return _table('', head, body) if body else ''


def _table(
    caption: str,
    head: Sequence[str],
    body: Iterable[Sequence[str]],
    compared: Sequence[int] = (),
    best_of: Callable[[Iterable[float]], float] = max,
) -> str:
    """Return a table whose rows become cards on a phone; the best number of the ``compared`` columns stands out."""
    words = {0, len(head) - 1}
    heads = ''.join(f'<th scope="col"{_text(place in words)}>{escape(name)}</th>' for place, name in enumerate(head))
    lines = []
    for row in body:
        known = {place: float(row[place].replace('∞', 'inf')) for place in compared if row[place] != '-'}
        best = (
            {place for place, value in known.items() if value == best_of(known.values())} if len(known) > 1 else set()
        )
        cells = f'<th scope="row" class="text">{escape(row[0])}</th>'
        for place, cell in enumerate(row[1:], 1):
            kind = ' '.join(
                word for word, on in (('text', place in words), ('best', place in best), ('empty', not cell)) if on
            )
            name = escape(head[place], quote=True)
            cells += f'<td{f" class={chr(34)}{kind}{chr(34)}" if kind else ""} data-label="{name}">{escape(cell)}</td>'
        lines.append(f'<tr{" class=average" if row[0] == AVERAGE else ""}>{cells}</tr>')
    told = f'<caption>{escape(caption)}</caption>' if caption else ''
    return (
        f'<div class="card"><table class="cards">{told}<thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody>'
        '</table></div>'
    )


def _text(is_text: bool) -> str:
    return ' class="text"' if is_text else ''


def _tree(records: Sequence[ReportEntry], tree: DegradationTree | None, drawn: str | Path | None) -> str:
    if tree is None:
        return ''
    chosen = Counter(record.decision.expert for record in records)
    rows = [[node.name, str(chosen[node.name]), f'{node.count:,}', charts.knows(node, 4)] for node in tree.nodes]
    table = _table('', ['node', 'pictures here', 'training samples', 'trained on'], rows)
    picture = ''
    if drawn is not None and Path(drawn).is_file():
        content = base64.b64encode(Path(drawn).read_bytes()).decode()
        picture = (
            '<details><summary>Embeddings of the training samples</summary><img class="drawn" alt="Embeddings of the '
            f'training samples in two dimensions, coloured by node" src="data:image/png;base64,{content}"></details>'
        )
    return (
        '<p class="lead">From the root, which was trained on everything, to the leaves, each trained on one kind of '
        'degradation. A link is as thick as the part of the pictures that took it; a filled node restored pictures, '
        'and the numbers say how many.</p><div class="card">'
        f'<div class="wide">{charts.tree_svg(tree, chosen, 1000, "tree-wide")}</div>'
        f'<div class="narrow">{charts.tree_svg(tree, chosen, 310, "tree-narrow")}</div></div>'
        f'<details><summary>The same as a table</summary>{table}</details>{picture}'
    )


def _confidence(records: Sequence[ReportEntry]) -> str:
    if not records:
        return ''
    right = [record.right for record in records]
    leaf = charts.histogram_svg(
        [r.decision.leaf_confidence for r in records], right, 'leaf-plot', 'confidence in the leaf'
    )
    level = [record.decision.level_confidence for record in records]
    nothing = [None] * len(records)
    plots = [
        ('Kind of degradation', leaf),
        ('Granularity', charts.histogram_svg(level, nothing, 'level-plot', 'confidence in the level')),
    ]
    measured = 'regret' if any('regret' in r.psnr for r in records) else 'gain'
    points = [
        (r.decision.leaf_confidence, value, r.right) for r in records if (value := _outcome(r, measured)) is not None
    ]
    if points:
        words = 'dB below the best expert' if measured == 'regret' else 'dB gained'
        plots.append(('Outcome', charts.scatter_svg(points, 'outcome-plot', 'confidence in the leaf', words)))
    wrong = '<li class="wrong">leaf of another type</li>' if False in right else ''
    key = (
        f'<ul class="key"><li>leaf of the true type</li>{wrong}</ul>' if any(fits is not None for fits in right) else ''
    )
    cards = ''.join(f'<div class="card"><h3>{head}</h3>{plot}</div>' for head, plot in plots)
    words = (
        'Number of pictures that the router was so sure of: which leaf they belong to, and how fine an expert may be.'
    )
    return f'<p class="lead">{words}</p><div class="plots">{cards}</div>{key}'


def _outcome(record: ReportEntry, measured: str) -> float | None:
    if measured == 'regret':
        value = record.psnr.get('regret')
    else:
        value = record.psnr['routed'] - record.psnr['input'] if 'routed' in record.psnr else None
    return value if value is not None and np.isfinite(value) else None


def _facts(facts: Mapping[str, str]) -> str:
    cells = ''.join(f'<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>' for name, value in facts.items())
    return f'<dl class="facts">{cells}</dl>' if cells else ''


def _failed(sentences: Sequence[str]) -> str:
    items = ''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences[:MOST_FAILED])
    more = len(sentences) - MOST_FAILED
    items += f'<li>and {more:,} more</li>' if more > 0 else ''
    return f'<div class="card"><ul class="failed">{items}</ul></div>' if items else ''
