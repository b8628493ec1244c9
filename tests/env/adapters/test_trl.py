"""Our tools in a training step of the real TRL, with scripted completions in place of a model's.

Needs `pip install trl` (an environment of its own is best) and then `pytest -m oracle tests/env`.
"""

import json
from importlib import resources
from pathlib import Path

import pytest

from hypereyes_jax.env.adapters.trl import environment_factory

pytestmark = pytest.mark.oracle


def call(name, **arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call><|im_end|>"


SCRIPT = {  # by number of the completion: its turns
    0: [call("text_search", input=["Chad", "Niger"]), "Chad<|im_end|>"],
    1: ["Togo<|im_end|>"],
}


def test_a_training_step_calls_our_tools_and_hands_the_counts_to_the_reward(library, tmp_path, monkeypatch):
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
    from trl.chat_template_utils import qwen3_chat_template

    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    tokenizer = AutoTokenizer.from_pretrained(Path(str(resources.files("hypereyes_jax.assets") / "base")))
    tokenizer.chat_template = qwen3_chat_template
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Qwen3ForCausalLM(
        Qwen3Config(vocab_size=1024, num_key_value_heads=1, head_dim=8, eos_token_id=tokenizer.eos_token_id, **sizes)
    )
    seen = []

    def reward(completions, environments, **_):
        seen.extend(
            (completion, environment.calls, environment.invocations, environment.outage)
            for completion, environment in zip(completions, environments, strict=True)
        )
        return [1.0, 0.0]

    class Scripted(trl.GRPOTrainer):
        def _generate_single_turn(self, prompt_ids, *_, **__):
            """All completions at first; then only those that called a tool."""
            turn = 0 if len(prompt_ids) == 2 else 1
            texts = [SCRIPT[number][turn] for number in range(len(prompt_ids))]
            return [tokenizer.encode(text) for text in texts], None

    trainer = Scripted(
        model,
        reward,
        args=trl.GRPOConfig(
            output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, num_generations=2,
            max_completion_length=2048, report_to="none", use_cpu=True, bf16=False, save_strategy="no",
        ),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "Which?"}]}]),
        processing_class=tokenizer,
        environment_factory=environment_factory(library),
    )  # fmt: skip
    assert {tool.__name__ for tool in trainer.tools} == {"text_search", "image_search"}
    trainer.train()
    (searched, *counts), (guessed, *none) = seen
    assert counts == [1, 2, ""]
    assert none == [0, 0, ""]
    assert [message["role"] for message in searched] == ["assistant", "tool", "assistant"]
    found = searched[1]["content"]
    assert "[Chad]\n1. (0.93) Chad: Capital" in (found if isinstance(found, str) else found[-1]["text"])
    assert [message["role"] for message in guessed] == ["assistant"]
