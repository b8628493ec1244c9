"""Samples that processes send each other: each gets its own and the others' in order, or all end with a message."""

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hypereyes_jax.errors import UserError
from hypereyes_jax.launch import exchange as module
from hypereyes_jax.launch.exchange import SampleExchange, open_exchange
from hypereyes_jax.launch.links.peers import Peer
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.learner.packing import TrainingSample
from hypereyes_jax.processing import ContextChunk, SampledChunk
from tests.launch.ports import free_port

ROOT = Path(__file__).parents[2]


class Together(Processes):
    """Processes of a test that are threads of one."""

    def __init__(self, index, count, told, barrier):
        super().__init__(index, count)
        self._told, self._barrier = told, barrier

    def gather(self, own):
        self._told[self.index] = own
        self._barrier.wait(timeout=60)
        everyone = list(self._told)
        self._barrier.wait(timeout=60)
        return everyone


def all_processes(count):
    told, barrier = [None] * count, threading.Barrier(count)
    return [Together(index, count, told, barrier) for index in range(count)]


def in_all(function, count):
    with ThreadPoolExecutor(count) as pool:
        return [each.result(timeout=120) for each in [pool.submit(function, own) for own in all_processes(count)]]


def sample(process, number):
    image = Image.new("RGB", (8, 8), (process, number, 0))
    sampled = SampledChunk(np.array([process, number], np.int32), *np.zeros((2, 2), np.float32), np.zeros(2, np.int32))
    return TrainingSample((ContextChunk(np.array([1], np.int32), (image,)), sampled), advantage=process + number / 8)


def test_each_process_gets_what_it_is_to_pack():
    owners = [[0, 2, 1, 0], [2], [0, 2, 2, 0]]

    def two_steps(processes):
        own = [sample(processes.index, number) for number in range(len(owners[processes.index]))]
        with open_exchange(processes, True) as exchange:
            first = exchange(own, owners)
            assert exchange.moved == 5
            second = exchange(own, [[process] * len(each) for process, each in enumerate(owners)])
            assert exchange.moved == 0
        assert all(kept is given for kept, given in zip(second, own, strict=True))
        return first

    found = in_all(two_steps, 3)
    names = [[tuple(each.chunks[1].tokens.tolist()) for each in part] for part in found]
    assert names == [[(0, 0), (0, 3), (2, 0), (2, 3)], [(0, 2)], [(2, 1), (2, 2), (0, 1), (1, 0)]]
    for part in found:
        for each in part:
            process, number = each.chunks[1].tokens.tolist()
            assert each.advantage == process + number / 8
            assert each.chunks[0].images[0].getpixel((0, 0)) == (process, number, 0)


def test_a_process_alone_and_one_that_is_told_not_to_exchange_nothing():
    for processes, wanted in ((Processes(), True), (Processes(0, 2), False)):
        with open_exchange(processes, wanted) as exchange:
            assert exchange is None


def test_ports_that_are_closed_are_told_of_at_the_start_in_all_processes(monkeypatch):
    reach = module.call

    def closed(number, address, own):
        if own == 1:
            raise ConnectionError(f"process 1 can't reach process {number} at port 5 of 10.0.0.9")
        return reach(number, address, own)

    monkeypatch.setattr(module, "call", closed)
    monkeypatch.setattr(module, "_PATIENCE", 1.0)

    def begin(processes):
        with pytest.raises(UserError, match=r"can't reach process 2|did not call") as raised:
            SampleExchange(processes)
        return str(raised.value)

    told = in_all(begin, 3)
    assert len(set(told)) == 1
    assert "--sizes.no-balance" in told[0]


def test_a_process_that_goes_in_the_middle_ends_the_others_with_a_message(monkeypatch):
    monkeypatch.setattr(module, "_STEP_PATIENCE", 1.0)

    def step(processes):
        exchange = SampleExchange(processes)
        if processes.index == 1:
            exchange._server.close()
            return
        with pytest.raises(UserError, match="another process, with which this one exchanges samples, is gone"):
            exchange([sample(0, 0), sample(0, 1)], [[0, 1], [0, 1]])

    in_all(step, 2)


def test_what_is_no_message_is_the_fault_of_the_process_that_sent_it():
    ours, theirs = socket.socketpair()
    theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
    theirs.close()
    with pytest.raises(ConnectionError, match="process 3 sent something that is not a message"):
        module._receive(Peer(3, ours))


@pytest.mark.slow
def test_a_step_of_two_processes_is_shorter_and_learns_the_same(tmp_path):
    port = free_port()
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    commands = [
        [sys.executable, "-m", "tests.launch.exchange_pair", f"127.0.0.1:{port}", str(n), str(tmp_path / f"{n}.npz")]
        for n in range(2)
    ]
    pair = [subprocess.Popen(each, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for each in commands]
    for process in pair:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-3000:]
    first, second = (dict(np.load(tmp_path / f"{n}.npz")) for n in range(2))
    assert first["positions"].tolist() == second["positions"].tolist()
    stayed, moved = first["positions"]
    assert (stayed, moved) == (3 * 256, 2 * 256)
    for name in first:
        if name.startswith("moved"):
            wanted = first[name.replace("moved", "stayed", 1)]
            np.testing.assert_allclose(first[name], wanted, rtol=2e-5, atol=1e-6, err_msg=name)
            np.testing.assert_array_equal(first[name], second[name])
