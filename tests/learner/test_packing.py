import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from hypereyes_jax.learner.packing import (
    TrainingSample,
    fewest_positions,
    first_fit_decreasing,
    micro_batches,
    pack,
    sample_tokens,
    sft_sample,
    unpack,
)
from hypereyes_jax.models.qwen3_vl.vision import _normalised
from hypereyes_jax.processing import expand, patchify, patchify_bytes, vision_inputs
from hypereyes_jax.processing.images import normalised
from hypereyes_jax.processing.types import ContextChunk, SampledChunk
from tests.learner.small import CONFIG, PACK, context, sampled, samples, trajectory


def places(batch, index):
    """(m, b, slots) of a sample's tokens, in order."""
    m, b, t = np.nonzero(batch.sample_MBT == index)
    assert len({*m}) == len({*b}) == 1
    return m[0], b[0], t


def test_patches_in_bfloat16_are_those_in_float32_rounded_once():
    wide = pack(CONFIG, samples(3, images=2), PACK).inputs.vision
    narrow = pack(CONFIG, samples(3, images=2), dataclasses.replace(PACK, patch_dtype="bfloat16")).inputs.vision
    assert narrow.patches_NP.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(narrow.patches_NP, wide.patches_NP.astype(ml_dtypes.bfloat16))
    assert narrow.pos_weight_N4.dtype == np.float32


def test_patches_kept_as_bytes_are_those_of_the_image_until_they_are_normalised():
    wide = pack(CONFIG, samples(3, images=2), PACK).inputs.vision
    narrow = pack(CONFIG, samples(3, images=2), dataclasses.replace(PACK, patch_dtype="uint8")).inputs.vision
    assert narrow.patches_NP.dtype == np.uint8
    used = wide.segment_RL.reshape(-1) > 0
    flat = narrow.patches_NP.reshape(-1, narrow.patches_NP.shape[-1])
    np.testing.assert_array_equal(normalised(flat)[used], wide.patches_NP.reshape(flat.shape)[used])
    cut = patchify(samples(1)[0].chunks[0].images[0], CONFIG.vision, PACK.min_pixels, PACK.max_pixels)
    with pytest.raises(ValueError, match="normalised already"):
        vision_inputs(CONFIG.vision, [cut], (1, 64), np.zeros((64, CONFIG.vision.patch_values), np.uint8))


def test_a_still_image_waits_as_one_frame_of_bytes_and_fills_all_frames_of_its_patches():
    image = samples(1)[0].chunks[0].images[0]
    whole = patchify(image, CONFIG.vision, PACK.min_pixels, PACK.max_pixels)
    one = patchify_bytes(image, CONFIG.vision, PACK.min_pixels, PACK.max_pixels)
    assert one.patches.nbytes * 4 * CONFIG.vision.temporal_patch_size == whole.patches.nbytes
    for patches in (np.zeros((64, CONFIG.vision.patch_values), np.float32), None):
        laid_out = [vision_inputs(CONFIG.vision, [each], (1, 64), patches).patches_NP.copy() for each in (one, whole)]
        np.testing.assert_array_equal(*laid_out)


def test_padding_of_an_array_of_patches_is_not_written_to():
    image = patchify_bytes(samples(1)[0].chunks[0].images[0], CONFIG.vision, PACK.min_pixels, PACK.max_pixels)
    patches = np.full((1024, CONFIG.vision.patch_values), 7, np.uint8)  # zeros that are not written to take no memory
    vision_inputs(CONFIG.vision, [image], (1, 1024), patches)
    assert np.all(patches[len(image.patches) :] == 7)


def test_the_tower_maps_every_byte_as_the_host_does():
    values = np.arange(256, dtype=np.uint8)[:, None]
    wanted = normalised(values)
    found = jax.jit(_normalised, static_argnums=1)(values, jnp.bfloat16)
    # A division may become a product on the device: one rounding. It turns bfloat16 up or down where the value lies in
    # the middle between two of them, as that of byte 127 does.
    np.testing.assert_allclose(np.asarray(found, np.float32), wanted, rtol=2**-8, atol=1.2e-7)
    np.testing.assert_allclose(jax.jit(_normalised, static_argnums=1)(values, jnp.float32), wanted, rtol=0, atol=1.2e-7)


def test_every_sample_lies_whole_in_one_row_with_its_own_segment_and_positions():
    batch_samples = samples(7, images=2)
    batch = pack(CONFIG, batch_samples, PACK)
    for index, sample in enumerate(batch_samples):
        images = [
            patchify(image, CONFIG.vision, PACK.min_pixels, PACK.max_pixels)
            for chunk in sample.chunks
            if isinstance(chunk, ContextChunk)
            for image in chunk.images
        ]
        whole = expand(CONFIG, np.concatenate([chunk.tokens for chunk in sample.chunks]), images)
        m, b, t = places(batch, index)
        assert (np.diff(t) == 1).all()
        np.testing.assert_array_equal(batch.inputs.tokens_BT[m, b, t], whole.tokens_T)
        np.testing.assert_array_equal(batch.inputs.positions_3BT[m, :, b, t].T, whole.positions_3T)
        assert len(set(batch.inputs.segment_BT[m, b, t])) == 1
        assert (batch.inputs.segment_BT[m, b, t] > 0).all()
    used = batch.sample_MBT >= 0
    assert used.sum() == sum(len(places(batch, i)[2]) for i in range(7))
    assert (batch.inputs.segment_BT[~used] == 0).all()


def test_visual_tokens_lead_to_the_pixels_of_their_own_image():
    batch_samples = samples(5, images=2)
    batch = pack(CONFIG, batch_samples, PACK)
    merge = CONFIG.vision.merge_unit
    for index, sample in enumerate(batch_samples):
        m, b, t = places(batch, index)
        visual = batch.inputs.visual_index_BT[m, b, t]
        wanted = np.concatenate(
            [
                patchify(image, CONFIG.vision, PACK.min_pixels, PACK.max_pixels).patches
                for chunk in sample.chunks
                if isinstance(chunk, ContextChunk)
                for image in chunk.images
            ]
        )
        merged = batch.inputs.vision.token_place_M[m][visual[visual >= 0]]
        patches = batch.inputs.vision.patches_NP[m].reshape(-1, merge, wanted.shape[-1])[merged]
        np.testing.assert_array_equal(patches.reshape(wanted.shape), wanted)


def test_the_token_predicted_at_t_is_the_next_one_and_only_model_tokens_are_trained_on():
    batch_samples = samples(6)
    batch = pack(CONFIG, batch_samples, PACK)
    for index, sample in enumerate(batch_samples):
        turns = [chunk for chunk in sample.chunks if isinstance(chunk, SampledChunk)]
        m, b, t = places(batch, index)
        trained = t[(batch.weight_MBT > 0)[m, b, t]]
        np.testing.assert_array_equal(batch.targets_MBT[m, b, trained], np.concatenate([c.tokens for c in turns]))
        np.testing.assert_array_equal(batch.inputs.tokens_BT[m, b, trained + 1], batch.targets_MBT[m, b, trained])
        logp = np.concatenate([c.logp_full for c in turns])
        np.testing.assert_array_equal(batch.logp_full_MBT[m, b, trained], logp)
        np.testing.assert_array_equal(unpack(batch, batch.logp_full_MBT)[index], logp)
        assert np.isclose(batch.weight_MBT[m, b, t].sum(), 1.0)
        assert set(batch.advantage_MBT[m, b, trained]) == {np.float32(sample.advantage)}
        assert set(batch.failed_MBT[m, b, trained]) == {float(sample.failed)}


def test_a_masked_sample_keeps_its_place_and_trains_nothing():
    batch_samples = samples(3)
    batch_samples[1] = dataclasses.replace(batch_samples[1], weight=0.0)
    batch = pack(CONFIG, batch_samples, PACK)
    assert not (batch.weight_MBT > 0)[batch.sample_MBT == 1].any()
    assert (batch.weight_MBT > 0)[batch.sample_MBT == 2].any()


def test_token_mean_weighs_every_trained_token_the_same():
    batch = pack(CONFIG, samples(4), dataclasses.replace(PACK, weighting="token-mean"))
    assert set(np.unique(batch.weight_MBT)) == {0.0, 1.0}


def test_an_image_token_that_the_model_sampled_stays_text():
    rng = np.random.default_rng(0)
    turn = dataclasses.replace(sampled(rng, 3), tokens=np.array([5, CONFIG.image_token_id, 7], np.int32))
    batch = pack(CONFIG, [TrainingSample((context(rng, 4, images=1), turn))], PACK)
    t = np.flatnonzero(batch.inputs.tokens_BT[0, 0] == CONFIG.image_token_id)[-1]
    assert batch.inputs.visual_index_BT[0, 0, t] == -1


def test_rollouts_that_share_an_image_object_share_its_encoding():
    rng = np.random.default_rng(0)
    prompt = context(rng, 4, images=1)
    group = [TrainingSample((prompt, sampled(rng, 4))) for _ in range(4)]
    one = pack(CONFIG, group[:1], PACK)
    four = pack(CONFIG, group, dataclasses.replace(PACK, rows=4, row_lengths=(32,)))
    assert int(four.count) == 1
    assert (four.inputs.vision.segment_RL > 0).sum() == (one.inputs.vision.segment_RL > 0).sum()


def test_with_fixed_capacities_all_batches_have_the_same_shapes():
    fixed = dataclasses.replace(PACK, micro_batches=8, vision=(6, 144))
    shapes = [
        [leaf.shape for leaf in (b.targets_MBT, *b.inputs.vision)]
        for b in (pack(CONFIG, samples(n), fixed) for n in (2, 14))
    ]
    assert shapes[0] == shapes[1]


def test_buckets_with_a_least_size_give_batches_of_about_a_size_one_shape():
    def shape(n, config):
        batch = pack(CONFIG, samples(n), config)
        return batch.targets_MBT.shape[0], *batch.inputs.vision.segment_RL.shape[1:]

    assert shape(2, PACK) != shape(14, PACK)
    roomy = dataclasses.replace(PACK, at_least=(8, 6, 144))
    assert shape(2, roomy) == shape(14, roomy) == (8, 6, 144)
    assert shape(60, roomy)[0] > 8  # a larger batch still fits


def test_what_fits_the_least_size_takes_it_though_it_is_no_bucket():
    asked = samples(2, images=2)
    assert pack(CONFIG, asked, PACK).inputs.vision.segment_RL.shape[2] == 48  # for an image of 36 patches
    roomy = dataclasses.replace(PACK, at_least=(1, 5, 40))
    assert pack(CONFIG, asked, roomy).inputs.vision.segment_RL.shape[1:] == (5, 40)


def test_missing_teacher_scores_are_nan_and_wrong_counts_are_refused():
    batch_samples = samples(2)
    n = sum(len(c.tokens) for c in batch_samples[0].chunks if isinstance(c, SampledChunk))
    batch_samples[0] = dataclasses.replace(batch_samples[0], teacher_logp=np.full(n, -1.0, np.float32))
    batch = pack(CONFIG, batch_samples, PACK)
    assert (unpack(batch, batch.teacher_logp_MBT)[0] == -1.0).all()
    assert np.isnan(unpack(batch, batch.teacher_logp_MBT)[1]).all()
    batch_samples[0] = dataclasses.replace(batch_samples[0], teacher_logp=np.zeros(n + 1, np.float32))
    with pytest.raises(ValueError, match=rf"sample 0 has {n} sampled tokens, but its teacher gave {n + 1}"):
        pack(CONFIG, batch_samples, PACK)


def test_the_smallest_row_that_holds_the_longest_sample_is_used():
    batch = pack(CONFIG, samples(3), dataclasses.replace(PACK, row_lengths=(512, 64, 128)))
    assert batch.targets_MBT.shape[-1] == 64


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(ValueError, match=r"sample \d has \d+ tokens, but the longest row"):
        pack(CONFIG, samples(3), dataclasses.replace(PACK, row_lengths=(8,)))
    with pytest.raises(ValueError, match=r"need \d micro-batches, but PackConfig.micro_batches is 1"):
        pack(CONFIG, samples(9), dataclasses.replace(PACK, micro_batches=1))
    with pytest.raises(ValueError, match="no samples"):
        pack(CONFIG, [], PACK)
    with pytest.raises(ValueError, match="nothing to train on"):
        sft_sample(trajectory(0)[:1])


def test_first_fit_decreasing_fills_rows_without_overflow():
    lengths = [int(n) for n in np.random.default_rng(0).integers(1, 60, 50)]
    bins = first_fit_decreasing(lengths, 64)
    assert sorted(i for b in bins for i in b) == list(range(50))
    assert all(sum(lengths[i] for i in b) <= 64 for b in bins)
    assert len(bins) <= 11 / 9 * np.ceil(sum(lengths) / 64) + 1  # the bound of first-fit decreasing


def test_a_step_takes_the_row_length_with_which_it_computes_the_fewest_positions():
    """By hand: 4 rows a micro-batch."""

    def best(lengths, choices):
        return fewest_positions([micro_batches(lengths, choices, 4)])

    assert micro_batches([10, 10, 10, 10, 5], (20, 10), 4) == {10: 2, 20: 1}
    assert best([10, 10, 10, 10], (10, 20)) == 10
    # Five samples of 10 take two micro-batches of rows of 10 (80 positions), or one of rows of 15 (60), if two of them
    # share a row: 10 and 5.
    assert best([10, 10, 10, 10, 5], (10, 15)) == 15
    assert best([10, 10, 10, 10, 5], (10, 25)) == 10  # 100 positions are more than 80
    assert best([7, 3], (5, 10, 20)) == 10  # a row of 5 does not hold the longest


@pytest.mark.parametrize("patched", [False, True])
def test_the_tokens_of_a_sample_are_those_that_it_takes_of_a_row(patched):
    for seed in range(4):
        chunks = trajectory(seed, images=seed)
        if patched:
            chunks = tuple(
                dataclasses.replace(chunk, images=tuple(patched_image(each) for each in chunk.images))
                if isinstance(chunk, ContextChunk)
                else chunk
                for chunk in chunks
            )
        sample = TrainingSample(chunks)
        batch = pack(CONFIG, [sample], PACK)
        assert sample_tokens(CONFIG, sample, PACK) == int((batch.sample_MBT == 0).sum())


def patched_image(image):
    return patchify(image, CONFIG.vision, PACK.min_pixels, PACK.max_pixels)


def test_processes_take_the_length_that_suits_the_one_that_needs_most():
    quick, slow = micro_batches([10], (10, 15, 20), 4), micro_batches([10] * 4 + [5], (10, 15, 20), 4)
    assert (quick, slow) == ({10: 1, 15: 1, 20: 1}, {10: 2, 15: 1, 20: 1})
    assert fewest_positions([quick]) == 10
    assert fewest_positions([quick, slow]) == 15
    assert fewest_positions([slow, micro_batches([18], (10, 15, 20), 4)]) == 20  # which alone holds the longest of all


def test_by_constant_length_a_token_weighs_alike_and_the_denominator_counts_samples():
    # whatever longer rows there are beside those of the longest trajectory
    layout = dataclasses.replace(PACK, weighting="constant-length", row_lengths=(*PACK.row_lengths, 96))
    drawn_samples = samples(5)
    batch = pack(CONFIG, drawn_samples[:3], layout, left_out=drawn_samples[3:])
    trained = batch.weight_MBT > 0
    np.testing.assert_allclose(batch.weight_MBT[trained], 1 / PACK.row_lengths[0])
    assert batch.weight_MBT.sum() + batch.left_out == pytest.approx(5)
