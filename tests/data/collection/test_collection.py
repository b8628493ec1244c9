"""Collection with a scripted player: what is tried, what is kept, what is written down, and what is made again."""

import asyncio
import json

import pytest
from PIL import Image

from hypereyes_jax.cli.collection import print_spending
from hypereyes_jax.data.collection.attempts import ATTEMPTS, CONVERSATIONS, AttemptLog
from hypereyes_jax.data.collection.outcome import DEMONSTRATIONS, RL_QUESTIONS, fate, write_outcome
from hypereyes_jax.data.collection.pipeline import Collection
from hypereyes_jax.data.collection.recorded import example_of
from hypereyes_jax.data.collection.types import (
    Attempt,
    CollectConfig,
    CollectionStage,
    DirectAnswer,
    PlayerError,
    Spent,
)
from hypereyes_jax.data.curation.funnel import sft_funnel
from hypereyes_jax.data.files import read_questions
from hypereyes_jax.data.question_digest import attempt_key
from hypereyes_jax.data.sources.question_rows import REFERENCE
from hypereyes_jax.env.chat.client import ChatError
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.judging.judges import ExactJudge
from hypereyes_jax.env.types import Question, SearchError, SearchHit
from hypereyes_jax.errors import UserError
from tests.data.demonstrations import read_examples

RULES = EpisodeConfig(text_min_score=0.0, system="Search.")
CROP = '<tool_call>{"name": "image_search", "arguments": {"image_id": "img_0", "area": [[0, 0, 0.5, 1]]}}</tool_call>'
TEXT = '<tool_call>{"name": "text_search", "arguments": {"input": ["capital of Chad"]}}</tool_call>'
LOOK = f"<reason>I look at the flag.</reason>{CROP}"
READ = f"<reason>The page says Chad.</reason>{TEXT}"
RIGHT = "<reason>The result says the capital of Chad is N'Djamena.</reason><answer>N'Djamena</answer>"
WRONG = "<reason>The page says Chad.</reason><answer>Lagos</answer>"


class World:
    async def text_search(self, query, k):
        return [SearchHit("Chad", "The capital of Chad is N'Djamena.", 0.9)]

    async def image_search(self, image, k):
        return [SearchHit("Chad", "The flag of Chad, a country in Africa.", 0.9)]


class Scripted:
    """Plays each question by its own script: a list of turns for each episode, or an exception."""

    name = "scripted"

    def __init__(self, episodes=None, direct="I do not know"):
        self.episodes = {key: list(value) for key, value in (episodes or {}).items()}
        self.direct = direct
        self.budgets, self.seeds = [], []

    async def play(self, episode, seed):
        self.budgets.append(episode.config.max_rounds)
        self.seeds.append(seed)
        turns = self.episodes[episode.question.id].pop(0)
        if isinstance(turns, Exception):
            raise turns
        for turn in turns:
            if episode.stop_reason is None:
                await episode.step(turn)
        return Spent(100, 10)

    async def answer(self, question, seed):
        if isinstance(self.direct, Exception):
            raise self.direct
        return DirectAnswer(self.direct, Spent(50, 5))


def question(name="one", text="What is the capital of the country with this flag?"):
    return Question(name, text, (Image.new("RGB", (64, 48), "blue"),), ("N'Djamena",))


def collect(folder, questions, player, judge=None, dollars=lambda spent: 0.0, **settings):
    config = CollectConfig(**{"budgets": (1, 2, 3), "episode": RULES, **settings})
    with AttemptLog(folder) as log:
        collection = Collection(log, player, judge or ExactJudge(), World(), config, dollars=dollars)
        capped = asyncio.run(collection.run(questions))
        funnel = write_outcome(folder, questions, log, config)
    return funnel, collection, capped


def test_the_first_success_under_ascending_budgets_becomes_a_demonstration(tmp_path):
    player = Scripted({"one": [[LOOK, WRONG], [LOOK, READ, RIGHT], [LOOK, RIGHT]]})
    funnel, _, _ = collect(tmp_path, [question()], player)
    assert player.budgets == [1, 2]  # the third was not needed
    (example,) = read_examples(tmp_path / DEMONSTRATIONS)
    assert example.system == "Search."
    assert example.turns == (LOOK, READ, RIGHT)
    prompt, crops, text = example.observations
    assert prompt[1] == question().text
    assert crops[0].size == (32, 48)  # the crop that was searched is shown
    assert "N'Djamena" in text[-1]
    assert funnel["demonstrations"] == 1
    assert funnel["rounds"] == {"2": 1}


def test_a_question_that_two_pools_hold_is_asked_once_and_gives_one_demonstration(tmp_path):
    player = Scripted({"a/1": [[LOOK, READ, RIGHT]], "b/7": [[LOOK, READ, RIGHT]], "b/8": [[LOOK, READ, RIGHT]]})
    questions = [question("a/1"), question("b/7"), question("b/8", "What is the capital?")]
    funnel, _, _ = collect(tmp_path, questions, player, budgets=(2,))
    assert len(player.budgets) == 2
    assert [example.id for example in read_examples(tmp_path / DEMONSTRATIONS)] == ["a/1", "b/8"]
    twice = "asked before, with the same images and answers"
    assert funnel["stages"][0] == {"stage": "necessity", "in": 3, "out": 2, "dropped": {twice: 1}}
    assert funnel["examples"][f"necessity: {twice}"] == ["b/7"]
    with AttemptLog(tmp_path) as log:
        page, hard = sft_funnel(questions, log, CollectConfig(budgets=(2,), episode=RULES))
    assert hard == [0, 2]
    assert page.sft[0].dropped == {twice: 1}


def test_a_question_answered_without_tools_is_dropped_and_not_sampled(tmp_path):
    player = Scripted(direct="N'Djamena")
    funnel, _, _ = collect(tmp_path, [question()], player)
    assert player.budgets == []
    assert funnel["stages"][0] == {"stage": "necessity", "in": 1, "out": 0, "dropped": {"answered without tools": 1}}
    assert funnel["examples"] == {"necessity: answered without tools": ["one"]}


@pytest.mark.parametrize(
    ("reply", "out"),
    [
        ("<answer>N'Djamena</answer>", 0),
        ("<think>Lomé? No.</think>\n\nN'Djamena", 0),
        ("Chad, so</think>N'Djamena", 0),  # whose template opened the reasoning
        ("<reason>Chad.</reason><answer>N'Djamena</answer>", 0),
        ("<think>N'Djamena? Perhaps", 1),  # cut off
        ("<think>N'Djamena</think>", 1),
        ("<think>N'Djamena?</think>Lomé", 1),
    ],
)
def test_an_answer_without_tools_is_read_behind_its_reasoning_and_in_its_tags(tmp_path, reply, out):
    funnel, _, _ = collect(tmp_path, [question()], Scripted({"one": [[LOOK, READ, RIGHT]] * 9}, direct=reply))
    assert funnel["stages"][0]["out"] == out


def test_a_question_that_one_pass_solves_is_dropped_with_the_difficulty_filter(tmp_path):
    funnel, _, _ = collect(tmp_path, [question()], Scripted({"one": [[LOOK, READ, RIGHT]]}), difficulty=1)
    assert funnel["stages"][1]["dropped"] == {"solved in a single pass": 1}


def test_a_success_with_a_fault_and_a_question_never_solved_are_dropped_by_name(tmp_path):
    shortcut = [READ, RIGHT]  # of a picture that was never looked at
    player = Scripted({"one": [shortcut], "two": [[LOOK, WRONG]] * 3})
    questions = [question(), question("two", "And which city governs the country of this flag?")]
    funnel, _, _ = collect(tmp_path, questions, player)
    assert funnel["stages"][-1]["dropped"] == {"filter: unimodal": 1, "unsolved within every budget": 1}
    assert read_lines(tmp_path / DEMONSTRATIONS) == []


def test_a_model_may_say_whether_the_reasoning_is_grounded(tmp_path):
    class Never:
        async def grounded(self, result):
            return False

    config = CollectConfig(budgets=(1, 2, 3), episode=RULES)
    with AttemptLog(tmp_path) as log:
        player = Scripted({"one": [[LOOK, READ, RIGHT]] * 3})
        asyncio.run(Collection(log, player, ExactJudge(), World(), config, grounding=Never()).run([question()]))
        funnel = write_outcome(tmp_path, [question()], log, config)
    assert funnel["stages"][-1]["dropped"] == {"filter: ungrounded": 1}


def test_a_success_that_could_not_be_judged_for_groundedness_is_made_again(tmp_path):
    class Judge:
        works = False

        async def grounded(self, result):
            if not self.works:
                raise ChatError("the server is down", transient=True)
            return True

    config, judge = CollectConfig(budgets=(2,), episode=RULES), Judge()
    player = Scripted({"one": [[LOOK, READ, RIGHT]] * 2})

    def run():
        with AttemptLog(tmp_path) as log:
            collection = Collection(log, player, ExactJudge(), World(), config, grounding=judge)
            asyncio.run(collection.run([question()]))
            return write_outcome(tmp_path, [question()], log, config)

    assert run()["demonstrations"] == 0
    assert not any(row["stage"] == "sampling" for row in read_lines(tmp_path / ATTEMPTS))
    judge.works = True
    assert run()["demonstrations"] == 1


def test_nothing_is_made_twice_and_what_told_nothing_is_made_again(tmp_path):
    player = Scripted({"one": [[LOOK, WRONG], PlayerError("503"), [LOOK, READ, RIGHT]]})
    funnel, collection, _ = collect(tmp_path, [question()], player)
    assert collection.undecided == 1
    assert funnel["stages"][-1]["dropped"] == {"undecided": 1}
    assert len(read_lines(tmp_path / ATTEMPTS)) == 2  # without tools, and under budget 1: the failure is no finding
    funnel, collection, _ = collect(tmp_path, [question()], player)
    assert player.budgets == [1, 2, 2]
    assert collection.undecided == 0
    assert funnel["demonstrations"] == 1
    assert player.seeds[1] == player.seeds[2]  # the same attempt


def test_a_judge_that_is_out_decides_nothing(tmp_path):
    class Out:
        name = "out"

        async def judge(self, question, answer):
            return None if question.id == "one" else True

    questions = [question(), question("two", "Another question?")]
    funnel, collection, _ = collect(tmp_path, questions, Scripted(), judge=Out())
    assert collection.undecided == 1
    assert len(read_lines(tmp_path / ATTEMPTS)) == 1
    assert funnel["stages"][0]["dropped"] == {"undecided": 1, "answered without tools": 1}


def test_many_failures_in_a_row_end_the_run_in_the_last_one_s_words(tmp_path):
    questions = [question(str(n), f"Question {n}?") for n in range(9)]
    with pytest.raises(UserError, match="3 attempts in a row could not be made; the last one: quota"):
        collect(tmp_path, questions, Scripted(direct=PlayerError("quota")), failures=3, in_flight=1)


def test_a_run_in_which_no_attempt_can_be_made_is_no_empty_result(tmp_path):
    questions = [question(str(n), f"Question {n}?") for n in range(2)]
    with pytest.raises(UserError, match="2 attempts in a row could not be made; the last one: refused"):
        collect(tmp_path, questions, Scripted(direct=PlayerError("refused")))
    with pytest.raises(UserError, match="the only attempt could not be made; the last one: refused"):
        collect(tmp_path, questions[:1], Scripted(direct=PlayerError("refused")))


def test_what_can_never_work_ends_the_run_at_once(tmp_path):
    with pytest.raises(UserError, match="no such model"):
        collect(tmp_path, [question()], Scripted(direct=UserError("no such model")))


def test_no_attempt_is_begun_beyond_the_spending_cap(tmp_path):
    questions = [question(str(n), f"Question {n}?") for n in range(9)]
    player = Scripted({str(n): [[LOOK, READ, RIGHT]] for n in range(9)})
    options = {"dollars": lambda spent: spent.read / 100, "most_dollars": 2.0, "in_flight": 1, "budgets": (2,)}
    _, collection, capped = collect(tmp_path, questions, player, **options)
    assert capped
    assert 2.0 <= collection.dollars <= 3.0
    made = len(read_lines(tmp_path / ATTEMPTS))
    _, collection, capped = collect(tmp_path, questions, player, **{**options, "most_dollars": 100.0})
    assert not capped
    assert len(read_lines(tmp_path / ATTEMPTS)) == 18
    assert made < 18
    assert collection.dollars == pytest.approx(9 * 1.5)  # of both runs


def test_what_told_nothing_is_paid_for_all_the_same(tmp_path):
    class Down(World):
        async def text_search(self, query, k):
            raise SearchError("down", transient=True, kind="http_503")

    def made(player, backend):
        config = CollectConfig(necessity=0, budgets=(2,), episode=RULES, failures=9)
        with AttemptLog(tmp_path) as log:
            collection = Collection(log, player, ExactJudge(), backend, config, dollars=lambda spent: float(spent.read))
            with pytest.raises(UserError, match="the only attempt could not be made"):
                asyncio.run(collection.run([question()]))
        return collection.dollars

    assert made(Scripted({"one": [[READ]]}), Down()) == 100
    assert made(Scripted({"one": [PlayerError("refused", Spent(70, 7))]}), World()) == 70


@pytest.mark.parametrize(("price", "told"), [(2.0, True), (0.0, False)])
def test_a_model_that_tells_no_tokens_is_not_silently_free(tmp_path, capsys, price, told):
    class Silent(Scripted):
        async def answer(self, question, seed):
            return DirectAnswer("I do not know")

    player = Silent({"one": [[LOOK, READ, RIGHT]]})
    options = {"dollars": lambda spent: price * spent.read, "budgets": (2,)}
    _, collection, capped = collect(tmp_path, [question()], player, **options)
    print_spending(collection, capped, "most_dollars: 1")
    assert ("in 1 attempts the model told no number of tokens" in capsys.readouterr().out) is told


def test_the_filters_model_has_a_price_of_its_own(tmp_path):
    config = CollectConfig(budgets=(2,), episode=RULES)
    prices = {"dollars": lambda spent: 3.0 * spent.read, "filter_dollars": lambda spent: 0.5 * spent.read}
    player = Scripted({"one": [[LOOK, READ, RIGHT]]})
    with AttemptLog(tmp_path) as log:
        collection = Collection(log, player, ExactJudge(), World(), config, filter_player=Scripted(), **prices)
        asyncio.run(collection.run([question()]))
        assert collection.dollars == 0.5 * 50 + 3.0 * 100  # a direct answer, then an episode
        again = Collection(log, player, ExactJudge(), World(), config, filter_player=Scripted(), **prices)
        assert again.dollars == collection.dollars


def test_selection_keeps_what_fails_at_first_with_the_cheapest_success_as_reference(tmp_path):
    tries = [[LOOK, WRONG], [LOOK, READ, LOOK, RIGHT], [LOOK, READ, RIGHT], [LOOK, WRONG], [LOOK, WRONG]]
    easy = question("two", "Of which country is this the flag, by its capital?")
    player = Scripted({"one": list(tries), "two": [[LOOK, READ, RIGHT]]})
    settings = {"budgets": (), "selection": 5, "necessity": 0}
    funnel, _, _ = collect(tmp_path, [question(), easy], player, **settings)
    assert funnel["rl_questions"] == 1
    assert funnel["not_selected"] == {"the first try is right": 1}
    (kept,) = read_questions(tmp_path / RL_QUESTIONS)
    assert kept.id == "one"
    assert kept.meta[REFERENCE] == [2, 2]
    assert player.budgets == [8] * 6


def test_many_attempts_are_under_way_at_once(tmp_path):
    class Slow(Scripted):
        running = most = 0

        async def answer(self, question, seed):
            Slow.running += 1
            Slow.most = max(Slow.most, Slow.running)
            await asyncio.sleep(0.01)
            Slow.running -= 1
            return await super().answer(question, seed)

    questions = [question(str(n), f"Question {n}?") for n in range(40)]
    collect(tmp_path, questions, Slow(), in_flight=8, budgets=())
    assert Slow.most == 8


def test_a_torn_last_line_is_mended_and_that_attempt_made_again(tmp_path):
    player = Scripted({"one": [[LOOK, READ, RIGHT], [LOOK, READ, RIGHT]]})
    collect(tmp_path, [question()], player, budgets=(2,))
    path = tmp_path / ATTEMPTS
    path.write_bytes(path.read_bytes()[:-20])
    funnel, _, _ = collect(tmp_path, [question()], player, budgets=(2,))
    assert funnel["demonstrations"] == 1
    assert len(read_lines(path)) == 2


@pytest.mark.parametrize("file", [ATTEMPTS, CONVERSATIONS])
@pytest.mark.parametrize("line", ['{"a": 1}', "[]", "nonsense"])
def test_a_damaged_log_is_named(tmp_path, file, line):
    (tmp_path / file).write_text(line + "\n")
    with pytest.raises(UserError, match=file):
        AttemptLog(tmp_path)


@pytest.mark.parametrize("way", ["removed", "emptied"])
def test_a_success_whose_conversation_is_lost_is_made_again(tmp_path, way):
    funnel, _, _ = collect(tmp_path, [question()], Scripted({"one": [[LOOK, READ, RIGHT]]}), budgets=(2,))
    before, conversations = (tmp_path / DEMONSTRATIONS).read_bytes(), tmp_path / CONVERSATIONS
    conversations.write_bytes(b"") if way == "emptied" else conversations.unlink()
    again = collect(tmp_path, [question()], Scripted({"one": [[LOOK, READ, RIGHT]]}), budgets=(2,))[0]
    assert again == funnel
    assert (tmp_path / DEMONSTRATIONS).read_bytes() == before


def test_attempts_of_another_run_are_named(tmp_path):
    attempt = Attempt("k", CollectionStage.NECESSITY, 0, False)
    with AttemptLog(tmp_path, "a") as log:
        log.add(attempt)
    with AttemptLog(tmp_path, "a") as log:
        assert log.made("k", CollectionStage.NECESSITY, 0) is not None
    with pytest.raises(UserError, match=r"attempts\.jsonl, line 1: another run made this attempt"):
        AttemptLog(tmp_path, "b")


def test_a_conversation_of_another_collection_is_named(tmp_path):
    for name, first in (("a", LOOK), ("b", LOOK + "\n")):
        collect(tmp_path / name, [question()], Scripted({"one": [[first, READ, RIGHT]]}), budgets=(2,))
    (tmp_path / "a" / CONVERSATIONS).write_bytes((tmp_path / "b" / CONVERSATIONS).read_bytes())
    with pytest.raises(UserError, match=r"conversations\.jsonl: the conversation .* is not the one that was made here"):
        collect(tmp_path / "a", [question()], Scripted({}), budgets=(2,))


@pytest.mark.parametrize("file", [ATTEMPTS, CONVERSATIONS])
@pytest.mark.parametrize("way", ["folder", "loop", "dead link"])
def test_what_stands_in_place_of_a_log_is_named(tmp_path, file, way):
    path = tmp_path / file
    path.mkdir() if way == "folder" else path.symlink_to(path if way == "loop" else tmp_path / "nothing")
    with pytest.raises(UserError, match=file):
        AttemptLog(tmp_path)


def test_a_changed_question_is_another_one():
    assert attempt_key(question()) == attempt_key(question("other name"))
    assert attempt_key(question()) != attempt_key(question(text="What?"))


def test_an_unsolved_question_is_undecided_while_an_attempt_is_missing(tmp_path):
    config = CollectConfig(budgets=(1, 2), necessity=0)
    with AttemptLog(tmp_path) as log:
        assert fate(attempt_key(question()), log, config) == (CollectionStage.SAMPLING, "undecided")


@pytest.mark.parametrize("wrong", [{"budgets": (2, 1)}, {"budgets": (0,)}, {"trials": 0}, {"necessity": -1}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CollectConfig(**wrong)


def test_a_recorded_episode_gives_the_conversation_that_was_held(tmp_path):
    """The crop is cut anew, and the observations are those that the captured episode was shown."""
    collect(tmp_path, [question()], Scripted({"one": [[LOOK, READ, RIGHT]]}), budgets=(2,))
    (captured,) = read_examples(tmp_path / DEMONSTRATIONS)

    async def play():
        episode = Episode(question(), World(), EpisodeConfig(text_min_score=0.0, system="Search.", max_rounds=2))
        for turn in (LOOK, READ, RIGHT):
            await episode.step(turn)
        return episode.result()

    rebuilt = example_of(asyncio.run(play()), "Search.", RULES)
    assert rebuilt.turns == captured.turns
    assert [len(parts) for parts in rebuilt.observations] == [len(parts) for parts in captured.observations]
    assert rebuilt.observations[1][0].tobytes() == captured.observations[1][0].tobytes()


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
