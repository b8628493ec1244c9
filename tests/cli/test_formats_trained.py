"""A generated example of each format through `data check`, `eval`, two steps of `sft`, and two of `rl`."""

import bz2
import csv
import gzip
import http.server
import io
import json
import lzma
import threading
from base64 import b64encode
from functools import partial
from importlib import resources

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hypereyes_jax.cli.main import main
from hypereyes_jax.data.authors_formats import write_rl_parquet, write_sft_files
from hypereyes_jax.data.files import write_examples, write_questions
from hypereyes_jax.data.sources import open_examples, open_questions, remote
from tests.models.hub_server import Hub, serving

ROWS = 2
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


def plain(n):
    return {"question": f"Which flag is number {n}?", "answer": "red", "image": f"pics/{n}.png"}


def with_image(n, name="image", **changed):
    return {"question": f"Which flag is number {n}?", "answer": ["red", "Red"]} | ({name: changed["value"](n)})


def others(n):
    return {"q": f"Which flag is number {n}?", "gt": "red", "pics": f"pics/{n}.png"}


def rows_of(row):
    return [row(n) for n in range(ROWS)]


def text_of_lines(row):
    return "".join(json.dumps(each) + "\n" for each in rows_of(row))


def json_lines(path, row):
    path = path / "rows.jsonl"
    path.write_text(text_of_lines(row))
    return path


def json_array(path, row):
    path = path / "rows.json"
    path.write_text(json.dumps(rows_of(row), indent=1))
    return path


def compressed(path, row, suffix="gz", compress=gzip.compress):
    (path / f"rows.jsonl.{suffix}").write_bytes(compress(text_of_lines(row).encode()))
    return path / f"rows.jsonl.{suffix}"


def zstandard(data):
    return pa.compress(data, codec="zstd", asbytes=True)


def table(row):
    return pa.Table.from_pylist(rows_of(row))


def parquet(path, row):
    pq.write_table(table(row), path / "rows.parquet")
    return path / "rows.parquet"


def delimited(path, row):
    with open(path / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(row(0)))
        writer.writeheader()
        writer.writerows(rows_of(row))
    return path / "rows.csv"


def hugging_face(path, row):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows_of(row)).save_to_disk(path / "saved")
    return path / "saved"


def arrow(path, row):
    return next(hugging_face(path, row).glob("*.arrow"))


def shards(path, row, kind):
    assert main(["data", "convert", str(json_lines(path, row)), str(path / "out"), "--format", kind]) == 0
    return path / "out"


def our_questions(path, row):
    write_questions(path / "ours.jsonl", open_questions(json_lines(path, row)))
    return path / "ours.jsonl"


def our_demonstrations(path, row):
    write_examples(path / "ours.jsonl", open_examples(json_lines(path, row)))
    return path / "ours.jsonl"


def authors_columns(path, row):
    questions = open_questions(json_lines(path, row))
    write_rl_parquet(path / "rl.parquet", questions, {name: (2, 3) for name in questions.ids}, "Search.")
    return path / "rl.parquet"


def authors_conversations(path, row):
    write_sft_files(path / "sft", open_examples(json_lines(path, row)))
    return path / "sft" / "sft.jsonl"


def folder(path, row):
    for split in ("train", "test"):
        (path / "set" / split).mkdir(parents=True)
        (path / "set" / split / "part.jsonl").write_text(text_of_lines(row))
    (path / "pics").rename(path / "set" / "test" / "pics")
    return f"{path / 'set'}:test"


def pattern(path, row):
    for n, each in enumerate(rows_of(row)):
        (path / f"part-{n}.jsonl").write_text(json.dumps(each) + "\n")
    return path / "part-*.jsonl"


def python_object(path, row):
    pictures = f"    row['image'] = open({str(path)!r} + '/' + row['image'], 'rb').read()\n"
    (path / "own.py").write_text(f"rows = {rows_of(row)!r}\nfor row in rows:\n{pictures}")
    return f"{path / 'own.py'}:rows"


def memory(path, row):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.pipe(f"/{path.name}/rows.jsonl", text_of_lines(row).encode())
    for n in range(ROWS):
        store.pipe(f"/{path.name}/pics/{n}.png", picture(n))
    return f"memory://{path.name}/rows.jsonl"


def of_hub(path, row):
    return "org/name:test"  # served by `hub`


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
    "veRL's prompts and responses, parquet": (parquet, verl),
    "our demonstrations, JSON lines": (our_demonstrations, swift),
    "the authors' demonstrations": (authors_conversations, sharegpt),
    "Gemini, JSON lines": (json_lines, gemini),
    "LangChain, JSON lines in gzip": (compressed, langchain),
    "OpenAI's Responses, JSON array": (json_array, responses),
}


PLAIN = {
    "our questions, JSON lines": (our_questions, plain),
    "columns of usual names, JSON array": (json_array, plain),
    "columns of usual names, JSON lines in bzip2": (partial(compressed, suffix="bz2", compress=bz2.compress), plain),
    "columns of usual names, JSON lines in xz": (partial(compressed, suffix="xz", compress=lzma.compress), plain),
    "columns of usual names, JSON lines in zstd": (partial(compressed, suffix="zst", compress=zstandard), plain),
    "columns of usual names, parquet shards": (partial(shards, kind="parquet"), plain),
    "columns of usual names, ArrayRecord shards": (partial(shards, kind="array_record"), plain),
    "columns of usual names, datasets folder": (hugging_face, plain),
    "columns of other names, JSON lines": (json_lines, others),
    "columns of other names, CSV": (delimited, others),
    "columns of other names, parquet": (parquet, others),
    "images as bytes": (parquet, partial(with_image, value=picture)),
    "images as bytes in objects": (parquet, partial(with_image, value=lambda n: [{"bytes": picture(n), "path": None}])),
    "images as base64": (json_lines, partial(with_image, value=lambda n: b64encode(picture(n)).decode())),
    "images as data URIs": (
        json_lines,
        partial(with_image, value=lambda n: "data:image/png;base64," + b64encode(picture(n)).decode()),
    ),
    "images as URLs": (json_lines, lambda n: plain(n) | {"image": f"URL/pics/{n}.png"}),
    "veRL's questions, parquet": (
        parquet,
        lambda n: {
            "prompt": [{"role": "user", "content": f"<image>Which flag is number {n}?"}],
            "images": [{"bytes": picture(n), "path": None}],
            "reward_model": {"ground_truth": "red", "candidate_answers": json.dumps(["Red"]), "style": "rule"},
            "data_source": "mine",
        },
    ),
    "the authors' questions": (authors_columns, plain),
    "a folder of splits": (folder, plain),
    "a pattern": (pattern, plain),
    "an object of Python": (python_object, plain),
    "a data set of the hub": (of_hub, plain),
    "a store of fsspec": (memory, plain),
}
OTHER_NAMES = "--columns text=q answers=gt images=pics".split()


@pytest.fixture
def pictures(tmp_path):
    for folder in (tmp_path, tmp_path / "saved"):
        (folder / "pics").mkdir(parents=True)
        for number in range(4):
            (folder / "pics" / f"{number}.png").write_bytes(picture(number))
    return tmp_path


@pytest.fixture
def hub(monkeypatch):
    files = {f"pics/{n}.png": picture(n) for n in range(ROWS)} | {"test.jsonl": text_of_lines(plain).encode()}
    with serving(Hub(files, kind="datasets")) as server:
        monkeypatch.setattr(remote, "_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture
def web(pictures):
    """The pictures on loopback."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(pictures))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def assert_it_is_evaluated(source, out, *words):
    sizes = "--search.transport in-process --slots 2 --context 512 --max-new-tokens 8".split()
    assert main(["eval", BASE, "--questions", str(source), "--out", str(out), *sizes, *words]) == 0
    (results,) = out.glob("benchmark-*.jsonl")
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert len(lines) == ROWS
    (trajectories,) = out.glob("trajectories-*.jsonl")
    told = [json.loads(line) for line in trajectories.read_text().splitlines()]
    assert [len(each["images"]) for each in told] == [1] * ROWS
    assert [each["answers"][0] for each in told] == ["red"] * ROWS


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_conversations_is_checked_evaluated_and_trained_on_for_two_steps(name, pictures, capsys):
    write, row = FORMATS[name]
    source = write(pictures, row)
    assert main(["data", "check", str(source)]) == 0
    said = capsys.readouterr().out
    assert f": {ROWS} demonstrations" in said
    assert "images: 1.0 a row" in said
    assert "What is wrong: nothing" in said
    assert_it_is_evaluated(source, pictures / "eval")
    sizes = "--settings.batch 1 --settings.epochs 1 --sizes.shard-rows 1"
    words = f"sft --checkpoint {BASE} --demonstrations {source} --out {pictures / 'run'} {sizes}"
    assert main(words.split()) == 0
    steps = [json.loads(line) for line in (pictures / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [step["sft/loss"] for step in steps]
    assert len(losses) == 2
    assert all(np.isfinite(loss) and loss > 0 for loss in losses)
    assert (pictures / "run" / "model" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_every_format_of_questions_is_checked_and_evaluated(name, pictures, hub, web, capsys):
    write, row = PLAIN[name]
    source = write(
        pictures, lambda n: row(n) if "URL" not in str(row(n)) else row(n) | {"image": f"{web}/pics/{n}.png"}
    )
    words = OTHER_NAMES if row is others else ["--private-urls"] if "URL" in name else []
    assert main(["data", "check", str(source), *words]) == 0
    said = capsys.readouterr().out
    assert f": {ROWS} questions" in said
    assert "images: 1.0 a row" in said
    assert "What is wrong: nothing" in said
    assert_it_is_evaluated(source, pictures / "eval", *words)


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
