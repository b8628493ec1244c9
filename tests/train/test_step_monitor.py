"""Figures of a step, and which device they are compared with."""

from __future__ import annotations

import dataclasses
import logging
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.configs.mesh import DEVICES
from hypereyes_jax.configs.model import Qwen3VLConfig, TextConfig, VisionConfig
from hypereyes_jax.configs.training import PackConfig
from hypereyes_jax.learner.packing import pack, sft_sample
from hypereyes_jax.learner.step_batch import step_batch
from hypereyes_jax.processing.types import SampledChunk
from hypereyes_jax.train.mfu import published, utilisation
from hypereyes_jax.train.step_monitor import StepMonitor, profiled
from tests.learner.small import CONFIG, PACK, samples

KINDS = {
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
    "NVIDIA H20": "h20",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200-SXM": "h200",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_is_known_by_the_name_jax_gives_it(kind):
    assert published(kind) is DEVICES[KINDS[kind]]


@pytest.mark.parametrize("kind", ["cpu", "TPU v4", "NVIDIA H2000"])
def test_other_devices_have_no_published_peak(kind):
    assert published(kind) is None


def test_useful_work_counts_tokens_and_no_padding():
    text = TextConfig(
        vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, mrope_section=(1, 1, 0),
    )  # fmt: skip
    model = Qwen3VLConfig(text, VisionConfig(depth=1, out_hidden_size=8, deepstack_visual_indexes=()))
    chunks = [SampledChunk(np.arange(1, n), *np.zeros((2, n - 1), np.float32), np.zeros(n - 1, int)) for n in (11, 31)]
    batch = step_batch(pack(model, [sft_sample([chunk]) for chunk in chunks], PackConfig(row_lengths=(64,), rows=4)))
    found = StepMonitor(model, "language").figures(batch, seconds=2.0)
    # by hand: q, k, v, o of 8 x (8 + 4 + 4 + 8), three of 8 x 16, in two layers, and a head of 8 x 50; 6 a weight and
    # token; attention 6 a head dim and position looked at, which are half of the mean 20, times 2 for scores and values
    weights = 2 * (8 * 24 + 3 * 8 * 16) + 8 * 50
    flops = 40 * 6 * weights + 40 * 6 * (2 * 2 * 4 * 20)
    assert found["useful_tflops"] == pytest.approx(flops / 2.0 / 1e12)
    assert found["packed_share"] == 40 / (4 * 64)
    assert found["host_peak_gib"] > 0.1
    assert "mfu" not in found  # nobody publishes a peak of this machine


def test_the_utilisation_is_the_share_of_the_published_peak():
    h20 = DEVICES["h20"]
    found = utilisation(4 * 10 * h20.bf16_tflops * 1e12 / 5, seconds=10.0, devices=4, peak=h20)
    assert found == {"useful_tflops": pytest.approx(h20.bf16_tflops / 5), "mfu": pytest.approx(0.2)}


@pytest.mark.parametrize(("platform", "level"), [("cpu", logging.INFO), ("tpu", logging.WARNING)])
def test_micro_batches_larger_than_planned_are_told_of_once_a_shape(caplog, monkeypatch, platform, level):
    caplog.set_level(logging.INFO)
    usual = dataclasses.replace(PACK, at_least=(2, 4, 256))
    monitor = StepMonitor(CONFIG, "language")
    monkeypatch.setattr(monitor, "_devices", [SimpleNamespace(platform=platform)])
    monitor.check(step_batch(pack(CONFIG, samples(2), usual)), usual)
    more = dataclasses.replace(usual, micro_batches=3)
    monitor.check(step_batch(pack(CONFIG, samples(2), more)), usual)
    assert not caplog.records  # more of them run the same programs
    larger = step_batch(pack(CONFIG, samples(2), dataclasses.replace(usual, vision=(6, 256))))
    monitor.check(larger, usual)
    monitor.check(larger, usual)
    (record,) = caplog.records
    assert record.levelno == level
    assert "2 rows with 6 rows of 256 patches, planned 2 rows with 4 rows of 256 patches." in record.message
    assert "Plan them with `hypereyes plan --sizes.row-images 3`" in record.message


def test_a_profile_is_written_only_when_wanted(tmp_path):
    with profiled(tmp_path / "no", False):
        pass
    assert not (tmp_path / "no").exists()
    with profiled(tmp_path / "yes", True):
        np.asarray(jnp.ones(3))
    assert list((tmp_path / "yes").rglob("*.xplane.pb"))
