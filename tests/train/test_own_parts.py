"""The miniature is trained for two steps with a tool, a reward, a search mapping and a judge of one foreign file."""

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

import hypereyes_jax
from hypereyes_jax.cli.main import main
from hypereyes_jax.configs.objects import load_object
from hypereyes_jax.data.files import write_questions
from hypereyes_jax.env import Episode, EpisodeConfig, Question
from hypereyes_jax.env.search.backends.mapping import MappedBackend, read_mapping
from hypereyes_jax.env.search.serve import SearchServerConfig, serving_in_thread
from hypereyes_jax.env.world import World, WorldBackend
from hypereyes_jax.eval.split import world_questions
from hypereyes_jax.train.method import OwnObjects
from hypereyes_jax.train.settings import RlSettings, SelectionRule
from hypereyes_jax.train.sizes import MINIATURE_RL

BASE = Path(str(resources.files("hypereyes_jax.assets"))) / "base"
OWN = Path(__file__).parent / "own_parts.py"
SHAPES = {"slots": 4, "context": 512, "extend_rows": (4,), "view_lengths": (512,)}
SETTINGS = RlSettings(steps=2, prompts=1, group=4, checkpoint_every=9)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A server of the miniature world, by a mapping's wire format; gives how often each path was asked."""
    world = World.load()
    world.prepare()
    with serving_in_thread(WorldBackend(world), SearchServerConfig()) as server:
        monkeypatch.setenv("OWN_SEARCH_URL", server.url)
        copy = tmp_path / "own_parts.py"  # a module of its own, which reads the address
        copy.write_text(OWN.read_text())
        yield copy, server


def checked(directory, own):
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1]
    for row in rows:
        assert row["rl/reward_frugal"] == pytest.approx(row["rl/reward"], abs=1e-6)
        assert "rl/reward_frugal_measured" in row
        assert row["rl/masked"] == row["rl/outgrown"] < 1  # the world never fails; the small context may be too small
    assert sum(row["rl/invocations"] for row in rows) > 0
    assert rows[-1]["rl/search_success_rate"] == 1
    kept = {each["role"]: each for each in json.loads((directory / "objects.json").read_text())}
    assert len({each["sha256"] for each in kept.values()}) in (1, len(own))  # of one file, or of each object's source
    assert {role: each["name"].rpartition(":")[2] for role, each in kept.items()} == own
    assert (directory / "model" / "config.json").exists()


def test_the_file_is_short_and_its_tool_and_mapping_work(world):
    import asyncio

    own, _ = world
    assert len(OWN.read_text().splitlines()) <= 60

    async def play():
        backend = MappedBackend(read_mapping(f"{own}:MAPPING"))
        episode = Episode(Question("q", "?", (), ("Chad",)), backend, EpisodeConfig(tools=(f"{own}:Ruler",)))
        assert "3. ruler: measures" in episode.system
        await episode.step(
            '<tool_call>{"name": "text_search", "arguments": {"input": ["capital of Chad"]}}</tool_call>'
        )
        await episode.step('<tool_call>{"name": "ruler", "arguments": {"image_id": "img_3"}}</tool_call>')
        await backend.aclose()
        return [turn.observation for turn in episode._turns]

    found, measured = asyncio.run(play())
    assert "N'Djamena" in found
    assert "there is no such image" in measured


@pytest.mark.slow
def test_by_command(tmp_path, world):
    own, server = world
    write_questions(tmp_path / "questions.jsonl", world_questions(World.load(), "seen", 2, 5))
    words = [
        "rl", "--checkpoint", str(BASE), "--questions", str(tmp_path / "questions.jsonl"), "--select", "no",
        "--out", str(tmp_path / "run"), "--settings.steps", "2", "--settings.prompts", "1", "--settings.group", "4",
        "--reward.functions", f"{own}:frugal", "--judge.object", f"{own}:contains",
        "--search.service", "mapping", "--search.mapping", f"{own}:MAPPING",
        "--sizes.episode.tools", f"{own}:Ruler", "--sizes.slots", "4", "--sizes.context", "512",
        "--sizes.extend-rows", "4", "--sizes.view-lengths", "512",
    ]  # fmt: skip
    assert main(words) == 0
    parts = {"reward": "frugal", "judge": "contains", "search mapping": "MAPPING", "tool": "Ruler"}
    checked(tmp_path / "run", parts)
    assert server.served[""] > 0
    own.write_text(own.read_text().replace("0.02", "0.03"))
    assert main(words) == 2  # another reward under the same name is another run


@pytest.mark.slow
def test_by_python(tmp_path, world):
    own, server = world

    def part(name):
        return load_object(f"{own}:{name}", name).value

    trained = hypereyes_jax.train.rl(
        BASE,
        world_questions(World.load(), "seen", 2, 5),
        tmp_path / "run",
        own=OwnObjects(
            rewards=[part("frugal")],
            judge=part("contains"),
            search=MappedBackend(read_mapping(f"{own}:MAPPING")),
            tools=[part("Ruler")()],
        ),
        settings=SETTINGS,
        sizes=replace(MINIATURE_RL, **SHAPES),
        rule=SelectionRule(select=False),
    )
    assert trained.model == tmp_path / "run" / "model"
    assert [row["step"] for row in trained.steps] == [0, 1]
    parts = {"reward": "frugal", "judge": "contains", "search backend": "MappedBackend", "tool": "Ruler"}
    checked(tmp_path / "run", parts)
    assert server.served[""] > 0
