"""The nouns of the environment. It knows text and images; it knows nothing of tokens or devices."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, SupportsFloat, runtime_checkable

from PIL import Image

from hypereyes_jax.env.web.untrusted import encodable
from hypereyes_jax.errors import UserError

Box = tuple[float, float, float, float]  # x1, y1, x2, y2
Part = str | Image.Image  # a message is a sequence of these, in order


def finite_box(numbers: Iterable[SupportsFloat]) -> Box | None:
    """Four numbers as a box; None where one of them is NaN, infinite, or an integer beyond float64."""
    try:
        x1, y1, x2, y2 = (float(value) for value in numbers)
    except OverflowError:
        return None
    return (x1, y1, x2, y2) if all(map(math.isfinite, (x1, y1, x2, y2))) else None


@dataclass(frozen=True)
class Question:
    """What is asked. `answers` holds the reference answer first, then its accepted aliases."""

    id: str
    text: str
    images: tuple[Image.Image, ...]
    answers: tuple[str, ...]
    kind: str = ""  # template or benchmark category
    meta: dict[str, Any] = field(default_factory=dict)  # JSON-able
    captions: tuple[str, ...] = ()  # text before each image, such as the time of a video's frame; () = none

    def __post_init__(self) -> None:
        for name in ("images", "answers", "captions"):
            if isinstance(getattr(self, name), str | Image.Image):  # each letter of "Paris" would be a right answer
                raise TypeError(
                    f"{name} of a Question must be a tuple, also of a single one: ({name.removesuffix('s')},)"
                )

    @property
    def parts(self) -> tuple[Part, ...]:
        """What is shown of it: the images, each after its caption, then the text."""
        captions = self.captions or ("",) * len(self.images)
        parts: list[Part] = []
        for caption, image in zip(captions, self.images, strict=True):
            parts += [caption, image] if caption else [image]
        return (*parts, self.text)


# What the authors' published client assumes where a service returns no score; above the text threshold of 0.6.
MISSING_SCORE = 0.8


@dataclass(frozen=True)
class SearchHit:
    """One search result. All of it is untrusted and may be given as any JSON value: texts become texts that can be
    encoded, anything else in their place an empty text, and anything but a finite number `MISSING_SCORE`."""

    title: str
    content: str
    score: float
    url: str = ""

    def __post_init__(self) -> None:
        for name in ("title", "content", "url"):
            object.__setattr__(self, name, _text(getattr(self, name)))
        object.__setattr__(self, "score", _finite(self.score))


def _text(value: object) -> str:
    if isinstance(value, str):
        return value if value.isascii() else encodable(value)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, SupportsFloat) or isinstance(value, str):
        return MISSING_SCORE
    try:
        number = float(value)
    except (OverflowError, ValueError, TypeError):
        return MISSING_SCORE
    return number if math.isfinite(number) else MISSING_SCORE


class SearchError(Exception):
    """A search that failed, which is not the same as one that found nothing (an empty list).

    transient: trying again may help.
    refused: the service works but will not take this one request (a query that is too long, say), so the failure
      belongs to whoever asked; a failure that is not refused is an outage of the world.
    kind: one word for metrics ("timeout", "connection", "http_503", "throttled", "bad_reply", ...).
    retry_after: seconds the service asked to wait, if it did.
    sent: False where the request never left this program, so that it counts neither as a round nor as a search.
    """

    def __init__(
        self,
        message: str,
        *,
        transient: bool,
        refused: bool = False,
        kind: str = "error",
        retry_after: float | None = None,
        sent: bool = True,
    ):
        super().__init__(message)
        self.sent = sent
        self.transient = transient
        self.refused = refused
        self.kind = kind
        self.retry_after = retry_after


class FatalSearchError(SearchError, UserError):
    """No later search can work either: the credit is used up, the spending cap is reached, the key is refused.

    It ends the run (an episode lets it through), where an outage only masks rollouts; its cure is the user's.
    """

    def __init__(self, message: str, *, kind: str):
        super().__init__(message, transient=False, kind=kind)


@runtime_checkable
class SearchBackend(Protocol):
    """A search service. Both searches may be under way many times at once, and raise SearchError where they fail."""

    async def text_search(self, query: str, k: int) -> list[SearchHit]:
        """Finds at most k pages for a query, best first; an empty list means that there are none."""
        ...

    async def image_search(self, image: Image.Image, k: int) -> list[SearchHit]:
        """Finds at most k pages that show an image or one like it, best first; an empty list if there are none."""
        ...


@runtime_checkable
class Account(Protocol):
    """A backend that keeps the account of its run: tools with a price are paid from it, too."""

    async def charge(self, dollars: float) -> str:
        """Pays. Returns the payment's name. Raises FatalSearchError where a spending cap would be exceeded."""
        ...

    async def refund(self, payment: str, dollars: float) -> None:
        """Takes a payment back."""
        ...


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"
    NO_ACTION = "no_action"  # neither an answer nor a tool call that parses
    TURN_LIMIT = "turn_limit"
    TRUNCATED = "truncated"  # a turn hit its token limit
    CONTEXT_LIMIT = "context_limit"  # it outgrew the context: masked in training, for no rule of the method was broken
    UNREADABLE = "unreadable"  # what it asked to see can't be shown: a sliver of a crop, say
    INFRASTRUCTURE = "infrastructure"  # the world failed, not the policy: masked, never scored


@dataclass(frozen=True)
class Invocation:
    """One atomic search of a turn, or one call of another tool, and what came back."""

    tool: str  # "image_search", "text_search", or another tool's name
    query: str  # the text query, the id of the image searched, or another tool's arguments as JSON
    source: str = ""  # image_search: id of the image the box was cut from
    box: Box | None = None  # in fractions of the source's width and height; None = the whole image
    crop_id: str = ""  # registry id of the crop; "" where there is none
    hits: tuple[SearchHit, ...] = ()
    error: str = ""  # non-empty: the crop or the search failed
    seconds: float = 0.0
    text: str = ""  # what a tool other than the two searches said
    is_shown: bool = True  # False: it was made for the model, which is told of it in other words (a copy's search)
    sent: bool = True  # False: nothing was searched (no such image, an empty box), so it counts in neither t_c nor t_s


@dataclass(frozen=True)
class TurnRecord:
    """One turn of the model, and what came back."""

    text: str  # what the model wrote
    reason: str
    invocations: tuple[Invocation, ...]
    is_round: bool  # a search was really sent in it: counts in t_c
    malformed: str = ""  # why a call could not be read: a schema failure, which R_fmt penalises
    seconds: float = 0.0  # wall time of its searches, together
    observation: str = ""  # the text the model was shown next; "" where the episode ended
    skipped: int = 0  # searches asked for beyond a limit on width, which were not made

    @property
    def searches(self) -> int:
        """Searches really sent in this turn."""
        return sum(invocation.sent for invocation in self.invocations)


@dataclass(frozen=True)
class EpisodeResult:
    """An episode from its question to its end."""

    question: Question
    turns: tuple[TurnRecord, ...]
    stop: StopReason
    answer: str | None  # non-empty text of a closed <answer>, else None
    why: str = ""  # in words, where `stop` alone does not tell (an outage)

    @property
    def rounds(self) -> int:
        """t_c: turns in which a search was really sent."""
        return sum(turn.is_round for turn in self.turns)

    @property
    def invocations(self) -> int:
        """t_s: atomic searches really sent: each box cut out, whole image or text query counts one."""
        return sum(turn.searches for turn in self.turns)

    @property
    def schema_failures(self) -> int:
        """Turns with a tool call that could not be read: what R_fmt penalises."""
        return sum(bool(turn.malformed) for turn in self.turns)
