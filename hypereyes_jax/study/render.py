"""A study's outcome for the terminal, as CSV, JSON and Markdown, and its charts as SVG."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

from hypereyes_jax.files import write_atomic
from hypereyes_jax.study.types import Chart, Outcome, Table

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP = 760, 380, 64, 24, 40  # px
_LETTER = 6.6  # px, the mean width of a letter of 12 px


def write_outcome(folder: Path, outcome: Outcome, command: str, date: str) -> list[Path]:
    """Writes table.csv, table.md, study.json and a chart-N.svg for each chart; returns their paths.

    Args:
      command: that made it, to stand beside the figures.
      date: when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "table.csv": to_csv(outcome.table),
        "table.md": to_markdown(outcome, command, date),
        "study.json": json.dumps({"command": command, "date": date, **asdict(outcome)}, indent=1) + "\n",
    }
    files |= {f"chart-{number}.svg": to_svg(chart) for number, chart in enumerate(outcome.charts, start=1)}
    for name, text in files.items():
        write_atomic(folder / name, text)
    return [folder / name for name in files]


def to_terminal(outcome: Outcome) -> RichTable:
    table = RichTable(box=SIMPLE_HEAD, title=outcome.title, header_style="bold", pad_edge=False)
    for number, heading in enumerate(outcome.table.headings):
        table.add_column(heading, justify="left" if number == 0 else "right")
    for row in outcome.table.rows:
        table.add_row(*map(_cell, row))
    return table


def to_csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.headings)
    for row in table.rows:
        writer.writerow("" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row)
    return out.getvalue()


def to_markdown(outcome: Outcome, command: str, date: str) -> str:
    """A section with the table, the sentences, and the command and date that it is of."""
    lines = [f"## {outcome.title}", "", "| " + " | ".join(outcome.table.headings) + " |"]
    lines.append("|" + "---|" * len(outcome.table.headings))
    lines += ["| " + " | ".join(_cell(cell).replace("|", "\\|") for cell in row) + " |" for row in outcome.table.rows]
    lines += ["", *(f"- {sentence}" for sentence in outcome.sentences)]
    lines += [f"- Not run: {each}" for each in outcome.missing]
    return "\n".join([*lines, "", f"    {command}", "", f"({date})", ""])


def to_svg(chart: Chart) -> str:
    """Lines with bars of 95 % intervals; self-contained, without scripts."""
    points = [point for _, series in chart.series for point in series]
    low, high = min(p.low for p in points), max(p.high for p in points)
    margin = (high - low) * 0.08 or 1.0
    low, high = low - margin, high + margin
    left, right = min(p.x for p in points), max(p.x for p in points)
    inner = _WIDTH - _LEFT - _RIGHT
    spacing = 0.88 * inner / max(right - left, 1)
    # Names that would run into each other stand on two lines in turn; the key below them has as many as it needs.
    staggered = any(_LETTER * len(name) > spacing - 6 for name in chart.labels)
    key = _key([name for name, _ in chart.series])
    bottom = 52 + 14 * staggered + 12 * (1 + max((row for _, row in key), default=0))

    def x(value: float) -> float:
        share = 0.5 if right == left else (value - left) / (right - left)
        return _LEFT + inner * (0.06 + 0.88 * share)

    def y(value: float) -> float:
        return _HEIGHT - bottom - (_HEIGHT - _TOP - bottom) * (value - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="14" font-weight="bold">{escape(chart.title)}</text>',
        f'<text transform="translate(14 {_HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(chart.y_label)}'
        "</text>",
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(chart.x_label)}</text>',
    ]
    for tick in range(5):
        value = low + (high - low) * tick / 4
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>'
        )
        parts.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for number, place in enumerate(sorted({p.x for p in points})):
        lower = 14 if staggered and number % 2 else 0
        name = chart.labels[int(place)] if chart.labels else f"{place:g}"
        parts.append(
            f'<text x="{x(place):.1f}" y="{_HEIGHT - bottom + 18 + lower}" text-anchor="middle">{escape(name)}</text>'
        )
    for number, (name, series) in enumerate(chart.series):
        parts += _line(number, [(x(p.x), y(p.y), y(p.low), y(p.high)) for p in series], bool(chart.labels))
        if name:
            at = key[number][0], _HEIGHT - bottom + 34 + 14 * staggered + 12 * key[number][1]
            parts.append(f'<circle cx="{at[0]:.0f}" cy="{at[1] - 4}" r="4" fill="{_COLOURS[number % len(_COLOURS)]}"/>')
            parts.append(f'<text x="{at[0] + 8:.0f}" y="{at[1]}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _key(names: Sequence[str]) -> list[tuple[float, int]]:
    """(x, row) of each name of the key: side by side as far as they fit."""
    places: list[tuple[float, int]] = []
    at, row = _LEFT + 8.0, 0
    for name in names:
        width = max(150.0, _LETTER * len(name) + 26)
        if at > _LEFT + 8 and at + width > _WIDTH:
            at, row = _LEFT + 8.0, row + 1
        places.append((at, row))
        at += width
    return places


def _line(number: int, places: list[tuple[float, float, float, float]], apart: bool) -> list[str]:
    colour, shift = _COLOURS[number % len(_COLOURS)], 6 * number
    parts = []
    if not apart:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for x, y, low, high in places:
        x += shift if apart else 0
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
    return parts


def _cell(value: str | float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
