import numpy as np
import pytest
from PIL import Image

from hypereyes_jax.data.mosaics import LAYOUTS, draw_mosaic, places


@pytest.mark.parametrize("layout", LAYOUTS)
def test_boxes_hold_exactly_what_was_pasted_and_stay_in_their_cells(layout):
    rows, columns = layout
    colours = [(255, 20 * i, 0) for i in range(rows * columns)]  # no ground has this red with no blue
    mosaic = draw_mosaic([Image.new("RGB", (60, 40), c) for c in colours], layout, (256, 192), np.random.default_rng(5))
    pixels = np.asarray(mosaic.image).astype(int)
    for i, (colour, (x1, y1, x2, y2)) in enumerate(zip(colours, mosaic.boxes, strict=True)):
        ys, xs = np.nonzero((pixels == colour).all(-1))
        assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == tuple(
            round(v) for v in (x1 * 256, y1 * 192, x2 * 256, y2 * 192)
        )
        row, column = divmod(i, columns)
        assert column / columns <= x1 < x2 <= (column + 1) / columns + 1e-9
        assert row / rows <= y1 < y2 <= (row + 1) / rows + 1e-9


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_place_names_one_cell_only(layout):
    said = [phrase for i in range(layout[0] * layout[1]) for phrase in places(layout, i)]
    assert len(said) == len(set(said))


def test_places_read_as_people_say_them():
    assert "on the left" in places((1, 3), 0)
    assert "in the middle" in places((3, 1), 1)
    assert "in the bottom right" in places((2, 2), 3)
    assert "second from the left in the bottom row" in places((2, 4), 5)


def test_the_wrong_number_of_pictures_is_an_error():
    with pytest.raises(ValueError, match="holds 4 pictures, got 1"):
        draw_mosaic([Image.new("RGB", (6, 4))], (2, 2), (256, 192), np.random.default_rng(0))
