"""Models of a run's stages: its own are gone on with, and no others."""

from dataclasses import dataclass

import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.runs.written_models import MODELS, model_is_written, note_model


@dataclass(frozen=True)
class Config:
    seed: int = 0


def begun(path, weights):
    run = RunDirectory.open(path, "quickstart", Config())
    run.file("sft-model").mkdir()
    (run.file("sft-model") / "model.safetensors").write_text(weights)
    return run


def test_a_model_counts_once_it_is_noted(tmp_path):
    run = begun(tmp_path, "a")
    assert not model_is_written(run, "sft-model")  # of a kill before the note, or put there: it is made again
    note_model(run, "sft-model")
    assert model_is_written(run, "sft-model")
    assert not model_is_written(run, "rl-model")
    run.file("sft-model").rename(run.file("elsewhere"))
    assert not model_is_written(run, "sft-model")


def test_another_model_in_its_place_is_refused(tmp_path):
    run = begun(tmp_path, "a")
    note_model(run, "sft-model")
    (run.file("sft-model") / "model.safetensors").write_text("b")
    with pytest.raises(UserError, match=r"sft-model is not the model that .*models\.json says was written\. Remove it"):
        model_is_written(run, "sft-model")


def test_a_record_of_another_run_or_a_damaged_one_is_refused(tmp_path):
    run, other = begun(tmp_path / "a", "a"), begun(tmp_path / "b", "b")
    note_model(other, "sft-model")
    run.file(MODELS).write_bytes(other.file(MODELS).read_bytes())
    with pytest.raises(UserError, match=r"models\.json was written by another run"):
        model_is_written(run, "sft-model")
    run.file(MODELS).write_text('{"models": {"sft-model": 3}}')
    with pytest.raises(UserError, match=r"models\.json is damaged"):
        model_is_written(run, "sft-model")
