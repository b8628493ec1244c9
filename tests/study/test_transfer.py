from PIL import Image

from hypereyes_jax.data.files import write_questions
from hypereyes_jax.env.types import Invocation, Question, SearchHit, StopReason, TurnRecord
from hypereyes_jax.eval.records import TrajectoryRecord, write_records
from hypereyes_jax.study.results import TRAJECTORIES, found_at_once
from hypereyes_jax.study.transfer import transfer, transfer_outcome, width
from hypereyes_jax.study.types import StudyOptions
from tests.study.made_results import results

WIDE = results([1] * 50, [2] * 50)  # two searches a round


def narrow(correct):
    rows = results(correct, [4] * 50).rows
    from dataclasses import replace

    from hypereyes_jax.study.results import Results

    return Results({key: replace(row, searches=4) for key, row in rows.items()})


def test_width_is_searches_a_round_of_what_was_searched_for():
    assert width(WIDE).value == 2.0
    assert width(narrow([1] * 50)).value == 1.0
    assert width(results([1], [0])).value == 0.0


def test_wider_searching_on_the_second_domain_is_told_with_its_interval():
    stages = {"base": narrow([0] * 50), "sft": narrow([0] * 50), "rl": WIDE}
    found = {"base": [0.5] * 50, "sft": [], "rl": [1.0] * 50, "rl, 20 steps on nature": []}
    results_by_domain = {"flags": stages, "nature": {**stages, "rl, 20 steps on nature": WIDE}}
    outcome = transfer_outcome(results_by_domain, {"flags": found, "nature": found})
    assert "from 1.00 to 2.00 (difference +1.00 to +1.00, 95 %; it searches wider)" in outcome.sentences[0]
    assert "0.0 to 100.0 % right" in outcome.sentences[0]
    assert "its width is undecided" in outcome.sentences[1]
    assert outcome.sentences[2].endswith("the first searching turn finds 50 % (50 to 50) base, 100 % (100 to 100) rl.")
    assert [row[7] for row in outcome.table.rows[:3]] == [50.0, None, 100.0]
    assert len(outcome.table.rows) == 7


def test_the_second_domain_is_in_no_training_but_the_last():
    study = transfer(StudyOptions())
    nature = [step for step in study.steps if any("nature" in word for word in step.words)]
    trained = [step for step in nature if step.words[0] in ("sft", "rl")]
    assert [step.name for step in trained] == ["rl on nature seed 0"]
    assert trained[0].words[trained[0].words.index("--settings.steps") + 1] == "20"
    evaluated = [step.name for step in nature if step.words[0] == "eval"]
    assert len(evaluated) == 4


def kept(question_id, *turns):
    """A trajectory whose turns searched pictures and brought the pages of these keys."""
    records = tuple(
        TurnRecord(
            "",
            "",
            tuple(Invocation("image_search", "", hits=(SearchHit(k, "", 1.0, f"nature://{k}"),)) for k in keys),
            bool(keys),
        )
        for keys in turns
    )
    return TrajectoryRecord("model", "questions", question_id, "?", ("a",), (), records, StopReason.ANSWERED, "a", True)


def test_what_the_first_searching_turn_found_of_what_a_question_needs(tmp_path):
    picture = Image.new("RGB", (32, 32))
    meta = {"entities": ["owl", "rat", "fig"], "matter": [0, 1]}
    questions = [Question(name, "?", (picture,), ("a",), meta=meta) for name in ("all", "half", "later")]
    write_questions(tmp_path / "questions.jsonl", [*questions, Question("text", "?", (), ("a",), meta=meta)])
    write_records(
        tmp_path / TRAJECTORIES,
        [
            kept("all", (), ("rat", "owl")),
            kept("half", ("owl", "fig")),
            kept("later", ("fig",), ("owl", "rat")),
            kept("text"),
        ],
    )
    shares = found_at_once(tmp_path, tmp_path / "questions.jsonl")
    assert shares == {"all": 1.0, "half": 0.5, "later": 0.0}
    assert found_at_once(tmp_path / "gone", tmp_path / "questions.jsonl") == {}
