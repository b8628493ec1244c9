"""What each form of attention needs in memory, compiled for a device that need not be there.

    python benchmarks/attention.py --device h100        # a minute; needs the extra `plan`
    python benchmarks/attention.py --device v5p --lengths 8192

One packed row of bfloat16 with the heads of the 30B (32 of 128 values, 4 of keys), causal as the decoder's. The first
form is the one that `Kernels.for_platform` takes. The last line is JSON: of each form, for each length, the temporaries
in MiB of the forward pass and of the gradient, as the device's compiler states them, the kernels that the gradient's
program calls and, on a GPU, how many it launches and how many loops wait for the host. cuDNN (with `pip install
nvidia-cudnn-cu13`) makes its plan on the card itself: what that takes is not in XLA's figure.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import time
from typing import TYPE_CHECKING, Any

from hypereyes_jax.configs.mesh import DEVICES, MeshConfig
from hypereyes_jax.plan.platform import prepare

if TYPE_CHECKING:  # it imports jax
    from hypereyes_jax.models.qwen3_vl.kernels import AttentionImpl

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
FORMS: dict[str, tuple[AttentionImpl, ...]] = {
    "cpu": ("xla", "flash"),
    "tpu": ("splash", "flash", "xla"),
    "gpu": ("triton", "flash", "cudnn", "xla"),
}
HEADS, KV_HEADS, SIZE = 32, 4, 128


def mesh_of(device: str) -> MeshConfig:
    if device == "cpu":
        return MeshConfig("one", "cpu")
    if device in TOPOLOGIES:
        return MeshConfig("one", "tpu", device=device, topology=TOPOLOGIES[device])
    return MeshConfig("one", "gpu", device=device, topology="1x1x1")


def compiled(form: AttentionImpl, length: int, gradient: bool, device: Any, mesh: MeshConfig) -> Any:
    import jax
    import jax.numpy as jnp

    from hypereyes_jax.models.qwen3_vl import Kernels
    from hypereyes_jax.models.qwen3_vl.attention import segment_attention_for
    from hypereyes_jax.plan import topology as target

    attend = segment_attention_for(Kernels(attention=form))

    def forward(q, k, v, segment):
        return attend(q, k, v, segment, causal=True)

    def loss(q, k, v, segment, direction):
        return jnp.sum(forward(q, k, v, segment).astype(jnp.float32) * direction)

    place = jax.sharding.SingleDeviceSharding(device)
    shapes = [(1, length, heads, SIZE) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in shapes]
    arrays.append(jax.ShapeDtypeStruct((1, length), jnp.int32, sharding=place))
    if gradient:
        arrays.append(jax.ShapeDtypeStruct((1, length, HEADS * SIZE), jnp.bfloat16, sharding=place))
    run = jax.jit(jax.grad(loss, (0, 1, 2)) if gradient else forward)
    return run.lower(*arrays).compile(compiler_options=target.compiler_options(mesh))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", *DEVICES], default="h100")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32768])
    parser.add_argument("--forms", nargs="+", help="default: all that the device has")
    args = parser.parse_args()
    mesh = mesh_of(args.device)
    prepare(mesh)  # before jax is imported
    from hypereyes_jax.plan import topology as target
    from hypereyes_jax.plan.launches import count_launches

    device = target.devices(mesh)[0]
    out: dict[str, dict[str, Any]] = {}
    for form in args.forms or FORMS[mesh.platform]:
        if form == "cudnn" and importlib.util.find_spec("nvidia") is None:
            print("cudnn     left out: pip install nvidia-cudnn-cu13")
            continue
        for length in args.lengths:
            began = time.perf_counter()
            both = [compiled(form, length, gradient, device, mesh) for gradient in (False, True)]
            needs = [each.memory_analysis().temp_size_in_bytes / 2**20 for each in both]
            hlo = both[1].as_text()
            calls = sorted(set(re.findall(r'custom_call_target="([^"]+)"', hlo)))
            found = {"forward": needs[0], "gradient": needs[1], "calls": calls}
            if mesh.platform == "gpu":
                launches = count_launches(hlo)
                found |= {"kernels": launches.kernels, "host_synced_loops": launches.host_synced_loops}
            out.setdefault(form, {})[str(length)] = found
            print(
                f"{form:9} {length:6} tokens: forward {needs[0]:8.1f} MiB, gradient {needs[1]:8.1f} MiB, "
                f"{found.get('kernels', 0):8,.0f} kernels, compiled in {time.perf_counter() - began:.1f} s "
                f"{', '.join(calls)}",
                flush=True,
            )
    print(json.dumps(out))


if __name__ == "__main__":
    main()
