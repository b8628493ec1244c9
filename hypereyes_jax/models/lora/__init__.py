"""Low-rank adapters: made, merged into the weights, and written as PEFT, vLLM and SGLang read them."""

from hypereyes_jax.models.adapters import Lora, LoraConfig, LoraRule
from hypereyes_jax.models.lora.peft import load_peft, save_peft
from hypereyes_jax.models.lora.peft_config import AdapterError
from hypereyes_jax.models.lora.weights import init_lora, merge, trainable_count

__all__ = [
    "AdapterError",
    "Lora",
    "LoraConfig",
    "LoraRule",
    "init_lora",
    "load_peft",
    "merge",
    "save_peft",
    "trainable_count",
]
