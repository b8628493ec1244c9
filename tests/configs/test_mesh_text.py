import pytest

from hypereyes_jax.configs.mesh import MESHES
from hypereyes_jax.configs.mesh_text import auto_axes, planned_split, read_mesh, refuse_unknown_mesh
from hypereyes_jax.configs.model import PRESETS
from hypereyes_jax.errors import UserError


def test_a_preset_is_read_by_its_name_and_axes_as_they_are_typed():
    assert read_mesh("v5p_64") is MESHES["v5p_64"]
    mesh = read_mesh("fsdp=8, expert=2")
    assert (mesh.shape, mesh.size, mesh.device) == ((1, 8, 2, 1), 16, "")


@pytest.mark.parametrize(
    ("text", "shape", "hosts", "topology"),
    [
        ("fsdp=8,device=h100", (1, 8, 1, 1), 1, "1x1x8"),
        ("replica=2,fsdp=8,device=h200", (2, 8, 1, 1), 2, "1x2x8"),
        ("fsdp=4,tensor=2,hosts=2,device=rtx4090", (1, 4, 1, 2), 2, "1x2x4"),
        ("fsdp=8,device=v5e", (1, 8, 1, 1), 2, "v5e:2x4"),
        ("fsdp=16,device=v5p", (1, 16, 1, 1), 4, "v5p:2x2x4"),
    ],
)
def test_a_device_says_what_is_compiled_for(text, shape, hosts, topology):
    mesh = read_mesh(text)
    assert (mesh.shape, mesh.hosts, mesh.topology) == (shape, hosts, topology)
    assert mesh.platform == ("tpu" if topology.startswith("v") else "gpu")


@pytest.mark.parametrize(
    ("model", "devices", "a_host", "axes"),
    [
        ("8b", 8, 8, (1, 8, 1)),
        ("8b", 6, 6, (3, 2, 1)),  # 3 does not divide 4,096: three copies over two devices each
        ("2b", 7, 7, (7, 1, 1)),
        ("30b-a3b", 64, 8, (1, 8, 8)),  # experts within a host, as in h20_8x8
        ("30b-a3b", 12, 4, (3, 1, 4)),
        ("2b", 1, 1, (1, 1, 1)),
    ],
)
def test_auto_shares_a_model_out_over_any_number_of_devices(model, devices, a_host, axes):
    found = auto_axes(PRESETS[model], devices, a_host)
    assert (found["replica"], found["fsdp"], found["expert"]) == axes
    assert read_mesh("auto", PRESETS[model], devices, devices // a_host).size == devices


def test_auto_of_a_plan_says_how_many_devices_of_which_kind_there_are():
    mesh = read_mesh("auto,device=h100,devices=16", PRESETS["8b"])
    assert (mesh.shape, mesh.hosts, mesh.topology) == ((1, 16, 1, 1), 2, "1x2x8")
    mesh = read_mesh("auto,device=v6e,devices=8", PRESETS["30b-a3b"])
    assert (mesh.shape, mesh.hosts, mesh.topology) == ((1, 2, 4, 1), 2, "v6e:2x4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5p_46", "Did you mean v5p_64?"),
        ("fdsp=8", "there is no 'fdsp'. Known: replica, fsdp, expert, tensor"),
        ("fsdp=0", "fsdp must be a whole number from 1 on, not '0'"),
        ("fsdp=8,fsdp=2", "gives fsdp twice"),
        ("fsdp=8,device=h101", "there is no device 'h101'. Known: v5e"),
        ("fsdp=6,device=v5e", "there is no v5e slice of 6 chips"),
        ("fsdp=6,hosts=4,device=h100", "6 devices do not divide among 4 hosts"),
        ("fsdp=6,devices=8,device=h100", "its axes make 6 devices, not 8"),
        ("auto,fsdp=2", "auto chooses the axes itself; leave fsdp out"),
        ("auto,device=h100", "say how many devices there are"),
    ],
)
def test_what_is_no_mesh_is_refused_with_what_to_write(text, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        read_mesh(text, PRESETS["8b"])


def test_a_split_is_for_those_who_can_split():
    refuse_unknown_mesh("learner=4,sampler=4", splits=True)
    for refused in (refuse_unknown_mesh, read_mesh):
        with pytest.raises(UserError, match="only `hypereyes rl` and its plan give learner and samplers"):
            refused("learner=4,sampler=4")


@pytest.mark.parametrize(
    ("text", "hosts", "learner", "sampler"),
    [
        ("learner=4,device=h200,sampler=4", 1, "1x1x4", "1x1x4"),
        ("sampler=2,learner=fsdp=3,expert=2,device=h20", 1, "1x1x6", "1x1x2"),
        ("learner=fsdp=4,expert=8,device=h20,sampler=32", 8, "1x8x4", "1x8x4"),
        ("learner=8,device=h100,hosts=4,sampler=8", 4, "1x4x2", "1x4x2"),
        ("learner=32,device=v5p,sampler=32", 16, "v5p:2x4x4", "v5p:2x4x4"),
    ],
)
def test_a_plan_shares_each_host_out_among_learner_and_samplers(text, hosts, learner, sampler):
    both = planned_split(text, PRESETS["30b-a3b"])
    assert [mesh.topology for mesh in both] == [learner, sampler]
    assert [mesh.hosts for mesh in both] == [hosts, hosts]
    assert both[0].device == both[1].device


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learner=4,sampler=4", "say what a plan compiles for"),
        ("learner=12,device=h100,sampler=4,", "must be learner=MESH"),
        ("learner=14,device=h100,sampler=10", "14 devices that train and 10 that sample"),
        ("learner=3,device=v5p,sampler=1", "there is no v5p slice of 3 chips"),
    ],
)
def test_a_split_that_can_not_be_planned_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        planned_split(text, PRESETS["8b"])
