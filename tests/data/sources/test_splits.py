"""A folder or data set with several splits is read as the one for training, or it must be said which is meant."""

import json

import fsspec
import pytest

from hypereyes_jax.cli.main import main
from hypereyes_jax.data import open_questions
from hypereyes_jax.data.sources import SourceOptions
from hypereyes_jax.data.sources.splits import default_split, of_split
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.benchmark_play import prepare_questions

ROW = {"question": "q?", "answer": "a"}


def files(*names):
    return default_split(names, str, "set")


def test_training_files_are_read_and_those_of_other_splits_are_left_out():
    for train, others in (
        (["train.jsonl"], ["test.jsonl", "validation.jsonl"]),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], ["data/dev-0.parquet"]),
        (["training/a.jsonl"], ["eval/a.jsonl", "notes.json"]),
        (["my Train set.jsonl"], ["my val set.jsonl"]),
        (["set_train1.jsonl"], ["set_test1.jsonl"]),
    ):
        chosen = files(*train, *others)
        assert (list(chosen.files), chosen.split, list(chosen.others)) == (train, "train", others)


def test_files_that_tell_of_one_split_or_of_none_are_read_together():
    for names, split in (
        (["a.jsonl", "b.jsonl"], ""),
        (["latest.jsonl", "trained.jsonl", "developer.jsonl"], ""),  # only whole words count
        (["test/a.jsonl", "test/b.jsonl"], "test"),
        (["dev.jsonl", "validation-2.jsonl"], "validation"),
    ):
        chosen = files(*names)
        assert (list(chosen.files), chosen.split, chosen.others) == (names, split, ())


def test_held_out_files_are_never_mixed_with_others():
    for names, why in (
        (["test.jsonl", "validation.jsonl"], "of the splits test, validation, and of none for training"),
        (["more.jsonl", "test.jsonl"], "of the split test beside 'more.jsonl', and of none for training"),
    ):
        with pytest.raises(UserError, match=why) as refusal:
            files(*names)
        assert "set:test" in str(refusal.value)


def test_the_part_of_a_path_that_is_nearest_to_the_file_tells():
    assert files("train/test.jsonl", "train/train.jsonl").files == ["train/train.jsonl"]


def test_a_split_is_known_by_its_other_words_where_none_has_the_one_that_is_named():
    names = ["dev.jsonl", "train.jsonl", "eval.jsonl"]
    assert of_split(names, "validation", str) == ["dev.jsonl"]
    assert of_split(names, "test", str) == ["eval.jsonl"]
    assert of_split([*names, "test.jsonl"], "test", str) == ["test.jsonl"]
    assert of_split(names, "hard", str) == []


@pytest.fixture
def folder(tmp_path, lines):
    (tmp_path / "d").mkdir()
    for number, split in enumerate(("train", "test", "validation")):
        lines(ROW | {"id": str(number)}, name=f"d/{split}.jsonl")
    return tmp_path / "d"


def test_of_a_folder_the_training_rows_are_read_and_the_report_says_so(folder, capsys):
    with open_questions(folder) as questions:
        assert list(questions.ids) == ["0"]
        (sentence,) = questions.report.left_out()
    assert sentence == "the split train is read, and not test.jsonl, validation.jsonl: SOURCE:SPLIT names another one"
    with open_questions(f"{folder}:test") as questions:
        assert list(questions.ids) == ["1"]
        assert questions.report.left_out() == []
    with open_questions(f"{folder}/*.jsonl") as questions:  # a pattern says which files are meant
        assert sorted(questions.ids) == ["0", "1", "2"]
    assert main(["data", "check", str(folder)]) == 0
    assert "split: train (not read: test.jsonl, validation.jsonl)" in capsys.readouterr().out


def test_splits_are_told_before_formats(folder, lines):
    (folder / "train.jsonl").rename(folder / "train.ndjson")
    (folder / "test.jsonl").rename(folder / "test.json")
    (folder / "validation.jsonl").unlink()
    assert list(open_questions(folder).ids) == ["0"]


def test_an_evaluation_does_not_take_the_training_rows_unasked(folder):
    with pytest.raises(UserError, match=r"several splits \(train, and test.jsonl, validation.jsonl\).* asked"):
        prepare_questions(str(folder), SourceOptions())
    assert prepare_questions(f"{folder}:test", SourceOptions()).ids == ("1",)


def test_a_remote_folder_is_read_alike(tmp_path):
    fs = fsspec.filesystem("memory")
    for number, split in enumerate(("train", "test")):
        fs.pipe(f"/splits/{split}.jsonl", f'{{"id": "{number}", "question": "q?", "answer": "a"}}\n'.encode())
    assert list(open_questions("memory://splits", cache=tmp_path).ids) == ["0"]
    assert list(open_questions("memory://splits/test.jsonl", cache=tmp_path).ids) == ["1"]


def test_a_split_is_told_by_the_folder_of_a_partition():
    chosen = files("split=train/0.parquet", "split=test/0.parquet")
    assert (chosen.files, chosen.others) == (["split=train/0.parquet"], ("split=test/0.parquet",))


def write(path, rows=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(ROW | {"n": number}) + "\n" for number in range(rows)))


def test_files_of_one_name_in_several_folders_have_rows_of_different_ids(tmp_path):
    for name in ("level1/q.jsonl", "level2/q.jsonl", "level2/more/q.jsonl", "other.jsonl"):
        write(tmp_path / "set" / name, rows=2)
    with open_questions(tmp_path / "set") as questions:
        assert len(questions) == 8
        assert {name.rpartition("-")[0] for name in questions.ids} == {"level1-q", "level2-q", "level2-more-q", "other"}


def test_data_files_that_are_not_read_are_told(tmp_path, capsys):
    write(tmp_path / "a.jsonl")
    (tmp_path / "b.csv").write_text("question,answer\n?,a\n")
    (tmp_path / "c.jsonl.gz").write_bytes(b"\x1f\x8b")
    for name in ("images.zip", "README.md", "._d.jsonl.gz"):
        (tmp_path / name).write_bytes(b"x")
    with open_questions(tmp_path) as questions:
        assert questions.report.unread_files == ("b.csv", "c.jsonl.gz")
        assert questions.report.left_out() == [
            "not read, as they have another format or are compressed: b.csv, c.jsonl.gz"
        ]
    assert main(["data", "check", str(tmp_path)]) == 0
    assert "not read, as they have another format or are compressed: b.csv, c.jsonl.gz" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train-0.jsonl.zip", "train-0.tar", "train-0.tar.gz"])
def test_a_folder_of_archives_has_the_cure(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=rf"holds no data file .*Unpack what it holds first, such as {name}\."):
        open_questions(tmp_path)


def test_a_folder_of_feather_files_is_read(tmp_path):
    import pyarrow
    from pyarrow import feather

    feather.write_feather(pyarrow.Table.from_pylist([ROW]), tmp_path / "q.feather")
    assert open_questions(tmp_path)[0].answers == ("a",)


CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: ["parts/a*.jsonl", ./more.jsonl]
  - split: test
    path: asked.jsonl
---
# A data set
"""


def test_the_card_of_a_folder_says_which_files_are_of_a_split(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    (tmp_path / "parts").mkdir()
    for number, name in enumerate(("parts/a1.jsonl", "parts/a2.jsonl", "more.jsonl", "asked.jsonl")):
        (tmp_path / name).write_text(json.dumps(ROW | {"id": number}) + "\n")
    with open_questions(tmp_path) as questions:
        assert sorted(questions.ids) == ["0", "1", "2"]
        assert (questions.report.split, questions.report.other_splits) == ("train", ("asked.jsonl",))
    with open_questions(f"{tmp_path}:test") as questions:
        assert questions.ids == ("3",)
    with pytest.raises(UserError, match="no data file for the split 'validation'"):
        open_questions(f"{tmp_path}:validation")


def data_set(folder, names, card):
    """A folder whose rows are named by their files, with a card of these configurations."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(ROW | {"id": name}) + "\n")
    (folder / "README.md").write_text(f"---\nconfigs:\n{card}---\n# A data set\n", encoding="utf-8")
    return folder


TWO = """
- config_name: easy
  data_files: [{split: train, path: easy/train-*}, {split: test, path: easy/test-*}]
- config_name: hard
  data_files: [{split: train, path: hard/train-*}, {split: test, path: hard/test-*}]
"""
PARTS = [f"{config}/{split}-0.jsonl" for config in ("easy", "hard") for split in ("train", "test")]


def test_configurations_are_never_mixed(tmp_path):
    data_set(tmp_path, PARTS, TWO)
    with pytest.raises(UserError, match=r"has several configurations \(easy, hard\)\. Say which .*:easy\.$"):
        open_questions(tmp_path)
    with pytest.raises(
        UserError, match="has no split or configuration 'dev'; it has easy/train, easy/test, hard/train"
    ):
        open_questions(f"{tmp_path}:dev")
    with pytest.raises(UserError, match=r"'train' is a split of several configurations.*easy/train or hard/train"):
        open_questions(f"{tmp_path}:train")
    assert open_questions(f"{tmp_path}:hard/test").ids == ("hard/test-0.jsonl",)
    with open_questions(f"{tmp_path}:easy") as questions:
        assert questions.ids == ("easy/train-0.jsonl",)
        assert (questions.report.split, questions.report.other_splits) == ("easy/train", ("easy/test-0.jsonl",))
    with pytest.raises(UserError, match=rf"like {tmp_path}:easy/train\.$"):
        questions.report.refuse_default_split(f"{tmp_path}:easy")


def test_the_default_configuration_is_the_one_that_the_card_marks(tmp_path):
    data_set(tmp_path, PARTS, TWO.replace("name: hard", "name: hard\n  default: true"))
    with open_questions(tmp_path) as questions:
        assert (questions.ids, questions.report.split) == (("hard/train-0.jsonl",), "hard/train")
    assert open_questions(f"{tmp_path}:test").ids == ("hard/test-0.jsonl",)
    assert open_questions(f"{tmp_path}:easy/test").ids == ("easy/test-0.jsonl",)


def test_configurations_named_as_their_splits_are_asked_by_that_name(tmp_path):
    card = "".join(
        f"- config_name: {name}\n  data_files: [{{split: {name}, path: {name}.jsonl}}]\n"
        for name in ("end2end", "rerank")
    )
    data_set(tmp_path, ["end2end.jsonl", "rerank.jsonl"], card)
    with pytest.raises(UserError, match="several configurations"):
        open_questions(tmp_path)
    with open_questions(f"{tmp_path}:end2end") as questions:
        assert (questions.ids, questions.report.other_splits) == (("end2end.jsonl",), ())


@pytest.mark.parametrize(
    ("card", "source", "ids"),
    [
        ("- config_name: a\n  data_dir: x\n", "", ["x/train.jsonl"]),
        ("- config_name: a\n  data_dir: x\n", ":test", ["x/test.jsonl"]),
        ("- config_name: a\n  data_dir: ./x/\n  data_files: {train: test.jsonl}\n", "", ["x/test.jsonl"]),
        ("- config_name: a\n  data_files: {train: b.jsonl, test: [x/y/c.jsonl]}\n", ":test", ["x/y/c.jsonl"]),
        ("- config_name: a\n  data_files: '*.jsonl'\n", "", ["b.jsonl"]),
        ("- config_name: a\n  data_files: 'x/**'\n", "", ["x/test.jsonl", "x/train.jsonl", "x/y/c.jsonl"]),
        ("- config_name: a\n  data_files: 'x/**/**/c.jsonl'\n", "", ["x/y/c.jsonl"]),
        ("- config_name: a\n  data_files: x/y\n", "", ["x/y/c.jsonl"]),
        ("- config_name: a\n  data_files: 'x/*'\n", "", ["x/test.jsonl", "x/train.jsonl"]),
    ],
)
def test_a_card_names_files_as_the_package_datasets_reads_them(tmp_path, card, source, ids):
    data_set(tmp_path, ["x/train.jsonl", "x/test.jsonl", "x/y/c.jsonl", "b.jsonl"], card)
    assert list(open_questions(f"{tmp_path}{source}").ids) == ids


def test_a_card_with_a_byte_order_mark_is_read(tmp_path):
    data_set(tmp_path, ["a.jsonl", "b.jsonl"], "- config_name: a\n  data_files: {train: a.jsonl, test: b.jsonl}\n")
    card = tmp_path / "README.md"
    card.write_bytes(b"\xef\xbb\xbf" + card.read_bytes())
    assert open_questions(tmp_path).ids == ("a.jsonl",)


def test_a_split_whose_files_are_archives_is_not_another_one(tmp_path):
    data_set(tmp_path, ["a.jsonl.zip", "b.jsonl"], "- config_name: a\n  data_files: a.jsonl.zip\n")
    with pytest.raises(UserError, match=r"Unpack what it holds first, such as a\.jsonl\.zip"):
        open_questions(tmp_path)


@pytest.mark.parametrize(
    "card",
    ["# A data set", "---\nconfigs: 3\n---\n", "---\n: [\n---\n", "---\nconfigs:\n- data_files: gone.jsonl\n---\n"],
)
def test_a_card_that_says_nothing_of_the_files_leaves_it_to_their_names(folder, card):
    (folder / "README.md").write_text(card)
    with open_questions(folder) as questions:
        assert questions.ids == ("0",)


@pytest.mark.parametrize("ending", [".jsonl", "-0a1b2c.jsonl"])
def test_shards_that_are_not_all_there_are_told(tmp_path, ending):
    for number in (0, 2):
        row = f'{{"question": "{number}?", "answer": "x"}}\n'
        (tmp_path / f"train-{number:05}-of-00003{ending}").write_text(row)
    with open_questions(tmp_path) as questions:
        (told,) = questions.report.left_out()
        assert told.endswith("train-*-of-00003 only 2 are there: fetch the others, unless a part is meant")
    with open_questions(tmp_path / f"train-00000-of-00003{ending}") as questions:
        assert not questions.report.left_out()
    (tmp_path / f"train-00001-of-00003{ending}").write_text('{"question": "1?", "answer": "x"}\n')
    with open_questions(tmp_path) as questions:
        assert not questions.report.left_out()


def test_a_second_copy_of_a_file_is_told(tmp_path):
    rows = [f'{{"question": "{n}?", "answer": "x"}}\n' for n in range(3)]
    for name, text in (
        ("rows.jsonl", "".join(rows)),
        ("rows (1).jsonl", "".join(rows)),
        ("b.jsonl", "".join(rows[::-1])),
    ):
        (tmp_path / name).write_text(text)
    with open_questions(tmp_path) as questions:
        (told,) = questions.report.left_out()
    first, second = tmp_path / "rows (1).jsonl", tmp_path / "rows.jsonl"
    assert told == f"{second} seems to be a copy of {first}, and both are read: remove one of them"
