"""`hypereyes curate`: from two pools to the SFT and the RL set, with models that answer as it takes."""

import io
import json

import pytest
from aiohttp import web
from PIL import Image

from hypereyes_jax.cli import main as cli
from hypereyes_jax.data.files import write_questions
from hypereyes_jax.data.sources import open_examples, open_questions
from hypereyes_jax.env.types import Question
from hypereyes_jax.env.world import World
from hypereyes_jax.files import read_json
from tests.cli.test_collect import LOOK, READ, RIGHT
from tests.data.demonstrations import read_examples
from tests.serving import served

WRONG = "<reason>The result shows it.</reason><answer>Lome</answer>"


class Models:
    """Question (0) is known without tools, (1) is solved in one pass, (2) by nobody, (3) without a look at the picture;
    (4) and (5) are fit. The policy fails at (4) first and solves it then; (5) it solves at once."""

    def __init__(self):
        self.calls = 0
        self.tried = {}

    async def reply(self, request):
        self.calls += 1
        body = await request.json()
        turns = sum(message["role"] == "assistant" for message in body["messages"])
        said = json.dumps(body["messages"])
        number = next(n for n in range(6) if f"({n})" in said)
        text = self.text(body["model"], number, turns, "nothing else" in str(body["messages"][0]["content"]), said)
        return web.json_response({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})

    def text(self, model, number, turns, direct, said):
        if direct:
            return "Niamey" if number == 0 else "I do not know"
        if model == "big":
            return (LOOK, READ, RIGHT)[min(turns, 2)] if number == 1 else WRONG
        if model == "policy" and number == 4 and turns == 0:
            self.tried[number] = self.tried.get(number, 0) + 1
        if number == 2 or (model == "policy" and number == 4 and self.tried[number] == 1):
            return WRONG
        return (READ, RIGHT)[min(turns, 1)] if number == 3 else (LOOK, READ, RIGHT)[min(turns, 2)]


@pytest.fixture
def pools(tmp_path):
    flag = World.load().flag("ne").convert("RGB")
    asked = [Question(f"q{n}", f"What is the capital of this country ({n})?", (flag,), ("Niamey",)) for n in range(6)]
    write_questions(tmp_path / "flags.jsonl", asked[:4])
    write_questions(tmp_path / "more.jsonl", asked[4:])
    return tmp_path


def plan(folder, url, **changes):
    models = {"sampler": "strong", "filter_model": "big", "policy": "policy"}
    described = {
        "pools": [{"name": name, "source": str(folder / f"{name}.jsonl")} for name in ("flags", "more")],
        **{name: {"url": f"{url}/v1", "name": model} for name, model in models.items()},
        "budgets": [1, 2],
        "in_flight": 2,
        "layout": "authors",
        **changes,
    }
    path = folder / "curation.yaml"
    path.write_text(json.dumps(described))  # JSON is YAML
    return path


def test_what_falls_out_where_from_pools_to_both_sets(pools, capsys):
    models, out = Models(), pools / "out"
    with served("/v1/chat/completions", models.reply) as url:
        file = plan(pools, url)
        assert cli.main(["curate", str(file), "--out", str(out), "--stage", "rl"]) == 2
        assert "no SFT set yet" in capsys.readouterr().err
        assert cli.main(["curate", str(file), "--out", str(out)]) == 0
        asked = models.calls
        assert cli.main(["curate", str(file), "--out", str(out)]) == 0
        assert models.calls == asked  # nothing was asked again
        assert cli.main(["curate", str(file), "--out", str(out), "--stage", "rl"]) == 0
    funnel = read_json(out / "funnel.json")
    assert [(s["stage"], s["in"], s["out"]) for s in funnel["sft"]] == [
        ("tool necessity", 6, 5),
        ("difficulty", 5, 4),
        ("progressive rejection sampling", 4, 3),
        ("quality filters", 3, 2),
    ]
    assert funnel["sft"][3]["dropped"] == {"unimodal": 1}
    assert funnel["sft"][0]["by_pool"] == {"flags": 4, "more": 2}
    assert funnel["pools"] == {"flags": 4, "more": 2}
    assert (funnel["rl"]["in"], funnel["rl"]["out"]) == (4, 1)
    assert len(read_examples(out / "sft" / "demonstrations.jsonl")) == 2
    with open_questions(out / "rl_questions.jsonl") as chosen:
        assert chosen.references == {"more/q4": (2, 2)}
    page = (out / "funnel.html").read_text()
    assert "flags/q0" in page
    assert "answered without tools: 1" in page
    assert "data:image/" in page
    assert "<script" not in page


def test_both_sets_stand_in_the_authors_layouts_and_are_read_back(pools, capsys):
    models, out = Models(), pools / "out"
    with served("/v1/chat/completions", models.reply) as url:
        file = plan(pools, url)
        for stage in ("sft", "rl"):
            assert cli.main(["curate", str(file), "--out", str(out), "--stage", stage]) == 0
    ours = read_examples(out / "sft" / "demonstrations.jsonl")
    with open_examples(out / "authors" / "sft.jsonl") as theirs:
        assert [example.turns for example in theirs] == [example.turns for example in ours]
        images = [p for o in theirs[0].observations for p in o if isinstance(p, Image.Image)]
        own = [p for o in ours[0].observations for p in o if isinstance(p, Image.Image)]
        assert [i.convert("RGB").tobytes() for i in images] == [i.convert("RGB").tobytes() for i in own]
    picture = next((out / "authors" / "images").iterdir())
    picture.unlink()
    (pools / "letter").write_text("dear")
    picture.symlink_to(pools / "letter")
    with served("/v1/chat/completions", models.reply) as url:
        assert cli.main(["curate", str(plan(pools, url)), "--out", str(out)]) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert (pools / "letter").read_text() == "dear"
        picture.unlink()
        picture.mkdir()
        assert cli.main(["curate", str(plan(pools, url)), "--out", str(out)]) == 2
    assert picture.name in capsys.readouterr().err.replace("\n", "")
    import pyarrow.parquet

    (row,) = pyarrow.parquet.read_table(out / "authors" / "rl.parquet").to_pylist()
    assert row["extra_info"]["tool_call"] == 2
    assert json.loads(row["extra_info"]["parallel"]) == [1, 1]
    assert row["extra_info"]["type"] == "only_acc"
    assert row["reward_model"]["ground_truth"] == "Niamey"
    assert Image.open(io.BytesIO(row["images"][0]["bytes"])).size == World.load().flag("ne").size
    with open_questions(out / "authors" / "rl.parquet") as read:
        assert read[0].answers == ("Niamey",)
        assert list(read.references.values()) == [(2, 2)]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"pools": []}, "at least one"),
        ({"pools": [{"name": "a", "source": "x"}, {"name": "a", "source": "y"}]}, "a name of its own"),
        ({"sampler": {"url": "http://127.0.0.1:1/v1"}}, "an endpoint with url and name"),
        ({"budgets": "1, 2"}, "budgets must be a list"),
        ({"sampling": 3}, "unknown field 'sampling'"),
        ({"necessity": -1}, "necessity must be at least 0"),
        ({"seed": "2020-13-01"}, "seed must be a whole number"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"tries": 1}, "tries must be at least 2"),
        ({"judge": {"model": "m"}}, "--judge.model names a model at an endpoint"),
        ({"judge": {"rule": "nice"}}, "--judge.rule must be one of"),
    ],
)
def test_a_file_that_can_not_be_meant_is_refused_by_its_field(pools, capsys, changes, why):
    file = plan(pools, "http://127.0.0.1:1", **changes)
    assert cli.main(["curate", str(file), "--out", str(pools / "out")]) == 2
    assert why in capsys.readouterr().err
    assert not (pools / "out").exists()


@pytest.mark.parametrize("text", ["a: [", "seed: 1\nseed: 2", "seed: " + "9" * 5000, "a: !!python/none 1"])
def test_what_is_no_yaml_is_named(pools, capsys, text):
    (pools / "curation.yaml").write_text(text)
    assert cli.main(["curate", str(pools / "curation.yaml"), "--out", str(pools / "out")]) == 2
    assert "is not YAML" in capsys.readouterr().err


def test_each_stage_goes_on_with_the_models_that_made_its_attempts(pools, capsys):
    models, out = Models(), pools / "out"
    with served("/v1/chat/completions", models.reply) as url:

        def curated(*words, **changes):
            code = cli.main(["curate", str(plan(pools, url, **changes)), "--out", str(out), *words])
            return code, capsys.readouterr().err

        other = {"url": f"{url}/v1", "name": "other"}
        assert curated()[0] == 0
        asked = models.calls
        for changes, why in [
            ({"sampler": other}, 'sampler.name was "strong", is "other"'),
            ({"filter_model": other}, 'filter_model.name was "big", is "other"'),
            ({"judge": {"rule": "browse"}}, 'judge.rule was "general", is "browse"'),
            ({"budgets": [1, 2, 3]}, "budgets was [1, 2], is [1, 2, 3]"),
        ]:
            for stage in ("sft", "rl"):  # the RL set is chosen from what the SFT stage left over
                code, said = curated("--stage", stage, **changes)
                assert code == 2
                assert why in said
        assert models.calls == asked
        assert curated("--stage", "rl")[0] == 0
        asked = models.calls
        code, said = curated("--stage", "rl", policy=other)
        assert (code, models.calls) == (2, asked)
        assert 'policy.name was "policy", is "other"' in said
        assert curated("--stage", "rl", "--name", "other", policy=other)[0] == 0
        assert models.calls > asked


def test_the_stage_of_selection_says_of_how_many_tries(pools):
    models, out = Models(), pools / "out"
    with served("/v1/chat/completions", models.reply) as url:
        file = plan(pools, url, tries=3)
        for stage in ("sft", "rl"):
            assert cli.main(["curate", str(file), "--out", str(out), "--stage", stage]) == 0
    assert read_json(out / "funnel.json")["rl"]["stage"] == "pass@1 / pass@3"
    assert "pass@5" not in (out / "funnel.html").read_text()
