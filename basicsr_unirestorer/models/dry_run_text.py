"""What a dry run found, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = 'network|for|parameters|trainable|MACs/sample|weights|EMA|gradients|optimizer|sum|peak|s/step'.split('|')


def dry_run_text(result: Mapping[str, Any]) -> str:
    """Write the result of ``dry_run`` as text: networks as a table, then a paragraph for each number of processes."""
    lines = [f'{result["name"]}: batch {result["batch_size"]}, patch {result["patch"]}, on {result["device"]}']
    lines += [f'- {note}' for note in result['notes']]
    lines += ['', *_table([COLUMNS, *map(_row, result['networks'])])]
    for plan in result.get('plans', ()):
        lines += ['', *_plan_lines(plan)]
    return '\n'.join(lines)


def _row(cost: Mapping[str, Any]) -> tuple[str, ...]:
    used_by = cost['used_by']
    held = [cost[key] for key in ('weights', 'ema', 'gradients', 'optimizer')]
    return (
        cost['network'] + ('' if cost['precision'] == 'off' else f', {cost["precision"]}'),
        used_by[0] if len(used_by) == 1 else f'{len(used_by)} nodes, {used_by[0]} ...',
        f'{cost["parameters"] / 1e6:.2f} M',
        f'{cost["trainable"] / 1e6:.2f} M',
        '-' if cost['macs'] is None else f'{cost["macs"] / 1e9:.2f} G',
        *map(_memory, held),
        _memory(sum(held)),
        '-' if cost['peak'] is None else _memory(cost['peak']),
        '-' if cost['seconds'] is None else f'{cost["seconds"]:.3g}',
    )


def _memory(number: int) -> str:
    return f'{number / 2**20:,.1f} MiB'


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pads = [str.ljust, str.ljust] + [str.rjust] * (len(widths) - 2)
    aligned = ([pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True)] for row in rows)
    return ['  '.join(cells).rstrip() for cells in aligned]


def _plan_lines(plan: Mapping[str, Any]) -> list[str]:
    ranks = plan['ranks']
    lines = [
        f'{ranks} process{"es" if ranks > 1 else ""}: done after {duration(plan["end"])}, '
        f'busiest / mean {plan["balance"]:.2f}'
    ]
    for process in plan['processes']:
        experts = ', '.join(_expert(expert, process['rank']) for expert in process['experts']) or 'nothing'
        lines.append(f'  rank {process["rank"]} ({duration(process["busy"])}): {experts}')
    return lines


def _expert(expert: Mapping[str, Any], rank: int) -> str:
    others = [str(other) for other in expert['ranks'] if other != rank]
    shared = f' with rank {" ".join(others)}' if others else ''
    return f'{expert["name"]} {expert["steps"]:,}{shared}'


def duration(seconds: float) -> str:
    """Write a time as people say it, e.g. ``3.4 days``."""
    for unit, size in (('days', 86400), ('h', 3600), ('min', 60)):
        if seconds >= 2 * size:
            return f'{seconds / size:,.1f} {unit}'
    return f'{seconds:.1f} s'
