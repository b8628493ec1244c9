"""A generated example of each format through `data check`, two steps of `sft`, and two of `rl`."""

import gzip
import io
import json
from base64 import b64encode
from importlib import resources

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hypereyes_jax.cli.main import main

BASE = str(resources.files("hypereyes_jax.assets") / "base")
FINAL = "<reason>so</reason><answer>red</answer>"
RESULT = "It is red."


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


def picture(number):
    buffer = io.BytesIO()
    Image.new("RGB", (60 + 8 * number, 40), "red").save(buffer, "PNG")
    return buffer.getvalue()


def openai(n):
    return {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"pics/{n}.png"}},
                                         {"type": "text", "text": f"Which flag is number {n}?"}]},
            {"role": "assistant", "content": "<think>I look.</think>",
             "tool_calls": [{"id": "1", "type": "function",
                             "function": {"name": "web_search", "arguments": '{"query": "flag"}'}}]},
            {"role": "tool", "tool_call_id": "1", "content": RESULT},
            {"role": "assistant", "content": FINAL},
        ]
    }  # fmt: skip


def swift(n):
    return {
        "messages": [
            {"role": "user", "content": f"<image>Which flag is number {n}?"},
            {"role": "tool_call", "content": json.dumps(call("text_search", input=["flag"]))},
            {"role": "tool_response", "content": RESULT},
            {"role": "assistant", "content": FINAL},
        ],
        "images": [f"pics/{n}.png"],
    }


def sharegpt(n):
    return {
        "conversations": [
            {"from": "human", "value": f"<image>Which flag is number {n}?"},
            {"from": "function_call", "value": json.dumps(call("google_search", query="flag"))},
            {"from": "observation", "value": RESULT},
            {"from": "gpt", "value": FINAL},
        ],
        "images": [f"pics/{n}.png"],
    }


def alpaca(n):
    return {"instruction": f"Which flag is number {n}?", "output": FINAL, "images": [f"pics/{n}.png"]}


def swift_pair(n):
    return {"query": f"<image>Which flag is number {n}?", "response": FINAL, "images": [f"pics/{n}.png"]}


def trl(n):
    text = {"type": "text", "text": f"Which flag is number {n}?", "index": None}
    return {
        "Messages": [
            {"role": "user", "content": [{"type": "image", "text": None, "index": 0}, text]},
            {"role": "assistant", "content": [{"type": "text", "text": FINAL, "index": None}]},
        ],
        "Images": [f"pics/{n}.png"],
    }


def qwen_vl(n):
    return {"prompt": f"Picture 1: <img>pics/{n}.png</img>\nWhich flag is number {n}?", "completion": FINAL}


def gemini(n):
    shown = {"inlineData": {"mimeType": "image/png", "data": b64encode(picture(n)).decode()}}
    result = {"name": "google_search", "response": {"result": RESULT}}
    return {
        "systemInstruction": {"parts": [{"text": "Search."}]},
        "contents": [
            {"role": "user", "parts": [shown, {"text": f"Which flag is number {n}?"}]},
            {"role": "model", "parts": [{"functionCall": {"name": "google_search", "args": {"query": "flag"}}}]},
            {"role": "user", "parts": [{"functionResponse": result}]},
            {"role": "model", "parts": [{"text": FINAL}]},
        ],
    }


def langchain(n):
    parts = [{"type": "image_url", "image_url": {"url": f"pics/{n}.png"}},
             {"type": "text", "text": f"Which flag is number {n}?"}]  # fmt: skip
    calls = [{"name": "web_search", "args": {"query": "flag"}, "id": "1", "type": "tool_call"}]
    return {
        "messages": [
            {"type": "human", "data": {"content": parts}},
            {"type": "ai", "data": {"content": "", "tool_calls": calls}},
            {"type": "tool", "data": {"content": RESULT, "tool_call_id": "1"}},
            {"type": "ai", "data": {"content": FINAL}},
        ]
    }


def responses(n):
    parts = [{"type": "input_image", "image_url": f"pics/{n}.png"},
             {"type": "input_text", "text": f"Which flag is number {n}?"}]  # fmt: skip
    return {
        "input": [{"role": "user", "content": parts}],
        "output": [
            {"type": "function_call", "call_id": "1", "name": "web_search", "arguments": '{"query": "flag"}'},
            {"type": "function_call_output", "call_id": "1", "output": RESULT},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": FINAL}]},
        ],
    }


def verl(n):
    return {
        "prompt": [{"role": "user", "content": f"<image>Which flag is number {n}?"}],
        "images": [{"bytes": picture(n), "path": None}],
        "response": FINAL,
    }


def json_lines(path, row):
    path = path / "rows.jsonl"
    path.write_text("".join(json.dumps(row(n)) + "\n" for n in range(4)))
    return path


def json_array(path, row):
    path = path / "rows.json"
    path.write_text(json.dumps([row(n) for n in range(4)], indent=1))
    return path


def gzipped(path, row):
    (path / "rows.jsonl.gz").write_bytes(gzip.compress(json_lines(path, row).read_bytes()))
    return path / "rows.jsonl.gz"


def parquet(path, row):
    pq.write_table(pa.Table.from_pylist([row(n) for n in range(4)]), path / "rows.parquet")
    return path / "rows.parquet"


def hugging_face(path, row):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([row(n) for n in range(4)]).save_to_disk(path / "saved")
    return path / "saved"


def arrow(path, row):
    return next(hugging_face(path, row).glob("*.arrow"))


def shards(path, row, kind):
    assert main(["data", "convert", str(json_lines(path, row)), str(path / "out"), "--format", kind]) == 0
    return path / "out"


FORMATS = {
    "OpenAI messages, JSON lines": (json_lines, openai),
    "OpenAI messages, JSON array": (json_array, openai),
    "OpenAI messages, array_record shards": (lambda path, row: shards(path, row, "array_record"), openai),
    "ms-swift, JSON lines": (json_lines, swift),
    "ms-swift, parquet shards": (lambda path, row: shards(path, row, "parquet"), swift),
    "ms-swift query and response": (json_lines, swift_pair),
    "LLaMA-Factory ShareGPT, JSON array": (json_array, sharegpt),
    "ShareGPT, datasets folder": (hugging_face, sharegpt),
    "ShareGPT, arrow file": (arrow, sharegpt),
    "LLaMA-Factory alpaca, JSON array": (json_array, alpaca),
    "TRL's parts, parquet": (parquet, trl),
    "Qwen-VL's prompts and completions": (json_lines, qwen_vl),
    "verl, parquet": (parquet, verl),
    "Gemini, JSON lines": (json_lines, gemini),
    "LangChain, JSON lines in gzip": (gzipped, langchain),
    "OpenAI's Responses, JSON array": (json_array, responses),
}


@pytest.fixture
def pictures(tmp_path):
    for folder in (tmp_path, tmp_path / "saved"):
        (folder / "pics").mkdir(parents=True)
        for number in range(4):
            (folder / "pics" / f"{number}.png").write_bytes(picture(number))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_conversations_is_checked_and_trained_on_for_two_steps(name, pictures, capsys):
    write, row = FORMATS[name]
    source = write(pictures, row)
    assert main(["data", "check", str(source)]) == 0
    said = capsys.readouterr().out
    assert ": 4 demonstrations" in said
    assert "images: 1.0 a row" in said
    assert "What is wrong: nothing" in said
    sizes = "--settings.batch 2 --settings.epochs 1 --sizes.shard-rows 1"
    words = f"sft --checkpoint {BASE} --demonstrations {source} --out {pictures / 'run'} {sizes}"
    assert main(words.split()) == 0
    rows = [json.loads(line) for line in (pictures / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["sft/loss"] for row in rows]
    assert len(losses) == 2
    assert all(np.isfinite(loss) and loss > 0 for loss in losses)
    assert (pictures / "run" / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_full_sft_goes_on_to_the_bit_and_writes_no_adapter(pictures):
    from hypereyes_jax.models.pretrained import load_model

    source = json_lines(pictures, swift)
    sizes = (
        "--settings.batch 2 --settings.epochs 1 --settings.checkpoint-every 1 --sizes.shard-rows 1 "
        "--settings.save-every 1"
    )
    full = "--sizes.learner.train full --settings.learning-rate 1e-4"
    words = f"sft --checkpoint {BASE} --demonstrations {source} --out {pictures / 'run'} {sizes} {full}".split()
    assert main(words) == 0
    assert not (pictures / "run" / "adapter").exists()
    (base, whole) = (load_model(place)[1] for place in (BASE, pictures / "run" / "model"))
    assert np.abs(np.asarray(whole["vision"]["blocks"]["qkv_w"] - base["vision"]["blocks"]["qkv_w"])).max() > 1e-6
    last = load_model(pictures / "run" / "models" / "step-2")[1]
    np.testing.assert_array_equal(np.asarray(last["embed"]), np.asarray(whole["embed"]))
    assert main([*words, "--resume-step", "1"]) == 0  # the second step anew
    again = load_model(pictures / "run" / "model")[1]
    np.testing.assert_array_equal(np.asarray(again["layers"]["q"]), np.asarray(whole["layers"]["q"]))
    np.testing.assert_array_equal(np.asarray(again["embed"]), np.asarray(whole["embed"]))


@pytest.mark.slow
def test_rl_trains_for_two_steps_on_a_foreign_file_of_questions(pictures):
    rows = [
        {
            "prompt": [{"role": "user", "content": f"<image>Which flag is number {n}?"}],
            "images": [{"bytes": picture(n), "path": None}],
            "reward_model": {"ground_truth": "red", "candidate_answers": json.dumps(["Red"]), "style": "rule"},
            "data_source": "mine",
        }
        for n in range(4)
    ]
    source = pictures / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    sizes = (
        "--settings.steps 2 --settings.prompts 2 --settings.group 2 --search.transport in-process "
        "--search.latency 0 --sizes.slots 4 --sizes.shard-rows 2 --sizes.context 512"
    )
    words = f"rl --checkpoint {BASE} --questions {source} --select no --out {pictures / 'rl'} {sizes}"
    assert main(words.split()) == 0
    rows = [json.loads(line) for line in (pictures / "rl" / "metrics.jsonl").read_text().splitlines()]
    assert len([row for row in rows if "rl/loss" in row]) == 2
    assert all(np.isfinite(row["rl/loss"]) for row in rows)
    assert (pictures / "rl" / "model" / "model.safetensors").exists()
