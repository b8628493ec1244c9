"""The rules of an episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hypereyes_jax.env.media.crops import BoxUnits

PromptStyle = Literal["full", "compact", "native"]

# How an evaluation searches: as the model likes, one search a turn, by a fixed plan, or not at all.
Manner = Literal["parallel", "serial", "workflow", "direct"]


@dataclass(frozen=True)
class EpisodeConfig:
    """Rules of an episode. Defaults are the paper's (arXiv 2605.07177) and, where it is silent, the authors' code."""

    max_turns: int = 9  # turns of the model
    max_rounds: int = 8  # turns with searches
    text_request: int = 10  # results asked for, of which ...
    text_min_score: float = 0.6  # ... those below are dropped, and ...
    text_k: int = 3  # ... the first so many are shown
    image_k: int = 3  # asked for and shown, best first; no threshold
    width_cap: int = 32  # searches of one turn that are sent, over three times the most entities of a benchmark's image
    serial: bool = False  # only the first box or query of a turn is run: what parallel search is compared with
    one_call: bool = False  # only the first call of a turn is run (the authors' code); False = all calls together
    broken_json_ends: bool = False  # a call that is no JSON ends the episode (the authors' code); False = it is told so
    box_units: BoxUnits = "unit"
    show_crops: bool = True  # crops are attached to the observation, before its text
    crop_max_side: int = 1000  # pixels
    max_images: int = 50  # images shown to the model in an episode; later crops are searched but not shown
    repeat_question: bool = True  # after each tool response
    content_limit: int = 1500  # characters of a result's content that are shown
    prompt_style: PromptStyle = "full"
    system: str | None = None  # replaces the built-in system prompt
    tools: tuple[str, ...] = ()  # beside the two searches: zoom, visit, video_search, module:object or file.py:object

    def __post_init__(self) -> None:
        for name in ("max_turns", "width_cap", "text_request", "text_k", "image_k", "crop_max_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"EpisodeConfig.{name} must be at least 1, got {getattr(self, name)}")

        if self.max_rounds < 0:
            raise ValueError(f"EpisodeConfig.max_rounds must be at least 0, got {self.max_rounds}")

    @property
    def width(self) -> int:
        """Searches of one turn that are sent."""
        return 1 if self.serial else self.width_cap
