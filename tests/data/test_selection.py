"""Which questions are worth RL, by their tries."""

from dataclasses import replace

import pytest

from hypereyes_jax.data.selection import LeftOut, Try, initial_reference, is_settled
from hypereyes_jax.env.types import EpisodeResult, Question, StopReason

WRONG, RIGHT = Try(1, 1, False), Try(1, 1, True)
OUTAGE = Try(1, 1, None)


@pytest.mark.parametrize(
    ("tries", "outcome"),
    [
        ([WRONG, RIGHT], (1, 1)),
        ([WRONG, Try(2, 5, True), Try(2, 2, True), Try(3, 1, True)], (2, 2)),  # fewest rounds, then fewest searches
        ([RIGHT, RIGHT], LeftOut.RIGHT_AT_ONCE),
        ([RIGHT, None], LeftOut.RIGHT_AT_ONCE),
        ([WRONG, WRONG], LeftOut.NEVER_RIGHT),
        ([WRONG, Try(0, 0, True)], LeftOut.NO_SEARCH),
        ([WRONG, Try(1, 0, True)], LeftOut.NO_SEARCH),  # a call that sent nothing is no evidence
        ([OUTAGE, RIGHT], LeftOut.UNDECIDED),  # it may be right at once
        ([None, RIGHT], LeftOut.UNDECIDED),
        ([WRONG, OUTAGE, WRONG], LeftOut.UNDECIDED),
        ([WRONG, None, RIGHT], (1, 1)),
    ],
)
def test_the_first_try_fails_and_a_later_one_searches_and_succeeds(tries, outcome):
    assert initial_reference(tries) == outcome


def test_a_question_is_settled_by_a_success_at_the_first_try_alone():
    assert is_settled([RIGHT, None])
    assert not any(map(is_settled, ([], [None], [WRONG, RIGHT], [OUTAGE, RIGHT])))


def test_an_outage_of_search_tells_nothing_whatever_the_verdict():
    result = EpisodeResult(Question("q", "?", (), ("a",)), (), StopReason.INFRASTRUCTURE, None)
    assert Try.of(result, False).correct is None
    assert Try.of(replace(result, stop=StopReason.ANSWERED), False).correct is False


def test_the_first_reference_is_of_the_cheapest_success_or_of_the_first_made():
    tries = [Try(2, 3, False), Try(4, 4, True), Try(0, 0, True), Try(2, 5, True)]
    assert initial_reference(tries) == (2, 5)
    assert initial_reference(tries, "first") == (4, 4)
