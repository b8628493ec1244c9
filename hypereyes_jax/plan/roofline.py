"""How long a program takes at least: each resource of a device alone, at its published peak."""

from __future__ import annotations

from hypereyes_jax.configs.mesh import DEVICES, MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig, TextConfig
from hypereyes_jax.plan.compile import GIB, ProgramPlan


def active_parameters(text: TextConfig) -> int:
    """Weights that multiply one token in the decoder, without the head."""
    attention = text.hidden_size * text.head_dim * 2 * (text.num_attention_heads + text.num_key_value_heads)
    if text.moe:
        inner = text.num_experts_per_tok * text.moe_intermediate_size
        feed_forward = 3 * text.hidden_size * inner + text.hidden_size * text.num_experts
    else:
        feed_forward = 3 * text.hidden_size * text.intermediate_size
    return text.num_hidden_layers * (attention + feed_forward)


def useful_flops(config: Qwen3VLConfig, tokens: int, row_tokens: int, patches: int, train: str) -> float:
    """Of one training pass over `tokens`: 2 a weight and token forward, as much again for each gradient.

    Adapters need no weight gradients of the base: 4 a weight instead of 6. Attention counts half the score matrix. A
    vision tower that does not train (`train` other than "full") runs forward only.
    """
    text, vision = config.text, config.vision
    weights = active_parameters(text) + text.hidden_size * text.vocab_size
    attention = text.num_hidden_layers * text.num_attention_heads * text.head_dim * row_tokens  # 2 * 2 / 2 a token
    tower = vision.depth * (4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size)
    forward_vision = 2 * tower * patches
    decoder = (2 if train == "lora" else 3) * 2 * weights + 3 * 2 * attention
    return tokens * decoder + forward_vision * (3 if train == "full" else 1)


def roofline_seconds(mesh: MeshConfig, program: ProgramPlan) -> dict[str, float]:
    """Seconds of a run, if each resource alone were the limit; all zero on a CPU, which has no published figures.

    Matmuls and collectives only, each at full rate: a lower bound. Collectives along axes that leave a node (GPU) or a
    slice (TPU) go through the network, all others through the links.
    """
    if not mesh.device:
        return {"compute": 0.0, "memory": 0.0, "links": 0.0, "network": 0.0}
    kind = DEVICES[mesh.device]
    outside = {"replica"} if mesh.slices > 1 else set()
    if mesh.platform == "gpu" and mesh.hosts > 1:
        # The innermost axes that fill a host stay on its links; all others leave it.
        inside, local = 1, mesh.size // mesh.hosts
        for name, size in reversed(list(zip(mesh.axes, mesh.shape, strict=True))):
            inside *= size
            if inside > local:
                outside.add(name)
    sent = {"links": 0.0, "network": 0.0}
    for axes, kinds in program.sent_gib.items():
        sent["network" if outside & set(axes.split("+")) else "links"] += sum(kinds.values()) * GIB
    return {
        "compute": program.tflops / kind.bf16_tflops,
        "memory": program.traffic_gib * GIB / (kind.memory_gbps * 1e9),
        "links": sent["links"] / (kind.link_gbps * 1e9),
        "network": sent["network"] / (kind.network_gbps * 1e9),
    }
