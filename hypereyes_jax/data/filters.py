"""What is dropped after rejection sampling: successes that teach a bad habit.

The paper names five kinds (arXiv 2605.07177) and gives no thresholds, so ours are stated here. Each filter reads the
episode's own record and returns the name of the fault, or None. They are meant for the free text of a strong model; how
often they are right on a labelled set: `tests/data/test_filters.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypereyes_jax.data.claims import Claims, Evidence, Figure, claims, content_words, derivable, fold, is_conversion
from hypereyes_jax.data.dependence import rounds_made, rounds_needed, same_region
from hypereyes_jax.env.actions import IMAGE_SEARCH, TEXT_SEARCH
from hypereyes_jax.env.types import EpisodeResult, Invocation, StopReason, TurnRecord
from hypereyes_jax.errors import SettingError

# Two results of which so large a share of the words is the same are one result, on another page.
_SAME_RESULT = 0.85
# Two searches of one region are the same search from this overlap on; below it, the later one corrects the box.
_REPEATED_REGION = 0.9
# Least share of an answer's words that the observations must hold, if the answer has neither names nor numbers.
_ANSWER_WORDS = 0.5
# Words of the reasoning that must come from the observations if no name or number does.
_CITED_WORDS = 2


@dataclass(frozen=True)
class FilterConfig:
    """Thresholds of the filters."""

    superfluous_rounds: int | None = 2
    """Number of rounds beyond those that the searches needed that makes a trajectory serial; none does not check. One
    extra round is honest: a first look at the whole picture, say."""
    narrow_rounds: int | None = None
    """Number of consecutive rounds with a single search of one tool that makes a trajectory serial; none does not
    check. It is a laxer rule."""
    new_rounds: float = 0.5
    """Smallest share of the rounds that must find something new. An honest search may find nothing; at 1, none may."""
    unsupported_claims: float = 0.34
    """Largest share of the names and numbers in the reasoning that may appear in no observation: what the policy knows
    by itself may lead on, but must not decide."""

    def __post_init__(self) -> None:
        for name in ("superfluous_rounds", "narrow_rounds"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, or None for no such rule")
        for name in ("new_rounds", "unsupported_claims"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"{name} is a share between 0 and 1, got {getattr(self, name)}")


_DEFAULT = FilterConfig()


def format_violation(result: EpisodeResult, config: FilterConfig = _DEFAULT) -> str | None:
    """A malformed call, a turn without a reason, or an end other than an answer."""
    if result.stop != StopReason.ANSWERED or result.answer is None:
        return "format"
    if any(turn.malformed or not turn.reason.strip() for turn in result.turns):
        return "format"
    return None


def zero_information_gain(result: EpisodeResult, config: FilterConfig = _DEFAULT) -> str | None:
    """A round that only repeats earlier searches, or a trajectory most of whose rounds told nothing new."""
    past: list[Invocation] = []
    earlier: list[frozenset[str]] = []
    rounds = new = 0
    for turn in result.turns:
        if not turn.invocations:
            continue
        if all(any(_repeats(call, other) for other in past) for call in turn.invocations):
            return "zero-gain"
        pages = [page for call in turn.invocations for page in _results(call)]
        rounds += 1
        new += any(page and not any(_alike(page, other) for other in earlier) for page in pages)
        past += turn.invocations
        earlier += pages
    return "zero-gain" if new < config.new_rounds * rounds else None


def ungrounded(result: EpisodeResult, config: FilterConfig = _DEFAULT) -> str | None:
    """Reasoning or an answer that does not come from what the searches returned.

    The names and numbers that the reasoning asserts must stand in an observation or the question, but for a small
    share; it must cite at least something observed; and the answer must stand there too, or follow from numbers that
    do.
    """
    if result.answer is None:
        return None
    in_question = Evidence.of([result.question.text])
    queries = Evidence.of(call.query for turn in result.turns for call in turn.invocations)
    pages = Evidence.of(
        text
        for turn in result.turns
        for call in turn.invocations
        for text in (*(f"{hit.title} {hit.content}" for hit in call.hits), call.text)
    )
    claims_of_turns = [claims(turn.reason) for turn in result.turns]
    reasoned = Claims(
        tuple(n for c in claims_of_turns for n in c.names), tuple(f for c in claims_of_turns for f in c.figures)
    )
    # What a query asks for is a hypothesis, which the results bear out or not.
    known_names = sum(
        any(evidence.has_name(name) for evidence in (pages, in_question, queries)) for name in reasoned.names
    )
    figures = _follow(reasoned.figures, in_question, pages)
    total = len(reasoned.names) + len(reasoned.figures)
    if total - known_names - len(figures) > config.unsupported_claims * total:
        return "ungrounded"
    if pages.words and not _cites(result.turns, result.answer, in_question, pages):
        return "ungrounded"
    return None if _answer_stands(result.answer, figures, in_question, pages) else "ungrounded"


def unimodal_shortcut(result: EpisodeResult, config: FilterConfig = _DEFAULT) -> str | None:
    """A question about an image that was answered without searching any part of it."""
    looked = any(call.tool == IMAGE_SEARCH for turn in result.turns for call in turn.invocations)
    return "unimodal" if result.question.images and not looked else None


def serial_searching(result: EpisodeResult, config: FilterConfig = _DEFAULT) -> str | None:
    """Searches queued over rounds that fewer, wider calls could have made; the order of the tools does not matter."""
    superfluous = rounds_made(result) - rounds_needed(result)
    if config.superfluous_rounds is not None and superfluous >= config.superfluous_rounds:
        return "serial"
    return "serial" if config.narrow_rounds is not None and _longest_queue(result) >= config.narrow_rounds else None


FILTERS: tuple[Callable[[EpisodeResult, FilterConfig], str | None], ...] = (
    format_violation,
    zero_information_gain,
    ungrounded,
    unimodal_shortcut,
    serial_searching,
)


def fault(result: EpisodeResult, config: FilterConfig = _DEFAULT) -> str | None:
    """The first fault found, or None if the trajectory is fit for SFT."""
    return next((name for check in FILTERS if (name := check(result, config)) is not None), None)


def _longest_queue(result: EpisodeResult) -> int:
    """The most rounds in a row that made one search each, all with one tool."""
    longest = run = 0
    last = ""
    for turn in result.turns:
        tool = turn.invocations[0].tool if len(turn.invocations) == 1 else ""
        run = 0 if not tool else run + 1 if tool == last else 1
        last, longest = tool, max(longest, run)
    return longest


def _results(call: Invocation) -> list[frozenset[str]]:
    """The words of each result; of a tool without any, which cut a region out or read a page, one of its own."""
    if call.tool in (IMAGE_SEARCH, TEXT_SEARCH) or call.hits or call.error:
        return [frozenset(content_words(f"{hit.title} {hit.content}")) for hit in call.hits]
    return [frozenset((call.tool, call.query))]


def _repeats(call: Invocation, other: Invocation) -> bool:
    """Whether a search was made before and worked: asking again what failed is not repetition."""
    if call.tool != other.tool or other.error:
        return False
    if call.tool == IMAGE_SEARCH:
        return call.source == other.source and same_region(call.box, other.box, _REPEATED_REGION)
    if call.tool != TEXT_SEARCH:
        return call.query == other.query
    return sorted(content_words(call.query)) == sorted(content_words(other.query))


def _alike(page: frozenset[str], other: frozenset[str]) -> bool:
    return len(page & other) >= _SAME_RESULT * len(page | other)


def _cites(turns: tuple[TurnRecord, ...], answer: str, in_question: Evidence, pages: Evidence) -> bool:
    """Whether a reason that was given after the first result holds something that only results have told."""
    after = False
    citations: set[str] = set()
    titles: set[str] = set()
    for turn in turns:
        if after:
            reason = fold(turn.reason)
            if any(title in reason for title in titles):  # also where a script has no capitals and no spaces
                return True
            reason_claims = claims(turn.reason, hedged=False)
            if any(pages.has_name(name) and not in_question.has_name(name) for name in reason_claims.names):
                return True
            if any(pages.has_figure(figure) and not in_question.has_figure(figure) for figure in reason_claims.figures):
                return True
            citations |= {w for w in content_words(turn.reason) if w in pages.words and not in_question.has_word(w)}
        after = after or any(call.hits or call.text for call in turn.invocations)
        page_titles = {fold(hit.title).strip() for call in turn.invocations for hit in call.hits}
        titles |= {
            title
            for title in page_titles
            if len(title) > 1 and not in_question.has_name(title) and not in_question.has_word(title)
        }
    # One word is chance, unless it is the answer: "the currency is the euro".
    return len(citations) >= _CITED_WORDS or (bool(citations) and citations >= set(content_words(answer)))


def _follow(claimed_figures: Sequence[Figure], in_question: Evidence, pages: Evidence) -> list[Figure]:
    """Those of the numbers that were read or asked, or follow from such numbers, directly or in steps."""
    standing = [f for f in claimed_figures if pages.has_figure(f) or in_question.has_figure(f) or is_conversion(f)]
    for figure in claimed_figures:
        if figure not in standing and derivable(figure, standing):
            standing.append(figure)
    return standing


def _answer_stands(answer: str, figures: Sequence[Figure], in_question: Evidence, pages: Evidence) -> bool:
    """Whether a name, a number or, without either, most words of the answer stand in what was read, or follow.

    One is enough: the answer is right, so the others are its names in other words or its numbers in other units.
    `figures` are the numbers of the reasoning that stand.
    """
    answer_claims = claims(f"is {answer}", hedged=False)  # a word in front, since a sentence's first word tells no name
    if any(pages.has_name(name) or in_question.has_name(name) for name in answer_claims.names):
        return True
    if _follow(answer_claims.figures, in_question, pages) or any(
        derivable(figure, figures) for figure in answer_claims.figures
    ):
        return True
    words = [word for word in content_words(answer) if not word.isdigit()]
    if answer_claims.names or answer_claims.figures or not words:  # "yes" and "no" are not read anywhere
        return not answer_claims.names and not answer_claims.figures
    return sum(pages.has_word(word) or in_question.has_word(word) for word in words) >= _ANSWER_WORDS * len(words)
