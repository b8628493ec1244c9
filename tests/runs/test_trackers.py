"""Trackers: the real packages where they are installed, writing to this machine only."""

import os
import struct
import sys
import threading
import types
from dataclasses import dataclass

import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.metrics import MetricsWriter
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.runs.trackers import WandbTracker, _Identity, check_trackers, open_trackers
from hypereyes_jax.runs.tracking import Sample, TrackingConfig

SAMPLES = (Sample("question 1", "<answer>Chad</answer>", (Image.new("RGB", (8, 6), "red"),)),)


@dataclass(frozen=True)
class Config:
    steps: int = 3


class WandbRun:
    """Weights & Biases as it treats steps: rows of a step below its own last one are dropped."""

    def __init__(self, **settings):
        self.settings, self.rows, self.defined, self.finished = settings, [], {}, False

    def define_metric(self, name, step_metric=None):
        self.defined[name] = step_metric

    def log(self, row, step=None):
        assert step is None, "its own step only ever rises: a run that went back would lose its rows"
        self.rows.append(row)

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb_runs(monkeypatch):
    runs = []

    def init(**settings):
        runs.append(WandbRun(**settings))
        return runs[-1]

    class Table:
        def __init__(self, columns):
            self.columns, self.data = columns, []

        def add_data(self, *row):
            self.data.append(row)

    module = types.SimpleNamespace(init=init, Table=Table, Image=lambda image: ("image", image.size))
    monkeypatch.setitem(sys.modules, "wandb", module)
    return runs


def test_weights_and_biases_keeps_steps_that_are_run_again(tmp_path, wandb_runs):
    tracking = TrackingConfig(tensorboard=False, wandb="my-project")
    run = RunDirectory.open(tmp_path, "rl", Config(), tracking=tracking)
    for first in (0, 1):  # steps 0 to 2, a crash, and again from the checkpoint of step 1
        with MetricsWriter(run, "rl", first) as metrics:
            for step in range(first, 3):
                metrics.log(step, {"accuracy": 0.5})
            metrics.log_samples(2, SAMPLES)
    steps = [[row["rl/step"] for row in each.rows if "rl/accuracy" in row] for each in wandb_runs]
    assert steps == [[0, 1, 2], [1, 2]]
    for each in wandb_runs:
        assert each.defined == {"rl/step": None, "rl/*": "rl/step"}
        assert each.finished
        assert each.settings["resume"] == "allow"
        assert each.settings["config"]["command"] == "rl"
        assert each.rows[-1]["rl/samples"].data == [(2, "question 1", SAMPLES[0].text, [("image", (8, 6))])]
    assert wandb_runs[0].settings["id"] == wandb_runs[1].settings["id"]


def test_the_interface_of_weights_and_biases_is_the_one_used_here(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    identity = _Identity("k" * 16, "run rl", "rl", {"command": "rl"}, tmp_path)
    tracker = WandbTracker("project", identity)
    tracker.log(3, {"rl/accuracy": 0.5})
    tracker.log_samples(3, "rl/samples", SAMPLES)
    tracker.log(1, {"rl/accuracy": 0.25})
    tracker.close()
    assert wandb.run is None
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_mlflow_keeps_scalars_and_pictures_and_goes_on_with_its_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    RunDirectory.open(tmp_path / "run", "rl", Config())
    for step in (0, 1):  # a run, and what continues it
        _, tracker = open_trackers(TrackingConfig(tensorboard=False, mlflow="e"), tmp_path / "run", "rl", step)
        tracker.log(step, {"rl/accuracy": 0.5 + step})
        tracker.log_samples(step, "rl/samples", SAMPLES)
        tracker.close()
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    history = client.get_metric_history(run.info.run_id, "rl/accuracy")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 1.5)]
    assert run.data.params["steps"] == "3"
    names = [file.path for file in client.list_artifacts(run.info.run_id, "rl/samples/000001")]
    assert names == ["rl/samples/000001/0.txt", "rl/samples/000001/0_img_0.png"]


def test_trackio_keeps_the_same_steps(tmp_path, monkeypatch):
    trackio = types.SimpleNamespace(logged=[], finish=lambda: None, Image=lambda image: ("image", image.size))
    trackio.init = lambda **settings: types.SimpleNamespace(log=trackio.logged.append, settings=settings)
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    RunDirectory.open(tmp_path, "rl", Config())
    _, tracker = open_trackers(TrackingConfig(tensorboard=False, trackio="p"), tmp_path, "rl", 0)
    tracker.log(4, {"rl/accuracy": 0.5})
    tracker.log_samples(4, "rl/samples", SAMPLES)
    tracker.close()
    assert trackio.logged[0] == {"rl/accuracy": 0.5, "rl/step": 4}
    assert trackio.logged[-1] == {"rl/samples/0/img_0": ("image", (8, 6)), "rl/step": 4}


def test_the_interface_of_trackio_is_the_one_used_here(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    import inspect

    import trackio

    assert {"project", "name", "config", "resume", "embed"} <= set(inspect.signature(trackio.init).parameters)
    assert callable(trackio.finish)
    assert callable(trackio.Image)


def test_tensorboard_shows_samples_with_their_pictures(tmp_path):
    with MetricsWriter(RunDirectory.open(tmp_path, "rl", Config()), "rl") as metrics:
        metrics.log(0, {"accuracy": 0.5})
        metrics.log_samples(0, SAMPLES)
    (events,) = (tmp_path / "tensorboard").glob("rl/events*")
    content = events.read_bytes()
    for part in (b"rl/accuracy", b"rl/samples/0/img_0", b"<answer>Chad</answer>"):
        assert part in content


def test_tensorboard_on_a_full_disk_is_told_once_and_by_no_thread(tmp_path):
    before = threading.active_count()
    _, tracker = open_trackers(TrackingConfig(), tmp_path, "rl", 0)
    assert threading.active_count() == before
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), tracker._file._py_recordio_writer._writer.fileno())
    for write in (lambda: tracker.log(0, {"accuracy": 0.5}), tracker.close):
        with pytest.raises(UserError, match="the disk is full"):
            write()


def test_tensorboard_gives_the_steps_and_values_that_were_logged(tmp_path):
    _, tracker = open_trackers(TrackingConfig(), tmp_path, "rl", 3)
    tracker.log(3, {"rl/accuracy": 0.5})
    (path,) = (tmp_path / "tensorboard" / "rl").iterdir()  # before it is closed: a run that is killed loses nothing
    events, data = [], path.read_bytes()
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    version, begun, logged = events
    assert version.file_version == "brain.Event:2"
    assert (begun.step, begun.session_log.status) == (3, 1)  # what was written of step 3 and later is void
    assert (logged.step, logged.summary.value[0].tag, logged.summary.value[0].simple_value) == (3, "rl/accuracy", 0.5)


def test_no_event_files_where_none_are_wanted(tmp_path):
    run = RunDirectory.open(tmp_path, "rl", Config(), tracking=TrackingConfig(tensorboard=False))
    MetricsWriter(run, "rl").close()
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_missing_package_is_named_with_its_cure(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"pip install 'hypereyes-jax\[{name}\]'"):
        check_trackers(TrackingConfig(**{name: "p"}))
