"""The nouns of the environment. It knows text and images; it knows nothing of tokens or devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from hypereyes_jax.errors import UserError

Box = tuple[float, float, float, float]  # x1, y1, x2, y2
Part = str | Image.Image  # a message is a sequence of these, in order


@dataclass(frozen=True)
class Question:
    """What is asked. `answers` holds the reference answer first, then its accepted aliases."""

    id: str
    text: str
    images: tuple[Image.Image, ...]
    answers: tuple[str, ...]
    kind: str = ""  # template or benchmark category
    meta: dict[str, Any] = field(default_factory=dict)  # JSON-able


@dataclass(frozen=True)
class SearchHit:
    """One search result. `content` is untrusted text of the web."""

    title: str
    content: str
    score: float
    url: str = ""


class SearchError(Exception):
    """A search that failed, which is not the same as one that found nothing (an empty list).

    transient: trying again may help.
    refused: the service works but will not take this one request (a query that is too long, say), so the failure
      belongs to whoever asked; a failure that is not refused is an outage of the world.
    kind: one word for metrics ("timeout", "connection", "http_503", "throttled", "bad_reply", ...).
    retry_after: seconds the service asked to wait, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        transient: bool,
        refused: bool = False,
        kind: str = "error",
        retry_after: float | None = None,
    ):
        super().__init__(message)
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
    async def text_search(self, query: str, k: int) -> list[SearchHit]: ...

    async def image_search(self, image: Image.Image, k: int) -> list[SearchHit]: ...


class StopReason(StrEnum):
    ANSWERED = "answered"
    NO_ACTION = "no_action"  # neither an answer nor a tool call that parses
    TURN_LIMIT = "turn_limit"
    TRUNCATED = "truncated"  # a turn hit its token limit
    CONTEXT_LIMIT = "context_limit"
    INFRASTRUCTURE = "infrastructure"  # the world failed, not the policy: masked, never scored


@dataclass(frozen=True)
class Invocation:
    """One atomic search of a turn, and what came back."""

    tool: str  # "image_search" | "text_search"
    query: str  # the text query, or the id of the image searched
    source: str = ""  # image_search: id of the image the box was cut from
    box: Box | None = None  # in fractions of the source's width and height; None = the whole image
    crop_id: str = ""  # registry id of the crop; "" where there is none
    hits: tuple[SearchHit, ...] = ()
    error: str = ""  # non-empty: the crop or the search failed
    seconds: float = 0.0


@dataclass(frozen=True)
class TurnRecord:
    text: str  # what the model wrote
    reason: str
    invocations: tuple[Invocation, ...]
    is_round: bool  # the turn issued a tool call, well-formed or not: counts in t_c
    malformed: str = ""  # why the call could not be used
    seconds: float = 0.0  # wall time of its searches, together
    observation: str = ""  # the text the model was shown next; "" where the episode ended
    skipped: int = 0  # searches asked for beyond a limit on width, which were not made


@dataclass(frozen=True)
class EpisodeResult:
    question: Question
    turns: tuple[TurnRecord, ...]
    stop: StopReason
    answer: str | None  # non-empty text of a closed <answer>, else None
    why: str = ""  # in words, where `stop` alone does not tell (an outage)

    @property
    def rounds(self) -> int:
        """t_c: turns that issued a tool call."""
        return sum(turn.is_round for turn in self.turns)

    @property
    def invocations(self) -> int:
        """t_s: atomic searches made: each box (also one whose crop failed), whole image or text query counts one."""
        return sum(len(turn.invocations) for turn in self.turns)
