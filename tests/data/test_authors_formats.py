import json
import re

import pytest
from PIL import Image

from hypereyes_jax.data.authors_formats import searches_by_round, write_rl_parquet, write_sft_files
from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.data.sources import open_examples, open_questions
from hypereyes_jax.env.types import Question

TURN = "<reason>r</reason><answer>a</answer>"


@pytest.mark.parametrize(
    ("rounds", "searches", "laid"), [(2, 5, [3, 2]), (1, 4, [4]), (3, 3, [1, 1, 1]), (4, 6, [2, 2, 1, 1])]
)
def test_searches_are_laid_out_over_the_rounds_and_sum_to_the_reference(rounds, searches, laid):
    assert searches_by_round(rounds, searches) == laid
    assert sum(laid) == searches


def test_more_questions_than_a_row_group_are_all_read_back(tmp_path):
    asked = [Question(f"q{n}", f"Question {n}?", (), (f"a{n}", "b")) for n in range(130)]
    references = {question.id: (2, n % 5 + 2) for n, question in enumerate(asked)}
    assert write_rl_parquet(tmp_path / "rl.parquet", asked, references, "Search.") == 130
    with open_questions(tmp_path / "rl.parquet") as read:
        assert [(q.text, q.answers) for q in read] == [(q.text, q.answers) for q in asked]
        assert list(read.references.values()) == list(references.values())


@pytest.mark.parametrize("pictures", [0, 1])
@pytest.mark.parametrize("tag", ["image", "video", "audio"])
def test_a_literal_tag_in_a_question_stands_for_no_medium(tmp_path, tag, pictures):
    asked = Question("q", f"What does <{tag}> mean?", (Image.new("RGB", (9, 9)),) * pictures, ("a",))
    write_rl_parquet(tmp_path / "rl.parquet", [asked], {"q": (1, 1)}, f"Boxes of an <{tag}>.")
    with open_questions(tmp_path / "rl.parquet") as read:
        assert (read[0].text, len(read[0].images)) == (f"What does < {tag}> mean?", pictures)


@pytest.mark.parametrize("first", ["t", "i", "ti", "it", "tit", "iit", "tti", "ntn", "nin"])
def test_parts_in_any_order_are_read_back_and_written_again_the_same(tmp_path, first):
    parts = {"t": "Which?", "n": "\nlines\n", "i": Image.new("RGB", (9, 9))}
    turns = ('<reason>r</reason><tool_call>{"name": "text_search", "arguments": {"input": ["a"]}}</tool_call>', TURN)
    example = Example("e", "System.", (tuple(parts[name] for name in first), ("found",)), turns)
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        write_sft_files(folder, [example])
        with open_examples(folder / "sft.jsonl") as read:
            again = read[0]
        shown = [part if isinstance(part, str) else part.size for part in again.observations[0]]
        kinds = "".join("n" if isinstance(part, str) else "i" for part in again.observations[0])
        texts = "".join(part for part in shown if isinstance(part, str))
        assert texts == "".join(parts[name] for name in first if name != "i")
        assert kinds == re.sub("n+", "n", first.replace("t", "n"))
        example = again
    assert (tmp_path / "one" / "sft.jsonl").read_bytes() == (tmp_path / "two" / "sft.jsonl").read_bytes()


@pytest.mark.parametrize("tag", ["image", "video", "audio"])
def test_a_literal_tag_of_a_medium_stands_for_none(tmp_path, tag):
    example = Example("e", "System.", ((f"What does <{tag}> mean?",),), (TURN,))
    assert write_sft_files(tmp_path, [example]) == 1
    assert f"< {tag}>" in json.loads((tmp_path / "sft.jsonl").read_text())["messages"][1]["content"]
    with open_examples(tmp_path / "sft.jsonl") as read:
        assert f"< {tag}>" in read[0].observations[0][0]
