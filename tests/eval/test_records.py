import base64
import io

import pytest
from PIL import Image

from hypereyes_jax.errors import UserError
from hypereyes_jax.eval import Judged
from hypereyes_jax.eval.records import append_record, read_records, record_judged, write_records
from tests.eval.trajectories import mosaic, trajectory


def record(name="q1", **fields):
    judged = Judged(trajectory(name, images=[mosaic()], **fields), True, "", 123)
    return record_judged(judged, stage="rl", split="heldout", judge="exact", reward=1.5)


def test_a_record_survives_the_file(tmp_path):
    path = tmp_path / "trajectories-rl-heldout.jsonl"
    answer = "\u2028</script>\ud800\x00 line\nbreak"
    write_records(path, [record(), record("q2", answer=answer)])
    # half of a surrogate pair can be written, as an escape, and is no text that can be shown
    readable = record("q2", answer=answer.replace("\ud800", "?"))
    assert list(read_records(path)) == [record(), readable]
    append_record(path, record("q3"))
    assert [r.question_id for r in read_records(path)] == ["q1", "q2", "q3"]


def test_a_record_keeps_its_image():
    image = Image.open(io.BytesIO(base64.b64decode(record().images[0].split(",")[1])))
    assert image.size == (64, 32)
    assert image.convert("RGB").getpixel((5, 5)) == pytest.approx((200, 30, 40), abs=6)  # WebP is lossy


def test_a_bad_line_is_named(tmp_path):
    path = tmp_path / "t.jsonl"
    write_records(path, [record()])
    with open(path, "a") as file:
        file.write('{"stage": "rl"}\n')
    with pytest.raises(UserError, match=r"t\.jsonl, line 2"):
        list(read_records(path))


def test_an_image_that_lives_elsewhere_is_refused(tmp_path):
    path = tmp_path / "t.jsonl"
    write_records(path, [record()])
    path.write_text(path.read_text().replace("data:image/webp", "https://example.org/x?"))
    with pytest.raises(UserError, match="data URIs"):
        list(read_records(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no trajectory file .*gone\.jsonl"):
        list(read_records(tmp_path / "gone.jsonl"))
