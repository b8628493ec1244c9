"""What a tracker is, and which ones a run has beside its metrics file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class TrackingConfig:
    """Trackers that are sent the scalars and samples of a training, which `metrics.jsonl` holds in any case."""

    tensorboard: bool = True
    """Write TensorBoard event files to `tensorboard/` in the run directory."""
    wandb: str = ""
    """Weights & Biases project to write to (needs the extra `wandb`)."""
    trackio: str = ""
    """Project of trackio to write to (needs the extra `trackio`)."""
    mlflow: str = ""
    """MLflow experiment to write to (needs the extra `mlflow`); MLFLOW_TRACKING_URI names the server."""


@dataclass(frozen=True)
class Sample:
    """One rollout to look at: what was asked, what the policy wrote, what it was worth."""

    title: str
    text: str
    images: tuple[Image.Image, ...] = ()


class Tracker(Protocol):
    """What keeps the series of one phase of a run."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Keep one step's scalars. A step that was logged before is logged again after a crash."""
        ...

    def log_samples(self, step: int, name: str, samples: Sequence[Sample]) -> None:
        """Keep samples under a name, pictures included."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...
