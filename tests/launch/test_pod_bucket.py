"""Two processes whose run directory is in a bucket: killed, gone on with on other machines, and as one on a disk."""

import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.gcs_server import served_bucket
from tests.launch.ports import free_port
from tests.launch.small_model import small_model
from tests.launch.test_commands_of_pods import finish, hypereyes, together


@pytest.fixture
def bucket():
    with served_bucket() as bucket:
        yield bucket


def download(bucket, prefix, folder):
    for name, (_, data) in bucket.objects.items():
        if name.startswith(prefix):
            path = folder / name.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return folder


def pair(*arguments):
    """The two processes of a command, running."""
    address, result = f"127.0.0.1:{free_port()}", []
    for process in range(2):
        place = ("--distributed.join", "--distributed.coordinator", address, "--distributed.processes", 2,
                 "--distributed.process", process, "--distributed.heartbeat-timeout", 600)  # fmt: skip
        result.append(hypereyes(*arguments, *place, devices=2))
    return result


@pytest.mark.slow
def test_a_pod_writes_its_run_into_a_bucket_and_goes_on_elsewhere_after_a_kill(bucket, tmp_path, monkeypatch):
    pytest.importorskip("gcsfs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machines"))
    data = tmp_path / "data"
    finish(hypereyes("synth", "--out", data, "--sft-questions", 24, "--rl-candidates", 8, "--eval-questions", 4))
    base = small_model(tmp_path / "base")
    tuned = ("sft", "--checkpoint", base, "--demonstrations", data / "demonstrations.jsonl", "--settings.batch", 8,
             "--settings.epochs", 2, "--settings.checkpoint-every", 2, "--sizes.row-choices", 640)  # fmt: skip
    together(*tuned, "--out", tmp_path / "disk")

    processes = pair(*tuned, "--out", "gs://bucket/sft")
    deadline = time.monotonic() + 900
    while not any(name.endswith("sft-checkpoints/2/commit_success.txt") for name in list(bucket.objects)):
        assert all(process.poll() is None for process in processes), [p.communicate()[1][-2000:] for p in processes]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not any(name.startswith("sft/model") for name in bucket.objects)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-machines"))
    together(*tuned, "--out", "gs://bucket/sft")
    there = download(bucket, "sft/", tmp_path / "there")
    assert (there / "starts.jsonl").read_text().count("\n") in (1, 2)  # the first start's may not have been copied yet
    on_disk = load_file(tmp_path / "disk" / "model" / "model.safetensors")
    for name, value in load_file(there / "model" / "model.safetensors").items():
        np.testing.assert_array_equal(value, on_disk[name], err_msg=name)

    # what was trained is read from the bucket as well
    together("rl", "--checkpoint", "gs://bucket/sft/model", "--questions", data / "rl_candidates.jsonl", "--out",
             "gs://bucket/rl", "--settings.steps", 2, "--settings.prompts", 2, "--settings.group", 2,
             "--sizes.turn-tokens", 16, "--search.transport", "in-process", "--search.latency", 0,
             "--settings.checkpoint-every", 1, "--select", "no", devices=1)  # fmt: skip
    names = {name.removeprefix("rl/") for name in bucket.objects if name.startswith("rl/")}
    assert {"metrics.jsonl", "model/model.safetensors", "timeline-rl.json", "timeline-rl-1.json"} <= names
    assert {"rl-checkpoints/1/commit_success.txt", "rl-checkpoints/2/commit_success.txt"} <= names
