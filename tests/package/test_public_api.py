"""The names and the order of arguments that other people's code relies on."""

import importlib
import inspect

import pytest

PUBLIC = {
    "rl.trace_reward": "accuracy_G rounds_G invocations_G ref_rounds ref_invocations config",
    "rl.cost_weighted_reward": "effectiveness cost alpha beta",
    "rl.ReferenceStore.get": "key",
    "rl.ReferenceStore.observe": "key rounds invocations",
    "rl.ReferenceStore.commit": "",
    "rl.ReferenceStore.save": "path",
    "rl.ReferenceStore.load": "path",
    "rl.group_relative_advantage": "rewards valid eps",
    "rl.policy_loss": "logp_BT old_logp_BT advantage_BT mask_BT clip_low clip_high dual_clip sampler_logp_BT tis_cap",
    "rl.aggregate": "loss_BT mask_BT mode",
    "rl.opd_advantage": "advantage_BT student_logp_BT teacher_logp_BT failed_B coef",
    "rl.reverse_kl": "student_logits teacher_logits mask",
    "rl.reverse_kl_topk": "student_logits teacher_logits mask",
    "rl.token_logprobs": "hidden_BTD head_DV targets_BT temperature chunk",
    "models.qwen3_vl.Qwen3VLConfig.from_hf": "",
    "models.qwen3_vl.load_hf": "path dtype sharding",
    "models.qwen3_vl.save_hf": "path config params",
    "models.qwen3_vl.forward": "params config inputs lora",
    "models.qwen3_vl.Qwen3VL": "config",
    "models.lora.init_lora": "key params config",
    "models.lora.merge": "params lora",
    "models.lora.save_peft": "path",
    "models.lora.load_peft": "path",
    "processing.pack_inputs": "config samples min_pixels max_pixels",
    "data.open_questions": "source columns",
    "data.open_examples": "source columns",
    "env.parse_turn": "text",
    "env.crop": "image box",
    "env.SearchBackend.text_search": "query k",
    "env.SearchBackend.image_search": "image k",
    "env.SearchError": "",
    "env.Tool.call": "arguments episode",
    "eval.cost_aware_score": "accuracy kilo_tokens rounds",
    "eval.wilson_interval": "successes n",
    "load": "",
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_keep_their_names_and_the_order_of_their_arguments(name):
    place = importlib.import_module("hypereyes_jax")
    for part in name.split("."):  # as attributes: sub-packages are imported when they are first used
        place = getattr(place, part)
    expected = PUBLIC[name].split()
    given = [each for each in inspect.signature(place).parameters if each != "self"] if expected else []
    assert given[: len(expected)] == expected
