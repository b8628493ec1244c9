"""Benchmarks asked in parts, stored as they are made, and shown beside the paper's rows."""

import asyncio
import csv
import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from hypereyes_jax.data.benchmarks import BENCHMARKS
from hypereyes_jax.env.chat.client import ChatEndpoint, ChatError
from hypereyes_jax.env.chat.replies import ChatReply
from hypereyes_jax.env.judging.llm_judge import LlmJudge
from hypereyes_jax.env.types import StopReason
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.benchmark_run import (
    OpenBenchmark,
    evaluate_benchmark,
    published_score,
    read_results,
    several_samples,
)
from hypereyes_jax.eval.benchmark_table import (
    PAPER,
    Cell,
    Row,
    measures_table,
    own_row,
    paper_rows,
    paper_source,
    terminal_table,
    to_csv,
    to_html,
    to_latex,
)
from hypereyes_jax.eval.metrics import wilson_interval
from tests.eval.trajectories import question, trajectory


class Judge:
    name = "exact"

    async def judge(self, asked, answer):
        return None if answer == "unclear" else answer in asked.answers


class Model:
    """Plays what it is told; counts what it is asked."""

    def __init__(self, **told):
        self.told, self.parts, self.spent = told, [], 0.0

    async def __call__(self, questions, on_end):
        self.parts.append([q.id for q in questions])
        self.spent += 0.5
        played = [trajectory(q.id, **self.told.get(q.id, {})) for q in questions]
        for number, each in enumerate(played):
            on_end(number, each)
        return played


async def run(model, results, ids="abcde", judge=None, part=2, spec="mmsearch", run_id=""):
    return await evaluate_benchmark(
        model,
        OpenBenchmark(spec, BENCHMARKS[spec], tuple(ids), [question(name) for name in ids], False),
        judge or Judge(),
        results,
        visual_tokens=lambda image: 1,
        spent=lambda: model.spent,
        part=part,
        run_id=run_id,
    )


async def test_means_interval_own_score_and_cost_by_hand(tmp_path):
    model = Model(b={"answer": "Kingdom of Sweden"}, c={"searches": (1, 3)})
    summary = await run(model, tmp_path / "r.jsonl")
    assert model.parts == [["a", "b"], ["c", "d"], ["e"]]
    assert (summary.n, summary.accuracy) == (5, 0.8)
    assert (summary.accuracy_low, summary.accuracy_high) == wilson_interval(4, 5)
    assert summary.turns == pytest.approx((4 * 1 + 2) / 5)
    assert summary.searches == pytest.approx((4 * 2 + 4) / 5)
    # F1 of "Kingdom of Sweden" against "Kingdom of Norway": 2 of 3 words both ways
    assert summary.published == pytest.approx((4 + 2 / 3) / 5)
    assert summary.published_score == "F1"
    assert summary.cost == pytest.approx(1.5 / 5)
    assert summary.cas == pytest.approx(100 * 0.8**2 / (summary.kilo_tokens + 2 * summary.turns + 1))


async def test_a_question_without_a_right_option_has_no_own_score_and_the_table_says_how_many_have(tmp_path):
    lettered = replace(question("a"), meta={"letter": "B", "options": ["A. Chad", "B. norway"]})
    asked = OpenBenchmark("livevqa", BENCHMARKS["livevqa"], ("a", "b"), [lettered, question("b")], choices=True)

    async def play(questions, on_end):
        played = [trajectory(each.id) for each in questions]
        played = [replace(t, result=replace(t.result, question=q)) for t, q in zip(played, questions, strict=True)]
        for number, each in enumerate(played):
            on_end(number, each)
        return played

    summary = await evaluate_benchmark(play, asked, Judge(), tmp_path / "r.jsonl", visual_tokens=lambda image: 1)
    assert (summary.n, summary.published, summary.published_n) == (2, 1.0, 1)
    console = Console(file=io.StringIO(), width=200)
    console.print(measures_table([summary]))
    assert "100.0 letter (n 1)" in console.file.getvalue()


async def test_the_same_call_asks_only_what_is_open(tmp_path):
    results = tmp_path / "r.jsonl"
    down = Model(b={"stop": StopReason.INFRASTRUCTURE, "answer": None}, d={"answer": "unclear"})
    first = await run(down, results)
    assert (first.n, first.unscored) == (3, 2)
    assert set(read_results(results)) == set("ace")  # an outage is no finding
    again = Model()
    second = await run(again, results)
    assert again.parts == [["b", "d"]]
    assert (second.n, second.unscored, second.accuracy) == (5, 0, 1.0)


async def test_a_question_is_stored_as_it_ends_also_when_the_rest_of_its_part_does_not(tmp_path):
    class Killed(Model):
        async def __call__(self, questions, on_end):
            on_end(0, trajectory(questions[0].id))
            await asyncio.sleep(0)
            raise KeyboardInterrupt

    results = tmp_path / "r.jsonl"
    with pytest.raises(KeyboardInterrupt):
        await run(Killed(), results, part=5)
    assert set(read_results(results)) == {"a"}
    again = Model()
    summary = await run(again, results, part=5)
    assert again.parts == [["b", "c", "d", "e"]]
    assert summary.n == 5


async def test_a_benchmark_of_which_nothing_can_be_scored_is_no_result(tmp_path):
    down = {"stop": StopReason.INFRASTRUCTURE, "answer": None, "why": "127.0.0.1:9 could not be reached"}
    model = Model(a=down, b=down)
    with pytest.raises(
        UserError, match=r"the last 2 answers to mmsearch .*: 2 x 127\.0\.0\.1:9 could not be reached\."
    ):
        await run(model, tmp_path / "r.jsonl")
    assert model.parts == [["a", "b"]]  # the rest is not asked for nothing
    summary = await run(Model(e=down), tmp_path / "r.jsonl")  # a few that fail are counted
    assert (summary.n, summary.unscored) == (4, 1)
    assert (await run(Model(e=down), tmp_path / "r.jsonl")).unscored == 1


async def test_several_answers_to_a_question_are_means_over_all_and_intervals_over_questions(tmp_path):
    told = {f"{name}#{sample}": {"answer": "Sweden"} for name, sample in (("a", 0), ("a", 1), ("a", 2), ("b", 1))}
    questions = [question(name) for name in "ab"]
    opened = OpenBenchmark("mmsearch", BENCHMARKS["mmsearch"], ("a", "b"), questions, False)
    asked = several_samples(opened, 3)
    model = Model(**told)
    summary = await evaluate_benchmark(model, asked, Judge(), tmp_path / "r.jsonl", visual_tokens=lambda image: 1)
    assert model.parts == [["a#0", "a#1", "a#2", "b#0", "b#1", "b#2"]]
    assert (summary.n, summary.samples, summary.any_correct) == (6, 3, 0.5)
    assert summary.accuracy == pytest.approx(2 / 6)
    assert (summary.accuracy_low, summary.accuracy_high) == wilson_interval(1, 2)  # of two questions
    assert several_samples(opened, 1) is opened
    with pytest.raises(UserError, match="at least 1"):
        several_samples(opened, 0)


async def test_a_torn_last_line_is_asked_again_and_a_damaged_one_is_told(tmp_path):
    results = tmp_path / "r.jsonl"
    await run(Model(), results, ids="ab")
    whole = results.read_bytes()
    results.write_bytes(whole[:-10])
    model = Model()
    summary = await run(model, results, ids="ab")
    assert model.parts == [["b"]]
    assert summary.n == 2
    assert len(results.read_text().splitlines()) == 2
    rounds, published, kind = b'"rounds": 1', b'"published": 1.0', b'"kind": "compare"'
    by_hand = [
        (rounds, b'"rounds": "x"'),
        (rounds, b'"rounds": 1' + b"0" * 400),
        (published, b'"published": "x"'),
        (published, b'"published": NaN'),
        (kind, b'"kind": null'),
        (b'"answer": "', b'"answer": 5, "was": "'),
    ]
    for broken in (b"[]\n", b'{"id": "a"}\n', *(whole.replace(*change) for change in by_hand)):
        results.write_bytes(broken)
        with pytest.raises(UserError, match="line 1"):
            read_results(results)


async def test_another_judge_needs_another_place(tmp_path):
    await run(Model(), tmp_path / "r.jsonl", ids="a")

    class Other(Judge):
        name = "llm:x"

    with pytest.raises(UserError, match="judged by exact"):
        await run(Model(), tmp_path / "r.jsonl", ids="a", judge=Other())


async def test_results_of_another_run_are_refused(tmp_path):
    await run(Model(), tmp_path / "r.jsonl", run_id="a")
    await run(Model(), tmp_path / "r.jsonl", run_id="a")
    with pytest.raises(UserError, match=r"r\.jsonl was written by another run"):
        await run(Model(), tmp_path / "r.jsonl", run_id="b")


@pytest.mark.parametrize(
    ("spec", "expected"), [("fvqa", 1.0), ("livevqa", None), ("browsecomp-vl", None), ("imeb", None)]
)
async def test_a_score_that_needs_a_model_is_left_open_without_one(spec, expected):
    _, score = published_score(BENCHMARKS[spec])
    assert await score(question(), "norway") == expected


@pytest.mark.parametrize("spec", [name for name, each in BENCHMARKS.items() if each.published in ("grade", "json")])
async def test_a_grader_that_gives_no_grade_is_told_before_anything_is_asked(tmp_path, spec):
    class Client:
        endpoint = ChatEndpoint("http://127.0.0.1:1/v1", "grader")

        async def complete(self, messages, **_):
            return ChatReply("I'd rather not say.", "stop")

    model = Model()
    with pytest.raises(UserError, match=r"own grader .* can't be used: the judge answered with no"):
        await run(model, tmp_path / "r.jsonl", spec=spec, judge=LlmJudge(Client()))
    assert model.parts == []


@pytest.mark.parametrize("spec", [name for name, each in BENCHMARKS.items() if each.published in ("grade", "json")])
async def test_an_outage_of_the_grader_is_asked_again_and_is_no_missing_grade(tmp_path, spec):
    class Client:
        endpoint = ChatEndpoint("http://127.0.0.1:1/v1", "grader")
        grades = 0

        async def complete(self, messages, **_):
            if "Reply with exactly one word" in messages[0][1][0]:
                return ChatReply("correct", "stop")
            self.grades += 1
            if self.grades == 2:  # the first is of the made-up answer
                raise ChatError("the server is down", transient=True)
            return ChatReply("A" if spec == "livevqa" else '{"correct": "yes"}', "stop")

    model, judge = Model(), LlmJudge(Client())
    summary = await run(model, tmp_path / "r.jsonl", "abc", judge, spec=spec)
    assert (summary.n, summary.published_n, summary.unscored) == (2, 2, 1)
    summary = await run(model, tmp_path / "r.jsonl", "abc", judge, spec=spec)
    assert (summary.n, summary.published_n, summary.published, summary.unscored) == (3, 3, 1.0, 0)
    assert len(model.parts[-1]) == 1


def test_the_papers_rows_are_marked_and_reproduce_its_average():
    rows = paper_rows()
    assert len(rows) == 19
    assert {row.source for row in rows} == {PAPER}
    best = next(row for row in rows if row.model == "HyperEyes-30B RL")
    assert sum(cell.accuracy for cell in best.cells.values()) / 6 == pytest.approx(64.0, abs=0.05)
    assert sum(cell.turns for cell in best.cells.values()) / 6 == pytest.approx(2.2, abs=0.05)
    assert "imeb" not in next(row for row in rows if row.model == "REDSearch").cells
    assert "arXiv 2605.07177" in paper_source()


async def test_tables_in_four_forms(tmp_path):
    ours = own_row('a <b> & "c"_1', [await run(Model(), tmp_path / "r.jsonl")])
    rows = [ours, *paper_rows()]
    terminal = terminal_table(rows)
    assert terminal.row_count == 20
    assert all(name.endswith("†") for name in terminal.columns[0]._cells[1:])
    assert [column.header for column in terminal.columns] == ["model", "MMSearch"]  # what ours has
    assert len(terminal_table(paper_rows()).columns) == 7
    page = to_html(rows)
    assert "a &lt;b&gt; &amp; &quot;c&quot;_1" in page
    assert page.count('class="paper"') == 19
    assert "100.0 / 1.0 (57-100, n=5)" in page
    table = list(csv.DictReader(io.StringIO(to_csv(rows))))
    mine = table[0]
    assert (mine["benchmark"], mine["n"], mine["accuracy"], mine["source"]) == ("mmsearch", "5", "100", "run")
    assert len(table) == 1 + 18 * 6 + 4
    assert {row["source"] for row in table[1:]} == {"paper"}
    tex = to_latex(rows)
    assert r"a <b> \& " in tex
    assert r"\_1" in tex
    assert tex.count(r"$^\dagger$") == 19
    assert all(line.endswith(r"\\") for line in tex.splitlines() if "&" in line and not line.startswith("%"))


def test_a_models_name_is_no_formula():
    row = Row("=1+1", "this project", "run", {"imeb": Cell(50.0)})
    assert "'=1+1" in to_csv([row])


async def test_results_are_plain_json_lines(tmp_path):
    await run(Model(), tmp_path / "r.jsonl", ids="a")
    row = json.loads((tmp_path / "r.jsonl").read_text())
    assert row["id"] == "a"
    assert row["correct"] is True
