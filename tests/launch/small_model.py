"""A model whose steps take no time, for tests of what several processes do around it."""

from dataclasses import replace
from pathlib import Path

from hypereyes_jax.models.pretrained import load_model, save_model
from tests.random_weights import random_params

BASE = Path(__file__).parents[2] / "hypereyes_jax" / "assets" / "base"


def small_model(path: Path) -> Path:
    """Writes a random model with the miniature's tokenizer."""
    config, _, _ = load_model(BASE)
    text = replace(
        config.text, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, mrope_section=(4, 2, 2),
    )  # fmt: skip
    vision = replace(
        config.vision, hidden_size=32, intermediate_size=64, depth=1, out_hidden_size=32, deepstack_visual_indexes=()
    )
    model = replace(config, text=text, vision=vision)
    save_model(path, model, random_params(model), BASE)
    return path
