import math

import pytest

from hypereyes_jax.configs.model import PRESETS
from hypereyes_jax.models.qwen3_vl.weights import flat_weights

# Elements of the safetensors files of Qwen/Qwen3-VL-<SIZE>-Instruct, as the hub counts them.
PUBLISHED = {
    "2b": 2_127_532_032,
    "4b": 4_437_815_808,
    "8b": 8_767_123_696,
    "32b": 33_357_390_064,
    "30b-a3b": 31_070_754_032,
    "235b-a22b": 235_670_022_896,
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_as_many_parameters_as_the_published_model(name):
    assert sum(math.prod(weight.shape) for _, weight in flat_weights(PRESETS[name])) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "taps"), [("2b", (5, 11, 17)), ("4b", (5, 11, 17)), *((n, (8, 16, 24)) for n in list(PUBLISHED)[2:])]
)
def test_the_taps_of_a_tower_are_the_published_ones(name, taps):
    """Which blocks they are does not show in the count."""
    assert PRESETS[name].vision.deepstack_visual_indexes == taps
