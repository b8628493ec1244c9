import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from hypereyes_jax.env.types import Invocation, SearchHit
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.records import read_records, write_records
from hypereyes_jax.eval.report import collect, write_report
from hypereyes_jax.files import read_json, write_json
from tests.browser import CHROMIUM, dump
from tests.eval.sample_run import write_run

ATTACK = "document.title='pwned'"
HOSTILE = f'</script><img src=x onerror="{ATTACK}"><script>{ATTACK}</script>\u2028<!--<script>&lt;b&gt;'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), questions=3, steps=8)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The same run, with hostile text in every place that a model, a search engine or a data set can fill."""
    path = write_run(tmp_path_factory.mktemp(HOSTILE.replace("/", "")[:40]), questions=1, steps=3)
    for file in path.glob("trajectories-*.jsonl"):
        write_records(file, [poison(record) for record in read_records(file)])
    config = read_json(path / "config.json")
    write_json(path / "config.json", {**config, "git": HOSTILE, "config": {HOSTILE: HOSTILE}})
    with open(path / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"phase": "rl", "step": 3, f"rl/{HOSTILE}": 1.0}) + "\n")
    span = {"ph": "X", "tid": 0, "name": HOSTILE, "ts": 0, "dur": 1}
    track = {"ph": "M", "tid": 0, "name": "thread_name", "args": {"name": f"slot {HOSTILE}"}}
    write_json(path / "timeline.json", {"traceEvents": [track, span]})
    return path


def poison(record):
    call = Invocation("text_search", HOSTILE, HOSTILE, None, HOSTILE, (SearchHit(HOSTILE, HOSTILE, 0.5, HOSTILE),))
    bad_call = replace(call, hits=(), error=HOSTILE)
    turn = replace(record.turns[0], text=HOSTILE, reason=HOSTILE, malformed=HOSTILE, observation=HOSTILE)
    turns = (replace(turn, invocations=(*turn.invocations, call, bad_call)), *record.turns[1:])
    return replace(
        record, question=HOSTILE, answers=(HOSTILE, HOSTILE), kind=HOSTILE, answer=HOSTILE, turns=turns, why=HOSTILE
    )


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.opened = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.opened.append((tag, dict(attributes)))


def test_hostile_text_opens_no_tag(run, hostile):
    page, clean = (write_report(path).read_text() for path in (hostile, run))
    assert "pwned" in page  # it is there, as text
    for name in ("script", "img"):
        count = [sum(tag == name for tag, _ in Tags(html).opened) for html in (page, clean)]
        assert count[0] == count[1]
    assert not any(key.startswith("on") for _, attributes in Tags(page).opened for key in attributes)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("which", ["run", "hostile"])
def test_a_browser_draws_the_page_and_runs_nothing_else(which, request, tmp_path):
    page = write_report(request.getfixturevalue(which), tmp_path / "report.html")
    document, log = dump(page, tmp_path / "profile")
    assert "CONSOLE" not in log  # no script error, nothing the content policy had to stop
    tags = Tags(document)
    assert re.search(r"<title>[^<]*HyperEyes report</title>", document)
    assert sum("onerror" in attributes for _, attributes in tags.opened) == 0
    classes = [attributes.get("class", "") for _, attributes in tags.opened]
    assert classes.count("box") > 0  # boxes on the mosaic
    assert (
        sum("stage-" in name and "run" in name.split() for name in classes) == 4
    )  # base, SFT, RL, RL serial side by side
    assert sum(name == "line" for name in classes) > 3  # charts
    assert classes.count("lanes") == len(collect(request.getfixturevalue(which)).timelines) > 1


def test_the_page_asks_the_network_for_nothing(run):
    page = write_report(run).read_text()
    policy = next(a["content"] for tag, a in Tags(page).opened if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert "url(" not in page


def test_the_page_holds_the_headline_numbers(run):
    page = write_report(run).read_text()
    for stage in read_json(run / "metrics.json")["stages"].values():
        for row in stage.values():
            assert f"{100 * row['accuracy']:.1f} %" in page
            assert f"{row['cas']:.1f}" in page


def test_questions_where_training_made_a_difference_come_first(run):
    questions = collect(run).questions
    changed = [len({run["correct"] for run in q["runs"]}) > 1 for q in questions]
    assert changed == sorted(changed, reverse=True)
    assert [run["name"] for run in questions[0]["runs"]] == ["Base", "SFT", "RL", "RL, serial"]
    assert len(collect(run, questions=1).questions) == 1


def test_an_image_is_stored_once_for_all_stages(run):
    report = collect(run)
    assert len(report.images) == len(report.questions) == 3


def test_a_trajectory_file_alone_makes_a_report(run, tmp_path):
    file = shutil.copy(run / "trajectories-rl-heldout.jsonl", tmp_path / "mine.jsonl")
    assert write_report(tmp_path / "mine.jsonl") == tmp_path / "mine.html"
    assert len(collect(tmp_path / "mine.jsonl").questions) == 3
    assert file.exists()


def test_a_run_that_was_stopped_early_still_has_a_report(run, tmp_path):
    shutil.copy(run / "metrics.jsonl", tmp_path / "metrics.jsonl")
    assert collect(tmp_path).panels
    assert write_report(tmp_path).exists()


def test_series_without_a_panel_are_shown_too(run):
    assert [panel["title"] for panel in collect(run).further] == [
        "rl/clip_share_high",
        "rl/entropy",
        "rl/logp_gap",
        "rl/search_cache_hits",
        "rl/search_cost",
        "rl/search_searches",
        "rl/search_success_rate",
        "sft/learning_rate",
    ]


def test_each_stage_tells_how_its_searches_went_and_what_the_engine_did(run):
    report = collect(run)
    assert [(row["stage"], row["split"]) for row in report.costs][-2:] == [
        ("RL", "held-out, serial"),
        ("RL", "8 steps of training"),
    ]
    trained = report.costs[-1]
    assert trained["searches"] == 600 * 8
    assert sum(trained[kind] for kind in ("decode", "extend", "waiting", "idle")) == pytest.approx(1)
    page = write_report(run).read_text()
    assert page.count('class="part use-waiting"') == len(report.costs)
    assert "99.1 %" in page


@pytest.mark.parametrize("name", ["rl/engine_idle", "rl/engine_decode", "rl/search_cost"])
@pytest.mark.parametrize("value", [None, "gone"])
def test_a_step_without_some_of_the_engines_figures_costs_no_report(run, tmp_path, name, value):
    folder = shutil.copytree(run, tmp_path / "run")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = rows[-1]
    last |= {name: None}
    if value == "gone":
        del last[name]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    costs = collect(folder).costs
    whole = [row for row in rows if row["phase"] == "rl" and row.get(name) is not None]
    assert [row["split"] for row in costs if row["key"] == "rl"][-1].startswith(f"{len(whole)} steps")


def test_nothing_to_report_on_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="nothing to report on"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="there is no"):
        write_report(tmp_path / "gone")
