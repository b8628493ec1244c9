"""`hypereyes data`: what a source is, a page of it, and shards made of it."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hypereyes_jax.cli.main import main
from hypereyes_jax.data import open_examples, open_questions


@pytest.fixture
def questions(tmp_path):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "red.jpg")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "red.jpg").read_bytes()[:200])
    rows = [
        {"id": i, "question": f"Which <image> is number {i}?", "answers": ["red", "Red"], "image": "red.jpg"}
        for i in range(30)
    ]
    rows += [{"id": 98, "question": "no answer"}, {"id": 99, "question": "?", "answer": "x", "image": "broken.jpg"}]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def talks(tmp_path):
    Image.new("RGB", (64, 48), "blue").save(tmp_path / "blue.png")
    call = {"function": {"name": "google_search", "arguments": {"q": "x"}}}
    messages = [
        {"role": "user", "content": "<image>Which?"},
        {"role": "assistant", "content": "<think>Hm.</think>", "tool_calls": [call]},
        {"role": "tool", "content": "It is Oslo."},
        {"role": "assistant", "content": "<answer>Oslo</answer>"},
    ]
    path = tmp_path / "talks.json"
    path.write_text(json.dumps([{"messages": messages, "images": ["blue.png"]}] * 3))
    return path


def check(capsys, *words):
    assert main(["data", "check", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_check_tells_what_a_source_of_questions_is_and_what_is_wrong(questions, capsys):
    said = check(capsys, questions)
    assert f"{questions}: 31 questions" in said
    assert "files: 1 x JSON lines" in said
    assert "rows: 31 x question, answer, image" in said
    assert "images: 1.0 a row, at most 1" in said
    counts = [int(n) for n in re.findall(r"^ +[\d,]+ - +[\d,]+ .* (\d+)$", said, re.MULTILINE)]
    assert sum(counts) == 30
    assert "[70 tokens of an image]" in said  # 64 x 48 pixels scaled up by 4.62 to 65,536, then up to 10 x 7 tokens
    assert "You answer questions about images by searching" in said
    assert "Which img_0 is number 0?" in said
    assert "accepted answers: red | Red" in said
    assert "What is wrong: 2 rows" in said
    assert re.search(
        r"1 x no answer; the first: .*q.jsonl, line 31: it has no answer; .*--columns answers=COLUMN", said
    )
    assert "columns: text from question; answers from answers, else answer; images from image; id from id\n" in said
    assert "of no field" not in said
    assert re.search(r"1 x broken image; the first: .*q.jsonl, line 32: an image can't be read", said)


def test_check_tells_what_columns_are_taken_for_and_which_are_not(tmp_path, capsys):
    row = {"Question": "Which?", "Ground Truth": "", "answer": "red", "scan": "red.jpg", "Type": "colour", "n": 1}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    said = check(capsys, tmp_path / "q.jsonl")
    assert "columns: text from Question; answers from answer, else Ground Truth; kind from Type\n" in said
    assert "of no field: scan, n\n" in said
    assert "The column 'scan' seems to hold images, and is not read: --columns images=scan reads it." in said


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "thousandths, since all its coordinates are whole numbers up to 1000; --box-units names another one"),
        (("--box-units", "pixel"), "pixels, as --box-units says"),
    ],
)
def test_check_tells_which_units_boxes_were_read_in_and_why(tmp_path, capsys, options, told):
    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    call = {"function": {"name": "image_search", "arguments": {"bbox": [320, 240, 640, 480]}}}
    messages = [
        {"role": "user", "content": "<image>Which?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "It is Oslo."},
        {"role": "assistant", "content": "<answer>Oslo</answer>"},
    ]
    (tmp_path / "talks.json").write_text(json.dumps([{"messages": messages, "images": ["a.png"]}] * 3))
    assert f"boxes of 3 conversations are read as {told} (the largest is 640)\n" in check(
        capsys, tmp_path / "talks.json", *options
    )


def test_check_of_demonstrations_tells_what_was_mapped(talks, capsys):
    said = check(capsys, talks)
    assert f"{talks}: 3 demonstrations" in said
    assert "turns: 2.0 a row, at most 2" in said
    assert "3 x google_search(q) -> text_search(input)" in said
    assert "3 x <think> -> <reason>" in said
    assert "What is wrong: nothing" in said
    assert ": 3 questions" in check(capsys, talks, "--hold", "questions")


def test_check_reads_other_columns_and_a_source_with_nothing_usable(tmp_path, capsys):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"q": "Who?", "gt": "Ann"}))
    assert "1 questions" in check(capsys, path, "--columns", "text=q", "answers=gt")
    said = check(capsys, path)
    assert ": 0 questions" in said
    assert "1 x no question; the first: " in said
    assert main(["data", "check", str(path), "--columns", "text"]) == 2
    assert main(["data", "check", str(tmp_path / "gone.jsonl")]) == 2


@pytest.mark.parametrize("format", ["parquet", "array_record"])
def test_shards_hold_the_same_questions_with_their_pictures_bytes(questions, tmp_path, capsys, format):
    words = ["data", "convert", str(questions), str(tmp_path / "out"), "--format", format]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "wrote 30 rows to 1 shards" in said
    assert "2 rows are left out: " in said
    with open_questions(tmp_path / "out") as again, open_questions(questions, bad_rows="skip") as before:
        assert [q for q in again.ids] == list(before.ids)[:30]
        for number in (0, 29):
            one, other = again[number], before[number]
            assert (one.text, one.answers, one.kind, one.meta) == (other.text, other.answers, other.kind, other.meta)
            assert np.array_equal(np.asarray(one.images[0]), np.asarray(other.images[0]))
    assert main(words) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*words[:3], str(tmp_path / "strict"), "--bad-rows", "refuse"]) == 2
    assert main([*words[:3], str(tmp_path / "strict"), "--format", format]) == 0
    capsys.readouterr()
    assert [path.name for path in (tmp_path / "strict").iterdir()] == [f"part-00000.{format}"]


@pytest.mark.parametrize("format", ["parquet", "array_record"])
def test_shards_of_demonstrations(talks, tmp_path, format):
    assert main(["data", "convert", str(talks), str(tmp_path / "out"), "--format", format]) == 0
    one, other = open_examples(tmp_path / "out")[2], open_examples(talks)[2]
    assert (one.id, one.system, one.turns) == (other.id, other.system, other.turns)
    assert one.observations[1] == other.observations[1]
    assert one.observations[0][1] == other.observations[0][1]
    assert np.array_equal(np.asarray(one.observations[0][0]), np.asarray(other.observations[0][0]))


def test_shards_end_at_their_size_and_row_groups_stay_small(tmp_path, monkeypatch):
    from hypereyes_jax.data import convert as module

    noise = np.random.default_rng(0).integers(0, 255, (20, 100, 100, 3), np.uint8)
    rows = [{"question": "?", "answer": "a", "image": Image.fromarray(pixels)} for pixels in noise]  # 30 kB each
    monkeypatch.setattr(module, "GROUP_BYTES", 100_000)
    done = module.convert(open_questions(rows), tmp_path / "out", shard_bytes=200_000)
    assert [path.name for path in done.shards] == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    meta = pq.ParquetFile(done.shards[0]).metadata
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [4, 3]
    assert len(open_questions(tmp_path / "out")) == 20


def test_show_writes_a_page_of_rows(questions, talks, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["data", "show", str(talks), "--out", str(out), "--rows", "2"]) == 0
    page = out.read_text()
    assert "text_search" in page
    assert "data:image/webp" in page
    assert main(["data", "show", str(questions), "--out", str(out)]) == 0
    assert "Which img_0 is number 0?" in out.read_text()
    assert "1 x broken image" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gone", "gone holds no tokenizer.json. Give a checkpoint in Hugging Face layout, or a hub id."),
        ("damaged", "tokenizer.json is damaged, or no tokenizer of Qwen3-VL"),
    ],
)
def test_check_by_a_checkpoint_without_a_tokenizer_is_refused_in_one_sentence(questions, capsys, name, why):
    folder = questions.parent / name
    if name == "damaged":
        folder.mkdir()
        (folder / "tokenizer.json").write_text("{}")
    assert main(["data", "check", str(questions), "--checkpoint", str(folder)]) == 2
    assert why in " ".join(capsys.readouterr().err.split())
