"""Benchmarks side by side: our runs, and the paper's rows marked as the paper's; for terminal, HTML, CSV and LaTeX."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from hypereyes_jax.data.benchmarks import BENCHMARKS
from hypereyes_jax.eval.benchmark_run import BenchmarkSummary

PAPER = "paper"
_MEASURES = ("accuracy", "low", "high", "n", "turns", "searches", "kilo_tokens", "cas", "cost", "seconds", "published")
_LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"}
_LATEX |= {"^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}


@dataclass(frozen=True)
class Cell:
    """A model on a benchmark; what is not known is None."""

    accuracy: float | None  # %
    turns: float | None = None
    low: float | None = None  # %, of the 95 % interval
    high: float | None = None
    n: int | None = None
    searches: float | None = None
    kilo_tokens: float | None = None
    cas: float | None = None
    cost: float | None = None  # dollars a question
    seconds: float | None = None
    published: float | None = None  # %, the benchmark's own score


@dataclass(frozen=True)
class Row:
    """A line of the table: one model on several benchmarks."""

    model: str
    group: str
    source: str  # PAPER, or where the run is
    cells: Mapping[str, Cell]  # by benchmark


def own_row(model: str, summaries: Sequence[BenchmarkSummary], source: str = "run") -> Row:
    """The row of one of our models."""
    return Row(model, "this project", source, {summary.benchmark: _cell(summary) for summary in summaries})


def paper_rows() -> list[Row]:
    """The rows of the paper's main table (`paper_table.json`), each marked as the paper's."""
    table = json.loads(resources.files("hypereyes_jax.eval").joinpath("paper_table.json").read_text(encoding="utf-8"))
    rows = []
    for row in table["rows"]:
        turns = row.get("turns") or [None] * len(table["benchmarks"])
        cells = {
            name: Cell(accuracy, turn)
            for name, accuracy, turn in zip(table["benchmarks"], row["accuracy"], turns, strict=True)
            if accuracy is not None
        }
        rows.append(Row(row["model"], row["group"], PAPER, cells))
    return rows


def paper_source() -> str:
    """Where the paper's rows are from, and what they can't be compared in."""
    table = json.loads(resources.files("hypereyes_jax.eval").joinpath("paper_table.json").read_text(encoding="utf-8"))
    return str(table["source"])


def terminal_table(rows: Sequence[Row]) -> Table:
    """Accuracy and turns on the benchmarks that our rows have (or all); rows of the paper carry a dagger."""
    ours = {name for row in rows if row.source != PAPER for name in row.cells}
    columns = ours | {"imeb"} if "imeb-mini" in ours else ours
    names = [name for name in _benchmarks(rows) if not columns or name in columns]
    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("model", no_wrap=True)
    for name in names:
        table.add_column(_title(name), justify="right")
    for row in rows:
        mark, style = ("†", "dim") if row.source == PAPER else ("", "")
        group = f", {row.group}" if row.group in ("direct answer", "workflow") else ""
        cells = (_in_text(row.cells.get(name)).replace(" (", "\n(") for name in names)
        table.add_row(f"{row.model}{group}{mark}", *cells, style=style)
    table.caption = (
        "accuracy % / turns; of our runs the 95 % interval and n. † the paper's own figures, on subsets of its own"
    )
    return table


def measures_table(summaries: Sequence[BenchmarkSummary]) -> Table:
    """One of our models in all measures, a line a benchmark."""
    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("benchmark", no_wrap=True)
    for heading in ("right %", "95 %", "n", "own score", "turns", "searches", "k tok", "CAS", "$", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for s in summaries:
        own = "-" if s.published is None else f"{100 * s.published:.1f} {s.published_score.split(':')[0]}"
        own += f" (n {s.published_n})" if 0 < s.published_n < s.n else ""
        table.add_row(
            _title(s.benchmark),
            f"{100 * s.accuracy:.1f}",
            f"{100 * s.accuracy_low:.0f}-{100 * s.accuracy_high:.0f}",
            str(s.n),
            own,
            f"{s.turns:.2f}",
            f"{s.searches:.2f}",
            f"{s.kilo_tokens:.2f}",
            f"{s.cas:.1f}",
            f"{s.cost:.4f}",
            f"{s.seconds:.1f}",
        )
    unscored = sum(s.unscored for s in summaries)
    if unscored:
        why = "because the model, a search or the judge failed"
        table.caption = f"not scored, {why}: {unscored}. The same command asks them again."
    return table


def to_csv(rows: Sequence[Row]) -> str:
    """A line for each model and benchmark, with all measures."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("model", "group", "source", "benchmark", *_MEASURES))
    for row in rows:
        for name, cell in row.cells.items():
            values = (getattr(cell, measure) for measure in _MEASURES)
            cells = ("" if value is None else f"{value:.6g}" for value in values)
            writer.writerow((_harmless(row.model), row.group, row.source, name, *cells))
    return out.getvalue()


def to_html(rows: Sequence[Row]) -> str:
    """A whole page: one table; rows of the paper in italics."""
    names = _benchmarks(rows)
    head = "".join(f"<th>{html.escape(_title(name))}</th>" for name in names)
    body = []
    for row in rows:
        cells = "".join(f"<td>{html.escape(_in_text(row.cells.get(name)))}</td>" for name in names)
        mark, note = (' class="paper"', " (paper)") if row.source == PAPER else ("", "")
        body.append(f"<tr{mark}><th>{html.escape(row.model + note)}</th><td>{html.escape(row.group)}</td>{cells}</tr>")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Benchmarks</title><style>'
        "body{font:14px/1.5 sans-serif;margin:1em}.scroll{overflow-x:auto}table{border-collapse:collapse;font:inherit}"
        "th,td{padding:4px 10px;border-bottom:1px solid #ccc;white-space:nowrap;"
        "text-align:right}tbody th{text-align:left}.paper{font-style:italic;color:#555}</style>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table, scrolls sideways">'
        f"<table><thead><tr><th>model</th><th>group</th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f"<p>Accuracy in % / turns; of our runs with the 95 % Wilson interval and n.</p>"
        f"<p>{html.escape(paper_source())}</p></html>\n"
    )


def to_latex(rows: Sequence[Row]) -> str:
    """A `tabular` for booktabs; groups are set apart, rows of the paper carry a dagger."""
    names = _benchmarks(rows)
    lines = [r"\begin{tabular}{l" + "r" * len(names) + "}", r"\toprule"]
    lines.append(" & ".join(["Model", *(_escaped(_title(name)) for name in names)]) + r" \\")
    group = None
    for row in rows:
        if row.group != group:
            lines.append(r"\midrule")
            group = row.group
        mark = r"$^\dagger$" if row.source == PAPER else ""
        cells = [_escaped(_in_text(row.cells.get(name))) for name in names]
        lines.append(" & ".join([_escaped(row.model) + mark, *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", "% dagger: " + paper_source()]
    return "\n".join(lines) + "\n"


def _cell(summary: BenchmarkSummary) -> Cell:
    return Cell(
        accuracy=100 * summary.accuracy,
        turns=summary.turns,
        low=100 * summary.accuracy_low,
        high=100 * summary.accuracy_high,
        n=summary.n,
        searches=summary.searches,
        kilo_tokens=summary.kilo_tokens,
        cas=summary.cas,
        cost=summary.cost,
        seconds=summary.seconds,
        published=None if summary.published is None else 100 * summary.published,
    )


def _benchmarks(rows: Sequence[Row]) -> list[str]:
    """Those that any row has: the known ones in the paper's order, then others."""
    had: dict[str, Any] = {name: None for row in rows for name in row.cells}
    return [name for name in BENCHMARKS if name in had] + [name for name in had if name not in BENCHMARKS]


def _title(name: str) -> str:
    if name in BENCHMARKS:
        return BENCHMARKS[name].title
    whole, _, level = name.rpartition("-")
    if whole in BENCHMARKS and level in BENCHMARKS[whole].levels:
        return f"{BENCHMARKS[whole].title} level {level.removeprefix('level')}"
    return name


def _in_text(cell: Cell | None) -> str:
    if cell is None or cell.accuracy is None:
        return "-"
    text = f"{cell.accuracy:.1f}" + ("" if cell.turns is None else f" / {cell.turns:.1f}")
    if cell.low is not None and cell.high is not None:
        text += f" ({cell.low:.0f}-{cell.high:.0f}, n={cell.n})"
    return text


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)


def _harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
