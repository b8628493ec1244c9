import socket

import jax
import numpy as np
from jax.sharding import Mesh

from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.launch import processes
from hypereyes_jax.launch.processes import Processes


def test_what_processes_tell_each_other_takes_a_few_programs_however_long_it_is(monkeypatch):
    """Each shape compiles a program on every process, and a run of hundreds of steps gathers thousands of texts."""
    shapes = set()

    def gathered(_, array):
        shapes.add(array.shape)
        return np.stack([array, array])

    monkeypatch.setattr(processes, "gather_from_processes", gathered)
    pair = Processes(0, 2, Mesh(np.array(jax.devices()[:1]), ("data",)))
    for length in range(0, 20_000, 37):
        value = {"text": "ä" * length}
        assert pair.gather(value) == [value, value]
    assert len(shapes) <= 10


def test_each_process_knows_how_many_run_on_its_host(monkeypatch):
    monkeypatch.setattr(processes, "_host", lambda: "b")
    monkeypatch.setattr(processes.jax, "process_index", lambda: 1)
    monkeypatch.setattr(processes.jax, "process_count", lambda: 4)
    monkeypatch.setattr(Processes, "gather", lambda self, own: ["a", own, "b", "b"])
    started = Processes.start(DistributedConfig())
    assert started.on_host == 3
    assert started.sharing_replicas([(0, 1), (2, 3)]).on_host == 3


def test_a_process_alone_is_the_only_one_of_its_run_on_its_host(monkeypatch, tmp_path):
    assert Processes.start(DistributedConfig()).on_host == 1
    monkeypatch.setattr(processes, "_BOOT", tmp_path / "none")
    assert processes._host() == socket.gethostname()
