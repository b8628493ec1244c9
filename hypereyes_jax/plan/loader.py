"""What the data of a supervised step ask of a host: memory of the batches that are packed ahead, and cores."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.recipes import Recipe
from hypereyes_jax.data.pipeline import PipelineConfig

GIB = 2**30
# Reading, resizing, cutting and packing an image of 1.2 megapixels on one core of a server (benchmarks/data.py); other
# sizes take in proportion to their pixels.
CPU_SECONDS_A_TOKEN = 0.08 / 1200
_BYTES = 1  # of a patch's value, until it is on the device


@dataclass(frozen=True)
class LoaderPlan:
    """The work of one host, whose process feeds all its devices. Every image is taken to be of the largest size."""

    images: int  # a step
    memory_gib: float  # of the batch in use, those packed ahead, the one being packed and its images
    cpu_seconds: float  # a step, on one core
    threads: int  # that keep ahead of the step at its roofline; 0 = the step's time is not known


def plan_loader(recipe: Recipe, model: Qwen3VLConfig, mesh: MeshConfig, step_seconds: float) -> LoaderPlan:
    """The loader of a recipe of SFT on a mesh."""
    rows = math.ceil(recipe.batch / mesh.hosts)
    images = rows * recipe.row_images
    patches = images * recipe.image_tokens * model.vision.merge_unit
    batch = patches * model.vision.patch_values * _BYTES
    seconds = images * recipe.image_tokens * CPU_SECONDS_A_TOKEN
    return LoaderPlan(
        images=images,
        memory_gib=batch * (PipelineConfig.prefetch + 3) / GIB,
        cpu_seconds=seconds,
        threads=math.ceil(seconds / step_seconds) if step_seconds else 0,
    )


def loader_line(plan: LoaderPlan) -> str:
    """One line of the plan."""
    cores = f", {plan.threads} cores keep ahead of the step at its roofline" if plan.threads else ""
    return (
        f"data on a host: at most {plan.images:,} images a step, {plan.memory_gib:.1f} GiB of batches, "
        f"{plan.cpu_seconds:.1f} s of one core{cores}"
    )
