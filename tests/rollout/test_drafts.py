"""Drafts: what they are copied from, and that an engine which verifies them samples as one without."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig
from hypereyes_jax.errors import SettingError
from hypereyes_jax.models.qwen3_vl import Kernels
from hypereyes_jax.processing import ContextChunk
from hypereyes_jax.rollout import DecodeRequest, Engine
from hypereyes_jax.rollout.programs.drafts import MATCHED, RecentTokens, accepted, propose
from tests.random_weights import random_params
from tests.rollout import paced

SETTINGS = replace(paced.SETTINGS, decode_rows=(4,), view_lengths=(192,))  # few programs
SAMPLED = SamplingConfig(temperature=0.8, top_p=0.9, top_k=40)
PROMPTS = [np.random.default_rng(n).integers(20, 280, 5 + 12 * n).astype(np.int32) for n in range(4)]


def known(*records: list[int], longest: int = 12) -> jax.Array:
    return jnp.array([[-1] * (longest - len(record)) + record for record in records])


@pytest.mark.parametrize(
    ("record", "drafts"),
    [
        ([1, 2, 3, 4, 9, 2, 3], [4, 9]),  # behind "2 3", which came before
        ([5, 2, 7, 6, 2, 8, 6, 2], [8, 6]),  # "6 2" rather than the "2" that came earlier
        ([3, 1, 4, 3, 1, 5, 3, 1], [5, 3]),  # the latest of equal matches
        ([7, 1, 2, 8, 4, 1, 2, 9, 7, 1, 2], [8, 4]),  # the longest match before the latest
        ([6, 6, 6, 6, 6], [6, 6]),
    ],
)
def test_drafts_are_what_followed_the_longest_match(record, drafts):
    last = jnp.array([11])
    np.testing.assert_array_equal(propose(known(record), last, 2)[0, : len(drafts)], drafts)


def test_each_row_looks_at_its_own_tokens_up_to_its_own_last_one():
    rows = known([1, 2, 1, 2, 9, 9], [3, 4, 3, 4, 9, 9])
    np.testing.assert_array_equal(propose(rows, jnp.array([9, 9]), 2), [[1, 2], [3, 4]])
    assert propose(known([1, 2, 3]), jnp.array([11]), 3).min() >= 0  # nothing matches: any tokens, but tokens


def test_drafts_count_as_far_as_they_were_drawn():
    drafts = jnp.array([[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3]])
    drawn = jnp.array([[9, 2, 3, 4], [1, 9, 3, 4], [1, 2, 9, 4], [1, 2, 3, 4]])
    np.testing.assert_array_equal(accepted(drafts, drawn), [1, 2, 3, 4])


def test_what_was_sampled_of_late_stands_before_each_record():
    recent = RecentTokens()
    recent.note(np.arange(10, dtype=np.int32), 3)
    rows = recent.beside([np.array([40, 41], np.int32)], [1], 2, 4)
    assert rows[0, -4:].tolist() == [-1] * 4
    assert rows[1, -4:].tolist() == [-1, -1, 40, 41]
    np.testing.assert_array_equal(rows[:, -4 - 3 - MATCHED : -4], [np.arange(10 - 3 - MATCHED, 10)] * 2)
    recent.note(np.arange(99_999, dtype=np.int32), 99_999)  # more than is kept
    assert recent.beside([], [], 1, 1)[0, -2] == 99_998


@pytest.fixture
def engine_with(config, params):
    return lambda **changes: Engine(config, params, replace(SETTINGS, **changes))


def played(engine: Engine, seeds=range(4), sampling=SAMPLED, budgets=(20, 7, 16, 3), stop_ids=()):
    """Two turns of four rollouts that begin and end at different places; list of (tokens, log-probs, stopped)."""
    sequences = [engine.new_sequence(seed) for seed in seeds]
    out = []
    for sequence in sequences:
        assert engine.acquire(sequence)
    for turn in range(2):
        for sequence, prompt in zip(sequences, PROMPTS, strict=True):
            sequence.append_context(engine.prepare(ContextChunk(prompt + turn, ())))
        while unread := [s for s in sequences if s.unread]:
            engine.extend(unread)
        left = dict(zip(sequences, budgets, strict=True))
        parts = {sequence: [] for sequence in sequences}
        while left:
            results = engine.decode([DecodeRequest(s, sampling, stop_ids, n) for s, n in left.items()])
            for sequence, result in zip(list(left), results, strict=True):
                parts[sequence].append(result)
                left[sequence] -= len(result.tokens)
                if result.stopped or not left[sequence]:
                    del left[sequence]
        for each in parts.values():
            tokens, *logps = (
                np.concatenate([getattr(part, name) for part in each])
                for name in ("tokens", "logp_truncated", "logp_full")
            )
            out.append((tokens, np.stack(logps), each[-1].stopped))
    for sequence in sequences:
        engine.release(sequence)
    return out


def assert_same(plain, drafted, atol=2e-5):
    for (tokens, logps, stopped), (other, its_logps, its_stopped) in zip(plain, drafted, strict=True):
        np.testing.assert_array_equal(tokens, other)
        np.testing.assert_allclose(logps, its_logps, atol=atol)
        assert stopped == its_stopped


@pytest.mark.parametrize(
    ("kernels", "draft_tokens"),
    [
        pytest.param(Kernels(), 1, marks=pytest.mark.slow),
        (Kernels(), 4),
        (Kernels(unrolled=True), 4),
        (Kernels(unrolled=True, slots="in_place", known_trip_count=True), 4),
    ],
    ids=["scanned, one", "scanned", "unrolled", "in place"],
)
def test_tokens_and_log_probs_are_those_of_plain_sampling(config, kernels, draft_tokens):
    """The second time the drafts are what is sampled, and a step gives as many tokens as it may."""
    layers = 1 if kernels.slots == "in_place" else 2  # interpreted kernels take long to compile
    text = replace(config.text, head_dim=16, mrope_section=(4, 2, 2), num_hidden_layers=layers)
    config = replace(config, text=text)
    params = random_params(config)
    plain = played(Engine(config, params, SETTINGS, kernels=kernels))
    engine = Engine(config, params, replace(SETTINGS, draft_tokens=draft_tokens), kernels=kernels)
    assert_same(plain, played(engine))
    first = replace(engine.counts)
    assert_same(plain, played(engine))
    assert engine.counts.decode_tokens == 2 * first.decode_tokens == 4 * sum((20, 7, 16, 3))
    steps = engine.counts.decode_row_steps - first.decode_row_steps
    assert steps < first.decode_row_steps / (1 + draft_tokens / 2)


def test_a_stop_id_among_the_drafts_ends_the_turn(engine_with):
    plain = played(engine_with())
    stop = int(plain[0][0][5])
    ended, engine = played(engine_with(), stop_ids=(stop,)), engine_with(draft_tokens=4)
    assert_same(ended, played(engine, stop_ids=(stop,)))
    assert_same(ended, played(engine, stop_ids=(stop,)))
    assert any(stopped for _, _, stopped in ended)


def test_a_slot_may_be_filled_to_its_end(engine_with):
    """Guesses past the end are neither read nor written."""
    budgets = [(SETTINGS.context - 2 * len(prompt)) // 2 for prompt in PROMPTS]
    engine = engine_with(draft_tokens=4)
    plain = played(engine_with(), budgets=budgets)
    assert_same(plain, played(engine, budgets=budgets))
    assert_same(plain, played(engine, budgets=budgets))


def test_greedy_and_int8_caches(engine_with):
    greedy = SamplingConfig(temperature=0.0, top_p=1.0)
    for kind in ("float32", "int8"):
        plain = played(engine_with(kv=kind), sampling=greedy)
        assert_same(plain, played(engine_with(kv=kind, draft_tokens=4), sampling=greedy))


def test_the_experts_of_each_token_are_recorded(config):
    text = replace(config.text, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    config = replace(config, text=text)
    params = random_params(config, 1)
    taken = []
    for draft_tokens in (0, 3):
        engine = Engine(config, params, replace(SETTINGS, record_routes=True, draft_tokens=draft_tokens))
        for _ in range(2):  # the second time with drafts that are right
            sequence = engine.new_sequence(5)
            sequence.append_context(engine.prepare(ContextChunk(PROMPTS[1], ())))
            assert engine.acquire(sequence)
            while sequence.unread:
                engine.extend([sequence])
            left = 24
            while left:
                (result,) = engine.decode([DecodeRequest(sequence, SAMPLED, (), left)])
                left -= len(result.tokens)
            taken.append((sequence.tokens[: sequence.length].copy(), sequence.routes))
            engine.release(sequence)
    for tokens, routes in taken[1:]:
        np.testing.assert_array_equal(taken[0][0], tokens)
        assert routes.length == taken[0][1].length == len(tokens) - 1
        np.testing.assert_array_equal(routes.array(), taken[0][1].array())


def test_exact_engines_take_no_drafts():
    """Where a call ends would depend on what other rollouts sampled."""
    assert EngineConfig(draft_tokens=4).exact().draft_tokens == 0
    with pytest.raises(SettingError, match="draft_tokens=8 is more than 7"):
        EngineConfig(draft_tokens=8)
