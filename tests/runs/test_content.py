import os

import numpy as np
import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.runs import content
from hypereyes_jax.runs.content import content_digest, input_digests


def test_a_model_is_the_same_wherever_it_lies_and_another_if_a_name_or_a_byte_differs(tmp_path):
    def model(name, file="model.safetensors", data=b"weights"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / file).write_bytes(data)
        (tmp_path / name / "config.json").write_text("{}")
        return content_digest(tmp_path / name)

    one = model("one")
    assert model("two") == one
    assert model("three", data=b"weighty") != one
    assert model("four", file="other.safetensors") != one
    (tmp_path / "one" / ".cache").mkdir()
    (tmp_path / "one" / ".cache" / "x").write_text("a downloader's")
    assert content_digest(tmp_path / "one") == one


def test_large_weights_are_sampled_and_large_data_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "_WHOLE_BYTES", 2**16)
    data = np.random.default_rng(0).bytes(2**25)
    middle = 2**20 + 2**17  # outside the head, between two blocks
    blocks = [(2**25 - content._BLOCK_BYTES) * n // (content._BLOCKS - 1) for n in range(content._BLOCKS)]
    middle = next(
        end for end in (start + content._BLOCK_BYTES for start in blocks) if end > 2**20 and end not in blocks
    )
    changed = bytearray(data)
    changed[middle] ^= 1
    for name, payload in (("a", data), ("b", bytes(changed))):
        (tmp_path / f"{name}.safetensors").write_bytes(payload)
        (tmp_path / f"{name}.jsonl").write_bytes(payload)
    assert content_digest(tmp_path / "a.safetensors") == content_digest(tmp_path / "b.safetensors")
    assert content_digest(tmp_path / "a.jsonl") != content_digest(tmp_path / "b.jsonl")
    retrained = np.random.default_rng(1).bytes(2**25)
    (tmp_path / "b.safetensors").write_bytes(retrained)
    assert content_digest(tmp_path / "a.safetensors") != content_digest(tmp_path / "b.safetensors")


def test_an_input_that_can_not_be_read_is_named_by_its_setting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"--eval-questions: .*pipe is not a regular file"):
        input_digests({"eval_questions": tmp_path / "pipe"})
    assert input_digests({"checkpoint": tmp_path / "Qwen" / "Qwen3-VL"}) == {}  # known by its name


def test_data_beyond_a_bound_go_in_by_size_and_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "_MOST_BYTES", 10_000)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * 9_000)

    def changed(name, place):
        data = bytearray(b"x" * 9_000)
        data[place] ^= 1
        (tmp_path / name).write_bytes(data)
        other = content_digest(tmp_path)
        (tmp_path / name).write_bytes(b"x" * 9_000)
        return other != whole

    whole = content_digest(tmp_path)
    assert [changed("a", 8_000), changed("b", 100), changed("b", 8_000)] == [True, True, False]
