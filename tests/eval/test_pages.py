"""What the pages of a run, a curation and the benchmarks show, in a browser, at the width of a desk and of a phone."""

import json
import random
import re
from collections import Counter
from dataclasses import replace

import pytest

from hypereyes_jax.data.curation.funnel import Funnel, FunnelStage
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.benchmark_table import paper_rows, to_html
from hypereyes_jax.eval.funnel_page import write_funnel_page
from hypereyes_jax.eval.panels import PANELS
from hypereyes_jax.eval.report import collect, write_report
from hypereyes_jax.eval.rollout_files import write_rollouts
from hypereyes_jax.files import write_json
from tests.browser import CHROMIUM, DESKTOP, PHONE, dump, measure
from tests.eval.sample_run import question, record, write_run

LONG = "a_series_with_a_name_that_nobody_shortened_and_that_has_no_place_to_break_a_line"
PATH = "/home/somebody/a/rather/long/path/of/folders/that/goes/on/and/on/own_parts.py"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a run that has everything a run can have."""
    run = write_run(tmp_path_factory.mktemp("everything"), questions=2, steps=12)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        step = row["step"]
        if row["phase"] == "sft":
            row["sft/validation_loss"] = 1.0
        else:
            for name in ("image_search", "text_search", "dollars"):
                row |= {f"rl/spent_{name}": 2.0 + step, f"rl/target_{name}": 2.5, f"rl/price_{name}": 0.01 * step}
            row |= {"rl/spent_nothing_priced": 3.0, f"rl/{LONG}": None if step == 3 else 1.0, "rl/kl_int8_gap": 0.01}
    rows.append({"phase": "rl", "step": 11, "seconds": 1.0, "rl/once": 1.0})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = {"role": "reward", "name": f"{PATH}:frugal", "file": PATH, "sha256": "ab" * 32, "weight": 0.5}
    typed = {"role": "judge", "name": "__main__:judge", "file": "", "sha256": ""}
    write_json(run / "objects.json", [mine, typed])
    write_json(run / "best-model.json", {"step": 7, "eval_accuracy": 0.8125})
    rng = random.Random(0)
    made = question(rng, 0)
    earned = [{"reward": 1.5 - k, "reward_tool": 0.5, "advantage": 0.25 - k} for k in range(3)]
    kept = [replace(record(rng, *made, stage="rl"), stage="training", split="training", extra=each) for each in earned]
    for step in (0, 11):
        write_rollouts(run, step, kept, 2**28)
    return write_report(run)


@pytest.fixture(scope="module")
def funnel(tmp_path_factory):
    """The page of a curation of the paper's size, with examples."""
    stages = [
        FunnelStage("tool necessity", 271_000, Counter({"fvqa": 1000, LONG: 270_000}), Counter({"needs none": 150_000}),
                    {"needs none": [0]}),
        FunnelStage("quality filters", 121_000, Counter({"fvqa": 121_000}), Counter({LONG: 91_000}), {LONG: [1]}),
    ]  # fmt: skip
    selection = FunnelStage("pass@1 / pass@5", 30_000, Counter({"fvqa": 30_000}), Counter({"pass@5 is 0": 23_944}))
    questions = [question(random.Random(n), n)[0] for n in range(2)]
    path = tmp_path_factory.mktemp("funnel") / "funnel.html"
    write_funnel_page(path, Funnel(stages, selection), questions)
    return path


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmarks") / "benchmarks.html"
    path.write_text(to_html(paper_rows()))
    return path


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("page", ["report", "funnel", "benchmarks"])
def test_a_page_fits_its_window(page, width, request, tmp_path):
    path = request.getfixturevalue(page)
    assert '<meta name="viewport" content="width=device-width' in path.read_text()  # else a phone shows a desk's width
    seen = measure(path, width, tmp_path)
    assert seen["width"] == width
    assert seen["wide"] == []
    assert seen["scroll"] <= width


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_every_panel_and_every_file_of_a_run_is_shown(report, tmp_path):
    document, log = dump(report, tmp_path / "profile")
    assert "CONSOLE" not in log
    charts = re.findall(r'<article class="panel chart">(.*?)</article>', document, re.S)
    titles = [re.search(r"<h4>(.*?)</h4>", chart)[1] for chart in charts]
    budgets = ["Budget: dollars", "Budget: image search", "Budget: text search", "Prices of the budget"]
    assert titles[: len(PANELS) + 4] == [*(panel.title for panel in PANELS), *budgets]
    assert {"rl/spent_nothing_priced", f"rl/{LONG}", "rl/kl_int8_gap", "rl/once"} <= set(titles[len(PANELS) + 4 :])
    drawn = {title: chart for title, chart in zip(titles, charts, strict=True) if not title.startswith("timeline")}
    for title, chart in drawn.items():
        lines = chart.count('class="line"') + chart.count("opacity:.75") + chart.count("<circle")
        assert lines == max(1, chart.count("<span>")), title  # one for each name of its key
        assert "NaN" not in chart
    assert drawn["Prices of the budget"].count("<span>") == 3
    assert drawn["Budget: image search"].count("<span>") == 2
    assert drawn["rl/once"].count("<circle") == 1
    text = re.sub(r"<[^>]+>", " ", document.partition('id="data"')[0])
    assert "step 7, 81.2 % in the periodic evaluation" in text
    assert f"{PATH}:frugal" in text
    assert "ab" * 32 in text
    assert "reward × 0.5" in text
    assert "__main__:judge" in text
    assert len(re.findall(r'<b class="q">|class="pick"', document)) == 4  # two questions asked, one group at two steps


def test_rollouts_of_training_are_shown_with_what_they_earned(report):
    groups = [each for each in collect(report.parent).questions if each["split"].startswith("training")]
    assert [each["split"] for each in groups] == ["training, step 0", "training, step 11"]
    assert groups[0]["runs"][0]["worth"] == ["reward +1.500", "tool reward +0.500", "advantage +0.250"]


def test_a_damaged_record_of_the_best_model_is_told(tmp_path):
    run = write_run(tmp_path / "run", questions=1, steps=2)
    write_json(run / "best-model.json", {"step": "seven", "eval_accuracy": 0.5})
    with pytest.raises(UserError, match=r"best-model.json is damaged"):
        write_report(run)


def test_a_funnel_s_numbers_and_bars(funnel):
    page = funnel.read_text()
    assert "<td>271,000</td><td>121,000</td>" in page
    assert "needs none 150,000" in page
    bars = [float(share) for share in re.findall(r"width:([\d.]+)%", page.partition("<table>")[2])]
    assert bars == [44.65, 55.35, 11.07, 33.58, 2.23, 8.84]  # of those that came in, kept and lost of each stage
    assert page.count("<figure>") == 2
    assert page.count("data:image/") == 2
