"""The funnel of a curation as a page: how many went in and out of each stage, and examples of what fell out where."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from hypereyes_jax.data.curation.funnel import Funnel, FunnelStage
from hypereyes_jax.env.types import Question
from hypereyes_jax.eval.records import webp_data_uri
from hypereyes_jax.files import write_atomic

_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}"
    "h2,h3,p,figcaption,td{overflow-wrap:anywhere}"
    "table{border-collapse:collapse;width:100%}td,th{padding:3px 12px 3px 0;text-align:right;vertical-align:top}"
    "td:first-child,th:first-child,td:last-child{text-align:left}td:last-child{width:55%;padding:6px 0}"
    ".bar{background:#1f77b4;height:14px;float:left}.gone{background:#d62728}.why{clear:left}"
    "figure{display:inline-block;width:300px;max-width:100%;margin:0 14px 14px 0;vertical-align:top}"
    "img{max-width:100%;max-height:200px}figcaption{font-size:13px}"
)


def write_funnel_page(path: Path, funnel: Funnel, questions: Sequence[Question]) -> None:
    """Writes a self-contained page without scripts. Questions of examples are decoded one by one.

    Raises UserError if the page can't be written.
    """
    stages = [*funnel.sft, *([funnel.rl] if funnel.rl else [])]
    first = max((stage.entered for stage in stages), default=0)
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Curation</title><style>{_STYLE}</style><h1>Curation</h1>",
        _table(stages, first),
    ]
    for stage in stages:
        parts.append(f"<h2>{escape(stage.name)}</h2>{_pools(stage)}")
        for reason, count in stage.dropped.most_common():
            parts.append(f"<h3>{escape(reason)}: {count:,}</h3>")
            parts += [_example(questions[place]) for place in stage.examples.get(reason, ())]
    write_atomic(path, ("".join(parts) + "</html>\n").encode("utf-8", "replace"))


def _table(stages: Sequence[FunnelStage], first: int) -> str:
    rows = []
    for stage in stages:
        share, lost = (100 * n / max(first, 1) for n in (stage.left, stage.dropped.total()))
        bars = (
            f'<div class="bar" style="width:{share:.2f}%"></div><div class="bar gone" style="width:{lost:.2f}%"></div>'
        )
        why = ", ".join(f"{escape(reason)} {count:,}" for reason, count in stage.dropped.most_common())
        cells = f'<td>{stage.entered:,}</td><td>{stage.left:,}</td><td>{bars}<div class="why">{why}</div></td>'
        rows.append(f"<tr><td>{escape(stage.name)}</td>{cells}</tr>")
    return f"<table><tr><th>stage</th><th>in</th><th>out</th><th></th></tr>{''.join(rows)}</table>"


def _pools(stage: FunnelStage) -> str:
    counts = ", ".join(f"{escape(name)} {count:,}" for name, count in sorted(stage.by_pool.items()))
    return f"<p>{stage.entered:,} in ({counts}), {stage.left:,} out.</p>"


def _example(question: Question) -> str:
    images = "".join(f'<img src="{escape(webp_data_uri(image), quote=True)}" alt="">' for image in question.images[:1])
    answer = escape(question.answers[0]) if question.answers else ""
    caption = f"<b>{escape(question.id)}</b> {escape(question.text)} <i>{answer}</i>"
    return f"<figure>{images}<figcaption>{caption}</figcaption></figure>"
