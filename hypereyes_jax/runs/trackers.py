"""Trackers behind one small protocol: the metrics file, TensorBoard, Weights & Biases, trackio, MLflow.

The metrics file is always kept, and any other is asked for by a setting. Each gets every step's scalars under their
full names, and samples with their pictures. Steps are an axis of their own in each (`rl/step`), so that a run that went
back to a checkpoint, after a crash or by `--resume-step`, logs its steps again: services that insist on steps that rise
would drop them without a word.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import read_json_object, writing
from hypereyes_jax.runs.metrics_file import METRICS, MetricsFile
from hypereyes_jax.runs.tracking import Sample, Tracker, TrackingConfig


def check_trackers(config: TrackingConfig) -> None:
    """Raises UserError if the package of a chosen tracker is not installed."""
    for name in ("wandb", "trackio", "mlflow"):
        if getattr(config, name):
            _package(name)


def open_trackers(config: TrackingConfig, directory: Path, phase: str, first_step: int, run: str = "") -> list[Tracker]:
    """The trackers of one phase of the run in `directory`, the metrics file first. Services continue the run they have.

    Args:
      run: its id.

    Raises:
      UserError: the package of a chosen tracker is not installed, or its files can't be written, or are another run's.
    """
    trackers: list[Tracker] = [MetricsFile(directory / METRICS, phase, first_step, run)]
    if config.tensorboard:
        trackers.append(TensorBoardTracker(directory / "tensorboard" / phase, first_step))
    if config.wandb or config.trackio or config.mlflow:
        identity = _Identity.of(directory, phase)
        if config.wandb:
            trackers.append(WandbTracker(config.wandb, identity))
        if config.trackio:
            trackers.append(TrackioTracker(config.trackio, identity))
        if config.mlflow:
            trackers.append(MlflowTracker(config.mlflow, identity))
    return trackers


@dataclass(frozen=True)
class _Identity:
    """What a service knows a phase of a run by."""

    key: str  # the same when the run is continued
    name: str
    phase: str
    settings: dict[str, Any]
    directory: Path

    @classmethod
    def of(cls, directory: Path, phase: str) -> _Identity:
        key = hashlib.sha256(f"{directory.resolve()} {phase}".encode()).hexdigest()[:16]
        settings = read_json_object(directory / "config.json")
        return cls(key, f"{directory.name} {phase}", phase, settings, directory)


class TensorBoardTracker:
    """Event files. What a crashed run wrote of later steps is marked as void by `first_step`.

    Events are written at once: tensorboardX's own writer has a thread, whose failures nobody hears but the terminal.
    """

    def __init__(self, directory: Path, first_step: int):
        # a second to import; commands that write no metrics do without
        self._event = importlib.import_module("tensorboardX.proto.event_pb2")
        self._summary = importlib.import_module("tensorboardX.summary")
        self._directory = directory
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            writer = importlib.import_module("tensorboardX.event_file_writer").EventsWriter
            self._file = writer(str(directory / "events"))
            log = self._event.SessionLog
            self._file.write_event(self._event.Event(step=first_step, session_log=log(status=log.START)))
            self._file.flush()

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._write(step, [self._summary.scalar(name, value) for name, value in scalars.items()])

    def log_samples(self, step: int, name: str, samples: Sequence[Sample]) -> None:
        summaries = []
        for number, sample in enumerate(samples):
            # indented: TensorBoard reads Markdown, and a rollout's text is nobody's markup
            quoted = "\n".join(f"    {line}" for line in f"{sample.title}\n\n{sample.text}".splitlines())
            summaries.append(self._summary.text(f"{name}/{number}", quoted))
            for place, image in enumerate(sample.images):
                pixels = np.asarray(image.convert("RGB"))
                summaries.append(self._summary.image(f"{name}/{number}/img_{place}", pixels, dataformats="HWC"))
        self._write(step, summaries)

    def _write(self, step: int, summaries: Sequence[Any]) -> None:
        with writing(self._directory):
            for each in summaries:
                self._file.write_event(self._event.Event(wall_time=time.time(), step=step, summary=each))
            self._file.flush()

    def close(self) -> None:
        with writing(self._directory):
            self._file.close()


class WandbTracker:
    """Weights & Biases: the phase's run, the same one when it is continued.

    `define_metric` makes the phase's own step the axis of its series. Its internal step only ever rises, and rows of
    a step below it are dropped, which would lose all that a run repeats after a crash.
    """

    def __init__(self, project: str, identity: _Identity):
        self._wandb = _package("wandb")
        self._axis = f"{identity.phase}/step"
        self._run = self._wandb.init(
            project=project,
            id=identity.key,
            name=identity.name,
            config=identity.settings,
            dir=str(identity.directory),
            resume="allow",
        )
        self._run.define_metric(self._axis)
        self._run.define_metric(f"{identity.phase}/*", step_metric=self._axis)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({**scalars, self._axis: step})

    def log_samples(self, step: int, name: str, samples: Sequence[Sample]) -> None:
        table = self._wandb.Table(columns=["step", "title", "text", "images"])
        for sample in samples:
            table.add_data(step, sample.title, sample.text, [self._wandb.Image(image) for image in sample.images])
        self._run.log({name: table, self._axis: step})

    def close(self) -> None:
        self._run.finish()


class TrackioTracker:
    """trackio, Hugging Face's tracker with the interface of Weights & Biases; it keeps its data on this machine."""

    def __init__(self, project: str, identity: _Identity):
        self._trackio = _package("trackio")
        self._axis = f"{identity.phase}/step"
        name = f"{identity.name} {identity.key[:6]}"  # runs are known by their names there
        self._run = self._trackio.init(
            project=project, name=name, config=_flat(identity.settings), resume="allow", embed=False
        )

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({**scalars, self._axis: step})

    def log_samples(self, step: int, name: str, samples: Sequence[Sample]) -> None:
        for number, sample in enumerate(samples):
            self._run.log({f"{name}/{number}": f"{sample.title}\n\n{sample.text}", self._axis: step})
            for place, image in enumerate(sample.images):
                self._run.log({f"{name}/{number}/img_{place}": self._trackio.Image(image), self._axis: step})

    def close(self) -> None:
        self._trackio.finish()


class MlflowTracker:
    """MLflow: the phase's run in an experiment, found again by its key when it is continued."""

    def __init__(self, experiment: str, identity: _Identity):
        mlflow = _package("mlflow")
        self._client = mlflow.MlflowClient()
        known_experiment = self._client.get_experiment_by_name(experiment)
        number = (
            known_experiment.experiment_id
            if known_experiment is not None
            else self._client.create_experiment(experiment)
        )
        earlier = self._client.search_runs([number], f"tags.hypereyes_run = '{identity.key}'", max_results=1)
        if earlier:
            self._id = earlier[0].info.run_id
            self._client.update_run(self._id, "RUNNING")
            return
        tags = {"hypereyes_run": identity.key}
        self._id = self._client.create_run(number, run_name=identity.name, tags=tags).info.run_id
        self._client.log_dict(self._id, identity.settings, "config.json")
        for name, value in _flat(identity.settings.get("config", {})).items():
            self._client.log_param(self._id, name, str(value)[:500])

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._client.log_metric(self._id, name, value, step=step)

    def log_samples(self, step: int, name: str, samples: Sequence[Sample]) -> None:
        for number, sample in enumerate(samples):
            place = f"{name}/{step:06d}/{number}"
            self._client.log_text(self._id, f"{sample.title}\n\n{sample.text}\n", f"{place}.txt")
            for index, image in enumerate(sample.images):
                self._client.log_image(self._id, image.convert("RGB"), f"{place}_img_{index}.png")

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _package(name: str) -> Any:
    """A tracker's module. Raises UserError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"`--tracking.{name}` needs the package: pip install 'hypereyes-jax[{name}]'") from None


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full names, with values that every service takes."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, (str, int, float)) else json.dumps(value)
    return flat
