"""The selection before RL: what is stored, what an outage leaves open, what is made again."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hypereyes_jax.data.question_digest import try_key
from hypereyes_jax.data.selection import LeftOut
from hypereyes_jax.env.types import EpisodeResult, Invocation, Question, StopReason, TurnRecord
from hypereyes_jax.errors import UserError
from hypereyes_jax.rollout import Trajectory
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.runs.stop import RunStopped
from hypereyes_jax.train.question_selection import PASSES, SELECTION, TRIES, read_selection, select
from hypereyes_jax.train.sizes import MINIATURE_RL
from hypereyes_jax.train.try_log import TryLog
from hypereyes_jax.train.types import TrainingRun

QUESTIONS = [Question(f"q{n}", f"question {n}?", (Image.new("RGB", (4, 4), (n, 0, 0)),), ("yes",)) for n in range(6)]


class Judge:
    name = "fake"

    def __init__(self):
        self.down = False

    async def judge(self, question, answer):
        return None if self.down else answer == "yes"


class Rollouts:
    """Plays by a table: the answer of each question's attempts, "down" for a search that fails."""

    sizes = MINIATURE_RL

    def __init__(self, answers):
        self.answers, self.played, self.rested = answers, [], 0
        self.during = lambda number: None

    async def play(self, questions, backend, seeds, on_end):
        done = []
        for place, question in enumerate(questions):
            attempt = sum(name == question.id for name in self.played)
            self.played.append(question.id)
            said = self.answers[question.id][min(attempt, len(self.answers[question.id]) - 1)]
            call = Invocation("text_search", "x")
            turn = TurnRecord("", "", (call,) * (attempt + 1), is_round=True)
            stop = StopReason.INFRASTRUCTURE if said == "down" else StopReason.ANSWERED
            result = EpisodeResult(question, (turn,), stop, None if said == "down" else said)
            done.append(Trajectory((), result, 0.1))
            on_end(place, done[-1])
            self.during(len(self.played))
            await asyncio.sleep(0)
        return done, 0.0

    async def finish_plays(self):
        self.rested += 1


def run(path, rollouts, judge=None, questions=QUESTIONS, policy="weights"):
    directory = RunDirectory.open(path, "rl", {"a": 1})
    training = TrainingRun(directory, Stages(Console(quiet=True)))
    return asyncio.run(select(training, rollouts, questions, None, judge or Judge(), 0, policy))


ANSWERS = {
    "q0": ["yes"],
    "q1": ["no", "no", "yes"],
    "q2": ["no"],
    "q3": ["no", "yes"],
    "q4": ["no", "no", "no", "no", "yes"],
    "q5": ["yes"],
}
CHOSEN = {"q1": (1, 3), "q3": (1, 2), "q4": (1, 5)}


def test_what_is_chosen_and_why_the_others_are_out_is_kept(tmp_path):
    rollouts = Rollouts(ANSWERS)
    selection = run(tmp_path, rollouts)
    assert selection.references == CHOSEN
    assert selection.left_out == {"q0": LeftOut.RIGHT_AT_ONCE, "q2": LeftOut.NEVER_RIGHT, "q5": LeftOut.RIGHT_AT_ONCE}
    saved = json.loads((tmp_path / SELECTION).read_text())
    assert saved["left_out"]["q2"] == "no try is right"
    assert len(rollouts.played) == 2 + 4 * PASSES
    assert selection.reasons() == "2: the first try is right; 1: no try is right"
    # done is done
    assert run(tmp_path, Rollouts({})).references == CHOSEN


def test_an_outage_of_the_judge_is_no_finding(tmp_path):
    judge = Judge()
    judge.down = True
    with pytest.raises(UserError, match="6 of 6 candidates could not be tried, because searches or the judge failed"):
        run(tmp_path, Rollouts(ANSWERS), judge)
    assert not (tmp_path / SELECTION).exists()
    judge.down = False
    assert run(tmp_path, Rollouts(ANSWERS), judge).references == CHOSEN


def test_what_an_outage_spoilt_is_tried_again_and_nothing_else(tmp_path):
    spoilt = ANSWERS | {"q1": ["down", "down"], "q3": ["no", "down", "no", "no", "no", "down"]}
    with pytest.raises(UserError, match="2 of 6 candidates"):
        run(tmp_path, Rollouts(spoilt))
    again = Rollouts({"q1": ["no", "yes"], "q3": ["yes"]})
    selection = run(tmp_path, again)
    assert (again.played.count("q1"), again.played.count("q3"), len(again.played)) == (PASSES, 1, PASSES + 1)
    assert set(selection.references) == {"q1", "q3", "q4"}


def test_a_search_that_fails_once_is_tried_again_in_the_same_run(tmp_path):
    rollouts = Rollouts(ANSWERS | {"q0": ["down", "yes"]})
    assert run(tmp_path, rollouts).left_out["q0"] == LeftOut.RIGHT_AT_ONCE


def test_tries_are_stored_as_they_are_made(tmp_path):
    rollouts = Rollouts(ANSWERS)

    def killed(number):
        if number == 9:
            raise KeyboardInterrupt

    rollouts.during = killed
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, rollouts)
    stored = [json.loads(line) for line in (tmp_path / TRIES).read_text().splitlines()]
    assert 6 <= len(stored) <= 9
    with open(tmp_path / TRIES, "a") as file:
        file.write('{"question": "torn')  # the kill's
    rest = Rollouts({name: answers[1:] or answers for name, answers in ANSWERS.items()})
    selection = run(tmp_path, rest)
    assert set(selection.references) == set(CHOSEN)
    assert len(rest.played) == 2 + 4 * PASSES - len(stored)


def test_a_stop_is_obeyed_at_once_and_loses_no_try(tmp_path):
    directory = RunDirectory.open(tmp_path, "rl", {"a": 1})
    rollouts = Rollouts(ANSWERS)
    rollouts.during = lambda number: directory.stop.request("SIGTERM") if number == 8 else None
    training = TrainingRun(directory, Stages(Console(quiet=True)))
    with pytest.raises(RunStopped, match="SIGTERM"):
        asyncio.run(select(training, rollouts, QUESTIONS, None, Judge(), 0, "weights"))
    assert len(rollouts.played) < 12
    assert rollouts.rested == 1
    assert len((tmp_path / TRIES).read_text().splitlines()) >= 7


def test_a_full_disk_ends_the_play(tmp_path, monkeypatch):
    def full(*_):
        raise UserError("can't write: the disk is full")

    monkeypatch.setattr(TryLog, "add", full)
    rollouts = Rollouts(ANSWERS)
    with pytest.raises(UserError, match="disk is full"):
        run(tmp_path, rollouts)
    assert len(rollouts.played) < 6


def test_tries_are_known_by_content_not_by_name_or_place(tmp_path):
    run(tmp_path / "one", Rollouts(ANSWERS))
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / TRIES).write_bytes((tmp_path / "one" / TRIES).read_bytes())
    renamed = [replace(question, id=f"other{n}") for n, question in enumerate(reversed(QUESTIONS))]
    selection = run(tmp_path / "two", Rollouts({}), questions=renamed)
    assert selection.references == {"other4": (1, 3), "other2": (1, 2), "other1": (1, 5)}
    (tmp_path / "two" / SELECTION).unlink()
    other = Rollouts({question.id: ["yes"] for question in renamed})
    other.during = lambda number: 1 / 0
    with pytest.raises(ZeroDivisionError):  # other weights: their tries are their own
        run(tmp_path / "two", other, questions=renamed, policy="other weights")


def test_a_question_is_another_if_its_text_answers_or_a_pixel_is():
    question = QUESTIONS[0]
    pixel = np.array(question.images[0])
    pixel[0, 0, 0] ^= 1
    others = [
        replace(question, text="?"),
        replace(question, answers=("no",)),
        replace(question, images=(Image.fromarray(pixel),)),
        replace(question, images=()),
    ]
    assert len({try_key(each) for each in [question, *others]}) == 5
    assert try_key(replace(question, id="x", kind="y")) == try_key(question)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"q": [1]}', r"reference of 'q' must be \[rounds, invocations\]"),
        ('{"q": [0, 2]}', "from 1"),
        ('{"q": [1, true]}', "from 1"),
        ('{"references": [1, 2]}', "'references' must be an object, not a list"),
        ("[]", "it holds a list"),
    ],
)
def test_a_file_of_references_is_checked(tmp_path, content, why):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(UserError, match=why):
        read_selection(tmp_path / "r.json")


def test_a_damaged_try_is_named(tmp_path):
    (tmp_path / TRIES).write_text('{"question": "a", "policy": "p", "attempt": -1}\n')
    with pytest.raises(UserError, match=rf"{TRIES}, line 1 is not a try"):
        run(tmp_path, Rollouts(ANSWERS))
