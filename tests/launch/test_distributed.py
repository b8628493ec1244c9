import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.distributed import DistributedConfig, join

ROOT = Path(__file__).parents[2]


def start(coordinator, process, out, devices):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "tests.launch.process_pair", coordinator, str(process), str(out)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
def test_two_processes_of_four_devices_take_the_steps_of_one_process_of_eight(tmp_path):
    coordinator = f"127.0.0.1:{free_port()}"
    pair = [start(coordinator, process, tmp_path / f"{process}.json", 4) for process in range(2)]
    alone = start("alone", 0, tmp_path / "alone.json", 8)
    for process in (*pair, alone):
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors[-2000:]
    results = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("0", "1", "alone")]
    for kind in ("sft_step", "rl_step"):
        wanted = results[2][kind]
        for found in (results[0][kind], results[1][kind]):
            np.testing.assert_allclose(found["moments"], wanted["moments"], rtol=1e-5, atol=1e-9)
            for name, value in wanted["metrics"].items():
                np.testing.assert_allclose(found["metrics"][name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_one_process_dying_ends_the_other_with_a_message(tmp_path):
    script = (
        "import os, sys, time\n"
        "from hypereyes_jax.launch.distributed import DistributedConfig, join\n"
        "join(DistributedConfig(True, sys.argv[1], 2, int(sys.argv[2]), heartbeat_timeout=10))\n"
        "print('joined', flush=True)\n"
        "os.kill(os.getpid(), 9) if sys.argv[2] == '1' else time.sleep(600)\n"
    )
    coordinator = f"127.0.0.1:{free_port()}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", script, coordinator, str(process)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    _, errors = pair[0].communicate(timeout=300)
    pair[1].wait(timeout=10)
    assert pair[0].returncode != 0
    assert "heartbeat" in errors.lower() or "unhealthy" in errors.lower()


def test_half_told_settings_are_refused():
    with pytest.raises(UserError, match="give all of"):
        join(DistributedConfig(join=True, coordinator="host:1"))


def test_a_single_process_joins_nothing():
    join(DistributedConfig())
