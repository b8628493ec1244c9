"""The learner against an independent reference: each sample alone, plain logits, no packing, no accumulation."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh

from hypereyes_jax.configs.mesh import AXES
from hypereyes_jax.configs.training import LearnerConfig, OptimizerConfig
from hypereyes_jax.learner.learner import _Steps, make_learner
from hypereyes_jax.learner.packing import pack, unpack
from hypereyes_jax.learner.state import TrainState
from hypereyes_jax.models.lora import init_lora
from hypereyes_jax.models.qwen3_vl import Kernels, forward, hidden_states, lm_head
from hypereyes_jax.rl import aggregate, policy_loss, reverse_kl
from hypereyes_jax.rl.distill_chunked import chunked_reverse_kl
from tests.learner.by_hand import (
    LEARN,
    PACK,
    PLAIN,
    alone,
    assert_close,
    copy,
    gradient,
    in_float64,
    logp_alone,
    logp_of,
    mean_gradient,
    norm,
    spread_params,
    step,
)
from tests.learner.sharded_steps import MODELS, TEXT
from tests.learner.small import CONFIG, samples
from tests.learner.small import PACK as ANY_SHAPE
from tests.random_weights import random_params


@pytest.fixture(scope="module")
def params():
    return spread_params()


@pytest.fixture(scope="module")
def learner():
    return make_learner(CONFIG, LEARN)


@pytest.mark.slow  # the default, a mean over tokens, is the next test
def test_sft_gradient_is_the_mean_over_samples_of_their_mean_token_loss(params, learner):
    cases = [alone(sample) for sample in samples(5)]

    def loss(logits, case):
        return -jnp.sum(logp_of(logits, case) * case[2]) / jnp.sum(case[2])

    value, wanted = mean_gradient(loss, params, cases)
    state, metrics = step(learner, "sft_step", params, pack(CONFIG, samples(5), PACK))
    assert_close(gradient(state), wanted)
    np.testing.assert_allclose(metrics["grad_norm"], norm(wanted), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    assert metrics["tokens"] == sum(case[2].sum() for case in cases)


@pytest.mark.parametrize("rate", [0.5, float("nan")])
def test_a_step_of_another_optimiser_whose_updates_are_not_finite_changes_nothing_and_says_so(rate):
    """As of a schedule of one's own that gives no number at some step, which the gradient does not show."""
    learn = LearnerConfig(OptimizerConfig(name="sgd"))
    steps = _Steps(None, None, learn, optax.sgd(rate), None)
    state = TrainState(jnp.int32(0), {"w": jnp.ones(2)}, {}, optax.sgd(rate).init({"w": jnp.ones(2)}), None)
    after, figures = steps.update(state, {"w": jnp.ones(2)}, {"loss": SimpleNamespace(value=jnp.float32(1))})
    assert figures["refused"] == float(rate != rate)
    np.testing.assert_array_equal(after.trainable["w"], [0.5, 0.5] if rate == rate else [1, 1])


def test_sft_gradient_by_tokens_is_the_mean_over_all_tokens_of_the_step(params, learner):
    cases = [alone(sample) for sample in samples(5)]
    tokens = sum(case[2].sum() for case in cases)

    def loss(logits, case):
        return -jnp.sum(logp_of(logits, case) * case[2]) / tokens * len(cases)

    value, wanted = mean_gradient(loss, params, cases)
    layout = dataclasses.replace(PACK, weighting="token-mean")
    state, metrics = step(learner, "sft_step", params, pack(CONFIG, samples(5), layout))
    assert_close(gradient(state), wanted)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    by_sample, _ = step(learner, "sft_step", params, pack(CONFIG, samples(5), PACK))
    with pytest.raises(AssertionError):  # the demonstrations differ in length, so the two means differ
        assert_close(gradient(by_sample), wanted)


@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_says_so(params, learner, fault):
    batch = pack(CONFIG, samples(3), PACK)
    spoilt = params
    if fault == "loss":
        batch = batch.replace(advantage_MBT=np.where(batch.weight_MBT > 0, np.float32(np.nan), 0))
    else:  # overflows on its way back only
        batch = batch.replace(advantage_MBT=np.where(batch.weight_MBT > 0, np.float32(3e38), 0))
    good, _ = learner.rl_step(learner.init(jax.random.key(1), copy(spoilt)), pack(CONFIG, samples(3), PACK))
    before = jax.tree.map(np.asarray, (good.trainable, good.opt_state))
    after, figures = learner.rl_step(good, batch)
    assert figures["refused"] == 1
    assert int(after.step) == 2
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves((after.trainable, after.opt_state)), strict=True):
        np.testing.assert_array_equal(a, b)
    _, figures = learner.rl_step(after, pack(CONFIG, samples(3), PACK))
    assert figures["refused"] == 0
    assert np.isfinite(figures["grad_norm"])


def test_rl_gradient_is_that_of_the_policy_loss_composed_by_hand(params, learner):
    group = samples(5)
    cases = [alone(sample) for sample in group]

    def loss(logits, case, advantage):
        logp, mask = logp_of(logits, case, LEARN.temperature), case[2]
        loss_BT, _ = policy_loss(logp, logp, jnp.full(logp.shape, advantage), mask, sampler_logp_BT=case[3])
        return aggregate(loss_BT, mask)

    _, wanted = mean_gradient(loss, params, cases, [sample.advantage for sample in group])
    state, metrics = step(learner, "rl_step", params, pack(CONFIG, group, PACK))
    assert_close(gradient(state), wanted)
    gaps = [np.abs(logp_alone(params, case, LEARN.temperature) - case[3])[case[2]] for case in cases]
    np.testing.assert_allclose(metrics["sampler_gap"], np.mean(np.concatenate(gaps)), rtol=1e-5)
    np.testing.assert_allclose(metrics["ratio"], 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(dict(rows=8, row_lengths=(64,)), marks=pytest.mark.slow),  # one micro-batch
        dict(rows=1, row_lengths=(192,), micro_batches=12),  # one longer row each, with room left over
        pytest.param(dict(rows=8, row_lengths=(48,)), marks=pytest.mark.slow),  # one sample a row: padded, not packed
        pytest.param(
            dict(rows=4, row_lengths=(64,), at_least=(5, 9, 160)), marks=pytest.mark.slow
        ),  # room for more micro-batches and images
    ],
    ids=["1x8", "long-rows-padded", "one-a-row", "roomy"],
)
def test_the_step_does_not_depend_on_packing_or_micro_batches(params, learner, layout):
    group = samples(8)
    reference, wanted = step(learner, "rl_step", params, pack(CONFIG, group, PACK))
    other = pack(CONFIG, group, dataclasses.replace(ANY_SHAPE, **layout))
    state, metrics = step(learner, "rl_step", params, other)
    assert_close(gradient(state), gradient(reference))
    for name in wanted:
        np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("train", ["full", "lora"])
def test_router_balance_of_the_step_does_not_depend_on_packing_or_micro_batches(train):
    config = dataclasses.replace(MODELS["moe"], text=dataclasses.replace(TEXT, router_aux_loss_coef=1.0))
    weights = random_params(config, scale=3)
    adapters = None
    if train == "lora":
        noise = 0.02 * jax.random.normal(jax.random.key(2), ())
        adapters = jax.tree.map(lambda x: x + noise, init_lora(jax.random.key(1), weights, config))

    def taken(balance, **layout):
        batch = pack(config, samples(8), dataclasses.replace(ANY_SHAPE, **layout))
        learner = make_learner(config, dataclasses.replace(LEARN, train=train, router_balance=balance))
        return step(learner, "sft_step", weights, batch, lora=copy(adapters))

    # one micro-batch, which is the step
    whole, wanted = taken("micro-batch", rows=8, row_lengths=(64,))
    assert wanted["router_balance"] > 0
    split = dict(rows=1, row_lengths=(64,), micro_batches=12)
    state, metrics = taken("step", **split)
    assert_close(gradient(state), gradient(whole))
    for name in wanted:
        np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)
    # Rows that are balanced one by one take another step: by this much, at a thousand times the usual coefficient.
    apart, others = taken("micro-batch", **split)
    gap = norm(jax.tree.map(np.subtract, gradient(apart), gradient(whole))) / wanted["grad_norm"]
    assert 1e-3 < gap < 1
    assert others["router_balance"] > wanted["router_balance"]


def test_a_masked_sample_does_not_count(params, learner):
    group = samples(4)
    batch = pack(CONFIG, [*group[:3], dataclasses.replace(group[3], weight=0.0)], PACK)
    without = pack(CONFIG, group[:3], PACK)
    a, _ = step(learner, "rl_step", params, batch)
    b, _ = step(learner, "rl_step", params, without)
    assert_close(gradient(a), gradient(b))


@pytest.mark.parametrize("weighting", ["sequence-mean", "token-mean"])
def test_samples_without_a_gradient_may_be_left_out(params, learner, weighting):
    group = [dataclasses.replace(s, advantage=0.0) if i in (1, 4, 5) else s for i, s in enumerate(samples(6))]
    group[5] = dataclasses.replace(group[5], weight=0.5)
    layout = dataclasses.replace(PACK, weighting=weighting)
    dead = [sample for sample in group if sample.advantage == 0]
    live = [sample for sample in group if sample.advantage != 0]
    whole, wanted = step(learner, "rl_step", params, pack(CONFIG, group, layout))
    part, metrics = step(learner, "rl_step", params, pack(CONFIG, live, layout, left_out=dead))
    assert_close(gradient(part), gradient(whole))
    np.testing.assert_allclose(metrics["loss"], wanted["loss"], rtol=1e-5)
    without, _ = step(learner, "rl_step", params, pack(CONFIG, live, layout))
    with pytest.raises(AssertionError):  # they count in the mean
        assert_close(gradient(without), gradient(whole))


def test_a_batch_with_nothing_to_train_on_changes_nothing(params, learner):
    group = [dataclasses.replace(sample, weight=0.0) for sample in samples(3)]
    state, metrics = step(learner, "rl_step", params, pack(CONFIG, group, PACK))
    jax.tree.map(np.testing.assert_array_equal, state.trainable, params)
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["loss"] == 0


def told(batch, old, teacher=np.nan):
    """With old log-probs and a teacher's, by default of no token: always both, so that tests share one program."""
    values = np.broadcast_to(np.asarray(teacher, np.float32), batch.targets_MBT.shape)
    return batch.replace(old_logp_MBT=old, teacher_logp_MBT=values)


def test_scores_are_those_of_plain_logits_and_serve_as_old_log_probs(params, learner):
    group = samples(4)
    batch = pack(CONFIG, group, PACK)
    scores = learner.score_logprobs(params, batch, temperature=0.8)
    for index, case in enumerate(map(alone, group)):
        wanted = logp_alone(params, case, 0.8)[case[2]]
        np.testing.assert_allclose(unpack(batch, scores)[index], wanted, atol=2e-5)
    first, _ = step(learner, "rl_step", params, told(batch, scores))
    fresh, _ = step(learner, "rl_step", params, batch)
    assert_close(gradient(first), gradient(fresh))


def test_later_updates_on_the_same_batch_are_clipped(params, learner):
    batch = pack(CONFIG, samples(4), PACK)
    batch = told(batch, learner.score_logprobs(params, batch, temperature=0.8))
    state, metrics = learner.init(jax.random.key(1), copy(params)), {}
    for _ in range(8):
        state, metrics = learner.rl_step(state, batch)
    assert metrics["clip_fraction"] > 0.1


def test_a_teacher_that_agrees_leaves_the_plain_gradient(params, learner):
    batch = pack(CONFIG, samples(4), PACK)
    own = learner.score_logprobs(params, batch, temperature=0.8)
    a, metrics = step(learner, "rl_step", params, told(batch, own, own))
    b, _ = step(learner, "rl_step", params, batch)
    assert_close(gradient(a), gradient(b))
    assert abs(metrics["kl_to_teacher"]) < 1e-5


def test_distillation_touches_failed_samples_only(params, learner):
    group = [dataclasses.replace(sample, failed=False) for sample in samples(4)]
    one_failed = [dataclasses.replace(group[0], failed=True), *group[1:]]
    teacher = np.full(pack(CONFIG, group, PACK).targets_MBT.shape, -9.0)

    old = learner.score_logprobs(params, pack(CONFIG, group, PACK), temperature=0.8)

    def run(members, values):
        return step(learner, "rl_step", params, told(pack(CONFIG, members, PACK), old, values))[0]

    plain, _ = step(learner, "rl_step", params, pack(CONFIG, group, PACK))
    assert_close(gradient(run(group, teacher)), gradient(plain))
    missing = np.where(pack(CONFIG, one_failed, PACK).failed_MBT > 0, np.nan, teacher)
    assert_close(gradient(run(one_failed, missing)), gradient(plain))  # an outage of the teacher
    changed = norm(jax.tree.map(np.subtract, gradient(run(one_failed, teacher)), gradient(plain)))
    assert changed > 1e-3 * norm(gradient(plain))


def another_shape(config):
    """Wider, deeper and with other heads."""
    text = dataclasses.replace(config.text, hidden_size=48, intermediate_size=80, num_hidden_layers=4)
    vision = dataclasses.replace(config.vision, hidden_size=48, out_hidden_size=48, deepstack_visual_indexes=(1,))
    text = dataclasses.replace(text, num_attention_heads=2, tie_word_embeddings=not text.tie_word_embeddings)
    return dataclasses.replace(config, text=text, vision=vision)


@pytest.mark.slow
@pytest.mark.parametrize(
    "teacher_config", [pytest.param(CONFIG, id="same"), pytest.param(another_shape(CONFIG), id="another")]
)
def test_the_distillation_loss_is_the_full_reverse_kl_on_failed_samples(teacher_config, params):
    learn = dataclasses.replace(LEARN, opd="reverse-kl", opd_coef=0.5)
    learner = make_learner(CONFIG, learn, teacher_config=teacher_config)
    teacher = random_params(teacher_config, 5)
    group = [dataclasses.replace(sample, advantage=0.0) for sample in samples(4)]
    state, _ = step(learner, "rl_step", params, pack(CONFIG, group, PACK), teacher)

    with jax.enable_x64(True):  # in float32 the sums of this side err by as much as is allowed
        exact, exact_teacher = in_float64(params), in_float64(teacher)

        def loss(logits, case, failed):
            taught = forward(exact_teacher, teacher_config, case[0])[:, :-1] / 0.8
            return 0.5 * aggregate(reverse_kl(logits / 0.8, taught, case[2] & failed), case[2])

        cases, failed = [alone(sample) for sample in group], [sample.failed for sample in group]
        _, wanted = mean_gradient(loss, exact, cases, failed)
    assert wanted["embed"].dtype == np.float64
    assert_close(gradient(state), wanted)
    with pytest.raises(ValueError, match="needs the teacher's weights"):
        step(learner, "rl_step", params, pack(CONFIG, group, PACK))


def test_chunked_reverse_kl_equals_the_unchunked_one():
    k = jax.random.split(jax.random.key(0), 5)
    student, teacher = jax.random.normal(k[0], (2, 9, 8)), jax.random.normal(k[1], (2, 9, 6))
    heads = jax.random.normal(k[2], (8, 11)), jax.random.normal(k[3], (6, 11))
    mask = jax.random.bernoulli(k[4], 0.5, (2, 9))

    def chunked(student, head):
        return jnp.sum(jnp.sin(chunked_reverse_kl(student, head, teacher, heads[1], mask, 0.8, chunk=4)))

    def whole(student, head):
        return jnp.sum(jnp.sin(reverse_kl(student @ head / 0.8, teacher @ heads[1] / 0.8, mask)))

    (found, by_chunks), (wanted, at_once) = (
        jax.jit(jax.value_and_grad(f, (0, 1)))(student, heads[0]) for f in (chunked, whole)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    for a, b in zip(by_chunks, at_once, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_training_on_one_batch_learns_it(params, learner):
    state, batch = learner.init(jax.random.key(1), copy(params)), pack(CONFIG, samples(3), PACK)
    losses = []
    for _ in range(40):
        state, metrics = learner.sft_step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.2 < 3.0 < losses[0]


@pytest.mark.parametrize("remat", ["dots", pytest.param("full", marks=pytest.mark.slow)])
def test_remat_and_a_frozen_vision_tower_change_no_other_gradient(remat, params, learner):
    batch = pack(CONFIG, samples(3), PACK)
    whole, _ = step(learner, "sft_step", params, batch)
    language = make_learner(CONFIG, dataclasses.replace(LEARN, remat=remat, train="language"))
    state, _ = step(language, "sft_step", params, batch)
    wanted = gradient(whole)
    del wanted["vision"]
    assert_close(gradient(state), wanted)
    jax.tree.map(np.testing.assert_array_equal, state.frozen["vision"], params["vision"])
    assert not np.array_equal(state.trainable["layers"]["q"], params["layers"]["q"])


def test_tokens_of_different_samples_in_a_row_do_not_see_each_other(params):
    """The check that the layout tests above can fail: without segments they would."""
    batch = pack(CONFIG, samples(4), dataclasses.replace(ANY_SHAPE, row_lengths=(128,)))
    inputs = jax.tree.map(lambda x: x[0], batch.inputs)
    hidden = jax.jit(hidden_states, static_argnums=1)
    apart = hidden(params, CONFIG, inputs)
    together = hidden(params, CONFIG, inputs._replace(segment_BT=np.minimum(inputs.segment_BT, 1)))
    assert np.abs(apart - together).max() > 1e-2
    assert lm_head(params, CONFIG).shape == (32, 96)


def test_moments_on_the_host_without_a_mesh_are_refused():
    with pytest.raises(ValueError, match="needs a mesh"):
        make_learner(CONFIG, LearnerConfig(optimizer=dataclasses.replace(PLAIN, moments_on_host=True)))


@pytest.mark.slow
def test_a_program_for_a_known_number_of_micro_batches_gives_the_same_step(params):
    """As on GPUs: the count is no array, padding micro-batches are in no program, and branches are computed away."""
    batch = pack(CONFIG, samples(5), PACK)
    assert 1 < batch.count < PACK.micro_batches
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 4)

    def stepped(kernels):
        learner = make_learner(CONFIG, LEARN, mesh, kernels)
        state = learner.init(jax.random.key(1), params)
        scores = learner.score_logprobs(state.trainable, batch)
        state = jax.device_put(jax.tree.map(jnp.copy, state), learner.shardings(state))
        return *learner.rl_step(state, batch), scores

    (state, metrics, scores), (plain, plain_metrics, plain_scores) = (
        stepped(kernels) for kernels in (Kernels(known_trip_count=True), Kernels())
    )
    np.testing.assert_allclose(scores, plain_scores, atol=1e-5)
    for name, value in plain_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    for one, other in zip(jax.tree.leaves(state.trainable), jax.tree.leaves(plain.trainable), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
