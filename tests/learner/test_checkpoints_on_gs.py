"""Checkpoints in a bucket of Google Cloud Storage, by the clients that Orbax takes and a server that speaks its API."""

import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.learner.checkpoint import CheckpointDamaged, Checkpoints, KeepPolicy
from tests.gcs_server import served_bucket
from tests.learner.test_checkpoint import assert_equal, state

gcsfs = pytest.importorskip("gcsfs")


@pytest.fixture(scope="module")
def bucket():
    """One server for all tests here: Orbax's clients remember the first that they meet."""
    with served_bucket() as bucket:
        yield bucket


@pytest.fixture
def later():
    """Has Orbax's client list the bucket anew, as another process would."""

    def forget():
        for client in gcsfs.GCSFileSystem._cache.values():
            client.invalidate_cache()

    return forget


def test_they_are_kept_come_back_and_are_missed_when_unfinished_or_altered(bucket, later):
    url = "gs://bucket/run/sft-checkpoints"
    with Checkpoints(url, KeepPolicy(latest=2)) as checkpoints:
        assert checkpoints.restore(state()) is None
        for step in (1, 2, 3):
            checkpoints.save(state(step, seed=step), {"next": step})
        checkpoints.wait()
        assert checkpoints.steps == [2, 3]
    with Checkpoints(url) as checkpoints:
        restored, cursor = checkpoints.restore(state())
        assert_equal(restored, state(3, seed=3))
        assert cursor == {"next": 3}

    del bucket.objects["run/sft-checkpoints/3/commit_success.txt"]  # as where a kill came before it
    later()
    with Checkpoints(url) as checkpoints:
        assert checkpoints.restore(state())[1] == {"next": 2}

    name = "run/sft-checkpoints/2/cursor/metadata"
    bucket.write(name, bucket.objects[name][1].replace(b'"next": 2', b'"next": 4'))
    with Checkpoints(url) as checkpoints, pytest.raises(CheckpointDamaged, match=f"{url}/2 is damaged"):
        checkpoints.restore(state())


def test_a_bucket_that_refuses_is_one_sentence(bucket, monkeypatch):
    url = "gs://bucket/refusing"
    monkeypatch.setattr(bucket, "refuse", "manifest")
    with pytest.raises(UserError, match=f"{url} can't be read or written"), Checkpoints(url) as checkpoints:
        checkpoints.save(state(), {})


def test_a_bucket_that_refuses_reading_does_not_make_its_checkpoints_damaged(bucket, monkeypatch):
    url = "gs://bucket/unread"
    with Checkpoints(url) as checkpoints:
        checkpoints.save(state(), {})
    for part in ("unread/0/cursor", "unread/0/state"):  # read by gcsfs, and by TensorStore
        monkeypatch.setattr(bucket, "refuse_reading", part)
        with Checkpoints(url) as checkpoints, pytest.raises(UserError, match="unread/0 can't be read") as caught:
            checkpoints.restore(state())
        assert not isinstance(caught.value, CheckpointDamaged)
    monkeypatch.setattr(bucket, "refuse_reading", "")
    with Checkpoints(url) as checkpoints:
        assert checkpoints.restore(state()) is not None
