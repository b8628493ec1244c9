import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hypereyes_jax.env import crop, to_fractions


def picture(width, height):
    """Red = column, green = row: a crop's first pixel says where it was cut."""
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([columns % 256, rows % 256, rows * 0], -1).astype(np.uint8))


@pytest.mark.parametrize(
    ("box", "size", "corner"),
    [
        ((0, 0, 1, 1), (200, 100), (0, 0)),
        ((0.25, 0.5, 0.75, 1), (100, 50), (50, 50)),
        ((-0.5, -1, 0.5, 2), (100, 100), (0, 0)),  # clamped
        ((0.999, 0, 5, 1), (1, 100), (199, 0)),
        ((0.0049, 0, 1, 0.019), (200, 1), (0, 0)),  # 0.98 and 1.9 pixels truncate
    ],
)
def test_crop_truncates_and_clamps(box, size, corner):
    cut = crop(picture(200, 100), box)
    assert cut.size == size
    assert cut.getpixel((0, 0))[:2] == corner


@pytest.mark.parametrize(
    "box",
    [
        (0.5, 0.5, 0.25, 0.75),  # reversed: not swapped
        (0.5, 0.5, 0.5, 0.75),
        (0.5, 0.5, 0.504, 0.75),  # less than a pixel after truncation
        (2, 2, 3, 3),
        (0, 0, float("nan"), 1),
        (0, 0, float("inf"), 1),
        (0, 0, 10**400, 1),
        (-(10**400), 0, 1, 1),
    ],
)
def test_an_empty_box_gives_no_crop(box):
    assert crop(picture(200, 100), box) is None


def test_only_large_crops_are_scaled():
    assert crop(Image.new("RGB", (3000, 1501)), (0, 0, 1, 1)).size == (1000, 500)
    assert crop(Image.new("RGB", (1000, 999)), (0, 0, 1, 1)).size == (1000, 999)
    assert crop(Image.new("RGB", (30_000, 2)), (0, 0, 1, 1)).size == (1000, 1)


@given(st.tuples(*[st.floats()] * 4))
def test_any_box_crops_within_the_image_or_not_at_all(box):
    cut = crop(Image.new("L", (40, 30)), box)
    assert cut is None or (1 <= cut.width <= 40 and 1 <= cut.height <= 30)


@pytest.mark.parametrize(
    ("box", "units", "expected"),
    [
        ((0.1, 0.2, 0.5, 1.0), "unit", (0.1, 0.2, 0.5, 1.0)),
        ((100, 200, 500, 1000), "permille", (0.1, 0.2, 0.5, 1.0)),
        ((40, 20, 200, 100), "pixel", (0.1, 0.2, 0.5, 1.0)),
        ((100, 200, 500, 1000), "unit", None),
        ((100, 200, 500, 4000), "permille", None),
        ((0.1, 0.2, 0.5, 1.0), "auto", (0.1, 0.2, 0.5, 1.0)),
        ((100, 200, 500, 1000), "auto", (0.1, 0.2, 0.5, 1.0)),
        ((400, 200, 9000, 1000), "auto", None),
        ((0, 0, 10**400, 1), "auto", None),
    ],
)
def test_box_units(box, units, expected):
    got = to_fractions(box, (400, 100), units)
    assert got == (None if expected is None else pytest.approx(expected))


def test_pixels_are_told_from_thousandths_where_they_exceed_them():
    assert to_fractions((0, 0, 2000, 1000), (4000, 2000), "auto") == pytest.approx((0, 0, 0.5, 0.5))


@pytest.mark.parametrize(("largest", "fraction"), [(1.04, 1.04), (1.06, 0.00106), (1049.0, 1.049), (1051.0, 0.52550)])
def test_units_are_told_by_a_range_that_only_rounding_may_exceed(largest, fraction):
    x = to_fractions((0.0, 0.0, largest, 0.5), (2000, 2000), "auto")[2]
    assert x == pytest.approx(fraction, abs=1e-9)
