import os

import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.outputs import check_outputs, check_replaced_directories


def test_an_output_never_replaces_an_input_by_whatever_name(tmp_path):
    picture = tmp_path / "flags.png"
    picture.write_bytes(b"x")
    (tmp_path / "link.png").symlink_to(picture)
    os.link(picture, tmp_path / "hard.png")
    for name in ("flags.png", "link.png", "hard.png", "./flags.png"):
        with pytest.raises(UserError, match=r"would replace the input .*flags\.png"):
            check_outputs([tmp_path / name], [picture])
    check_outputs([tmp_path / "other.png", tmp_path / "new" / "x.png"], [picture])


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file is a file"):
        check_outputs([tmp_path / "file" / "x" / "y.json"])


def test_a_model_directory_is_not_written_over_the_model_that_is_read(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for out in (model, tmp_path):
        with pytest.raises(UserError, match="would replace the input"):
            check_replaced_directories([out], [model])
    check_replaced_directories([tmp_path / "other", model / "inner"], [model])
