import numpy as np

from hypereyes_jax.launch import processes
from hypereyes_jax.launch.processes import Processes


def test_what_processes_tell_each_other_takes_a_few_programs_however_long_it_is(monkeypatch):
    """Each shape compiles a program on every process, and a run of hundreds of steps gathers thousands of texts."""
    shapes = set()

    def gathered(array):
        shapes.add(array.shape)
        return np.stack([array, array])

    monkeypatch.setattr(processes, "process_allgather", gathered)
    pair = Processes(0, 2)
    for length in range(0, 20_000, 37):
        value = {"text": "ä" * length}
        assert pair.gather(value) == [value, value]
    assert len(shapes) <= 10
