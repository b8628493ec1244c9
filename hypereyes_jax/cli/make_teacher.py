"""Make the miniature's distillation teacher: a wider model after SFT and TRACE-only RL, as the paper makes its own.

It grows from the student's base model: the MLPs get more units whose outputs start at zero, so the function is
unchanged at first, and base training goes on for a while. Then it is trained like the student, without a teacher.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypereyes_jax import miniature
from hypereyes_jax.cli import pretrain_world, synth
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.files import read_json, write_json
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory, to_jsonable
from hypereyes_jax.runs.written_models import model_is_written, note_model
from hypereyes_jax.train.settings import RlSettings, SftSettings
from hypereyes_jax.train.sizes import MINIATURE_RL

if TYPE_CHECKING:
    from hypereyes_jax.models.qwen3_vl import Params

_MINUTES = "minutes.json"


@dataclass(frozen=True)
class MakeTeacherConfig:
    out: Path = Path("runs/teacher")
    """The run directory; the teacher goes to `model/` in it."""
    widening: int = 2
    """Factor by which the MLP's units are multiplied."""
    base_steps: int = 100
    """Number of steps of base training after the model has grown."""
    sft: SftSettings = field(default_factory=lambda: SftSettings(weighting="trajectory"))
    """Settings of its SFT. The defaults are those that the shipped teacher was made with."""
    rl: RlSettings = field(default_factory=lambda: RlSettings(steps=12, checkpoint_every=4))
    sft_questions: int = 800
    """Number of questions that demonstrations are made for."""
    rl_candidates: int = 200
    """Number of questions that RL may select from."""
    seed: int = 100
    """Seed of the questions, which are not those of a student."""


def run(config: MakeTeacherConfig) -> None:
    from hypereyes_jax.cli.quickstart import ASSETS
    from hypereyes_jax.data.files import read_questions
    from hypereyes_jax.models.lora import merge
    from hypereyes_jax.models.pretrained import load_model, save_model
    from hypereyes_jax.rollout.engines import Engines
    from hypereyes_jax.train import pretraining, rl_run, sft
    from hypereyes_jax.train.samplers import RolloutEngines
    from hypereyes_jax.train.types import RlQuestions, RlServices, TrainingRun

    writes = ("base-model", "model", *synth.FILES)
    directory = RunDirectory.open(config.out, "make-teacher", config, may_differ=frozenset({"out"}), writes=writes)
    base = Path(str(resources.files(ASSETS) / "base"))
    model, params, chat = load_model(base)
    model, params = widen(model, params, config.widening, config.seed)
    folder = directory.file("base-model")
    if not model_is_written(directory, folder.name):
        with _timing(directory):
            more = pretraining.Lesson(config.base_steps, ("wasteful",))
            params = pretraining.train(model, params, chat, (more,), config.seed, learning_rate=5e-4, report_every=50)
        save_model(folder, model, params, base, pixels=miniature.PIXELS)
        note_model(directory, folder.name)
    params = load_model(folder)[1]
    data = data_config(config)
    with Stages() as stages:
        run = TrainingRun(directory, stages)
        with _timing(directory):
            synth.make_data(directory, data, stages)
        demonstrations = directory.file(synth.DEMONSTRATIONS)
        with _timing(directory):
            params = merge(*sft.train(run, model, params, chat, demonstrations, config.sft))
        rollouts = RolloutEngines(Engines.on_one_device(model, params, MINIATURE_RL.engine()), chat, MINIATURE_RL)
        questions = RlQuestions(read_questions(directory.file(synth.CANDIDATES)))
        with _timing(directory):
            params, _ = rl_run.train(run, rollouts, model, params, questions, config.rl, RlServices(SearchConfig()))
    save_model(directory.file("model"), model, params, base, dtype="bfloat16", pixels=miniature.PIXELS)
    record = {
        "command": f"hypereyes make-teacher --seed {config.seed}",
        "minutes": round(read_json(directory.file(_MINUTES))["minutes"], 1),
        "settings": {k: v for k, v in to_jsonable(config).items() if k not in pretrain_world.NO_SETTINGS},
        **made_from(data, base),
    }
    write_json(directory.file("model") / pretrain_world.RECORD, record)


def made_from(data: synth.SynthConfig, base: Path) -> dict[str, str]:
    """Hashes for the record: whether code and base weights still are what a teacher was made with."""
    return {
        "demonstrations_sha256": synth.demonstrations_hash(data),
        "base_sha256": hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest(),
    }


@contextlib.contextmanager
def _timing(directory: RunDirectory) -> Iterator[None]:
    """Adds what the block took to the minutes of all calls; a kill -9 takes those of the stage it hits with it."""
    start = time.perf_counter()
    try:
        yield
    finally:
        path = directory.file(_MINUTES)
        before = read_json(path)["minutes"] if path.exists() else 0.0
        write_json(path, {"minutes": before + (time.perf_counter() - start) / 60})


def data_config(config: MakeTeacherConfig) -> synth.SynthConfig:
    """The sizes and seed of the questions and demonstrations that the teacher is trained on."""
    return synth.SynthConfig(
        sft_questions=config.sft_questions, rl_candidates=config.rl_candidates, eval_questions=100, seed=config.seed
    )


def widen(model: Qwen3VLConfig, params: Params, times: int, seed: int) -> tuple[Qwen3VLConfig, Params]:
    """The same function with `times` as many MLP units: new units read at random and write nothing yet."""
    import jax
    import jax.numpy as jnp

    layers: dict[str, Any] = dict(params["layers"])
    more = (times - 1) * model.text.intermediate_size
    for name, key in zip(("gate", "up"), jax.random.split(jax.random.key(seed)), strict=True):
        old = layers[name]
        new = jax.random.normal(key, (*old.shape[:-1], more), old.dtype) * jnp.std(old)
        layers[name] = jnp.concatenate([old, new], axis=-1)
    down = layers["down"]
    layers["down"] = jnp.concatenate([down, jnp.zeros((down.shape[0], more, down.shape[2]), down.dtype)], axis=1)
    text = replace(model.text, intermediate_size=times * model.text.intermediate_size)
    return replace(model, text=text), params | {"layers": layers}
