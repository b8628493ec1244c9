import errno
import json
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hypereyes_jax.errors import UserError
from hypereyes_jax.learner.checkpoint import (
    CheckpointDamaged,
    Checkpoints,
    CheckpointSchedule,
    KeepPolicy,
    _saving,
    checksums,
    weights_digest,
)
from tests.forked import run_forked
from tests.learner.killed_run import state


def assert_equal(one, other):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def test_a_run_without_checkpoints_restores_nothing(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(state()) is None


def test_what_was_saved_comes_back_bit_for_bit_with_its_cursor(tmp_path):
    cursor = {"data": {"next": 7}, "references": {"q1": [2, 5]}}
    saved = state(step=3, seed=1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(saved, cursor)
    with Checkpoints(tmp_path) as checkpoints:
        restored, found = checkpoints.restore(state())
    assert_equal(restored, saved)
    assert found == cursor


def test_a_saved_state_may_be_donated_at_once(tmp_path):
    saved = state(step=1, seed=1)
    expected = jax.tree.map(np.array, saved)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(saved, {})
        for leaf in jax.tree.leaves(saved.trainable):
            leaf.delete()
        restored, _ = checkpoints.restore(state())
    assert_equal(restored, expected)


def test_old_checkpoints_go_by_the_policy(tmp_path):
    with Checkpoints(tmp_path, KeepPolicy(latest=2, every=4)) as checkpoints:
        for step in range(1, 8):
            checkpoints.save(state(step), {})
        checkpoints.wait()
        assert checkpoints.steps == [4, 6, 7]


def largest_file(directory: Path) -> Path:
    return max((f for f in directory.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


DAMAGE = {
    "a flipped bit in the weights": lambda step: flip(largest_file(step)),
    "weights cut short": lambda step: os.truncate(largest_file(step), 100),
    "weights missing": lambda step: largest_file(step).unlink(),
    "metadata cut short": lambda step: os.truncate(step / "state" / "_METADATA", 100),
    "a flipped bit in the cursor": lambda step: flip(step / "cursor" / "metadata"),
    "cursor missing": lambda step: (step / "cursor" / "metadata").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used_only_if_asked_for(tmp_path, damage):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(3, seed=3), {"at": 3})
        checkpoints.save(state(4, seed=4), {"at": 4})
    damage(tmp_path / "4")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointDamaged, match=r"checkpoint .*/4 is damaged: .*--resume-step 3"):
            checkpoints.restore(state())
        restored, cursor = checkpoints.restore(state(), step=3)
        assert_equal(restored.trainable, state(3, seed=3).trainable)
        assert cursor == {"at": 3}
        assert checkpoints.steps == [3]


@pytest.mark.parametrize("value", ["x", [], 7.5])
def test_checkpoints_that_can_not_be_listed_are_told_with_the_cure(tmp_path, value):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(3), {"n": 3})
    file = tmp_path / "3" / "_CHECKPOINT_METADATA"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"commit_timestamp_nsecs": value}))
    with pytest.raises(CheckpointDamaged, match="Remove that file"):
        Checkpoints(tmp_path)
    file.unlink()  # the cure
    with Checkpoints(tmp_path) as checkpoints:
        restored, cursor = checkpoints.restore(state())
    assert (int(restored.step), cursor) == (3, {"n": 3})


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE, errno.EACCES])
def test_a_storage_that_fails_does_not_make_a_checkpoint_damaged(tmp_path, number, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(3), {"at": 3})

    def fails(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "restore", fails)
        with pytest.raises(UserError, match=rf"3 can't be read .*{os.strerror(number)}.*may be whole") as caught:
            checkpoints.restore(state())
    assert not isinstance(caught.value, CheckpointDamaged)


def test_a_command_that_goes_back_can_be_started_again(tmp_path):
    with Checkpoints(tmp_path, KeepPolicy(latest=2)) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save(state(step), {"first": step})
    for found, then in (({"first": 4}, (6,)), ({"again": 6}, (8, 10)), ({"again": 10}, (12,))):
        with Checkpoints(tmp_path, KeepPolicy(latest=2)) as checkpoints:
            assert checkpoints.restore(state(), step=4)[1] == found
            for step in then:
                checkpoints.save(state(step), {"again": step})
    with Checkpoints(tmp_path) as checkpoints:  # 4 itself is gone by the policy
        assert checkpoints.steps == [10, 12]
        assert checkpoints.restore(state())[1] == {"again": 12}
        with pytest.raises(UserError, match=r"no checkpoint of step 6; it has \[10, 12\]"):
            checkpoints.restore(state(), step=6)


def test_other_frozen_weights_or_another_model_are_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(1), {})
        with pytest.raises(UserError, match="other frozen weights"):
            checkpoints.restore(state().replace(frozen={"base": jnp.arange(3.0) + 1}))
        with pytest.raises(UserError, match=r"another kind of model or optimiser: .*\['new'\]"):
            checkpoints.restore(state().replace(trainable={**state().trainable, "new": jnp.ones(2)}))
        with pytest.raises(UserError, match=r"no checkpoint of step 9; it has \[1\]"):
            checkpoints.restore(state(), step=9)


def test_a_checkpoint_of_another_run_is_refused_and_left(tmp_path):
    with Checkpoints(tmp_path, run="a") as checkpoints:
        checkpoints.save(state(1), {})
    with Checkpoints(tmp_path, run="b") as checkpoints:
        with pytest.raises(UserError, match="1 was written by another run"):
            checkpoints.restore(state(0))
        assert checkpoints.steps == [1]
    with Checkpoints(tmp_path, run="a") as checkpoints:
        assert checkpoints.restore(state(0)) is not None


def test_checksums_see_any_bit_and_any_swap():
    x = jnp.arange(24.0).reshape(4, 6)
    base = int(checksums(x))
    bits = np.asarray(x).view(np.uint32)
    for index, bit in [((0, 0), 0), ((3, 5), 31), ((2, 2), 13)]:
        changed = bits.copy()
        changed[index] ^= np.uint32(1 << bit)
        assert int(checksums(jnp.asarray(changed.view(np.float32)))) != base
    assert int(checksums(x[::-1])) != base
    for dtype in (jnp.bfloat16, jnp.int8, jnp.uint32, jnp.int32):
        assert int(checksums(x.astype(dtype))) != int(checksums(x[::-1].astype(dtype)))


def kill_and_compare(tmp_path, moments):
    killed, whole = str(tmp_path / "killed"), str(tmp_path / "whole")
    pieces = [f"killed_run.train({killed!r}, 10**9, {moment})" for moment in moments]
    pieces.append(f"killed_run.train({whole!r}, killed_run.last_step({killed!r}) + 2)")
    pieces.append(f"killed_run.train({killed!r}, killed_run.last_step({whole!r}))")
    name = "from tests.learner import killed_run"
    *deaths, one, other = run_forked(name, [f"{name}; {piece}" for piece in pieces])
    assert [each.code for each in deaths] == [-signal.SIGKILL] * len(moments), deaths
    assert one.code == other.code == 0, (one.said, other.said)
    results = []
    for directory in (whole, killed):
        with Checkpoints(Path(directory)) as checkpoints:
            results.append(checkpoints.restore(state()))
    assert_equal(results[0][0], results[1][0])
    seen = results[0][1]["seen"]
    assert results[1][1]["seen"] == seen == list(range(len(seen)))
    assert len(seen) >= 2


def test_a_run_killed_with_minus_nine_goes_on_to_the_same_bits(tmp_path):
    kill_and_compare(tmp_path, [0.3])


@pytest.mark.slow
def test_a_run_killed_twenty_times_at_random_moments_goes_on_to_the_same_bits(tmp_path):
    kill_and_compare(tmp_path, np.random.default_rng(0).uniform(0, 0.4, 20))


def test_the_cursor_must_be_json(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(TypeError, match="not JSON serializable"):
        checkpoints.save(state(1), {"bad": object()})
    assert json.dumps(checkpoints.steps) == "[]"


def test_restoring_to_a_sharding_puts_every_leaf_there(tmp_path):
    mesh = Mesh(np.array(jax.devices()[:1]), ("fsdp",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(1, seed=1), {})
        like = state()
        like.trainable["a"] = jax.device_put(like.trainable["a"], sharding)
        restored, _ = checkpoints.restore(like)
    assert restored.trainable["a"].sharding == sharding


def test_a_full_disk_is_named_with_a_cure(tmp_path, monkeypatch):
    def full(*_, **__):
        raise ValueError('RESOURCE_EXHAUSTED: Error writing "opt_state" in OCDBT database: No space left on device')

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(UserError, match="the disk is full"):
            checkpoints.save(state(1), {})


def test_checkpoints_are_due_by_steps_by_time_and_at_the_end():
    now = 0.0
    schedule = CheckpointSchedule(every=10, minutes=10, last=25, clock=lambda: now)
    due = []
    for done in range(1, 26):
        now += 240  # seconds a step
        if schedule.is_due(done):
            due.append(done)
            schedule.written()
    assert due == [3, 6, 9, 10, 13, 16, 19, 20, 23, 25]
    by_steps = CheckpointSchedule(every=10, minutes=0, last=25, clock=lambda: now)
    assert [done for done in range(1, 26) if by_steps.is_due(done)] == [10, 20, 25]


@pytest.mark.parametrize(("every", "minutes"), [(0, 1.0), (1, -1.0), (1, float("nan"))])
def test_a_schedule_that_can_not_be_meant_is_refused(every, minutes):
    with pytest.raises(UserError, match="checkpoint-every"):
        CheckpointSchedule(every, minutes, 10)


def test_models_are_told_apart_by_one_bit():
    weights = {"a": jnp.arange(6.0), "b": jnp.ones(3, jnp.bfloat16)}
    other = {**weights, "a": weights["a"].at[3].set(jnp.nextafter(weights["a"][3], 9.0))}
    assert weights_digest(weights) == weights_digest(jax.tree.map(jnp.copy, weights)) != weights_digest(other)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("RESOURCE_EXHAUSTED: Error writing: No space left on device", "disk is full"),
        ("OUT_OF_RANGE: Failed to write 9 bytes to file 6: File too large [os_error_code='27']", "ulimit -f"),
        ("PERMISSION_DENIED: Failed to open: Read-only file system [os_error_code='30']", "read-only"),
    ],
)
def test_what_the_system_refuses_tensorstore_is_one_sentence(tmp_path, said, words):
    with pytest.raises(UserError, match=words), _saving(tmp_path):
        raise ValueError(said)
    with pytest.raises(ValueError, match="another"), _saving(tmp_path):
        raise ValueError("RESOURCE_EXHAUSTED: another thing [os_error_code='9999']")
