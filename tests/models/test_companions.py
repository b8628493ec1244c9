"""The processor's files beside a checkpoint: what they say is honoured or refused, as transformers reads them."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

import pytest
import transformers

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.models.companions import check_image_processor, processor_pixels, write_companions
from hypereyes_jax.models.export import export_merged
from hypereyes_jax.models.pretrained import load_chat_format, load_model
from hypereyes_jax.models.storage import open_directory
from tests.processing.test_chat import TEMPLATE, THINKING

BASE = Path(str(resources.files("hypereyes_jax.assets") / "base"))
SIZE = {"shortest_edge": 1024, "longest_edge": 49152}
OTHER_SIZE = {"shortest_edge": 2048, "longest_edge": 65536}
KIND = {"image_processor_type": "Qwen2VLImageProcessor"}
OLD, NEW = "preprocessor_config.json", "processor_config.json"


def nested(**settings):
    """As transformers 5 saves all processors of a model."""
    return {"processor_class": "Qwen3VLProcessor", "image_processor": KIND | settings, "video_processor": {"fps": 2}}


def written(path, files):
    for name, content in files.items():
        (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return open_directory(path)


@pytest.mark.parametrize("files", [{OLD: KIND | {"size": SIZE}}, {NEW: nested(size=SIZE)}])
def test_areas_are_read_where_transformers_reads_them(tmp_path, files):
    assert processor_pixels(written(tmp_path, files)) == (1024, 49152)
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path).size
    assert (theirs["shortest_edge"], theirs["longest_edge"]) == (1024, 49152)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({OLD: {"size": SIZE}, NEW: nested(size=OTHER_SIZE)}, rf"{OLD} and in {NEW} that images are resized to diff"),
        ({OLD: {"size": [1, 2]}}, rf"{OLD} is damaged \(size=\[1, 2\] is not an object\)"),
        ({NEW: nested(size={"shortest_edge": 0.5})}, rf"{NEW} is damaged \(it gives areas of 0\.5 to None pixels\)"),
        ({NEW: {"image_processor": 3}}, rf"{NEW} is damaged \(image_processor=3 is not an object\)"),
        ({NEW: "[" * 100_000}, rf"{NEW} is damaged"),
    ],
)
def test_areas_that_can_not_be_meant_are_refused_by_their_file(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        processor_pixels(written(tmp_path, files))


@pytest.mark.parametrize(
    "settings",
    [
        {"image_mean": [0.48145466, 0.4578275, 0.40821073]},
        {"image_std": 0.25},
        {"patch_size": 14},
        {"merge_size": 1},
        {"temporal_patch_size": 1},
        {"rescale_factor": 1},
        {"resample": 0},
        {"do_resize": False},
        {"do_normalize": False},
    ],
)
@pytest.mark.parametrize("name", [OLD, NEW])
def test_images_that_are_prepared_otherwise_are_refused_by_the_field(tmp_path, name, settings):
    config = Qwen3VLConfig()
    (field,) = settings
    content = KIND | settings if name == OLD else nested(**settings)
    with pytest.raises(UserError, match=rf"{name} has {field}="):
        check_image_processor(written(tmp_path, {name: content}), config)
    published = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5] * 3, "resample": 3}
    content = published | {"image_std": 0.5, "do_resize": True, "rescale_factor": 1 / 255, "do_normalize": None}
    check_image_processor(written(tmp_path, {name: content if name == OLD else nested(**content)}), config)


def test_a_model_whose_images_are_prepared_otherwise_is_not_loaded(tmp_path):
    shutil.copytree(BASE, tmp_path / "base")
    written(tmp_path / "base", {OLD: {"image_mean": [0.48, 0.45, 0.4]}})
    with pytest.raises(UserError, match=r"preprocessor_config\.json has image_mean="):
        load_model(tmp_path / "base")


@pytest.mark.parametrize("files", [{NEW: nested(size=OTHER_SIZE, min_pixels=1)}, {OLD: KIND, NEW: nested()}, {}])
def test_transformers_reads_the_areas_that_were_trained_with(tmp_path, files):
    for name in ("base", "out"):
        (tmp_path / name).mkdir()
    write_companions(written(tmp_path / "base", files), tmp_path / "out", Qwen3VLConfig(), (1024, 49152))
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out").size
    assert (theirs["shortest_edge"], theirs["longest_edge"]) == (1024, 49152)
    assert processor_pixels(open_directory(tmp_path / "out")) == (1024, 49152)
    if NEW in files:
        assert json.loads((tmp_path / "out" / NEW).read_text())["video_processor"] == {"fps": 2}


def test_a_turn_is_opened_as_the_processors_template_does(tmp_path):
    shutil.copytree(BASE, tmp_path / "base")
    older = {"chat_template.json": {"chat_template": THINKING}}
    assert load_chat_format(written(tmp_path / "base", older)).opening == "<think>\n"
    with pytest.raises(UserError, match=r"chat_template\.json can't be used: .* renders a conversation as"):
        load_chat_format(written(tmp_path / "base", {"chat_template.json": {"chat_template": "x" + TEMPLATE}}))
    with pytest.raises(
        UserError, match=r"opens a turn of the model with '<think>\\n' by chat_template\.json, and with ''"
    ):
        load_chat_format(written(tmp_path / "base", older | {"chat_template.jinja": TEMPLATE}))
    with pytest.raises(UserError, match=r"chat_template\.json is damaged \(chat_template=3 is not a string\)"):
        load_chat_format(written(tmp_path / "base", {"chat_template.json": {"chat_template": 3}}))


@pytest.mark.parametrize(
    "template",
    ["{{ 1 / 0 }}", "{% for i in range(10 ** 12) %}{% endfor %}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"],
)
def test_a_template_that_fails_has_one_sentence(tmp_path, template):
    shutil.copytree(BASE, tmp_path / "base")
    with pytest.raises(UserError, match="chat template can't render a conversation"):
        load_chat_format(written(tmp_path / "base", {"chat_template.jinja": template}))


def test_a_tokenizer_that_can_not_encode_has_one_sentence(tmp_path):
    shutil.copytree(BASE, tmp_path / "base")
    settings = json.loads((BASE / "tokenizer_config.json").read_text()) | {"tokenizer_class": "CLIPTokenizer"}
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged, or no tokenizer of Qwen3-VL"):
        load_chat_format(written(tmp_path / "base", {"tokenizer_config.json": settings}))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("generation_config.json", b"["),
        ("generation_config.json", b"[]"),
        ("video_preprocessor_config.json", b""),
        ("special_tokens_map.json", b"{"),
        ("chat_template.jinja", b"\xff\xfe{"),
    ],
)
def test_a_damaged_file_that_would_be_copied_is_named_before_the_weights_are_read(tmp_path, name, content):
    base = shutil.copytree(str(resources.files("hypereyes_jax.assets") / "base"), tmp_path / "base")
    (base / name).write_bytes(content)
    (base / "model.safetensors").unlink()
    with pytest.raises(UserError, match=f"{name} is damaged"):
        export_merged(base, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=f"{name} is damaged|can't be used|no tokenizer"):
        load_model(base)
