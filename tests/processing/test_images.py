"""Patches equal transformers' own, for real photos."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from hypereyes_jax.configs.images import MAX_PIXELS, MIN_PIXELS
from hypereyes_jax.configs.model import VisionConfig
from hypereyes_jax.processing import PatchedImage, patchify, vision_inputs

CONFIG = VisionConfig()
PHOTOS = {name: Image.fromarray(getattr(skimage.data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")}


def reference(image: Image.Image, config: VisionConfig, min_pixels: int, max_pixels: int) -> PatchedImage:
    processor = Qwen2VLImageProcessorPil(
        patch_size=config.patch_size,
        temporal_patch_size=config.temporal_patch_size,
        merge_size=config.spatial_merge_size,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": min_pixels, "longest_edge": max_pixels},
    )
    out = processor(images=[image], return_tensors="np")
    return PatchedImage(out["pixel_values"], tuple(out["image_grid_thw"][0].tolist()))


def assert_same(image: Image.Image, config: VisionConfig, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS):
    ours, theirs = patchify(image, config, min_pixels, max_pixels), reference(image, config, min_pixels, max_pixels)
    assert ours.grid_thw == theirs.grid_thw
    # the same bytes after resizing; one float32 rounding in the normalisation
    np.testing.assert_allclose(ours.patches, theirs.patches, rtol=0, atol=2e-7)
    return ours


@pytest.mark.parametrize("name", PHOTOS)
def test_photos_at_their_own_size(name):
    assert_same(PHOTOS[name], CONFIG)


@pytest.mark.parametrize(
    "size",
    [
        (1, 1),
        (5, 3),
        (31, 33),
        (48, 16),
        (200, 1),
        (1, 200),
        (3000, 40),
        (40, 3000),
        (257, 256),
        (1920, 1080),
        (2500, 2500),
    ],
)
def test_shapes_up_to_the_extremes(size):
    assert_same(PHOTOS["astronaut"].resize(size), CONFIG)


def test_a_large_photo_ends_at_the_cap_of_1200_visual_tokens():
    patched = assert_same(PHOTOS["coffee"].resize((4000, 3000)), CONFIG)
    tokens = len(patched.patches) / CONFIG.merge_unit
    assert 1100 < tokens <= 1200


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA"])
def test_modes_are_converted_alike(mode):
    assert_same(PHOTOS["chelsea"].convert(mode), CONFIG)


@pytest.mark.parametrize(("patch", "temporal", "merge"), [(8, 2, 2), (4, 1, 3), (14, 2, 1)])
def test_other_patch_and_merge_sizes(patch, temporal, merge):
    config = VisionConfig(patch_size=patch, temporal_patch_size=temporal, spatial_merge_size=merge)
    assert_same(PHOTOS["rocket"].resize((150, 90)), config, 1024, 40_000)


def test_extreme_aspect_is_refused():
    with pytest.raises(ValueError, match="aspect ratio"):
        patchify(Image.new("RGB", (201, 1)), CONFIG)


def test_an_image_that_cannot_come_under_the_cap_is_refused():
    with pytest.raises(ValueError, match="beyond the cap of 4096 pixels"):
        patchify(Image.new("RGB", (6400, 32)), CONFIG, 1024, 4096)


def test_an_empty_image_is_refused():
    with pytest.raises(ValueError, match="empty"):
        patchify(Image.new("RGB", (0, 4)), CONFIG)


def test_nan_pixels_are_refused():
    pixels = np.zeros((64, 64), np.float32)
    pixels[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        patchify(Image.fromarray(pixels, mode="F"), CONFIG)
    patched = patchify(PHOTOS["chelsea"].resize((64, 64)), CONFIG, 1024, 4096)
    patched.patches[0, 0] = np.nan
    with pytest.raises(ValueError, match="image 0 has NaN"):
        vision_inputs(CONFIG, [patched])


def test_grey_of_16_bits_keeps_its_ramp():
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    eight = Image.fromarray((ramp >> 8).astype(np.uint8)).convert("RGB")
    for given in (Image.fromarray(ramp), Image.fromarray(ramp.astype(np.int32)), eight):
        patched = patchify(given, CONFIG, 64 * 64, 64 * 64)
        assert np.array_equal(patched.patches, patchify(eight, CONFIG, 64 * 64, 64 * 64).patches)
