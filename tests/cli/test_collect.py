"""`hypereyes collect` from a parquet file of questions, with an endpoint that fails in the usual ways."""

import asyncio
import io
import json
import re
from collections import Counter
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest
from aiohttp import web
from PIL import Image

from hypereyes_jax.cli.collect import CollectSettings, run
from hypereyes_jax.cli.source_settings import SourceSettings
from hypereyes_jax.data.collection.types import CollectConfig
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.env.types import Question
from hypereyes_jax.env.world import World, WorldBackend
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.records import append_record, record_episode
from tests.data.demonstrations import read_examples
from tests.serving import served

LOOK = (
    "<reason>I look at the flag first.</reason>"
    '<tool_call>{"name": "image_search", "arguments": {"image_id": "img_0"}}</tool_call>'
)
READ = (
    "<reason>The result shows the country.</reason>"
    '<tool_call>{"name": "text_search", "arguments": {"input": ["capital of Niger"]}}</tool_call>'
)
RIGHT = "<reason>The passage says that the capital of Niger is Niamey.</reason><answer>Niamey</answer>"


RULES = EpisodeConfig(text_min_score=0.0)


def flag():
    buffer = io.BytesIO()
    World.load().flag("ne").convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def parquet(path, count):
    rows = [
        {"question": f"What is the capital of this country ({n})?", "answer": "Niamey", "image": {"bytes": flag()}}
        for n in range(count)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


class Endpoint:
    """Every third request fails: a busy server, a broken body, a reply without a message; then it answers."""

    def __init__(self):
        self.asked = 0
        self.kinds = Counter()

    async def reply(self, request):
        body = await request.json()
        self.asked += 1
        if self.asked % 3 == 0:
            kind = ("busy", "broken", "empty")[self.asked // 3 % 3]
            self.kinds[kind] += 1
            if kind == "busy":
                return web.json_response({"error": {"message": "overloaded"}}, status=503, headers={"Retry-After": "0"})
            if kind == "broken":
                return web.Response(text="{", content_type="application/json")
            return web.json_response({"choices": []})
        turns = sum(message["role"] == "assistant" for message in body["messages"])
        direct = "nothing else" in str(body["messages"][0]["content"])
        text = "I do not know" if direct else (LOOK, READ, RIGHT)[min(turns, 2)]
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 100, "completion_tokens": 20}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})


def stages(**changes):
    return CollectConfig(**{"budgets": (1, 2), "selection": 2, "in_flight": 4, "episode": RULES, **changes})


def settings(tmp_path, url, **changes):
    options = {"model_url": url, "model": "m", "out": tmp_path / "out", "settings": stages(), **changes}
    return CollectSettings(str(tmp_path / "questions.parquet"), **options)


def test_from_parquet_to_demonstrations_with_an_endpoint_that_fails_in_the_usual_ways(tmp_path, capsys):
    parquet(tmp_path / "questions.parquet", 4)
    endpoint = Endpoint()
    with served("/v1/chat/completions", endpoint.reply) as url:
        for _ in range(4):  # until no attempt is left
            run(settings(tmp_path, f"{url}/v1", prompt_price=1.0))
            said = capsys.readouterr().out
            if "attempts again" not in said:
                break
    assert "the first try is right 4" in " ".join(said.split())  # why no question is left for RL
    assert set(endpoint.kinds) == {"busy", "broken", "empty"}
    funnel = json.loads((tmp_path / "out" / "funnel.json").read_text())
    assert funnel["demonstrations"] == 4
    assert funnel["rounds"] == {"2": 4}
    for example in read_examples(tmp_path / "out" / "demonstrations.jsonl"):
        assert example.turns == (LOOK, READ, RIGHT)
        assert "at most 8 turns" in example.system  # that of training, not of the budget
    assert (tmp_path / "out" / "rl_questions.jsonl").read_text() == ""  # solved at once: nothing to learn


def test_a_key_that_is_refused_ends_the_run(tmp_path):
    parquet(tmp_path / "questions.parquet", 1)

    async def reply(request):
        return web.json_response({"error": {"message": "wrong key"}}, status=401)

    with served("/v1/chat/completions", reply) as url, pytest.raises(UserError, match="can't be used"):
        run(settings(tmp_path, f"{url}/v1"))


@pytest.mark.parametrize("bad_rows", ["skip", "refuse"])
def test_a_question_whose_picture_is_broken_is_told_before_anything_is_asked(tmp_path, capsys, bad_rows):
    endpoint = Endpoint()
    parquet(tmp_path / "questions.parquet", 3)
    rows = pyarrow.parquet.read_table(tmp_path / "questions.parquet").to_pylist()
    rows[1]["image"]["bytes"] = flag()[:200]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "questions.parquet")
    source = SourceSettings(bad_rows=bad_rows)
    with served("/v1/chat/completions", endpoint.reply) as url:
        if bad_rows == "refuse":
            with pytest.raises(UserError, match="row 2: an image can't be read"):
                run(settings(tmp_path, f"{url}/v1", source=source))
            assert endpoint.asked == 0
            return
        for _ in range(4):  # until no attempt is left
            run(settings(tmp_path, f"{url}/v1", source=source))
    assert "1 rows are left out: 1 x broken image" in capsys.readouterr().out
    assert len(list(read_examples(tmp_path / "out" / "demonstrations.jsonl"))) == 2


@pytest.mark.parametrize("changes", [{"model": ""}, {"model_url": "", "model": ""}, {"filter_model_url": "http://x"}])
def test_settings_that_do_not_fit_each_other_are_refused(tmp_path, changes):
    with pytest.raises(UserError, match=r"model-url"):
        run(settings(tmp_path, "http://127.0.0.1:1", **changes))


def test_recorded_trajectories_become_demonstrations_by_the_same_filters(tmp_path, capsys):
    parquet(tmp_path / "questions.parquet", 1)
    image = Image.open(io.BytesIO(flag()))
    backend = WorldBackend(World.load())
    records = tmp_path / "recorded.jsonl"

    async def play(turns):
        question = Question("q", "What is the capital of this country (0)?", (image,), ("Niamey",))
        episode = Episode(question, backend, EpisodeConfig(text_min_score=0.0))
        for turn in turns:
            await episode.step(turn)
        return episode.result()

    for turns, correct in (((LOOK, READ, RIGHT), True), ((READ, RIGHT), True), ((LOOK, READ, RIGHT), False)):
        append_record(records, record_episode(asyncio.run(play(turns)), stage="rl", split="m", correct=correct))
    run(settings(tmp_path, "", model="", trajectories=(records,)))
    (example,) = read_examples(tmp_path / "out" / "demonstrations.jsonl")
    assert example.turns == (LOOK, READ, RIGHT)
    out = capsys.readouterr().out
    assert "1 trajectories left out: unimodal" in out
    assert "1 trajectories left out: not right" in out


def recorded_by_ask(path, texts, turns):
    """Answers as `hypereyes ask` records them: it knows neither the question's id nor the right answer."""
    image = Image.open(io.BytesIO(flag()))

    async def play(text):
        episode = Episode(Question("ask", text, (image,), ()), WorldBackend(World.load()), RULES)
        for turn in turns:
            await episode.step(turn)
        return episode.result()

    for text in texts:
        append_record(path, record_episode(asyncio.run(play(text)), stage="ask", split="m", correct=None))


def test_what_ask_recorded_is_judged_by_the_answers_of_the_questions(tmp_path, capsys):
    parquet(tmp_path / "questions.parquet", 2)
    records = tmp_path / "ask.jsonl"
    recorded_by_ask(records, ["What is the capital of this country (1)?", "Who is this?"], (LOOK, READ, RIGHT))
    wrong = RIGHT.replace("Niamey", "Abuja")
    recorded_by_ask(records, ["What is the capital of this country (0)?"], (LOOK, READ, wrong))
    run(settings(tmp_path, "", model="", trajectories=(records,)))
    (example,) = read_examples(tmp_path / "out" / "demonstrations.jsonl")
    assert example.turns == (LOOK, READ, RIGHT)
    assert example.id == "questions-2"
    out = capsys.readouterr().out
    assert "1 trajectories left out: not right" in out
    assert "1 trajectories left out: of another question" in out


def test_answers_to_one_of_several_questions_with_the_same_text_are_left_out(tmp_path, capsys):
    rows = [{"question": "Who is this?", "answer": name, "image": {"bytes": flag()}} for name in ("Niamey", "Abuja")]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "questions.parquet")
    recorded_by_ask(tmp_path / "ask.jsonl", ["Who is this?"], (LOOK, READ, RIGHT))
    run(settings(tmp_path, "", model="", trajectories=(tmp_path / "ask.jsonl",)))
    assert "1 trajectories left out: of one of several questions with the same text" in capsys.readouterr().out
    assert (tmp_path / "out" / "demonstrations.jsonl").read_bytes() == b""


def test_demonstrations_of_recorded_trajectories_carry_the_prompt_that_the_rules_write(tmp_path):
    parquet(tmp_path / "questions.parquet", 1)
    recorded_by_ask(tmp_path / "ask.jsonl", ["What is the capital of this country (0)?"], (LOOK, READ, RIGHT))
    (tmp_path / "prompt.txt").write_text("Search in at most {rounds} rounds.")
    rules = EpisodeConfig(text_min_score=0.0, max_rounds=3, system=f"@{tmp_path / 'prompt.txt'}", tools=("zoom",))
    carried = CollectConfig(episode=rules)
    run(settings(tmp_path, "", model="", trajectories=(tmp_path / "ask.jsonl",), settings=carried))
    (example,) = read_examples(tmp_path / "out" / "demonstrations.jsonl")
    assert example.system.startswith("Search in at most 3 rounds.")
    assert "1. zoom: " in example.system


def test_a_judge_of_one_s_own_is_kept_and_compared(tmp_path):
    parquet(tmp_path / "questions.parquet", 1)
    own = tmp_path / "own.py"
    own.write_text("def right(question, answer):\n    return 'Niamey' in answer\n")
    judge = JudgeConfig(object=f"{own}:right")
    with served("/v1/chat/completions", Endpoint().reply) as url:
        for _ in range(2):
            run(settings(tmp_path, f"{url}/v1", judge=judge))
            (kept,) = json.loads((tmp_path / "out" / "objects.json").read_text())
            assert (kept["role"], len(kept["sha256"])) == ("judge", 64)
        own.write_text(own.read_text().replace("Niamey", "Abuja"))
        with pytest.raises(UserError, match="source of the judge"):
            run(settings(tmp_path, f"{url}/v1", judge=judge))


OTHERS = {
    "model": ({"model": "another"}, 'model was "m", is "another"'),
    "judge": ({"judge": JudgeConfig(rule="browse")}, 'judge.rule was "general", is "browse"'),
    "service": ({"search": SearchConfig("nature")}, 'search.service was "world", is "nature"'),
    "filter model": ({"filter_model_url": "http://127.0.0.1:1/v1", "filter_model": "big"}, 'filter_model was ""'),
    "prompt": ({"settings": stages(episode=replace(RULES, system="Search."))}, "settings.episode.system was null"),
    "budgets": ({"settings": stages(budgets=(2, 3))}, "settings.budgets was"),
}


@pytest.mark.parametrize(("changes", "why"), OTHERS.values(), ids=OTHERS)
def test_attempts_go_on_with_the_model_judge_service_and_rules_that_made_them(tmp_path, changes, why):
    parquet(tmp_path / "questions.parquet", 1)
    models = []

    async def reply(request):
        models.append((await request.json())["model"])
        return web.json_response({"choices": [{"message": {"content": RIGHT}, "finish_reason": "stop"}]})

    with served("/v1/chat/completions", reply) as url:
        run(settings(tmp_path, f"{url}/v1"))
        made = (tmp_path / "out" / "attempts.jsonl").read_bytes()
        with pytest.raises(UserError, match=re.escape(why)):
            run(settings(tmp_path, f"{url}/v1", **changes))
    assert set(models) == {"m"}
    assert (tmp_path / "out" / "attempts.jsonl").read_bytes() == made


def test_further_questions_and_tries_and_a_server_that_moved_go_on(tmp_path):
    parquet(tmp_path / "questions.parquet", 1)
    endpoint = Endpoint()
    with served("/v1/chat/completions", endpoint.reply) as url:
        for _ in range(3):
            run(settings(tmp_path, f"{url}/v1", settings=stages(selection=0)))
    parquet(tmp_path / "questions.parquet", 2)
    with served("/v1/chat/completions", endpoint.reply) as url:
        for _ in range(4):
            run(settings(tmp_path, f"{url}/v1", settings=stages(selection=3, in_flight=1, most_dollars=1.0)))
    attempts = [json.loads(line) for line in (tmp_path / "out" / "attempts.jsonl").read_text().splitlines()]
    assert len({attempt["question"] for attempt in attempts}) == 2
    assert {attempt["stage"] for attempt in attempts} == {"necessity", "sampling", "selection"}


def test_after_a_refusal_at_the_first_attempt_another_model_may_make_it(tmp_path):
    parquet(tmp_path / "questions.parquet", 1)

    async def reply(request):
        if (await request.json())["model"] == "m":
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        return web.json_response({"choices": [{"message": {"content": RIGHT}, "finish_reason": "stop"}]})

    with served("/v1/chat/completions", reply) as url:
        with pytest.raises(UserError, match="no such model"):
            run(settings(tmp_path, f"{url}/v1"))
        run(settings(tmp_path, f"{url}/v1", model="another"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["config"]["model"] == "another"


def test_attempts_of_which_nothing_says_who_made_them_are_refused(tmp_path):
    parquet(tmp_path / "questions.parquet", 1)
    with served("/v1/chat/completions", Endpoint().reply) as url:
        run(settings(tmp_path, f"{url}/v1"))
        (tmp_path / "out" / "config.json").unlink()
        with pytest.raises(UserError, match=r"no config\.json beside it says who made them"):
            run(settings(tmp_path, f"{url}/v1"))


def test_recorded_trajectories_do_not_replace_what_was_sampled(tmp_path):
    parquet(tmp_path / "questions.parquet", 1)
    recorded_by_ask(tmp_path / "ask.jsonl", ["What is the capital of this country (0)?"], (LOOK, READ, RIGHT))
    with served("/v1/chat/completions", Endpoint().reply) as url:
        for _ in range(2):
            run(settings(tmp_path, f"{url}/v1"))
    before = (tmp_path / "out" / "demonstrations.jsonl").read_bytes()
    recorded = settings(tmp_path, "", model="", trajectories=(tmp_path / "ask.jsonl",))
    with pytest.raises(UserError, match="holds a run of `collect`"):
        run(recorded)
    assert (tmp_path / "out" / "demonstrations.jsonl").read_bytes() == before
    elsewhere = replace(recorded, out=tmp_path / "recorded")
    run(elsewhere)
    run(replace(elsewhere, trajectories=(tmp_path / "ask.jsonl", tmp_path / "ask.jsonl")))  # made anew
    assert len(read_examples(tmp_path / "recorded" / "demonstrations.jsonl")) == 2
