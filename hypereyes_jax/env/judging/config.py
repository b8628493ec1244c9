"""Which judge decides, as settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JudgeConfig:
    """Who says whether an answer is right."""

    url: str = ""
    """Base of an OpenAI-compatible endpoint whose model judges the answers; none = they are compared exactly."""
    model: str = ""
    """Its name there."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key."""
    max_tokens: int = 30
    """Of a verdict. A model that thinks first is given more by itself, once."""
    object: str = ""
    """Instead of an endpoint: module:object or file.py:object, a judge or a function of a question and an answer."""
    rule: str = "general"
    """How it is told to judge: general, short-fact, browse, visual-entity or multi-entity."""
