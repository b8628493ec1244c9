"""The rules of an episode."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from hypereyes_jax.env.media.crops import BoxUnits
from hypereyes_jax.errors import SettingError

PromptStyle = Literal["full", "compact", "native"]

# How regions are grounded (the paper's comparison): in the search itself, or before it by a crop tool or by code.
Paradigm = Literal["ugs", "llm-crop", "code-crop"]

# How an evaluation searches: as the model likes, one search a turn, by a fixed plan, not at all, or with crops apart.
Manner = Literal["parallel", "serial", "workflow", "direct", "llm-crop", "code-crop"]

_CROP_TOOLS: dict[str, tuple[str, ...]] = {"ugs": (), "llm-crop": ("crop",), "code-crop": ("python",)}


@dataclass(frozen=True)
class EpisodeConfig:
    """Rules of an episode. Defaults are the paper's (arXiv 2605.07177) and, where it is silent, the authors' code."""

    max_turns: int = 9
    """Number of turns that the model may take."""
    max_rounds: int = 8
    """Number of turns that may send searches."""
    text_request: int = 10
    """Number of results that a text search asks for."""
    text_min_score: float = 0.6
    """Results of a text search with a lower score are dropped."""
    text_k: int = 3
    """Number of the remaining text results that are shown."""
    image_k: int = 3
    """Number of results of an image search that are asked for and shown, best first, whatever their score."""
    width_cap: int = 32
    """Number of searches that one turn may send. The default is over three times the most entities in any benchmark's
    image."""
    image_searches: int | None = None
    """Number of image searches that one episode may send; none sets no separate limit."""
    serial: bool = False
    """Run only the first box or query of a turn, as a baseline for parallel search."""
    one_call: bool = False
    """Run only the first call of a turn, as the authors' code does, instead of all calls together."""
    broken_json_ends: bool = False
    """End the episode at a call that is not JSON, as the authors' code does, instead of telling the model."""
    box_units: BoxUnits = "unit"
    """Units of the boxes that the model writes."""
    show_crops: bool = True
    """Attach the crops to the observation, before its text."""
    crop_max_side: int = 1000
    """Longest side of a crop in pixels."""
    max_images: int = 50
    """Number of images that the model is shown in an episode; later crops are searched but not shown."""
    repeat_question: bool = True
    """Repeat the question after each tool response."""
    content_limit: int = 1500
    """Number of characters of a result's content that are shown."""
    prompt_style: PromptStyle = "full"
    """Which of the built-in system prompts the model gets."""
    system: str | None = None
    """A system prompt that replaces the built-in one: the text itself, @FILE for a file that holds it, or
    @module:object (@file.py:object) for a function of `env.own_prompt.PromptFacts`. In a text, {tools}, {schemas},
    {rounds} and {boxes} are filled in."""
    delegate_rounds: int = 0
    """Number of search turns for a copy of the policy that answers a sub-question, which the model hands over with the
    tool `delegate`; 0 offers no such tool."""
    tools: tuple[str, ...] = ()
    """Tools beside the two searches: zoom, visit, video_search, module:object, file.py:object, or
    mcp:ADDRESS#NAME,NAME=search for the named tools of an MCP server (ADDRESS is a URL or a command line; =search marks
    those that count as searches)."""
    paradigm: Paradigm = "ugs"
    """How regions are grounded: in the search itself (ugs), or before it by a crop tool (llm-crop) or by code
    (code-crop); image_search then takes whole images only."""

    def __post_init__(self) -> None:
        for name in ("max_turns", "width_cap", "text_request", "text_k", "image_k", "crop_max_side"):
            if getattr(self, name) < 1:
                raise SettingError(f"EpisodeConfig.{name} must be at least 1, got {getattr(self, name)}")

        if self.delegate_rounds < 0:
            raise SettingError(f"EpisodeConfig.delegate_rounds must be at least 0, got {self.delegate_rounds}")
        if self.max_rounds < 0 or (self.image_searches is not None and self.image_searches < 0):
            raise SettingError("EpisodeConfig.max_rounds and image_searches must be at least 0")

    def over(self, base: EpisodeConfig) -> EpisodeConfig:
        """The rules of `base`, with those of these that are not the defaults in their place."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(base, **{name: value for name, value in own.items() if value != getattr(_DEFAULTS, name)})

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Tools beside the two searches, those of the paradigm included."""
        return (*self.tools, *(name for name in _CROP_TOOLS[self.paradigm] if name not in self.tools))

    @property
    def width(self) -> int:
        """Searches of one turn that are sent."""
        return 1 if self.serial else self.width_cap


_DEFAULTS = EpisodeConfig()
