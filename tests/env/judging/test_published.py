"""Benchmarks' own scores, by hand."""

import pytest

from hypereyes_jax.env.chat.client import ChatEndpoint, ChatError, ChatReply
from hypereyes_jax.env.judging.published import (
    GradeJudge,
    JsonJudge,
    LetterMatch,
    SquadMatch,
    chosen_letter,
    read_json_verdict,
    squad_normalise,
    token_f1,
)
from hypereyes_jax.env.types import Question

OPTIONS = ["A. Wolf Island, Galapagos", "B. Great Barrier Reef", "C. A coral garden"]
ASKED = Question("q", "Where?", (), ("Great Barrier Reef", "the reef"), meta={"options": OPTIONS, "letter": "B"})


def test_squad_normalisation():
    assert squad_normalise("The  Côte d'Ivoire, a state.") == "côte divoire state"


@pytest.mark.parametrize(
    ("answer", "accepted", "expected"),
    [
        ("September 29 to October 4", ("2024-09-29",), 0.0),
        ("the Great Reef", ("Great Barrier Reef",), 0.8),  # precision 2/2, recall 2/3
        ("reef reef", ("reef",), 2 / 3),  # counted as often as it stands
        ("Wolf Island", ("Darwin", "wolf island."), 1.0),
        (None, ("x",), 0.0),
        ("", ("the",), 1.0),  # both empty once normalised
    ],
)
def test_token_f1_by_hand(answer, accepted, expected):
    assert token_f1(answer, accepted) == pytest.approx(expected)


async def test_exact_match_and_containment():
    for answer, exact, within in [
        ("Great Barrier Reef!", True, True),
        ("It is the Great Barrier Reef in Australia", False, True),
        ("Greater Barrier Reefs", False, False),
        (None, False, False),
    ]:
        assert await SquadMatch().judge(ASKED, answer) is exact
        assert await SquadMatch(within=True).judge(ASKED, answer) is within


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("B. Great Barrier Reef", "B"),
        ("Answer: B", "B"),
        ("The correct option is B.", "B"),
        ("great barrier reef", "B"),
        ("A coral garden", "C"),  # its first word is no letter
        ("A dog", ""),
        ("B\n\nExplanation: the corals show it.", "B"),
        ("B\u3002", "B"),
        ("\uff22\uff09 Great Barrier Reef", "B"),
        ("E", ""),
        ("Beside the reef", ""),
        ("", ""),
        ("**B**", "B"),
        ("**b.**", "B"),
        ("`B`", "B"),
        (r"$\boxed{B}$", "B"),
        (r"\boxed{\text{B}}", "B"),
        ("The answer is option B", "B"),
        ("The correct answer is (B).", "B"),
        ("Option B is correct.", "B"),
        ("B because of the corals", "B"),
        ("B - the reef in Australia", "B"),
        ("b) the reef in Australia", "B"),
        ("A, B", ""),
        ("B or C", ""),
        ("B and C.", ""),
        ("A is what I would choose", "A"),
        ("a is for apple", ""),
    ],
)
def test_a_choice_is_read_from_its_letter_or_its_text(answer, expected):
    assert chosen_letter(answer, OPTIONS) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("So the answer is B.", "B"),
        ("I choose (B)", "B"),
        ("it's B!", "B"),
        ("答案：B。", "B"),
        ("选B", "B"),
        ("B！", "B"),
        ("<B>", "B"),
        ("It is not B", ""),
        ("It isn't B", ""),
        ("A is wrong, so it is B", ""),  # which of the two is told by words alone
        ("It is a reef", ""),
        ("It is D", ""),
    ],
)
def test_a_letter_at_the_end_of_a_sentence_is_a_choice_unless_another_or_a_denial_stands_there(answer, expected):
    assert chosen_letter(answer, OPTIONS) == expected


async def test_letters_are_compared():
    assert await LetterMatch().judge(ASKED, "B) Great Barrier Reef") is True
    assert await LetterMatch().judge(ASKED, "A") is False
    assert await LetterMatch().judge(Question("q", "?", (), ("x",)), "A") is None  # no right option is known


class Client:
    endpoint = ChatEndpoint("http://127.0.0.1:1/v1", "grader")

    def __init__(self, *replies):
        self.replies = list(replies)
        self.prompts, self.rooms = [], []

    async def complete(self, messages, *, max_tokens, **_):
        self.prompts.append(messages[0][1][0])
        self.rooms.append(max_tokens)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, tuple):
            return ChatReply(*reply)
        return ChatReply(reply, "stop")


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (["A"], True),
        (["Grade: B."], False),
        (["C"], False),
        (["A or B", "A"], True),
        (["Not A", "It isn't A", "A?"], None),
        (["\uff21"], True),
        (["?", "?", "?"], None),
        (["A response that contradicts the target: B"], False),
        (["A response that refuses", "C"], False),
        (["A, as it names the reef"], True),
        ([ChatError("down", transient=True)], None),
    ],
)
async def test_grades(replies, expected):
    assert await GradeJudge(Client(*replies)).judge(ASKED, "the reef") is expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"extracted_final_answer": "x", "correct": "yes", "confidence": 90}', True),
        ('```json\n{"correct": "No"}\n```', False),
        ('{"correct": true}', True),
        ('{"correct": "maybe"}', None),
        ('{"Correct": "Yes."}', True),
        ('{"correct": 0}', False),
        ("extracted_final_answer: x\nreasoning: it is the correct one\ncorrect: yes\nconfidence: 90", True),
        ("correct: yes\ncorrect: no", None),
        ('<think>{"correct": "yes"}?</think>{"correct": "no"}', False),
        ('It may be {this}, so {"correct": "no"}', False),
        ("yes", None),
        ("{broken", None),
        ("[1]", None),
    ],
)
def test_verdicts_in_json(reply, expected):
    assert read_json_verdict(reply) is expected


async def test_a_json_judge_sees_the_first_answer_only_and_leaves_out_what_it_cannot_read():
    client = Client('{"correct": "yes"}')
    assert await JsonJudge(client).judge(ASKED, "the reef <tool_call>") is True
    assert "Great Barrier Reef" in client.prompts[0]
    assert '"the reef"' not in client.prompts[0]
    assert "<tool_call>" not in client.prompts[0]
    assert await JsonJudge(Client("no", "no", "no")).judge(ASKED, "x") is None
    assert await JsonJudge(Client()).judge(ASKED, " ") is False
    with pytest.raises(ChatError):
        await JsonJudge(Client(ChatError("key", transient=False, fatal=True))).judge(ASKED, "x")


@pytest.mark.parametrize(("judge", "good"), [(GradeJudge, "A"), (JsonJudge, '{"correct": "yes"}')])
async def test_a_grader_that_thinks_is_given_more_room_once_and_for_good(judge, good):
    client = Client(("<think>A or", "length"), f"<think>B?</think>{good}", good)
    grader = judge(client)
    assert await grader.judge(ASKED, "the reef") is True
    assert await grader.judge(ASKED, "the reef") is True
    assert client.rooms == [grader.max_tokens, 4096, 4096]
    with pytest.raises(ChatError, match="within 4096 tokens"):
        await judge(Client(*[("<think>", "length")] * 3)).verdict(ASKED, "the reef")
