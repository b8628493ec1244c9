"""Makes the table of docs/guides/your_budget.md: what a training keeps on a device, exact and without compiling.

python tools/resident_table.py
"""

from __future__ import annotations

from hypereyes_jax.configs.mesh_text import read_mesh
from hypereyes_jax.configs.model import PRESETS
from hypereyes_jax.configs.recipes import RECIPES
from hypereyes_jax.plan.platform import prepare

SIZES = ("2b", "4b", "8b", "32b")
MESHES = ("gpu", "gpu_8")  # the figures are the same on any devices, so many of them


def main() -> None:
    prepare(read_mesh(MESHES[0]))
    from hypereyes_jax.models.sharding import make_mesh
    from hypereyes_jax.plan import topology
    from hypereyes_jax.plan.programs import train_step

    print("| GiB of weights + moments + gradients | one device | each of eight |")
    print("|---|---|---|")
    for size in SIZES:
        for kind, words in (("rl_lora", "adapters"), ("rl", "all weights")):
            cells = []
            for name in MESHES:
                config = read_mesh(name)
                mesh = make_mesh(config, topology.devices(config)[: config.size])
                step = train_step(RECIPES[f"hypereyes_{size}_{kind}"], PRESETS[size], mesh)
                parts = [part / 2**30 for part in (step.weights, step.optimizer, step.gradients)]
                cells.append(f"{' + '.join(f'{part:.1f}' for part in parts)} = {sum(parts):.1f}")
            print(f"| {size}, {words} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
