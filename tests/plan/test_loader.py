"""What a host's data take: against sizes worked out by hand."""

from dataclasses import replace

import pytest

from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.model import PRESETS
from hypereyes_jax.configs.recipes import RECIPES
from hypereyes_jax.plan.loader import loader_line, plan_loader


def test_memory_and_cores_of_the_papers_batch_on_8_hosts():
    recipe = replace(RECIPES["hypereyes_30b_sft"], batch=64, row_images=10, image_tokens=1200)
    mesh = MeshConfig("pod", "gpu", fsdp=64, hosts=8)
    found = plan_loader(recipe, PRESETS["30b-a3b"], mesh, step_seconds=2.0)
    assert found.images == 8 * 10
    # 80 images of 4,800 patches of 3 x 2 x 16 x 16 values of a byte are 0.549 GiB; 1 packed ahead and 3 besides
    assert found.memory_gib == pytest.approx(4 * 80 * 4800 * 1536 / 2**30)
    assert found.cpu_seconds == pytest.approx(80 * 0.08)
    assert found.threads == 4  # 6.4 s in 2 s
    assert "80 images a step, 2.2 GiB of batches, 6.4 s of one core, 4 cores keep ahead" in loader_line(found)
    assert plan_loader(recipe, PRESETS["30b-a3b"], mesh, 0.0).threads == 0
