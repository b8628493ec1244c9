"""Verdicts in what models write, cut off or whole: read where the reply chooses, else asked for again."""

import time

import pytest

from hypereyes_jax.env.chat.client import ChatEndpoint, ChatError, ChatReply
from hypereyes_jax.env.judging.llm_judge import LlmJudge
from hypereyes_jax.env.judging.published import GradeJudge, JsonJudge
from hypereyes_jax.env.judging.verdict_words import GROUNDED, read_verdict
from hypereyes_jax.env.types import Question

QUESTION = Question("q", "Which country?", (), ("Chad",))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("correct: yes", True),
        ("correct: no", False),
        ("**Correct:** no", False),
        ("correct: 0", False),
        ("is_correct = true", True),
        ("extracted_final_answer: Niger\nreasoning: another country\ncorrect: no\nconfidence: 100", False),
        ("correct: yes\ncorrect: no", None),
        ('{"correct": "no."}', False),
        ("\\boxed{incorrect}", False),
        ("correct<|im_end|>", True),
        ("Incorrect.<|eot_id|>\n", False),
        ("correct<｜end▁of▁sentence｜>", True),
        ("The answer is incorrect. The correct answer is Chad", False),
        ("The answer is incorrect because the correct answer is Chad.", False),
        ("The answer is correct because it names Chad.", True),
        ("Incorrect\n\nExplanation: the answer would be correct for Niger.", False),
        ("Incorrect. The given answer, Niger, is not correct.", False),
        ("Verdict: incorrect, since it names Niger", False),
        ("cor\u200brect", True),
        ("No, incorrect.", False),
        ("No - the answer is incorrect", False),
        ("Yes, correct.", True),
        ("correct[/INST]", True),
        ("[CORRECT]", True),
        ("[THINK]incorrect?[/THINK]correct", True),
        ("<scratchpad>correct?</scratchpad>incorrect", False),
        ('<think mode="slow">correct</think>\nincorrect', False),
        ("<|START_THINKING|>correct<|END_THINKING|>incorrect", False),
        ("<analysis>correct", None),
        ("I would grade this as correct.", True),
        ("My verdict is: correct (the spelling differs).", True),
        ("Incorrect → the reference says Chad", False),
        ("Incorrect - another country", False),
        ("incorrect (0)", False),
        ("Incorrect; it says Togo, which isn't Chad.", False),
        ("Incorrect. Correct answer: Chad", False),
        ("Both parts are correct", True),
        ("It is 100% correct", True),
        ("◁think▷Is it incorrect?◁/think▷correct", True),
        ("<|channel|>analysis<|message|>incorrect?<|end|><|start|>assistant<|channel|>final<|message|>correct", True),
    ],
)
def test_forms_of_a_verdict(text, verdict):
    assert read_verdict(text) is verdict


@pytest.mark.parametrize(
    "text",
    [
        "The name is correct.", "The year is incorrect. The name is correct.", "too vague to be correct",
        "The answer is incorrect, although the name is correct", "Everything except the year is correct",
        "only one of two is correct", "All but one are correct", "I doubt it is correct", "The reference is correct",
        "Togo, instead of Chad, is correct", "It lists several guesses, one of which is correct",
        "Had it said Chad, it'd be correct", "The answer claims to be correct", "incorrect, perhaps",
        "Correct answer is Niger.", "correct answer: Chad", "in correct", "IN CORRECT", "non-correct", "semi-correct",
        "correct?", "Correct??", "0 correct", "none correct", "0 of 5 are correct", "0% correct", "maybe correct",
        "perhaps correct", "possibly incorrect", "unlikely correct", "anything but correct", "It fails to be correct",
        "correct/incorrect", "[correct] incorrect", "correct-ish", "Correct, but only in part",
        "Correct. It is not correct.", "It is not, I think, correct", "It isn't, strictly speaking, correct",
        "Das ist nicht correct", "La réponse n'est pas correct", "No es correct", "不correct", "correct 不正确",
        "[THINK]correct", "<thinking>It is correct", "Likely correct", "arguably correct", "Yes, incorrect",
        "No, it is correct.",
    ],
)  # fmt: skip
def test_what_denies_weakens_or_only_mentions_a_word_is_no_verdict(text):
    assert read_verdict(text) is None


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Grounded.", True),
        ("not grounded", None),
        ("The reasoning is ungrounded because it cites nothing.", False),
        ("<think>It may be ungrounded.</think>grounded", True),
        ("grounded: no", False),
        ("grounded or ungrounded", None),
    ],
)
def test_other_words_are_read_alike(text, verdict):
    assert read_verdict(text, GROUNDED) is verdict


@pytest.mark.parametrize("piece", ["\n", "correct, ", "the ", "correct: ", "{", "not correct ", "<", "* "])
def test_a_reply_of_any_length_is_read_in_no_time(piece):
    started = time.thread_time()
    read_verdict(piece * (200_000 // len(piece)))
    assert time.thread_time() - started < 2


class Client:
    endpoint = ChatEndpoint("http://127.0.0.1:1/v1", "judge")

    def __init__(self, *replies):
        self.replies, self.rooms = list(replies), []

    async def complete(self, messages, *, max_tokens, **_):
        self.rooms.append(max_tokens)
        text, finish = self.replies.pop(0)
        return ChatReply(text, finish)


@pytest.mark.parametrize(
    "half",
    [
        "The reference says Chad, the answer says Niger. The correct",
        "Is it",
        "<think>The answer is correct",
        "It may be, in a way, correct",
    ],
)
async def test_a_reply_that_was_cut_off_is_no_verdict_by_its_last_word(half):
    client = Client((half, "length"), ("incorrect", "stop"))
    assert await LlmJudge(client).verdict(QUESTION, "Niger") is False
    assert client.rooms == [30, 4096]


@pytest.mark.parametrize(
    "text", ["correct", "**Correct**", "Correct. The two names are of", "<think>so</think>correct"]
)
async def test_a_reply_that_was_cut_off_behind_its_verdict_is_one(text):
    client = Client((text, "length"))
    assert await LlmJudge(client).verdict(QUESTION, "Chad") is True


async def test_graders_read_no_half_of_a_reply_either():
    client = Client(("A or", "length"), ("B", "stop"))
    assert await GradeJudge(client).verdict(QUESTION, "Niger") is False
    client = Client(('{"reasoning": "It is', "length"), ('{"correct": "no"}', "stop"))
    assert await JsonJudge(client).verdict(QUESTION, "Niger") is False
    with pytest.raises(ChatError, match="within 4096 tokens"):
        await GradeJudge(Client(*[("The answer is", "length")] * 3)).verdict(QUESTION, "Niger")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"verdict": "correct"}\n{"verdict": "incorrect"}', None),
        ('{"step": 1, "verdict": "incorrect"}\n{"step": 2, "verdict": "incorrect"}', False),
        ("Country: incorrect\nYear: correct", None),
        ("| country | incorrect |\n| year | correct |", None),
        ("correct\nincorrect", None),
        ("Country: incorrect\nYear: correct\nOverall: incorrect", False),
        ("Correct.\n\nHowever, the year is wrong, so: incorrect", False),
    ],
)
def test_verdicts_that_disagree_are_none_unless_one_is_of_all(text, verdict):
    assert read_verdict(text) is verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("- [x] correct\n- [ ] incorrect", True),
        ("☐ correct\n☑ incorrect", False),
        ("~~correct~~ incorrect", False),
        ("<del>incorrect</del> correct", True),
        ("The answer is <b>not</b> correct", None),
        ("<verdict>correct</verdict><reason>no incorrect parts</reason>", True),
        ("<result>\n <correct>false</correct>\n</result>", False),
        ('{"judgment": "Incorrect - the reference is Chad"}', False),
        ('{"name": "grade", "arguments": "{\\"verdict\\": \\"correct\\"}"}', True),
        ("in part correct", None),
        ("correct (?)", None),
    ],
)
def test_marks_around_a_verdict_are_read_as_they_are_drawn(text, verdict):
    assert read_verdict(text) is verdict
