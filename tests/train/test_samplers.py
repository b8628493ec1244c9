from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
from PIL import Image

from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.types import Question
from hypereyes_jax.env.world import World, WorldBackend
from hypereyes_jax.errors import UserError
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.rollout.engines import Engines
from hypereyes_jax.rollout.sequence import digest, prepare
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train import rl_run
from hypereyes_jax.train.question_selection import SELECTION
from hypereyes_jax.train.samplers import RolloutEngines
from hypereyes_jax.train.settings import RlSettings
from hypereyes_jax.train.sizes import MINIATURE_RL
from hypereyes_jax.train.types import RlQuestions, TrainingRun

BASE = Path(str(resources.files("hypereyes_jax.assets") / "base"))


@pytest.mark.parametrize("size", [(200, 150), (40, 500), (33, 33)])
def test_a_prompt_is_as_long_as_the_engine_makes_it(size):
    model, _, chat = load_model(BASE)
    question = Question("q", "Which flag is this?", (Image.new("RGB", size), Image.new("RGB", (64, 64))), ("Chad",))
    backend = WorldBackend(World.load(passages=False))
    episode = Episode(question, backend, MINIATURE_RL.episode)
    chunk = chat.prompt(episode.system, episode.prompt())
    made = prepare(chunk, digest(chunk), model, MINIATURE_RL.min_pixels, MINIATURE_RL.max_pixels)
    assert RolloutEngines(Engines([]), chat, MINIATURE_RL).prompt_tokens(question, backend) == len(
        made.expanded.tokens_T
    )


def test_questions_with_longer_prompts_are_left_out_and_counted(tmp_path, capsys):
    model, params, chat = load_model(BASE)
    questions = [Question(f"q{n}", "word " * 40 * n, (), ("x",)) for n in range(3)]
    shortest = RolloutEngines(Engines([]), chat, MINIATURE_RL).prompt_tokens(
        questions[0], WorldBackend(World.load(passages=False))
    )
    sizes = replace(MINIATURE_RL, prompt_tokens=shortest)
    (tmp_path / SELECTION).write_text("{}")
    settings = RlSettings(prompts=1)
    rollouts = RolloutEngines(Engines([]), chat, sizes)
    with Stages() as stages, pytest.raises(UserError, match=r"only 0 of 1 candidates .* within 5 tries, fewer"):
        rl_run.train(
            TrainingRun(RunDirectory(tmp_path), stages), rollouts, model, params, RlQuestions(questions), settings
        )
    assert f"2 questions have prompts of more than {shortest} tokens" in capsys.readouterr().err
