import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro
from jax.sharding import AbstractMesh, AxisType

from hypereyes_jax.cli.rl import RlConfig
from hypereyes_jax.cli.sft import SftConfig
from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.initialize import join
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.learner.experience import Experience
from hypereyes_jax.learner.teacher import LocalTeacher
from hypereyes_jax.models.qwen3_vl import save_hf
from hypereyes_jax.models.sharding import param_shardings
from tests.launch.ports import free_port
from tests.launch.teacher_pair import ROUNDS, params
from tests.launch.weights_pair import MESH
from tests.learner.sharded_steps import MODELS
from tests.learner.small import CONFIG, PACK, samples
from tests.random_weights import random_params

ROOT = Path(__file__).parents[2]


def start(*words, devices, script="process_pair"):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", f"tests.launch.{script}", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_of_four_devices_take_the_steps_of_one_process_of_eight(tmp_path):
    coordinator = f"127.0.0.1:{free_port()}"
    pair = [start(coordinator, process, tmp_path / f"{process}.npz", devices=4) for process in range(2)]
    alone = start("alone", 0, tmp_path / "alone.npz", devices=8)
    for process in (*pair, alone):
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors[-2000:]
    *both, wanted = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("0", "1", "alone"))
    for kind in ("sft_step", "rl_step"):
        for what in ("weights", "first", "second", "metrics"):
            names = [name for name in wanted if name.startswith(f"{kind}['{what}']")]
            assert len(names) > 5
            # Element by element, to 1e-5 of the largest; of metrics, of each: they are of any size.
            largest = max(np.abs(wanted[name]).max() for name in names)
            assert largest > 0
            for found in both:
                for name in names:
                    scale = max(1.0, abs(float(wanted[name]))) if what == "metrics" else largest
                    np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-5 * scale, err_msg=name)
    before = jax.tree_util.tree_leaves_with_path({"weights": random_params(MODELS["moe"])})
    moved = [np.abs(wanted["rl_step" + jax.tree_util.keystr(path)] - leaf).max() for path, leaf in before]
    assert max(moved) > 1e-4  # far more than the tolerance of weights, else they are those before the step


@pytest.fixture(scope="module")
def checkpoint():
    """Configuration and weights of what the two processes below read."""
    return MODELS["moe"], random_params(MODELS["moe"])


@pytest.fixture(scope="module")
def weights_pair(checkpoint, tmp_path_factory):
    """What became of weights in two processes: what -> the arrays of each."""
    out = tmp_path_factory.mktemp("pair")
    save_hf(out / "checkpoint", *checkpoint)
    process = start(f"127.0.0.1:{free_port()}", out, devices=4, script="weights_pair")
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-2000:]
    return {what: [dict(np.load(out / f"{what}.{n}.npz")) for n in range(2)] for what in ("split", "loaded")}


def test_samplers_with_devices_of_their_own_in_two_processes_get_the_learners_very_bits(checkpoint, weights_pair):
    wanted = jax.tree_util.tree_leaves_with_path(checkpoint[1])
    for found in weights_pair["split"]:
        # a replica of two devices, of which each holds its part of what is cut and the whole of the rest
        size = sum(leaf.nbytes for _, leaf in wanted)
        assert size < found.pop("received") < 2 * size
        assert len(found) == len(wanted)
        for name, leaf in wanted:
            np.testing.assert_array_equal(found[jax.tree_util.keystr(name)], leaf, err_msg=jax.tree_util.keystr(name))


def test_two_processes_read_a_checkpoint_together_and_hold_its_very_bits(checkpoint, weights_pair):
    config, params = checkpoint
    found = weights_pair["loaded"]
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    for held in found:
        assert held.pop("read") < 0.6 * total  # half of every tensor, but the small ones whole
    # each device's part, by the same rules on devices that need not be there
    mesh = AbstractMesh(MESH.shape, MESH.axes, axis_types=(AxisType.Auto,) * 4)
    shardings = param_shardings(config, mesh)
    compared = 0
    for (name, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings), strict=True
    ):
        place_of = f"{jax.tree_util.keystr(name)}@"
        parts = [held[key] for held in found for key in sorted(held) if key.startswith(place_of)]
        assert len(parts) == 8
        for device, part in enumerate(parts):
            place = dict(zip(MESH.axes, np.unravel_index(device, MESH.shape), strict=True))
            np.testing.assert_array_equal(part, slice_of(np.asarray(leaf), sharding.spec, place))
            compared += part.nbytes
    assert compared >= total


def slice_of(array, spec, place):
    """The part of an array that the device at this place of the mesh holds."""
    sizes = dict(zip(MESH.axes, MESH.shape, strict=True))
    for axis, names in enumerate(spec):
        names = (names,) if isinstance(names, str) else tuple(names or ())
        parts, own = 1, 0
        for each in names:
            own, parts = own * sizes[each] + place[each], parts * sizes[each]
        length = array.shape[axis] // parts
        array = np.take(array, np.arange(own * length, (own + 1) * length), axis)
    return array


@pytest.mark.slow
async def test_a_teacher_on_two_processes_scores_the_samples_of_each_as_one_on_a_device(tmp_path):
    coordinator = f"127.0.0.1:{free_port()}"
    pair = [
        start(coordinator, process, tmp_path / f"{process}.json", devices=1, script="teacher_pair")
        for process in range(2)
    ]
    for process in pair:
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors[-2000:]
    found = [json.loads((tmp_path / f"{process}.json").read_text()) for process in range(2)]
    wanted = await LocalTeacher(CONFIG, params(), PACK, 0.8).score(samples(5))
    for number, share in enumerate(ROUNDS):
        for process, places in enumerate(share):
            assert len(found[process][number]) == len(places)
            for place, logp in zip(places, found[process][number], strict=True):
                np.testing.assert_allclose(logp, wanted[place], atol=1e-5)


RUN = """
import json, os, sys, time
from hypereyes_jax.cli import main as cli
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch import initialize
from hypereyes_jax.launch.initialize import DistributedConfig, join

initialize._PARTING_SECONDS = 1  # the other one doesn't come

def run(*_):
    join(DistributedConfig(True, coordinator, 2, int(process), heartbeat_timeout=4))
    if process not in failing:
        time.sleep(600)
    elif end == "kill":
        os.kill(os.getpid(), 9)
    raise {"error": RuntimeError, "mistake": UserError}[end]("the cause")

cli._run = run
children = []
for said, coordinator, process, failing, end in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
        sys.exit(cli.main(["sft"]))
    children.append(child)
print(json.dumps(children), flush=True)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


def test_one_process_dying_ends_the_other_with_a_message(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    cases = [("0", "kill"), ("1", "kill"), ("0", "error"), ("1", "error"), ("01", "mistake")]
    ports = [free_port() for _ in cases]
    pairs = [
        [str(tmp_path / f"{port}.{process}"), f"127.0.0.1:{port}", process, *case]
        for case, port in zip(cases, ports, strict=True)
        for process in "01"
    ]
    # all at once, for the most of it is waiting, and of one process that has made the imports
    command = [sys.executable, "-c", RUN, json.dumps(pairs)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        children = json.loads(process.stdout.readline())
        try:
            codes = iter(json.loads(process.communicate(timeout=60)[0]))  # far below jax's own 300 s
        finally:
            if process.poll() is None:  # its children are not waited for yet, so that their numbers are theirs
                for each in children:
                    os.kill(each, signal.SIGKILL)
    texts = (Path(said).read_text() for said, *_ in pairs)
    ended = {case: [(next(codes), next(texts)) for _ in "01"] for case in cases}
    for (failing, end), (first, second) in ended.items():
        if end == "mistake":  # of both: each says so and leaves in order
            assert [code for code, _ in (first, second)] == [2, 2]
            continue
        (code, dead), (other_code, other) = (first, second) if failing == "0" else (second, first)
        assert other_code not in (0, None)
        # the driver's connection breaks; another's heartbeat stops, and it is named by its number
        wanted = "leader task was preempted/died" if failing == "0" else "unhealthy (stopped sending heartbeats):\n1\n"
        assert wanted in other, other[-2000:]
        if end == "error":
            assert code == 1
            assert "RuntimeError: the cause" in dead
            assert f"process {failing} of 2 ends after this error" in dead
        else:
            assert code == -signal.SIGKILL


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NUM_NODES": "8"}, []),  # one task a node, as slurm.sh starts them
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NUM_NODES": "8", "JAX_LOCAL_DEVICE_IDS": "0,1"}, None),
        ({"SLURM_NTASKS": "64", "SLURM_STEP_NUM_NODES": "8"}, None),  # jax gives each task a GPU
        ({}, None),
    ],
)
def test_the_only_task_of_a_slurm_node_is_told_to_drive_all_its_gpus(variables, told, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **named: calls.append(given))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_NODES", "JAX_LOCAL_DEVICE_IDS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    join(DistributedConfig(join=True))
    assert calls == [(None, None, None, told)]


def test_jax_takes_no_local_devices_on_slurm_as_all():
    script = (
        "import jax\n"
        "from hypereyes_jax.launch.initialize import DistributedConfig, join\n"
        "join(DistributedConfig(True))\n"
        "print(jax.config.values['jax_cuda_visible_devices'])\n"
    )
    slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "1", "SLURM_PROCID": "0",
             "SLURM_LOCALID": "0", "SLURM_STEP_NUM_NODES": "1"}  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | slurm
    environment["JAX_COORDINATOR_PORT"] = str(free_port())
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "all\n", done.stderr


def test_sigterm_ends_a_joined_process():
    script = (
        "import sys, time\n"
        "from hypereyes_jax.launch.initialize import DistributedConfig, join\n"
        "join(DistributedConfig(True, sys.argv[1], 1, 0))\n"
        "print('joined', flush=True)\n"
        "time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", script, f"127.0.0.1:{free_port()}"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "joined\n"
        process.terminate()
        try:
            assert process.wait(timeout=30) == -signal.SIGTERM
        finally:
            process.kill()


@pytest.mark.parametrize("command", [SftConfig, RlConfig])
def test_the_training_commands_take_what_the_cluster_scripts_add(command):
    required = {SftConfig: "--checkpoint c --demonstrations d", RlConfig: "--checkpoint c --questions q"}[command]
    added = "--distributed.join --distributed.coordinator h:8476 --distributed.processes 8 --distributed.process 3"
    found = tyro.cli(command, args=f"{required} {added}".split())
    assert found.distributed == DistributedConfig(True, "h:8476", 8, 3)


def test_what_processes_share_out_is_put_together_in_its_order():
    everyone = [Processes(index, 3).replicas for index in range(3)]
    items = list(range(12))
    shares = [each.share(items) for each in everyone]
    assert sorted(item for share in shares for item in share) == items
    assert everyone[0].merge(shares) == items
    with pytest.raises(UserError, match="11 items a step do not divide among 3 processes"):
        everyone[1].share(items[:11])


def test_a_group_is_told_to_the_others_exactly():
    reward = np.array([1 / 3, -0.5, 0.1], np.float32)
    group = Experience(
        (), reward, np.array([True, False, True]), np.arange(3, dtype=np.int32), np.arange(3, dtype=np.int32) * 2,
        reward / 5, reward / 7, reward * 3, reward - 1, np.array([False, True, False]), {"own": 0.25},
        ({"rounds": 1.0}, {}, {"rounds": 2.0}),
    )  # fmt: skip
    again = Experience.from_record(json.loads(json.dumps(group.record())))
    assert again.metrics == group.metrics == {"own": 0.25}
    assert again.spent == group.spent == ({"rounds": 1.0}, {}, {"rounds": 2.0})
    for name in group.record().keys() - {"metrics", "spent"}:
        np.testing.assert_array_equal(getattr(again, name), getattr(group, name))
        assert getattr(again, name).dtype == getattr(group, name).dtype


def test_half_told_settings_are_refused():
    with pytest.raises(UserError, match=r"give all of --distributed\.coordinator, --distributed\.processes"):
        join(DistributedConfig(join=True, coordinator="host:1"))


def test_a_single_process_joins_nothing():
    join(DistributedConfig())
