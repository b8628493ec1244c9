"""Replicas over several processes: sampled tokens are those of one process, and nobody is left waiting."""

import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hypereyes_jax.configs.mesh import MESHES
from hypereyes_jax.configs.model import PRESETS
from hypereyes_jax.launch.links.messages import Message
from hypereyes_jax.launch.links.peers import Peer
from hypereyes_jax.launch.replica_group.calls import GroupDriver, GroupWorker
from hypereyes_jax.launch.replicas import ReplicaGroups
from hypereyes_jax.models.partition import ShardingError
from hypereyes_jax.models.sharding import neighbours
from hypereyes_jax.rollout.programs.extend import ExtendRows
from hypereyes_jax.rollout.replicas import layout
from tests.launch.replica_group_pair import DEVICES

ROOT = Path(__file__).parents[3]


def start(coordinator, process, out, devices, *words):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "tests.launch.replica_group_pair", coordinator, str(process), str(out), *words]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def pair(out, *words):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{listener.getsockname()[1]}"
    return [start(coordinator, process, out / f"{process}.json", DEVICES // 2, *words) for process in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["moe", "dense"])
def test_a_replica_over_two_processes_samples_the_tokens_of_one_process(model, tmp_path):
    alone = start("alone", 0, tmp_path / "alone.json", DEVICES, model, "")
    for process in (*pair(tmp_path, model, ""), alone):
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors[-3000:]
    led, wanted = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("0", "alone"))
    assert len(wanted["tokens"]) == 24  # two turns of six rollouts, under two weights
    assert led["tokens"] == wanted["tokens"]
    for found, logp in zip(led["logp"], wanted["logp"], strict=True):
        np.testing.assert_allclose(found, logp, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("fate", "message"), [("dies", "process 1, which"), ("raises", "the device has no room")])
def test_a_worker_that_dies_or_fails_ends_its_driver_with_a_message(fate, message, tmp_path):
    driver, worker = pair(tmp_path, "moe", fate)
    _, errors = driver.communicate(timeout=600)
    assert driver.returncode not in (0, None)
    assert message in errors
    worker.communicate(timeout=120)
    assert worker.returncode not in (0, None)


@pytest.fixture
def short_grace(monkeypatch):
    """An end that another one left waits but a moment for its own end, which doesn't come in these tests."""
    monkeypatch.setattr("hypereyes_jax.launch.replica_group.calls._GRACE", 0.02)


class Calls:
    """Stands in for a device: notes its calls."""

    def __init__(self):
        self.made = []

    def extend(self, batch, view_length):
        self.made.append(("extend", [array.tolist() for array in batch], view_length))

    def read(self, part, pages_P):
        self.made.append(("read", part, pages_P.tolist()))
        return (part, len(pages_P))

    def write(self, kept, part, pages_P):
        self.made.append(("write", kept, part, pages_P.tolist()))


def connected(lost):
    ours, theirs = socket.socketpair()
    return GroupDriver([Peer(1, ours)], lost), GroupWorker(Peer(0, theirs), lost)


def rows():
    return ExtendRows(*(np.arange(6, dtype=np.int32).reshape(1, 6) + n for n in range(6)))


def test_workers_make_the_drivers_calls_in_its_order_and_forget_what_it_drops():
    lost = []
    driver, worker = connected(lost.append)
    here, there = Calls(), Calls()
    calls = driver.shared_calls(here)
    calls.extend(rows(), 64)
    some, others = np.array([3, 1], np.int32), np.array([7], np.int32)
    first, second = calls.read(0, some), calls.read(1, others)
    calls.write(first, 1, some)
    del first
    third = calls.read(0, others)
    calls.write(second, 0, others)
    driver.release()
    worker.serve(there)
    assert there.made == here.made
    assert [call[0] for call in there.made] == ["extend", "read", "read", "write", "read", "write"]
    assert list(worker._kept) == [second.key, third.key]
    driver.close()
    worker.close()
    assert not lost


@pytest.mark.parametrize("last", ["nothing", "why"])
def test_each_end_learns_at_once_that_the_other_is_gone_or_failed(last, short_grace):
    for leads in (True, False):
        told, heard = [], threading.Event()

        def lost(why, told=told, heard=heard):
            told.append(why)
            heard.set()

        ours, theirs = socket.socketpair()
        end = GroupDriver([Peer(7, ours)], lost) if leads else GroupWorker(Peer(7, ours), lost)
        if last == "why":
            theirs.sendall(b"".join(Message("failed", ["MemoryError: no room"]).encoded()))
        theirs.close()
        assert heard.wait(timeout=60)
        assert "process 7" in told[0]
        assert ("no room" if last == "why" else "is gone") in told[0]
        end.close()


async def test_a_worker_that_is_cancelled_stops_working():
    driver, worker = connected(lambda why: None)
    task = asyncio.create_task(asyncio.to_thread(worker.serve, Calls()))
    await asyncio.sleep(0.05)
    worker.stop()
    await asyncio.wait_for(task, timeout=60)
    driver.close()


@pytest.mark.parametrize("groups", [((0, 3), (1, 4), (2, 5)), ((0, 1), (2, 3), (4, 5))])
def test_only_drivers_play_and_all_their_questions_are_played_once(groups):
    everyone = [ReplicaGroups(index, groups) for index in range(6)]
    drivers = [group[0] for group in groups]
    assert [each.drives for each in everyone] == [index in drivers for index in range(6)]
    items = list(range(9))
    shares = [each.share(items) for each in everyone]
    assert [len(share) for share in shares] == [3 if index in drivers else 0 for index in range(6)]
    assert everyone[4].merge(shares) == items
    assert sorted(n for each in everyone for n in each.part(range(7))) == list(range(7))
    with pytest.raises(Exception, match=r"10 items a step do not divide among 3 processes that play \(of 6\)"):
        everyone[0].share([*items, 9])


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\x01{",
        b"\0\0\0\x01" + b"3",
        b"\0\0\0\x09" + b'["a",[],3]'[:9],
        *(
            len(head).to_bytes(4, "big") + head
            for head in (
                b'["a", [], 3]',
                b'["a", 3, []]',
                b"[3, [], []]",
                b'["a", [], [["nope", [1]]]]',
                b'["a", [], [["int32", [-1]]]]',
                b'["a", [], [["int32", "x"]]]',
                b'["a", [], [["int32", [4611686018427387904, 4]]]]',
                b'["a", [], [["int64", [1152921504606846]]]]',
                b"[" * 100_000,
                b'["failed", [], []]',
            )
        ),
    ],
)
def test_what_is_no_message_ends_with_a_message(frame, short_grace):
    told, heard = [], threading.Event()
    ours, theirs = socket.socketpair()
    end = GroupDriver([Peer(7, ours)], lambda why: (told.append(why), heard.set()))
    theirs.sendall(frame)
    theirs.shutdown(socket.SHUT_WR)
    assert heard.wait(timeout=60)
    assert "process 7" in told[0]
    end.close()
    theirs.close()


@pytest.mark.parametrize(
    ("devices", "a_process", "processes", "message"),
    [
        (6, 4, 4, "replica of 6 devices is not a whole number of processes, which have 4 each"),
        (3, 8, 1, "replica of 3 devices does not divide a process's 8"),
        (12, 4, 4, r"of 3 processes \(12 devices\) do not share out the run's 4 processes"),
        (32, 4, 4, r"of 8 processes \(32 devices\) do not share out the run's 4 processes"),
    ],
)
def test_replicas_that_do_not_divide_are_refused_with_both_numbers(devices, a_process, processes, message):
    with pytest.raises(ShardingError, match=message):
        layout.replica_size(PRESETS["235b-a22b"].text, a_process, processes, devices)


def test_a_dense_model_has_no_use_for_more_devices_than_kv_heads():
    with pytest.raises(ShardingError, match="would hold some weights twice"):
        layout.replica_size(PRESETS["8b"].text, 4, 4, 16)


def slice_of(preset):
    """The devices of a TPU preset as its hosts of 2x2x1 number them."""
    shape = [int(n) for n in MESHES[preset].topology.split(":")[1].split("x")]
    x_hosts = shape[0] // 2
    y_hosts = shape[1] // 2
    places = [(x, y, z) for z in range((*shape, 1)[2]) for y in range(shape[1]) for x in range(shape[0])]
    return [
        SimpleNamespace(
            id=number, platform="tpu", coords=[x, y, z], core_on_chip=0,
            process_index=x // 2 + x_hosts * (y // 2 + y_hosts * z),
        )
        for number, (x, y, z) in enumerate(places)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "size", "block"),
    [
        ("v6e_256", 64, (8, 8, 1)), ("v6e_256", 16, (4, 4, 1)), ("v6e_64", 8, (2, 4, 1)), ("v5p_256", 16, (2, 2, 4)),
        ("v5p_256", 64, (4, 4, 4)), ("v5p_64", 32, (2, 4, 4)), ("v5p_64", 8, (2, 2, 2)),
    ],
)  # fmt: skip
def test_a_replica_on_tpus_is_a_block_of_the_slice_made_of_whole_hosts(preset, size, block):
    devices = slice_of(preset)
    grid = layout.replica_grid(PRESETS["235b-a22b"].text, devices, size)
    assert grid.shape == (len(devices) // size, size // 4, 4)
    for replica in grid:
        places = np.array([device.coords for device in replica.flat])
        assert tuple(places.max(0) - places.min(0) + 1) == block
        assert all(len({device.process_index for device in row}) == 1 for row in replica)  # heads within a host
    assert sorted(device.id for device in grid.flat) == list(range(len(devices)))
    found = layout.replica_groups(grid)
    assert sorted(process for group in found for process in group) == list(range(len(devices) // 4))
    assert all(len(group) == size // 4 for group in found)


@pytest.mark.parametrize(
    "preset", [name for name, mesh in MESHES.items() if mesh.platform == "tpu" and mesh.slices == 1]
)
def test_a_tpu_host_holds_whole_consecutive_data_shards(preset):
    mesh = MESHES[preset]
    hosts = np.array([device.process_index for device in neighbours(slice_of(preset))]).reshape(mesh.data_shards, -1)
    assert all(len(set(shard)) == 1 for shard in hosts)
    order = hosts[:, 0]
    assert len([1 for a, b in itertools.pairwise(order) if a != b]) == mesh.hosts - 1
