"""Which judge decides, as settings."""

from __future__ import annotations

from dataclasses import dataclass


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
    """Number of tokens of a verdict. A model that thinks first is given more by itself, once."""
    object: str = ""
    """A judge of your own instead of an endpoint: module:object or file.py:object, which is a judge or a function of a
    question and an answer."""
    rule: str = "general"
    """Which rule the judge is told: general, short-fact, browse, visual-entity or multi-entity."""
