"""The search environment: actions, crops, episodes, search backends, judges. Knows nothing of tokens or devices."""

from hypereyes_jax.env.actions import (
    Answer,
    ImageSearch,
    Malformed,
    ParsedTurn,
    TextSearch,
    parse_turn,
    tool_call,
)
from hypereyes_jax.env.completion_counts import count_completion
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.judging.judges import ExactJudge, Judge
from hypereyes_jax.env.media.crops import crop, to_fractions
from hypereyes_jax.env.tools.types import Tool
from hypereyes_jax.env.types import (
    Box,
    EpisodeResult,
    FatalSearchError,
    Invocation,
    Part,
    Question,
    SearchBackend,
    SearchError,
    SearchHit,
    StopReason,
    TurnRecord,
)

__all__ = [
    "Answer",
    "Box",
    "Episode",
    "EpisodeConfig",
    "EpisodeResult",
    "ExactJudge",
    "FatalSearchError",
    "ImageSearch",
    "Invocation",
    "Judge",
    "Malformed",
    "ParsedTurn",
    "Part",
    "Question",
    "SearchBackend",
    "SearchError",
    "SearchHit",
    "StopReason",
    "TextSearch",
    "Tool",
    "TurnRecord",
    "count_completion",
    "crop",
    "parse_turn",
    "to_fractions",
    "tool_call",
]
