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
    outcome = transfer_outcome({"flags": stages, "nature": {**stages, "rl, 20 steps on nature": WIDE}})
    assert "from 1.00 to 2.00 (difference +1.00 to +1.00, 95 %; it searches wider)" in outcome.sentences[0]
    assert "0.0 to 100.0 % right" in outcome.sentences[0]
    assert "its width is undecided" in outcome.sentences[1]
    assert len(outcome.table.rows) == 7


def test_the_second_domain_is_in_no_training_but_the_last():
    study = transfer(StudyOptions())
    nature = [step for step in study.steps if any("nature" in word for word in step.words)]
    trained = [step for step in nature if step.words[0] in ("sft", "rl")]
    assert [step.name for step in trained] == ["rl on nature seed 0"]
    assert trained[0].words[trained[0].words.index("--settings.steps") + 1] == "20"
    evaluated = [step.name for step in nature if step.words[0] == "eval"]
    assert len(evaluated) == 4
