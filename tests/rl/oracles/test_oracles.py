"""The committed goldens are what verl and trl compute, see README.md. Run as a script, this file writes them.

Every case has `inputs` (drawn once, rounded so that the JSON holds them exactly enough) and `outputs`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.oracle

GOLDENS = Path(__file__).parent.parent / "data" / "goldens.json"

CLIP_LOW, CLIP_HIGH, DUAL_CLIP, TIS_CAP = 0.2, 0.28, 3.0, 2.0
LONGEST, LIMIT, BUFFER, OVERLONG = 9, 120, 40, 0.5


def draw() -> dict[str, dict[str, Any]]:
    """The inputs of all cases. Log-ratios spread far enough that each clip is active somewhere."""
    rng = np.random.default_rng(20260507)
    old = -np.abs(rng.normal(1.0, 0.8, (5, 9)))
    mask = (rng.random((5, 9)) < 0.7).astype(int)
    mask[3] = 0  # a rollout without a trained token
    policy = {
        "logp": old + rng.uniform(-2.0, 2.0, old.shape),
        "old_logp": old,
        "sampler_logp": old + rng.normal(0, 0.6, old.shape),
        "advantage": np.repeat([[0.9], [-1.3], [-0.6], [1.1], [0.4]], 9, axis=1),
        "mask": mask,
    }
    logits = {
        "student": rng.normal(0, 1.5, (3, 4, 13)),
        "teacher": rng.normal(0, 1.5, (3, 4, 13)),
        "mask": (rng.random((3, 4)) < 0.7).astype(int),
        "targets": rng.integers(0, 13, (3, 4)),
    }
    advantage = {"rewards": rng.choice([1.2, 1.05, 0.98, 0.9, 1.0, 0.0, -0.1, -0.5], (6, 8))}
    rng = np.random.default_rng(20261128)
    variants = {
        **policy,
        # near 1, and different in each row: a sequence's ratio is a mean
        "logp": old + rng.uniform(-0.5, 0.5, (5, 1)) + rng.normal(0, 0.3, old.shape),
        "reference_logp": old + rng.normal(0, 0.7, old.shape),
        "length": np.arange(0, LIMIT + 1, 12),
    }
    inputs = {"variants": variants, "policy": policy, "logits": logits, "advantage": advantage}
    return {case: {name: np.round(x, 5).tolist() for name, x in arrays.items()} for case, arrays in inputs.items()}


def derive(inputs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The outputs of all cases, by verl and trl."""
    return {
        "policy": {**_verl_policy(inputs["policy"]), **_trl_policy(inputs["policy"])},
        "logits": {**_verl_logits(inputs["logits"]), **_trl_logits(inputs["logits"])},
        "advantage": _verl_advantage(inputs["advantage"]),
        "variants": {**_verl_variants(inputs["variants"]), **_trl_variants(inputs["variants"])},
    }


def versions() -> dict[str, str]:
    return {package: version(package) for package in ("verl", "trl", "torch")}


def _verl_policy(case: dict[str, Any]) -> dict[str, Any]:
    import torch
    from verl.trainer.ppo.core_algos import agg_loss, compute_policy_loss_vanilla
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights
    from verl.workers.config import ActorConfig

    old, truncated, advantage = (torch.tensor(case[name]) for name in ("old_logp", "sampler_logp", "advantage"))
    mask = torch.tensor(case["mask"], dtype=torch.float32)
    config = ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=CLIP_LOW, clip_ratio_high=CLIP_HIGH, clip_ratio_c=DUAL_CLIP,
    )  # fmt: skip
    weights, _ = compute_rollout_correction_weights(old - truncated, mask, "token", TIS_CAP)
    out: dict[str, Any] = {"verl_tis_weight": weights.tolist()}
    for mode, name in (("seq-mean-token-mean", "sequence"), ("token-mean", "token")):
        for tis, suffix in ((None, ""), (weights, "_tis")):
            logp = torch.tensor(case["logp"], requires_grad=True)
            loss, metrics = compute_policy_loss_vanilla(old, logp, advantage, mask, mode, config, tis)
            loss.backward()
            out[f"verl_{name}{suffix}_loss"] = loss.item()
            out[f"verl_{name}{suffix}_gradient"] = logp.grad.tolist()
        out[f"verl_{name}_aggregate_of_advantage"] = agg_loss(advantage, mask, mode).item()
    out["verl_metrics"] = {key.removeprefix("actor/"): value for key, value in metrics.items()}
    return out


def _verl_variants(case: dict[str, Any]) -> dict[str, Any]:
    import torch
    from verl.trainer.ppo import core_algos
    from verl.workers.config import ActorConfig

    old, advantage, reference = (torch.tensor(case[name]) for name in ("old_logp", "advantage", "reference_logp"))
    mask = torch.tensor(case["mask"], dtype=torch.float32)
    config = ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=CLIP_LOW, clip_ratio_high=CLIP_HIGH, clip_ratio_c=DUAL_CLIP,
    )  # fmt: skip
    out: dict[str, Any] = {}
    losses = {
        "gspo": (core_algos.compute_policy_loss_gspo, "seq-mean-token-mean"),
        "cispo": (core_algos.compute_policy_loss_cispo, "token-mean"),
    }
    for name, (function, mode) in losses.items():
        logp = torch.tensor(case["logp"], requires_grad=True)
        loss, metrics = function(old, logp, advantage, mask, mode, config)
        loss.backward()
        out |= {
            f"verl_{name}_loss": loss.item(),
            f"verl_{name}_gradient": logp.grad.tolist(),
            f"verl_{name}_clip_fraction": metrics["actor/pg_clipfrac"],
        }
    for kind in ("k1", "k2", "k3"):
        logp = torch.tensor(case["logp"], requires_grad=True)
        penalty = core_algos.kl_penalty(logp, reference, kind)
        (penalty * mask).sum().backward()
        out |= {f"verl_{kind}": (penalty * mask).tolist(), f"verl_{kind}_gradient": logp.grad.tolist()}
    rewards, groups = torch.tensor(case["advantage"])[:, 0], np.array([0, 0, 1, 1, 1])
    centred, _ = core_algos.compute_grpo_outcome_advantage(
        rewards[:, None], torch.ones(5, 1), groups, norm_adv_by_std_in_grpo=False
    )
    out["verl_centred_advantage"] = centred[:, 0].tolist()
    # its formula stands inside of a reward manager, between calls of a tokenizer
    excess = [length - (LIMIT - BUFFER) for length in case["length"]]
    out["verl_overlong"] = [min(-x / BUFFER * OVERLONG, 0) for x in excess]
    return out


def _trl_loss(case: dict[str, Any], loss_type: str, logp: Any, rows: slice = slice(None), **options: Any) -> Any:
    """Its loss is a method that reads settings from the trainer: here they stand without a trainer around them."""
    import torch
    from trl import GRPOTrainer

    settings = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logp[rows], torch.zeros_like(logp[rows]), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level=options.get("level", "token"), beta=options.get("beta", 0.0),
        args=SimpleNamespace(
            delta=options.get("delta", DUAL_CLIP), use_bias_correction_kl=False, steps_per_generation=1
        ),
        loss_type=loss_type, max_completion_length=LONGEST,
        epsilon_low=CLIP_LOW, epsilon_high=options.get("epsilon_high", CLIP_HIGH), use_vllm=False,
        _entropy_bonus_enabled=False, current_gradient_accumulation_steps=1,
        model=SimpleNamespace(training=False), _metrics=defaultdict(lambda: defaultdict(list)),
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1),
    )  # fmt: skip
    ids = torch.zeros_like(logp[rows], dtype=torch.long)
    mask = torch.tensor(case["mask"], dtype=torch.float32)[rows]
    advantages = torch.tensor(case["advantage"])[rows]
    inputs = {
        "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids, "completion_mask": mask,
        "advantages": advantages[:, :1] if options.get("level") == "sequence" else advantages,
        "old_per_token_logps": torch.tensor(case["old_logp"])[rows],
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    if "reference_logp" in case:
        inputs["ref_per_token_logps"] = torch.tensor(case["reference_logp"])[rows]
    return GRPOTrainer._compute_loss(settings, None, inputs)


def _trl_variants(case: dict[str, Any]) -> dict[str, Any]:
    import torch

    out: dict[str, Any] = {}
    three = slice(0, 3)  # trl counts a fully masked sequence in its sequence mean, verl and we do not
    variants: dict[str, tuple[str, slice, dict[str, Any]]] = {
        "gspo": ("grpo", three, {"level": "sequence", "delta": None}),
        # its upper bound is 1 + ours, and it has no lower one
        "cispo": ("cispo", slice(0, 5), {"epsilon_high": 1 + CLIP_HIGH}),
        "dr_grpo": ("dr_grpo", slice(0, 5), {}),
        "k3": ("grpo", three, {"beta": 0.5}),
    }
    for name, (loss_type, rows, options) in variants.items():
        logp = torch.tensor(case["logp"], requires_grad=True)
        loss = _trl_loss(case, loss_type, logp, rows, **options)
        loss.backward()
        out[f"trl_{name}_loss"], out[f"trl_{name}_gradient"] = loss.item(), logp.grad[rows].tolist()
    return out


def _trl_policy(case: dict[str, Any]) -> dict[str, Any]:
    import torch

    out: dict[str, Any] = {}
    # trl counts a fully masked sequence in its sequence mean, verl and we do not: compare without it.
    for loss_type, name, rows in (("grpo", "sequence", slice(0, 3)), ("bnpo", "token", slice(0, 5))):
        logp = torch.tensor(case["logp"], requires_grad=True)
        value = _trl_loss(case, loss_type, logp, rows)
        value.backward()
        out[f"trl_{name}_loss"], out[f"trl_{name}_gradient"] = value.item(), logp.grad[rows].tolist()
    return out


def _verl_logits(case: dict[str, Any]) -> dict[str, Any]:
    import torch
    from verl.utils.torch_functional import entropy_from_logits, logprobs_from_logits_v2

    logits = torch.tensor(case["student"]) / 0.8
    return {
        "verl_logp": logprobs_from_logits_v2(logits, torch.tensor(case["targets"])).tolist(),
        "verl_entropy": entropy_from_logits(logits).tolist(),
    }


def _trl_logits(case: dict[str, Any]) -> dict[str, Any]:
    import torch
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    student = torch.tensor(case["student"], requires_grad=True)
    labels = torch.where(torch.tensor(case["mask"]) > 0, 0, -100)
    # beta = 1 is the reverse KL; "batchmean" divides by the number of unmasked tokens
    loss = GKDTrainer.generalized_jsd_loss(student, torch.tensor(case["teacher"]), labels, beta=1)
    loss.backward()
    return {"trl_reverse_kl": loss.item(), "trl_reverse_kl_gradient": student.grad.tolist()}


def _verl_advantage(case: dict[str, Any]) -> dict[str, Any]:
    import torch
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    rewards = torch.tensor(case["rewards"], dtype=torch.float64)
    groups = np.repeat(np.arange(rewards.shape[0]), rewards.shape[1])
    mask = torch.ones(rewards.numel(), 1, dtype=torch.float64)
    advantage, _ = compute_grpo_outcome_advantage(rewards.reshape(-1, 1), mask, groups)
    return {"verl_advantage": advantage.reshape(rewards.shape).tolist()}


@pytest.fixture(scope="module")
def goldens():
    return json.loads(GOLDENS.read_text())


def test_goldens_name_the_installed_versions(goldens):
    installed = versions()
    assert {name: installed[name] for name in ("verl", "trl")} == {
        name: goldens["versions"][name] for name in ("verl", "trl")
    }


def test_goldens_are_what_verl_and_trl_compute(goldens):
    derived = derive(goldens["inputs"])
    assert derived.keys() == goldens["outputs"].keys()
    for case, outputs in derived.items():
        assert outputs.keys() == goldens["outputs"][case].keys()
        for name, value in outputs.items():
            expected = goldens["outputs"][case][name]
            if isinstance(value, dict):
                assert value == pytest.approx(expected, abs=1e-6)
            else:
                np.testing.assert_allclose(value, expected, atol=1e-6, err_msg=f"{case}.{name}")


def test_verl_has_no_number_for_an_all_masked_batch_and_keeps_a_singleton_s_raw_reward():
    """The two places where this project differs on purpose (0 in both): if verl changes, docs/paper_index.md must."""
    import torch
    from verl.trainer.ppo.core_algos import agg_loss, compute_grpo_outcome_advantage

    nothing = torch.zeros(2, 3)
    assert np.isnan(agg_loss(nothing, nothing, "token-mean").item())
    singleton, _ = compute_grpo_outcome_advantage(torch.tensor([[0.7]]), torch.ones(1, 1), np.array([0]))
    assert singleton.item() == pytest.approx(0.7, abs=1e-5)


if __name__ == "__main__":
    drawn = draw()
    document = {"versions": versions(), "inputs": drawn, "outputs": derive(drawn)}
    GOLDENS.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {GOLDENS} with {document['versions']}")
