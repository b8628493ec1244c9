"""Devices of learner and samplers, by what `--mesh` says."""

from types import SimpleNamespace

import pytest

from hypereyes_jax.configs.mesh_text import is_split
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch import split_mesh
from hypereyes_jax.launch.split_mesh import split_devices

DEVICES = [SimpleNamespace(platform="gpu", id=number) for number in range(12)]


@pytest.fixture(autouse=True)
def _laid(monkeypatch):
    monkeypatch.setattr(split_mesh, "make_mesh", lambda preset, devices: (preset, devices))


@pytest.mark.parametrize("text", ["learner=8,sampler=4", "sampler=4,learner=gpu_8"])
def test_the_learner_has_the_first_devices_and_the_samplers_the_others(text):
    (preset, learner), samplers = split_devices(text, DEVICES)
    assert (preset.fsdp, learner, samplers) == (8, DEVICES[:8], DEVICES[8:])


def test_a_preset_is_not_split():
    assert is_split("learner=8,sampler=4")
    assert not is_split("h20_8x8")
    assert not is_split("fsdp=8,expert=2")


def test_the_learners_part_may_be_axes():
    (mesh, learner), samplers = split_devices("learner=fsdp=2,expert=4,sampler=4", DEVICES)
    assert (mesh.fsdp, mesh.expert) == (2, 4)
    assert (learner, samplers) == (DEVICES[:8], DEVICES[8:])


@pytest.mark.parametrize(
    ("text", "processes", "message"),
    [
        ("learner=8", 1, "must be learner=MESH,sampler=COUNT"),
        ("learner=8,actor=4", 1, "must be learner"),
        ("learner=auto,sampler=4", 1, "must be learner"),
        ("learner=8,sampler=x", 1, "must be a number of devices, not 'x'"),
        ("learner=8,sampler=0", 1, "must be a number of devices"),
        ("learner=moon,sampler=4", 1, "moon"),
        ("learner=8,sampler=8", 1, r"names 8 \+ 8 devices, and there are 12"),
        ("learner=0,sampler=12", 1, "names 0"),
        ("learner=8,sampler=4", 2, "splits the devices of one process, but there are 2"),
    ],
)
def test_what_is_no_split_is_refused(text, processes, message):
    with pytest.raises(UserError, match=message):
        split_devices(text, DEVICES, processes)
