from collections.abc import Sequence

import pytest

from hypereyes_jax.data.sources import subset
from hypereyes_jax.env.types import Question


class Decoding(Sequence):
    """Ten questions, each made when it is asked for."""

    def __init__(self):
        self.decoded = []

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.decoded.append(index)
        return Question(f"q-{index}", "Which one?", (), ("x",))


def test_a_subset_of_what_decodes_decodes_only_what_is_asked_for():
    questions = Decoding()
    some = subset(questions, [7, 2, 5])
    assert (len(some), questions.decoded) == (3, [])
    assert some[1].id == "q-2"
    assert some[-1].id == "q-5"
    assert questions.decoded == [2, 5]
    with pytest.raises(IndexError):
        some[3]


def test_a_part_of_a_subset_decodes_nothing_either():
    questions = Decoding()
    part = subset(questions, [7, 2, 5])[1:]
    assert questions.decoded == []
    assert [question.id for question in part] == ["q-2", "q-5"]


def test_a_subset_of_a_list_is_a_list_in_the_order_of_the_numbers():
    questions = [Question(f"q-{n}", "Which one?", (), ("x",)) for n in range(4)]
    assert subset(questions, [3, 0]) == [questions[3], questions[0]]
