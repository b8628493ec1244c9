"""Teachers of distillation: weights here, or a server with the same weights."""

import asyncio
import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import tyro
from aiohttp import web

from hypereyes_jax import miniature
from hypereyes_jax.cli.rl import RlConfig
from hypereyes_jax.env.outages import OutageLimits, SystematicFailure
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.env.world import World
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.records import read_records
from hypereyes_jax.eval.split import world_questions
from hypereyes_jax.files import write_json
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.learner.teacher import LocalTeacher, Unscored
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.rollout import Engine
from hypereyes_jax.rollout.engines import Engines
from hypereyes_jax.rollout.servers.sglang import SGLangServer
from hypereyes_jax.rollout.servers.vllm import VLLMServer
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train import rl_run
from hypereyes_jax.train.distillation import Distillation, TeacherServer, choose_teacher
from hypereyes_jax.train.question_selection import SELECTION
from hypereyes_jax.train.rl_loop import VALIDATION
from hypereyes_jax.train.samplers import RolloutEngines
from hypereyes_jax.train.settings import RlSettings, TeacherServerConfig
from hypereyes_jax.train.sizes import MINIATURE_RL
from hypereyes_jax.train.types import RlQuestions, RlServices, TrainingRun, Validation
from tests.learner.small import CONFIG, PACK, samples
from tests.random_weights import random_params
from tests.serving import SGLangMimic, VLLMMimic, mimicked, model_scores, served

ASSETS = Path(str(resources.files("hypereyes_jax.assets")))
PIXELS = {"min_pixels": PACK.min_pixels, "max_pixels": PACK.max_pixels}
KINDS = {"sglang": (SGLangMimic, SGLangServer), "vllm": (VLLMMimic, VLLMServer)}


def at_temperature(params, temperature):
    """As `hypereyes export --temperature` writes them."""
    return {**params, "norm": params["norm"] / temperature}


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG, scale=3)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_gives_the_scores_of_the_same_weights_here(kind, params):
    asked = samples(4, images=2)
    wanted = await LocalTeacher(CONFIG, params, PACK, 0.8).score(asked)
    at_one = await LocalTeacher(CONFIG, params, PACK, 1.0).score(asked)
    mimic, client = KINDS[kind]
    mimic = mimic(CONFIG, PIXELS)
    mimic.scores = model_scores(CONFIG, at_temperature(params, 0.8), 64)
    async with mimicked(mimic, client) as mimic:
        teacher = TeacherServer(mimic.client, in_flight=2, deadline=300)
        found = await teacher.score(asked)
    assert teacher.unscored == Unscored()
    for own, here, other in zip(found, wanted, at_one, strict=True):
        assert own.dtype == here.dtype == np.float32
        np.testing.assert_allclose(own, here, atol=1e-5)
        assert np.abs(own - other).max() > 0.01


async def test_failed_samples_are_taught_where_the_server_scored_them_and_the_others_counted(caplog):
    asked = samples(10)  # of which 0, 3, 6 and 9 failed

    async def before(body):
        sent = body["input_ids"]
        if sent[:3] == asked[3].chunks[0].tokens[:3].tolist():
            return web.Response(status=500, text="out of memory")

    def spoil(reply):
        if mimic.requests[-1]["input_ids"][:3] == asked[6].chunks[0].tokens[:3].tolist():
            reply["meta_info"]["input_token_logprobs"].pop()

    async with mimicked(SGLangMimic(CONFIG, PIXELS), SGLangServer, attempts=1) as mimic:
        mimic.before, mimic.spoil = before, spoil
        distillation = Distillation(TeacherServer(mimic.client, in_flight=1, deadline=60), Processes())
        out, counts = await distillation(asked)
    taught = [number for number, sample in enumerate(out) if sample.teacher_logp is not None]
    assert taught == [0, 9]
    assert [replace(sample, teacher_logp=None) for sample in out] == asked
    assert counts == {"distilled": 2, "teacher_failures": 1, "teacher_mismatches": 1}
    assert "2 of 4 failed rollouts not scored: generate failed 1 times: http_500" in caplog.text


async def test_a_teacher_that_is_gone_for_good_ends_the_run_and_one_that_comes_back_does_not():
    asked, limits = samples(10), OutageLimits(in_a_row=8)  # of which four failed

    def answering(is_down):
        async def before(body):
            return web.Response(status=500, text="out of memory") if is_down else None

        return before

    async with mimicked(SGLangMimic(CONFIG, PIXELS), SGLangServer, attempts=1) as mimic:
        distillation = Distillation(TeacherServer(mimic.client, in_flight=1, deadline=60), Processes())
        for is_down in (True, False, True):
            mimic.before = answering(is_down)
            await distillation(asked)
            distillation.check(limits)
        await distillation(asked)
    with pytest.raises(SystematicFailure, match=r"none of the last 8 failed rollouts.*8 x generate failed.*http_500"):
        distillation.check(limits)


async def test_without_a_teacher_nothing_is_distilled():
    asked = samples(4)
    out, counts = await Distillation(None, Processes())(asked)
    assert out == asked
    assert counts["distilled"] == counts["teacher_failures"] == counts["teacher_mismatches"] == 0


def test_the_command_line_names_one_teacher():
    words = "--checkpoint c --questions q --teacher-server.url http://host:8000 --teacher-server.kind vllm"
    config = tyro.cli(RlConfig, args=f"{words} --teacher-server.temperature 0.8".split())
    server = TeacherServerConfig("http://host:8000", "vllm", temperature=0.8)
    assert config.teacher_server == server
    assert choose_teacher(None, config.teacher_server, 0.8) == server
    assert choose_teacher(Path("t"), TeacherServerConfig(), 0.8) == Path("t")
    assert choose_teacher(None, TeacherServerConfig(), 0.8) is None


@pytest.mark.parametrize(
    ("directory", "server", "message"),
    [
        (Path("t"), TeacherServerConfig("http://h:1", temperature=0.8), "two teachers: t and http://h:1"),
        (None, TeacherServerConfig("http://h:1"), r"at temperature 1, .* at 0.8.*hypereyes export --temperature 0.8"),
        (None, TeacherServerConfig("http://h:1", temperature=float("nan")), "scores at temperature nan"),
        (None, TeacherServerConfig(kind="vllm"), "add --teacher-server.url"),
        (None, TeacherServerConfig("host:8000", temperature=0.8), "not a valid URL"),
        (None, TeacherServerConfig("http://h:1", temperature=0.8, in_flight=0), "in-flight must be positive"),
        (None, TeacherServerConfig("http://h:1", temperature=0.8, deadline=float("nan")), "deadline must be positive"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(directory, server, message):
    with pytest.raises(UserError, match=message):
        choose_teacher(directory, server, 0.8)


SETTINGS = RlSettings(steps=1, prompts=2, group=2, checkpoint_every=9)
ENGINE = {"extend_rows": (4,), "extend_tokens": (128,), "image_shapes": ((1, 64), (1, 256))}


def one_step(path, teacher):
    """Logged values of an RL step of the shipped base model."""
    directory = RunDirectory.open(path, "rl", RlConfig(ASSETS / "base", Path("-"), out=path, settings=SETTINGS))
    questions = world_questions(World.load(), "seen", SETTINGS.prompts, 5)
    write_json(directory.file(SELECTION), {question.id: [2, 4] for question in questions})
    model, params, chat = load_model(ASSETS / "base")
    engine = replace(replace(MINIATURE_RL, slots=4, context=512).engine(), **ENGINE).exact()
    rollouts = RolloutEngines(Engines([Engine(model, params, engine)]), chat, MINIATURE_RL)
    with Stages() as stages:
        asked = RlQuestions(questions, validation=Validation(questions, 1))
        services = RlServices(SearchConfig(), teacher=teacher)
        rl_run.train(TrainingRun(directory, stages), rollouts, model, params, asked, SETTINGS, services)
    return json.loads(directory.file("metrics.jsonl").read_text())


@pytest.mark.slow
def test_an_rl_step_distils_from_a_server_that_scores_as_local_weights(tmp_path, monkeypatch):
    model, params, _ = load_model(ASSETS / "teacher")
    mimic = VLLMMimic(model, {"min_pixels": miniature.MIN_PIXELS, "max_pixels": miniature.MAX_PIXELS})
    mimic.scores = model_scores(model, at_temperature(params, 0.8), 512)
    calls = []
    score = TeacherServer.score

    async def scoring(teacher, asked):
        calls.append((asked, await score(teacher, asked)))
        return calls[-1][1]

    monkeypatch.setattr(TeacherServer, "score", scoring)
    with served(mimic.endpoint, mimic.generate) as url:
        values = one_step(tmp_path, TeacherServerConfig(url, "vllm", temperature=0.8))
    _, (asked, found) = calls  # the first one only asks whether the server scores at all
    assert values["rl/distilled"] == len(asked) > 0
    assert values["rl/teacher_failures"] == values["rl/teacher_mismatches"] == 0
    phases = ("generation", "search", "judging", "packing", "waiting", "teacher", "training", "sync")
    seconds = {phase: values[f"rl/seconds_{phase}"] for phase in phases}
    assert all(value > 0 for phase, value in seconds.items() if phase not in ("search", "waiting")), seconds
    assert values["rl/kl_to_teacher"] != 0
    assert values["rl/eval_accuracy"] in (0.0, 0.5, 1.0)  # of two questions
    assert (values["rl/eval_rounds"] > 0, values["rl/eval_masked"]) == (True, 0.0)
    assert len(list(read_records(tmp_path / VALIDATION))) == 2
    local = LocalTeacher(model, params, MINIATURE_RL.pack(1), 0.8)
    for own, here in zip(found, asyncio.run(local.score(asked)), strict=True):
        np.testing.assert_allclose(own, here, atol=1e-4)  # float32, two programs, rows of other lengths


def test_a_server_that_does_not_score_at_all_is_reported_before_anything_is_played(tmp_path):
    with pytest.raises(
        UserError, match=r"the teacher at http://127.0.0.1:1 \(sglang\) does not score: generate failed"
    ):
        one_step(tmp_path, TeacherServerConfig("http://127.0.0.1:1", temperature=0.8, attempts=1))
