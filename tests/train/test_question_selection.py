"""Candidates of RL from any source: what can't be read is left out, what the data state is not tried."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hypereyes_jax.data import open_questions
from hypereyes_jax.data.sources import Questions, question_ids
from hypereyes_jax.env.judging.judges import ExactJudge
from hypereyes_jax.env.types import Question
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train.question_selection import select, short_enough
from hypereyes_jax.train.sizes import MINIATURE_RL
from hypereyes_jax.train.types import TrainingRun


@pytest.fixture
def source(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    noise.save(tmp_path / "good.png")
    data = (tmp_path / "good.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(data[: len(data) // 2])
    rows = [
        {"id": 1, "question": "one?", "answer": "a", "image": "good.png", "tool_call": 2, "parallel": [3, 1]},
        {"id": 2, "question": "two?", "answer": "a", "image": "broken.png"},
        {"id": 3, "question": "a long one?" * 9, "answer": "a"},
        {"id": 4, "question": "four?", "answer": "a", "tool_call": 1, "parallel": "[1]"},
        {"id": 5, "question": "five?", "answer": "a", "tool_call": 0, "parallel": "[]"},
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stages():
    return Stages(Console(file=io.StringIO(), width=300))


def test_unreadable_and_long_questions_are_left_out_without_holding_the_others(source):
    said = stages()
    short = short_enough(open_questions(source, bad_rows="skip"), lambda q: len(q.text), 50, Processes(), said)
    assert isinstance(short, Questions)  # an index still, and no list of decoded questions
    assert question_ids(short) == ["1", "4", "5"]
    text = said.console.file.getvalue()
    assert "1 questions have prompts of more than 50 tokens" in text
    assert "1 questions can't be read and are left out; the first: " in text
    assert "q.jsonl, line 2: an image can't be read" in text
    with pytest.raises(UserError, match=r"q.jsonl, line 2"):
        short_enough(open_questions(source), lambda q: 1, 50, Processes(), stages())


def test_a_list_of_questions_is_selected_from_as_it_was():
    asked = [Question(str(i), "?" * i, (), ("a",)) for i in range(4)]
    assert short_enough(asked, lambda q: len(q.text), 2, Processes(), stages()) == asked[:3]


async def test_questions_that_state_their_reference_are_chosen_with_it_untried(source, tmp_path):
    class NoRollouts:
        sizes = MINIATURE_RL

        async def finish_plays(self):
            pass

    with open_questions(source, bad_rows="skip") as questions:
        stated = questions[::3]
        assert question_ids(stated) == ["1", "4"]
        directory = RunDirectory.open(tmp_path / "run", "rl", {})
        found = await select(TrainingRun(directory, stages()), NoRollouts(), stated, None, ExactJudge(), 0)
    assert found.references == {"1": (2, 4), "4": (1, 1)}
