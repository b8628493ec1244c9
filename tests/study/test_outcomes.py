"""What studies make of results that are made up so that the truth is known."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from hypereyes_jax.data.files import write_questions
from hypereyes_jax.env.types import Question
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.run_files import REFERENCES_LOG
from hypereyes_jax.study.comparisons import _depth_outcome, compared
from hypereyes_jax.study.render import to_csv, to_markdown, to_svg, write_outcome
from hypereyes_jax.study.results import RESULTS, question_depths, read_evaluations, read_references
from hypereyes_jax.study.sweeps import budget_outcome, distractors_outcome, keep_right, seeds_outcome
from hypereyes_jax.study.types import Chart, Point
from tests.study.made_results import result, results, write_results

GOOD = results([1] * 90 + [0] * 10, [2] * 100)
WORSE = results([1] * 60 + [0] * 40, [3] * 100)


def test_an_ablation_that_costs_accuracy_and_rounds_shows_the_papers_direction():
    outcome = compared("T", {"(sft)": WORSE, "full": GOOD, "no-x": WORSE}, "full")
    (sentence,) = outcome.sentences
    assert "-30.0 points right" in sentence
    assert "+1.00 rounds" in sentence
    assert "fewer right was seen, and more rounds was seen" in sentence
    full, bare = outcome.table.rows[1], outcome.table.rows[2]
    assert full[:2] == ("full", 90.0)
    assert full[6] is None
    assert bare[6] == pytest.approx(-30.0)
    assert bare[2] == "50.2 to 69.1"  # Wilson, 60 of 100


def test_the_opposite_and_the_undecided_are_told_as_such():
    better = results([1] * 100, [1] * 100)
    (sentence,) = compared("T", {"full": GOOD, "no-x": better}, "full").sentences
    assert sentence.count("the opposite was seen") == 2
    (sentence,) = compared("T", {"full": GOOD, "same": GOOD}, "full").sentences
    assert sentence.count("is not decided") == 2
    (sentence,) = compared("T", {"full": GOOD, "step": WORSE}, "full", silent=("step",)).sentences
    assert sentence.endswith("The paper claims no direction.")


def test_a_budget_after_which_accuracy_falls_is_named_as_the_best():
    by_budget = {1: WORSE, 2: GOOD, 8: WORSE}
    outcome = budget_outcome({"rl": by_budget})
    assert "most often right at a budget of 2" in outcome.sentences[0]
    assert "was seen" in outcome.sentences[0]
    assert "the largest is the best" in budget_outcome({"rl": {1: WORSE, 2: GOOD}}).sentences[0]
    assert [point.x for point in outcome.charts[0].series[0][1]] == [1, 2, 8]


def test_seeds_are_told_with_the_spread_that_chance_alone_gives():
    outcome = seeds_outcome({"training seed 0": GOOD, "training seed 1": WORSE}, {"sampling seed 1000": GOOD})
    assert "Over 2 seeds of training: 75.0 % right, standard deviation 21.2 points" in outcome.sentences[0]
    assert "would by itself give 4.3" in outcome.sentences[0]  # sqrt(.75 * .25 / 100)
    right = GOOD.accuracy().value
    assert outcome.sentences[1] == f"One seed of sampling: {right:.1f} % right; --seeds names more."


def test_distractors_that_do_no_measurable_harm_are_robustness():
    assert "was seen" in distractors_outcome({"rl": {1: GOOD, 10: GOOD}}).sentences[0]
    assert "was not seen" in distractors_outcome({"rl": {1: GOOD, 10: WORSE}}).sentences[0]


def test_the_right_questions_are_kept_as_their_file_has_them(tmp_path):
    asked = tmp_path / "asked.jsonl"
    write_questions(asked, [Question(f"q{n}", "?", (), ("a",), meta={"depth": n + 1}) for n in range(3)])
    folder = tmp_path / "eval"
    folder.mkdir()
    write_results(folder / RESULTS, [result(0, True, 1), result(1, False, 1), result(2, True, 2)])
    keep_right(folder, asked, tmp_path / "right" / "r.jsonl")
    kept = (tmp_path / "right" / "r.jsonl").read_bytes().splitlines()
    assert kept == [line for line in asked.read_bytes().splitlines() if b'"q1"' not in line]
    assert question_depths(asked) == {"q0": 1, "q1": 2, "q2": 3}
    with pytest.raises(UserError, match="no results"):
        read_evaluations({"0": tmp_path})


def test_depth_is_reported_by_level_and_references_over_epochs(tmp_path):
    sizes = {"base": [4] * 8, "sft": [3] * 8, "rl full": [1, 1, 2, 2, 3, 3, 4, 4]}
    folders = {}
    for label, rounds in {**sizes, "rl static-reference": [3] * 8, "rl no-trace": [3] * 8}.items():
        folder = tmp_path / label
        folder.mkdir()
        write_results(folder / RESULTS, [result(n, True, r) for n, r in enumerate(rounds)])
        folders[label] = {"0": folder}
    depths = {f"q{n}": n // 2 + 1 for n in range(8)}
    lines = [{"step": s, "references": {"q0": [c, 3], "q6": [4, 9]}} for s, c in ((0, 3), (5, 2), (5, 1))]
    (tmp_path / REFERENCES_LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = _depth_outcome(folders, depths, {"full": [tmp_path]}, depths)
    assert ("rl full", 4, 100.0, "34.2 to 100.0", 4.0, "4.00 to 4.00", 2) in outcome.table.rows
    assert outcome.sentences[0].startswith("At a necessary depth of 1 rounds fell from SFT to RL: -2.00")
    assert outcome.sentences[3].startswith("At a necessary depth of 4 rounds rose from SFT to RL: +1.00")
    references = outcome.charts[-1]
    assert references.title == "References of full over epochs"
    assert [(point.x, point.y) for point in references.series[0][1]] == [(0, 3), (1, 1)]  # the later line of a step
    assert [point.y for point in references.series[1][1]] == [4, 4]


def test_a_damaged_log_of_references_is_named(tmp_path):
    (tmp_path / REFERENCES_LOG).write_text('{"step": 0, "references": [1]}\n')
    with pytest.raises(UserError, match="line 1 holds no references"):
        read_references(tmp_path)


def test_an_outcome_is_written_as_csv_markdown_json_and_charts(tmp_path):
    outcome = compared("A | title", {"full": GOOD, "no-x": WORSE}, "full", ("y: no data",))
    paths = write_outcome(tmp_path / "o", outcome, "hypereyes study ablations", "2026-11-28")
    assert [path.name for path in paths] == ["table.csv", "table.md", "study.json", "chart-1.svg", "chart-2.svg"]
    rows = list(csv.reader(io.StringIO(to_csv(outcome.table))))
    assert rows[0][0] == "variant"
    assert rows[2][:2] == ["no-x", "60"]
    text = to_markdown(outcome, "hypereyes study ablations", "2026-11-28")
    assert "hypereyes study ablations" in text
    assert "- Not run: y: no data" in text
    saved = json.loads((tmp_path / "o" / "study.json").read_text())
    assert saved["sentences"] == list(outcome.sentences)
    svg = ElementTree.fromstring(to_svg(outcome.charts[0]))
    circles = svg.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 2
    assert float(circles[0].get("cy")) < float(circles[1].get("cy"))  # 90 % stands above 60 %


def boxes(svg, at):
    """(left, right, y) of each text of a chart from a height on, by the mean width of the letters of its font."""
    found = []
    for x, y, anchor, text in re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)"( text-anchor="middle")?>([^<]+)</text>', svg
    ):
        if float(y) >= at:
            width = 6.3 * len(text)
            left = float(x) - (width / 2 if anchor else 0)
            found.append((left, left + width, float(y)))
    return found


@pytest.mark.parametrize("words", [1, 3])
@pytest.mark.parametrize("lines", [1, 5])
def test_the_names_below_a_chart_do_not_run_into_each_other(words, lines):
    labels = tuple(" ".join(["variant"] * words)[: 8 + n] for n in range(9))
    points = tuple(Point(float(n), 50.0, 45.0, 55.0) for n in range(9))
    chart = Chart("t", "y", tuple((f"necessary depth {n}, held out", points) for n in range(lines)), labels=labels)
    below = boxes(to_svg(chart), at=300)
    assert len(below) == 9 + lines
    for n, (left, right, y) in enumerate(below):
        assert left >= 0
        assert right <= 760
        assert y <= 378
        for other_left, other_right, other_y in below[:n]:
            assert abs(y - other_y) >= 12 or right <= other_left or left >= other_right


def test_seeds_do_not_make_more_questions(tmp_path):
    one = [result(n, n % 4 == 0, 1 + n % 3) for n in range(40)]
    for seed in ("0", "1"):
        (tmp_path / seed).mkdir()
        write_results(tmp_path / seed / RESULTS, one)
    single = read_evaluations({"0": tmp_path / "0"})
    twice = read_evaluations({"0": tmp_path / "0", "1": tmp_path / "0"})  # the base model's, for either seed
    both = read_evaluations({"0": tmp_path / "0", "1": tmp_path / "1"})
    assert [each.n for each in (single, twice, both)] == [40, 40, 80]
    assert twice.accuracy() == single.accuracy()  # Wilson's
    assert twice.where(["q0", "q1"]).n == 2
    assert both.mean("rounds") == single.mean("rounds")
    accuracy = both.accuracy()
    assert accuracy.value == 25
    half = 100 * 1.96 * (0.25 * 0.75 / 40) ** 0.5
    assert accuracy.high - accuracy.low == pytest.approx(2 * half, rel=0.1)
