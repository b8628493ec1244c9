from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen3VLConfig as HFConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from hypereyes_jax.configs.model import Qwen3VLConfig, TextConfig, VisionConfig
from hypereyes_jax.processing import PatchedImage, expand, pack_inputs, patchify, vision_inputs
from hypereyes_jax.processing.vision import bucket, place

VISION = VisionConfig(
    depth=1, hidden_size=8, num_heads=1, patch_size=2, num_position_embeddings=49, deepstack_visual_indexes=(0,)
)
CONFIG = Qwen3VLConfig(TextConfig(), VISION)
IMAGE = [CONFIG.vision_start_token_id, CONFIG.image_token_id, CONFIG.vision_end_token_id]
grids = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=7)

quick = settings(deadline=None, max_examples=30)


def blank(rows: int, cols: int) -> PatchedImage:
    """An image of rows x cols visual tokens whose patches carry their own number."""
    count = rows * cols * VISION.merge_unit
    numbers = np.repeat(np.arange(count, dtype=np.float32)[:, None], VISION.patch_values, 1)
    return PatchedImage(numbers, (1, rows * VISION.spatial_merge_size, cols * VISION.spatial_merge_size))


def rope_index(tokens: np.ndarray, images: list[PatchedImage]) -> np.ndarray:
    """[3, T] positions by transformers."""
    model = object.__new__(Qwen3VLModel)
    torch.nn.Module.__init__(model)
    model.config = HFConfig(vision_config={"spatial_merge_size": VISION.spatial_merge_size})
    ids = torch.tensor(tokens.astype(np.int64))[None]
    kinds = (ids == CONFIG.image_token_id).int()
    grid = torch.tensor([image.grid_thw for image in images])
    positions, _ = model.get_rope_index(input_ids=ids, mm_token_type_ids=kinds, image_grid_thw=grid)
    return positions[:, 0].numpy()


@quick
@given(grids, st.integers(0, 5))
def test_positions_equal_those_of_transformers(sizes, text):
    images = [blank(*size) for size in sizes]
    row = expand(CONFIG, ([7] * text + IMAGE) * len(images), images)
    np.testing.assert_array_equal(row.positions_3T, rope_index(row.tokens_T, images))
    assert row.next_position == row.positions_3T.max() + 1
    visual = row.visual_index_T[row.visual_index_T >= 0]
    np.testing.assert_array_equal(visual, np.arange(len(visual)))


@quick
@given(grids, st.integers(1, 6))
def test_a_sequence_continued_in_pieces_has_the_same_positions(sizes, cut):
    images = [blank(*size) for size in sizes]
    tokens = [3, 4] + ([*IMAGE, 5, 6]) * len(images)
    whole = expand(CONFIG, tokens, images)
    cut = min(cut, len(images))
    at = 2 + 5 * cut
    first = expand(CONFIG, tokens[:at], images[:cut])
    second = expand(CONFIG, tokens[at:], images[cut:], start=first.next_position)
    np.testing.assert_array_equal(np.concatenate([first.positions_3T, second.positions_3T], 1), whole.positions_3T)


@quick
@given(grids)
def test_each_patch_has_the_position_embedding_and_rotary_place_of_transformers(sizes):
    images = [blank(*size) for size in sizes]
    inputs = vision_inputs(VISION, images)
    grid = torch.tensor([image.grid_thw for image in images])
    places = get_vision_position_ids(grid, VISION.spatial_merge_size).numpy()
    index, weight = get_vision_interpolation_indices_and_weights(
        grid, num_grid_per_side=7, align_corners=True, spatial_merge_size=VISION.spatial_merge_size
    )
    table = np.random.default_rng(0).normal(size=(49, 3)).astype(np.float32)
    theirs = (table[index.numpy()] * weight.numpy()[..., None]).sum(1)
    ours = (table[inputs.pos_index_N4] * inputs.pos_weight_N4[..., None]).sum(1)
    segment = inputs.segment_RL.reshape(-1)
    here = np.concatenate([np.flatnonzero(segment == i + 1) for i in range(len(images))])
    np.testing.assert_array_equal(np.stack([inputs.row_N, inputs.col_N], 1)[here], places)
    np.testing.assert_allclose(ours[here], theirs, atol=1e-5)


@quick
@given(grids)
def test_visual_tokens_are_found_in_the_order_of_their_images(sizes):
    images = [blank(*size) for size in sizes]
    inputs = vision_inputs(VISION, images)
    first_patch = inputs.patches_NP[:: VISION.merge_unit, 0]
    segment = inputs.segment_RL.reshape(-1)[:: VISION.merge_unit]
    token = 0
    for number, image in enumerate(images):
        count = len(image.patches) // VISION.merge_unit
        where = inputs.token_place_M[token : token + count]
        np.testing.assert_array_equal(first_patch[where], image.patches[:: VISION.merge_unit, 0])
        assert (segment[where] == number + 1).all()
        token += count


@quick
@given(st.lists(st.integers(1, 64), max_size=40))
def test_rows_hold_each_image_once_without_overlap(sizes):
    places, rows = place(sizes, 64)
    used = np.zeros((rows, 64), int)
    for size, (row, start) in zip(sizes, places, strict=True):
        assert start + size <= 64
        used[row, start : start + size] += 1
    assert used.max(initial=0) <= 1
    assert rows <= 2 * sum(sizes) / 64 + 1


@quick
@given(st.integers(1, 10_000), st.integers(1, 64))
def test_a_bucket_wastes_at_most_half_as_much_again(size, smallest):
    assert size <= bucket(size, smallest) <= max(smallest, 1.5 * (size + smallest))


def test_samples_are_right_padded_and_say_so():
    inputs = pack_inputs(CONFIG, [([1, 2, *IMAGE], [blank(2, 3)]), ([5], [])])
    assert inputs.tokens_BT.shape == (2, 32)
    assert inputs.segment_BT.sum(1).tolist() == [10, 1]
    assert (inputs.visual_index_BT[inputs.segment_BT == 0] == -1).all()
    assert (inputs.tokens_BT[0, 3:9] == CONFIG.image_token_id).all()


def test_text_alone_has_no_vision_rows():
    inputs = pack_inputs(CONFIG, [([1, 2], [])])
    assert inputs.vision.patches_NP.shape == (0, VISION.patch_values)


@pytest.mark.parametrize(("tokens", "images"), [([*IMAGE, *IMAGE], [blank(1, 1)]), ([1], [blank(1, 1)]), (IMAGE, [])])
def test_images_that_do_not_match_their_tokens_are_refused(tokens, images):
    with pytest.raises(ValueError, match=r"sample 1: the sequence has \d image token\(s\) but \d image\(s\)"):
        pack_inputs(CONFIG, [([1], []), (tokens, images)])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit length=4"):
        pack_inputs(CONFIG, [(list(range(5)), [])], length=4)
    with pytest.raises(ValueError, match="does not fit rows of 8"):
        vision_inputs(VISION, [blank(2, 2)], pad_to=(1, 8))
    with pytest.raises(ValueError, match="need 2 rows"):
        vision_inputs(VISION, [blank(2, 2), blank(1, 1)], pad_to=(1, 16))


def test_a_pil_image_is_patched_on_the_way():
    config = dataclasses.replace(CONFIG)
    image = Image.new("RGB", (16, 8))
    inputs = pack_inputs(config, [(IMAGE, [image])], 64, 1024)
    np.testing.assert_array_equal(
        inputs.vision.patches_NP[: 4 * 8], patchify(image, config.vision, 64, 1024).patches[: 4 * 8]
    )
