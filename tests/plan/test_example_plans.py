"""The plans that come with the package, which a notebook reads, look as `hypereyes plan --out` writes them today."""

import json
from dataclasses import fields
from importlib import resources

import pytest

from hypereyes_jax.plan.compile import ProgramPlan
from hypereyes_jax.plan.launches import Launches
from hypereyes_jax.plan.report import EnginePlan, Plan, StepPlan, TrainPlan, as_json

PLANS = sorted((resources.files("hypereyes_jax.assets") / "plans").iterdir(), key=lambda file: file.name)


def names(kind):
    return {field.name for field in fields(kind)}


def rebuilt(found):
    """The plan of which `as_json` made these values."""

    def of(kind, values):
        return kind(**{name: values[name] for name in names(kind)})

    def program(values):
        return of(ProgramPlan, values | {"launches": of(Launches, values["launches"])})

    train = of(TrainPlan, found["train"] | {"program": program(found["train"]["program"])})
    engine = of(EnginePlan, found["engine"] | {"programs": [program(each) for each in found["engine"]["programs"]]})
    return of(Plan, found | {"train": train, "engine": engine, "step": of(StepPlan, found["step"])})


@pytest.mark.parametrize("file", PLANS, ids=lambda file: file.name)
def test_an_example_plan_has_the_fields_of_a_plan(file):
    found = json.loads(file.read_text())
    assert json.loads(json.dumps(as_json(rebuilt(found)))) == found
    assert found["fits"]


def test_there_is_an_example_of_one_device_and_of_two_meshes_of_eight():
    assert [json.loads(file.read_text())["devices"] for file in PLANS] == [8, 8, 1]


def test_collectives_of_a_mesh_of_one_axis_are_in_its_example():
    (one_axis,) = [json.loads(file.read_text()) for file in PLANS if "fsdp" in file.name]
    sent = one_axis["train"]["program"]["sent_gib"]["fsdp"]
    # Forward and backward of each of 32 micro-batches gather the weights, as bfloat16; a tenth beside is other arrays.
    weights = one_axis["devices"] * one_axis["train"]["weights_gib"] / 2
    assert sent["all-gather"] == pytest.approx(2 * 32 * weights * 7 / 8, rel=0.15)
