"""One of two processes, run by `test_distributed.py`: a teacher whose weights lie on both scores what each has.

Arguments: coordinator, process number, output file. Process 1 has samples in the second round only.
"""

import asyncio
import json
import sys
from functools import partial

from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.launch.global_arrays import pack_for_all
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.learner.teacher import LocalTeacher
from tests.learner.small import CONFIG, PACK, samples
from tests.random_weights import random_params

ROUNDS = (((0, 1, 2), ()), ((3,), (4, 0)))  # of each process


def params():
    return random_params(CONFIG, scale=3)


def main(coordinator: str, process: int, out: str) -> None:
    processes = Processes.start(DistributedConfig(True, coordinator, 2, process))
    teacher = LocalTeacher(CONFIG, params(), PACK, 0.8, processes.mesh, partial(pack_for_all, processes))
    asked = samples(5)
    found = [
        [logp.tolist() for logp in asyncio.run(teacher.score([asked[number] for number in share[process]]))]
        for share in ROUNDS
    ]
    with open(out, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
