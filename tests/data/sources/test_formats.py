"""Every format is written by the tools that people write it with, and read row by row."""

import gzip
import io
import json
import pickle
import sys
import tarfile
import threading
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from PIL import Image

from hypereyes_jax.data import RowError, open_examples, open_questions
from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.data.files import write_questions
from hypereyes_jax.data.sources import table_rows
from hypereyes_jax.env.types import Question
from hypereyes_jax.errors import UserError

ROW = {"id": "a", "text": "What?", "answers": ["x", "y"]}


def color(image: Image.Image) -> tuple[int, ...]:
    return image.getpixel((0, 0))


def test_json_lines_with_a_byte_order_mark_integer_ids_and_blank_lines(tmp_path):
    path = tmp_path / "q.jsonl"
    lines = [ROW | {"id": 7}, "", ROW | {"id": 8, "text": "a\u2028b"}]
    text = "\n".join(json.dumps(line, ensure_ascii=False) if line else "" for line in lines)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())  # and no line feed at the end
    with open_questions(path) as questions:
        assert [q.id for q in questions] == ["7", "8"] == list(questions.ids)
        assert questions[1].text == "a\u2028b"
        assert str(questions.place(1)) == f"{path}, line 3"
        assert questions[-1].id == "8"
        with pytest.raises(IndexError):
            questions[2]


def test_lines_longer_than_a_block_and_blank_lines_across_blocks(tmp_path, monkeypatch):
    from hypereyes_jax.data.sources import json_rows

    monkeypatch.setattr(json_rows, "_BLOCK", 16)
    path = tmp_path / "q.jsonl"
    rows = [ROW | {"id": str(i), "text": "?" * (3 * i)} for i in range(40)]
    path.write_text("\n \n".join(map(json.dumps, rows)) + "\n\n")
    assert [q.text for q in open_questions(path)] == ["?" * (3 * i) for i in range(40)]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_array(tmp_path, indent, monkeypatch):
    from hypereyes_jax.data.sources import json_rows

    monkeypatch.setattr(json_rows, "_BLOCK", 7)  # marks fall on both sides of a block's end
    rows = [
        {"question": 'a "quoted\\" [bracket', "answer": "x{", "deep": [[1, {"k": "]"}]]},
        {"question": "b", "answer": 3},
    ]
    path = tmp_path / "q.json"
    path.write_text(json.dumps(rows, indent=indent))
    with open_questions(path) as questions:
        assert [(q.id, q.text, q.answers) for q in questions] == [
            ("q-1", 'a "quoted\\" [bracket', ("x{",)),
            ("q-2", "b", ("3",)),
        ]
        assert questions.report.formats == {"JSON array": 1}


def verl_table(*images: bytes) -> pa.Table:
    rows = [
        {
            "prompt": [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "<image>\nWho?"}],
            "images": [{"bytes": image, "path": None}],
            "reward_model": {"ground_truth": "<answer>Ann</answer>", "candidate_answers": json.dumps(["Anna", "A."])},
            "extra_info": {"index": number, "question": "Who is it?", "tool_call": 2, "parallel": "[3, 1]"},
            "data_source": "set/one",
        }
        for number, image in enumerate(images)
    ]
    return pa.Table.from_pylist(rows)


def test_parquet_as_verl_and_the_authors_write_it(tmp_path, red):
    path = tmp_path / "train.parquet"
    pq.write_table(verl_table(red, red, red), path, row_group_size=2)
    with open_questions(path) as questions:
        assert len(questions) == 3
        question = questions[2]
        assert (question.id, question.text, question.answers) == ("2", "Who is it?", ("Ann", "Anna", "A."))
        assert question.meta["reference"] == [2, 4]
        assert color(question.images[0]) == (255, 0, 0)
        assert questions.report.kinds == {"veRL": 3}


def test_a_large_row_group_is_copied_once_into_small_ones(tmp_path, red, monkeypatch, capsys):
    monkeypatch.setattr(table_rows, "GROUP_BYTES", 100)
    import hypereyes_jax.data.sources.formats as formats

    monkeypatch.setattr(formats, "GROUP_BYTES", 100)
    monkeypatch.setattr(table_rows, "COPIED_ROWS", 2)
    path = tmp_path / "train.parquet"
    pq.write_table(verl_table(*[red] * 5), path)
    for _ in range(2):
        with open_questions(path, cache=tmp_path / "cache") as questions:
            assert [q.id for q in questions] == ["0", "1", "2", "3", "4"]
    (copy,) = (tmp_path / "cache" / "parquet").iterdir()
    assert pq.ParquetFile(copy).metadata.num_row_groups == 3
    assert capsys.readouterr().out.count("large row groups") == 1
    questions = open_questions(path, cache=tmp_path / "cache")
    pq.write_table(verl_table(red), path)
    with pytest.raises(UserError, match=r"train.parquet changed while it was read"):
        questions[0]


def test_a_folder_saved_by_datasets_and_its_arrow_file(tmp_path, red):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": datasets.Value("string"), "image": datasets.Image()}
    )
    made = datasets.Dataset.from_dict(
        {"question": ["one?", "two?"], "answer": ["1", "2"], "image": [{"bytes": red, "path": "gone.png"}] * 2},
        features,
    )
    made.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": made, "test": made.select([1])}).save_to_disk(tmp_path / "split")
    arrow = next((tmp_path / "one").glob("*.arrow"))
    for source in (tmp_path / "one", arrow, tmp_path / "split"):
        with open_questions(source) as questions:
            assert [(q.text, q.answers) for q in questions] == [("one?", ("1",)), ("two?", ("2",))]
            assert color(questions[1].images[0]) == (255, 0, 0)
    assert len(open_questions(f"{tmp_path}/split:test")) == 1
    with pytest.raises(UserError, match="has the splits train, test"):
        open_questions(f"{tmp_path}/split:dev")


def test_array_records(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    path = tmp_path / "q.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for number in range(5):
        writer.write(json.dumps(ROW | {"id": number}).encode())
    writer.close()
    with open_questions(path) as questions:
        assert [q.id for q in questions] == list("01234")
        assert questions[3].id == "3"
        assert str(questions.place(3)) == f"{path}, record 4"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="cut short"):
        open_questions(path)


def test_folders_globs_and_several_files(tmp_path, lines):
    (tmp_path / "d" / "data").mkdir(parents=True)
    lines(ROW | {"id": "1"}, name="d/data/train-0.jsonl")
    lines(ROW | {"id": "2"}, name="d/data/train-1.jsonl")
    lines(ROW | {"id": "3"}, name="d/data/test.jsonl")
    (tmp_path / "d" / "dataset_info.json").write_text("{}")
    assert list(open_questions(tmp_path / "d").ids) == ["1", "2"]  # in the order of the names
    assert list(open_questions(f"{tmp_path}/d:train").ids) == ["1", "2"]
    assert list(open_questions(f"{tmp_path}/d/**/train-*.jsonl").ids) == ["1", "2"]
    with pytest.raises(UserError, match="no file matches"):
        open_questions(f"{tmp_path}/*.txt")
    lines(ROW | {"id": "1"}, name="d/data/train-2.jsonl")
    with pytest.raises(UserError, match=r"train-2.jsonl, line 1: the id '1' is that of .*train-0.jsonl, line 1 too"):
        open_questions(f"{tmp_path}/d:train")


def test_an_object_of_a_module(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from PIL import Image\n"
        "rows = [{'question': 'q?', 'answer': 'a', 'image': Image.new('RGB', (8, 8), 'blue')}]\n"
        "def make():\n    return rows * 1\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    for source in ("mine:rows", "mine:make"):
        (question,) = open_questions(source)
        assert (question.text, color(question.images[0])) == ("q?", (0, 0, 255))
    for source, why in (("mine:gone", "has no gone"), ("nowhere.at_all:x", "nowhere"), ("mine:number", "is a int")):
        with pytest.raises(UserError, match=why):
            open_questions(source)
    example = Example("e", "s", (("look", Image.new("RGB", (8, 8))),), ("<answer>a</answer>",))
    assert open_examples([example])[0].turns == example.turns
    question = Question("q", "?", (), ("a",), "k", {"n": 1})
    assert open_questions([question])[0] == question


def test_columns_are_named(lines):
    path = lines({"q": "What?", "gt": {"best": "x"}, "text": "not this"})
    assert open_questions(path, {"text": "q", "answers": "gt.best"})[0].answers == ("x",)
    assert open_questions(path, {"text": "q", "answers": "gt.best"})[0].text == "What?"
    with pytest.raises(UserError, match=r"no column 'nope'.*'q', 'gt', 'text'"):
        open_questions(path, {"text": "nope"})
    with pytest.raises(UserError, match="there is no field colour; there are id, text"):
        open_questions(path, {"colour": "q"})


def test_bad_rows_are_refused_by_place_or_counted_by_kind(lines, pictures):
    path = lines(
        {"question": "one?", "answer": "1", "image": "pics/0.png"},
        {"question": "two?"},
        {"question": "three?", "answer": "3", "image": "pics/9.png"},
        {"question": "four?"},
        ["no object"],
    )
    with pytest.raises(UserError, match=r'rows.jsonl, line 2: it has no answer; .*Mend or remove.*bad_rows="skip"'):
        open_questions(path)
    questions = open_questions(path, bad_rows="skip")
    assert [q.text for q in questions] == ["one?"]
    assert questions.report.bad == {"no answer": 2, "image missing": 1, "no JSON object": 1}
    words = questions.report.bad_in_words()
    assert words.startswith("4 rows are left out: 2 x no answer (first: ")
    assert "line 2)" in words
    with pytest.raises(UserError, match=r"no row of .* can be used: 1 rows are left out: 1 x no answer"):
        open_questions(lines({"question": "two?"}, name="none.jsonl"), bad_rows="skip")


def test_leaving_rows_out_is_a_cure_only_where_it_is_not_done_yet(lines, pictures):
    pictures = pictures / "pics"
    (pictures / "broken.png").write_bytes((pictures / "0.png").read_bytes()[:60])  # a header without pixels
    path = lines({"question": "one?", "answer": "1", "image": "pics/broken.png"})
    for options, advised in [({}, True), ({"bad_rows": "refuse"}, True), ({"bad_rows": "skip"}, False)]:
        with open_questions(path, **options) as questions, pytest.raises(RowError, match="line 1: ") as caught:
            questions[0]
        assert ("--bad-rows skip" in str(caught.value)) is advised
        assert "or make the file again" in str(caught.value)
    with pytest.raises(UserError, match="no row of") as nothing_left:
        open_questions(lines({"question": "two?"}, name="none.jsonl"), bad_rows="skip")
    assert "--bad-rows" not in str(nothing_left.value)


def test_a_row_of_200_mb_is_refused_unread(tmp_path):
    path = tmp_path / "q.jsonl"
    with open(path, "wb") as file:
        file.write(json.dumps(ROW).encode() + b"\n" + b'{"id": "big", "text": "')
        file.truncate(file.tell() + (200 << 20))  # a hole, which costs no disk
        file.seek(0, 2)
        file.write(b'"}\n')
    with pytest.raises(UserError, match=r"line 2: it has 209,715,2.. bytes, where at most 67,108,864"):
        open_questions(path)
    assert open_questions(path, bad_rows="skip").report.bad == {"row too large": 1}
    path.write_text("".join(json.dumps(ROW | {"id": name, "text": name * 500}) + "\n" for name in ("a", "bcd", "e")))
    with open_questions(path, max_row_bytes=1000, bad_rows="skip") as questions:  # all in one block
        assert (questions.ids, questions.report.bad) == (("a", "e"), {"row too large": 1})
    table = pa.Table.from_pylist([{"question": "q?", "answer": "a", "note": "x" * 2000}])
    pq.write_table(table, tmp_path / "q.parquet")
    with pytest.raises(UserError, match="row 1: it has"):
        open_questions(tmp_path / "q.parquet", max_row_bytes=1000)
    table = pa.Table.from_pylist([{"question": "q?", "answer": "a", "image": {"bytes": b"x" * 2000, "path": ""}}])
    pq.write_table(table, tmp_path / "q.parquet")  # bytes are not read when it is opened
    with (
        open_questions(tmp_path / "q.parquet", max_row_bytes=1000) as questions,
        pytest.raises(UserError, match="row 1"),
    ):
        questions[0]


def refused(path, why):
    for opens in (open_questions, open_examples):
        with pytest.raises(UserError, match=why):
            opens(path)


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return buffer.getvalue()


def tarred(name):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def test_what_is_no_data_or_broken_is_refused_by_what_it_is(tmp_path, red):
    path = tmp_path / "x.jsonl"
    for data, why in (
        (pickle.dumps([ROW]), "is a pickle, which runs code"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        (red, "is an image"),
        (b"GIF89a\x01\0", "is an image"),
        (b"\0\0\0\x18ftypmp42", "is a video"),
        (gzip.compress(gzip.compress(b"{}")), "x.jsonl is compressed twice"),
        (gzip.compress(tarred("rows.jsonl")), "x.jsonl is a tar archive. Unpack it"),
        (gzip.compress(pickle.dumps([ROW])), "x.jsonl is a pickle, which runs code"),
        (zipped("rows.jsonl"), "is a zip archive. Unpack it"),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "is an Excel workbook. Save its sheet as CSV"),
        (zipped("archive/data.pkl"), "a file of PyTorch, which holds a pickle"),
        (tarred("rows.jsonl"), "is a tar archive. Unpack it"),
        (b"SQLite format 3\0", "a database of SQLite"),
        (b"%PDF-1.7\n", "is a PDF"),
        (b"\n<!DOCTYPE html><title>Sign in</title>", "is a page of HTML or XML"),
        (safetensors.numpy.save({"a": np.zeros(3)}), "is a safetensors file"),
        ('{"question": "où?"}'.encode("utf-16"), "text in UTF-16 or UTF-32. Convert it: iconv"),
        ('{"question": "où?"}'.encode("utf-16-be"), "text in UTF-16 or UTF-32. Convert it: iconv"),
        (b"questions: none\n- one\n", "x.jsonl is not data that can be read here: it begins with 'questions: none'"),
        (b'{\n  "mine": [\n    {"question": "a"}\n  ]\n}', r"one JSON object .* jq -c '\.mine\[\]' FILE"),
        (
            b'{"train": [{"question": "a"}], "test": [{"question": "b"}]}',
            r"one JSON object with several lists of rows: train, test\. .* jq -c '\.train\[\]' FILE",
        ),
        (b'{\n  "a": 1\n}\n{\n  "a": 2\n}\n', r"JSON objects that are spread over several lines.* jq -c '\.' FILE"),
        (b"\xe9", "is not a text file in UTF-8"),
        (b'[{"question": "a", "answer": "b"}', "cut short: its JSON array does not end"),
        (b'[{"question": "a", "answer": "b"}] {}', "something follows its JSON array"),
        (b'[{"question": "a", "answer": "b"}] and more', "something follows its JSON array"),
    ):
        path.write_bytes(data)
        refused(path, why)
    pq.write_table(verl_table(red), path)
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 4):
        path.write_bytes(whole[:size])
        refused(path, "x.jsonl is broken or cut short")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, verl_table(red).schema) as writer:
        writer.write_table(verl_table(red))
    path.write_bytes(path.read_bytes()[:700])
    refused(path, "x.jsonl is broken or cut short")


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path, lines, red):
    path = lines(*(ROW | {"id": i} for i in range(3)))
    questions = open_questions(path)
    lines(*(ROW | {"id": i} for i in range(4)))
    with pytest.raises(UserError, match=r"rows.jsonl changed while it was read"):
        questions[0]
    table = tmp_path / "t.parquet"
    pq.write_table(verl_table(red, red), table)
    questions = open_questions(table)
    pq.write_table(verl_table(red), table)
    with pytest.raises(UserError, match=r"t.parquet changed while it was read"):
        questions[0]


def test_sources_close_and_are_sent_to_other_processes_and_threads(tmp_path, red):
    pq.write_table(verl_table(*[red] * 20), tmp_path / "t.parquet", row_group_size=3)
    write_questions(
        tmp_path / "q.jsonl", [Question(str(i), "?", (Image.new("RGB", (9, 9)),), ("a",)) for i in range(20)]
    )
    for name in ("t.parquet", "q.jsonl"):
        questions = open_questions(tmp_path / name)
        again = pickle.loads(pickle.dumps(questions))
        assert [q.id for q in again] == list(questions.ids)
        found: list[str] = []
        threads = [
            threading.Thread(target=lambda: found.extend(questions[i].id for i in range(20)))  # noqa: B023
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == sorted(list(questions.ids) * 4)
        part = questions[5:15:3]
        assert (list(part.ids), part[1].id) == (["5", "8", "11", "14"], "8")
        part.close()
        assert questions[0].id == "0"
        questions.close()
        with pytest.raises(ValueError, match="after its source was closed"):
            questions[0]


def test_only_an_index_is_in_memory_and_pixels_are_decoded_on_access(tmp_path, monkeypatch):
    import tracemalloc

    import hypereyes_jax.data.sources.media as media

    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8))
    write_questions(tmp_path / "q.jsonl", [Question(str(i), "?", (image,), ("a",)) for i in range(100)])  # 36 MB
    decoded = []
    real = media.decode_image
    monkeypatch.setattr(media, "decode_image", lambda *args: decoded.append(1) or real(*args))
    tracemalloc.start()
    questions = open_questions(tmp_path / "q.jsonl")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not decoded
    assert held < 1 << 20
    questions[7]
    assert len(decoded) == 1


def test_rows_of_livevqa_are_two_questions_with_pictures_in_a_folder_beside_the_file(tmp_path, pictures):
    item = {
        "id": "n1",
        "img_path": "0.png",
        "source": "AP",
        "level1_qa": {"question": "Where?", "options": ["A. x"], "Ground_Truth": "A", "Ground_Truth_List": ["x", "X"]},
        "level2_qa": {"question": "When?", "Ground_Truth_List": ["2024"], "img_path": "1.png", "question_type": "time"},
    }
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps([item], indent=1))
    first, second = open_questions(path)
    assert (first.id, first.text, first.answers, first.meta["options"]) == ("n1-level1", "Where?", ("x", "X"), ["A. x"])
    assert (second.id, second.kind, color(second.images[0])) == ("n1-level2", "time", (0, 255, 0))


def test_rows_of_mmsearch_browsecomp_and_mmsearch_plus(tmp_path, red, lines, pictures):
    mmsearch = [
        {
            "sample_id": "s0",
            "query": "Who?",
            "query_image": {"bytes": red, "path": None},
            "gt_answer": "Ann",
            "alternative_gt_answers": ["Anna"],
            "area": "news",
        },
        {
            "sample_id": "s1",
            "query": "Why?",
            "query_image": None,
            "gt_answer": "so",
            "alternative_gt_answers": [],
            "area": "news",
        },
    ]
    pq.write_table(pa.Table.from_pylist(mmsearch), tmp_path / "end2end.parquet")
    first, second = open_questions(tmp_path / "end2end.parquet")
    assert (first.id, first.text, first.answers, first.kind, len(first.images)) == (
        "s0",
        "Who?",
        ("Ann", "Anna"),
        "news",
        1,
    )
    assert second.images == ()
    path = lines({"question": "Q?", "image_path": f"{tmp_path.name}/pics/2.png", "answers": ["A"], "domain": "TV"})
    (question,) = open_questions(path)
    assert (question.kind, color(question.images[0])) == ("TV", (0, 0, 255))
    plus = [{"question": "Q?", "answer": ["A"], "img_1": {"bytes": red}, "img_2": {"bytes": red}, "img_3": None}]
    pq.write_table(pa.Table.from_pylist(plus), tmp_path / "plus.parquet")
    assert len(open_questions(tmp_path / "plus.parquet")[0].images) == 2
