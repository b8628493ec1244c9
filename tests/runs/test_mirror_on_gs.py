"""A run directory in a bucket of Google Cloud Storage, by TensorStore's own client and a server that speaks its API."""

import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.mirror import RunMirror
from hypereyes_jax.runs.run_directory import RunDirectory, work_was_done
from tests.gcs_server import served_bucket

URL = "gs://bucket/run"


@pytest.fixture
def bucket():
    with served_bucket() as bucket:
        yield bucket


def contents(bucket):
    return {name: data for name, (_, data) in bucket.objects.items() if ".mirror" not in name}


def test_files_go_there_and_come_back_and_only_one_machine_writes(bucket, tmp_path):
    here = RunMirror(URL, tmp_path / "here")
    assert here.fetch() == 0
    (tmp_path / "here" / "model").mkdir()
    (tmp_path / "here" / "model" / "weights").write_bytes(bytes(range(256)) * 20_000)
    (tmp_path / "here" / "metrics.jsonl").write_text("1\n")
    assert here.push() == 2
    there = RunMirror(URL, tmp_path / "there")
    assert there.fetch() == 2
    assert (tmp_path / "there" / "model" / "weights").read_bytes() == bytes(range(256)) * 20_000
    (tmp_path / "there" / "metrics.jsonl").write_text("1\n2\n")
    (tmp_path / "there" / "model" / "weights").unlink()
    there.push()
    assert contents(bucket) == {"run/metrics.jsonl": b"1\n2\n"}
    (tmp_path / "here" / "metrics.jsonl").write_text("1\nother\n")
    with pytest.raises(UserError, match="another machine has written"):
        here.push()
    assert contents(bucket) == {"run/metrics.jsonl": b"1\n2\n"}


def test_a_bucket_that_refuses_is_one_sentence(bucket, tmp_path):
    mirror = RunMirror(URL, tmp_path)
    (tmp_path / "metrics.jsonl").write_text("1\n")
    bucket.refuse = "metrics"
    with pytest.raises(UserError, match=r"gs://bucket/run can't be read or written .*403"):
        mirror.push()
    bucket.refuse = ""
    assert mirror.push() == 1


def test_each_of_several_processes_copies_its_own_files_and_checkpoints_lie_there(bucket, tmp_path):
    mirrors = [RunMirror(URL, tmp_path / str(n), n, 2) for n in range(2)]
    for number, mirror in enumerate(mirrors):
        assert mirror.fetch() == 0
        assert RunMirror(URL, tmp_path / "other", number).direct  # before anything was copied
        (tmp_path / str(number) / f"timeline-{number}.json").write_text(str(number))
        assert mirror.push() == 1
        assert RunDirectory(mirror.local).checkpoints("rl-checkpoints") == f"{URL}/rl-checkpoints"
    bucket.write("run/rl-checkpoints/3/state", b"written by both")
    (tmp_path / "0" / "timeline-0.json").unlink()
    mirrors[0].push()
    assert contents(bucket) == {"run/timeline-1.json": b"1", "run/rl-checkpoints/3/state": b"written by both"}

    again = RunMirror(URL, tmp_path / "again", 1, 2)
    assert again.fetch() == 1
    alone = RunMirror(URL, tmp_path / "alone")  # one process goes on with it
    assert alone.direct
    alone.fetch()
    assert RunDirectory(alone.local).checkpoints("rl-checkpoints") == f"{URL}/rl-checkpoints"


def test_several_do_not_go_on_with_a_run_whose_checkpoints_are_copied(bucket, tmp_path):
    alone = RunMirror(URL, tmp_path / "alone")
    alone.fetch()
    assert not work_was_done(tmp_path / "alone")  # so that a corrected command may begin it
    (tmp_path / "alone" / "rl-checkpoints").write_text("a checkpoint")
    alone.push()
    assert RunDirectory(alone.local).checkpoints("rl-checkpoints") == alone.local / "rl-checkpoints"
    with pytest.raises(UserError, match="holds a run of one process"):
        RunMirror(URL, tmp_path / "pair", 0, 2)
