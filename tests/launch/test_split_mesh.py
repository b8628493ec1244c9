"""Devices of learner and samplers, by what `--mesh` says."""

from types import SimpleNamespace

import pytest

from hypereyes_jax.configs.mesh_text import is_split
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch import split_mesh
from hypereyes_jax.launch.split_mesh import split_devices

DEVICES = [SimpleNamespace(platform="gpu", id=number, process_index=0) for number in range(12)]
PAIR = [SimpleNamespace(platform="gpu", id=number, process_index=number // 6) for number in range(12)]


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


def test_each_process_trains_with_its_first_devices_and_samples_with_the_others():
    (preset, learner), samplers = split_devices("learner=fsdp=4,expert=2,sampler=4", PAIR)
    assert (preset.fsdp, preset.expert) == (4, 2)
    assert learner == PAIR[:4] + PAIR[6:10]
    assert samplers == PAIR[4:6] + PAIR[10:]


@pytest.mark.parametrize(
    ("text", "devices", "message"),
    [
        ("learner=8", DEVICES, "must be learner=MESH,sampler=COUNT"),
        ("learner=8,actor=4", DEVICES, "must be learner"),
        ("learner=auto,sampler=4", DEVICES, "must be learner"),
        ("learner=8,sampler=x", DEVICES, "must be a number of devices, not 'x'"),
        ("learner=8,sampler=0", DEVICES, "must be a number of devices"),
        ("learner=moon,sampler=4", DEVICES, "moon"),
        ("learner=8,sampler=8", DEVICES, r"names 8 \+ 8 devices, and there are 12"),
        ("learner=0,sampler=12", DEVICES, "fsdp must be a whole number from 1 on, not '0'"),
        ("learner=7,sampler=5", PAIR, "7 devices that train and 5 that sample can't be shared out evenly among 2"),
    ],
)
def test_what_is_no_split_is_refused(text, devices, message):
    with pytest.raises(UserError, match=message):
        split_devices(text, devices)
