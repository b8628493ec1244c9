"""Which judge decides, as settings."""

from __future__ import annotations

from dataclasses import dataclass

JUDGE_ACCESS = ("url", "key_env")  # fields of JudgeConfig that say where the judge is, not who it is


@dataclass(frozen=True)
class JudgeConfig:
    """Who says whether an answer is right."""

    url: str = ""
    """Base address of an OpenAI-compatible endpoint whose model judges the answers; without one they are compared
    exactly."""
    model: str = ""
    """Name of the model at that endpoint."""
    key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the endpoint's key."""
    max_tokens: int = 30
    """Number of tokens that a verdict may have. A model that thinks first gets more by itself, once."""
    object: str = ""
    """Your own judge instead of an endpoint, as module:object or file.py:object: a judge, or a function of a question
    and an answer."""
    rule: str = "general"
    """Rule that the judge is given: general, short-fact, browse, visual-entity or multi-entity. With a benchmark,
    general stands for the benchmark's own rule."""
