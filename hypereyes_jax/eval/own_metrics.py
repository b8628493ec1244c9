"""A user's metrics: functions of what happened in an episode, by `module:object`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from hypereyes_jax.configs.objects import NamedObject, instance, labels, named_object, refuse_coroutine
from hypereyes_jax.configs.objects import in_words as error_in_words
from hypereyes_jax.env.types import EpisodeResult, Invocation, Question, SearchHit, StopReason, TurnRecord
from hypereyes_jax.errors import UserError

# A function of an episode and of the judge's verdict (None = it gave no verdict), which gives a number.
Metric = Callable[[EpisodeResult, bool | None], float]


METRIC = "metric_"  # before the name of each, among other figures


@dataclass(frozen=True)
class OwnMetrics:
    """A user's metrics under their functions' names."""

    parts: tuple[NamedObject, ...] = ()

    def of(self, result: EpisodeResult, correct: bool | None) -> dict[str, float]:
        """`metric_NAME` by metric. Raises ValueError for what is not a finite number, naming the metric."""
        figures = {}
        for label, metric in zip(labels(self.parts), self.parts, strict=True):
            number = metric.value(result, correct)
            refuse_coroutine(number, metric.name)
            value = float(number)
            if not math.isfinite(value):
                raise ValueError(f"the metric {metric.name} gave {value}, which is not a finite number")
            figures[f"{METRIC}{label}"] = value
        return figures

    def means(self, judged: Sequence[tuple[EpisodeResult, bool | None]]) -> dict[str, float]:
        """The mean of each metric over episodes; nothing without an episode."""
        rows = [self.of(result, correct) for result, correct in judged] if self.parts else []
        return {name: sum(row[name] for row in rows) / len(rows) for name in (rows[0] if rows else ())}

    def record(self) -> list[dict[str, Any]]:
        return [metric.record() for metric in self.parts]


def in_words(where: str, figures: Mapping[str, Any]) -> str:
    """One line for the terminal of the metrics among figures, "" if there are none."""
    own = {name.removeprefix(METRIC): value for name, value in figures.items() if name.startswith(METRIC)}
    return f"{where}: " + ", ".join(f"{name} {value:.4g}" for name, value in own.items()) if own else ""


def load_metrics(own: Sequence[str | Metric]) -> OwnMetrics:
    """Metrics by name or as functions. Each is called on a made-up episode with an answer and on one without.

    Raises:
      UserError: one can't be loaded, or gives no finite number.
    """
    sources = [named_object(each, "metric") for each in own]
    metrics = OwnMetrics(tuple(replace(source, value=instance(source)) for source in sources))
    for what, episode, verdict in _made_up_episodes():
        try:
            metrics.of(episode, verdict)
        except Exception as error:
            raise UserError(
                f"a metric failed on a made-up episode {what}: {error_in_words(error)}. It must take an EpisodeResult "
                "(hypereyes_jax.env.types) and the verdict (True, False or None), and return a number"
            ) from error
    return metrics


def _made_up_episodes() -> list[tuple[str, EpisodeResult, bool]]:
    """(how it ended, episode, verdict): a metric that fails where there is no answer would end a long run."""
    question = Question("made-up", "Which city is the capital?", (Image.new("RGB", (8, 8)),), ("Paris",))
    hit = SearchHit("Paris", "Paris is the capital of France.", 0.9, "https://example.org")
    search = Invocation("text_search", "capital of France", hits=(hit,))
    searched = TurnRecord("<reason>I search.</reason>", "I search.", (search,), is_round=True)
    answered = TurnRecord("<answer>Paris</answer>", "", (), is_round=False)
    silent = TurnRecord("I do not know.", "", (), is_round=False)
    return [
        ("with an answer", EpisodeResult(question, (searched, answered), StopReason.ANSWERED, "Paris"), True),
        ("without an answer", EpisodeResult(question, (silent,), StopReason.NO_ACTION, None), False),
    ]
