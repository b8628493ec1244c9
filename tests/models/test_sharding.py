import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from hypereyes_jax.configs.mesh import DEVICES, MESHES, MeshConfig
from hypereyes_jax.configs.model import PRESETS
from hypereyes_jax.models.partition import RULES, ShardingError, constrain, local, spec, take_local
from hypereyes_jax.models.qwen3_vl.weights import flat_weights
from hypereyes_jax.models.sharding import check, make_mesh, param_shardings


def abstract(mesh):
    return AbstractMesh(mesh.shape, mesh.axes, axis_types=(AxisType.Auto,) * 4)


@pytest.mark.parametrize("model", ["30b-a3b", "235b-a22b"])
@pytest.mark.parametrize("mesh", [name for name, mesh in MESHES.items() if mesh.size > 1])
def test_every_preset_divides_the_papers_models(model, mesh):
    check(PRESETS[model], abstract(MESHES[mesh]))


def test_every_weight_has_one_rule_and_no_collision():
    for model in PRESETS.values():
        for path, weight in flat_weights(model):
            spec(path, weight.axes, abstract(MESHES["cpu"]))


def test_a_collision_and_a_missing_rule_are_named():
    with pytest.raises(ShardingError, match="layers/q: logical axes 'embed' and 'heads' both want mesh axis 'fsdp'"):
        spec("layers/q", ("embed", "heads"), abstract(MESHES["cpu"]), RULES | {"heads": ("fsdp",)})
    with pytest.raises(ShardingError, match="'unheard' has no rule"):
        spec("x", ("unheard",), abstract(MESHES["cpu"]))


def test_a_mesh_that_cuts_a_head_is_refused_by_parameter_and_size():
    with pytest.raises(ShardingError, match=r"layers/k: its axis 'kv_heads' of 4 heads .* into 8 parts"):
        check(PRESETS["30b-a3b"], abstract(MeshConfig("x", "tpu", tensor=8)))
    with pytest.raises(ShardingError, match=r"layers/expert_.*: its axis 'expert' of 128 values .* 256 parts"):
        check(PRESETS["30b-a3b"], abstract(MeshConfig("x", "tpu", expert=256)))


def test_experts_heads_and_width_lie_on_their_axes():
    table = param_shardings(PRESETS["30b-a3b"], abstract(MESHES["cpu_8"]))
    assert table["layers"]["expert_down"].spec == PartitionSpec(None, "expert", "tensor", "fsdp")
    assert table["layers"]["q"].spec == PartitionSpec(None, ("fsdp", "expert"), "tensor")
    assert table["embed"].spec == PartitionSpec("tensor", ("fsdp", "expert"))


def test_a_mesh_needs_exactly_its_devices():
    with pytest.raises(ShardingError, match="mesh cpu_8 needs 8 devices, but there are 1"):
        make_mesh(MESHES["cpu_8"], jax.devices()[:1])
    assert make_mesh(MESHES["cpu"], jax.devices()[:1]).shape == {"replica": 1, "fsdp": 1, "expert": 1, "tensor": 1}


def test_without_a_mesh_nothing_is_changed():
    x = jax.numpy.arange(6.0).reshape(3, 2)
    assert constrain(x, "batch", None) is x
    assert local(abs, (("batch", None),), ("batch", None)) is abs
    np.testing.assert_array_equal(take_local(x, np.array([2, 0])), x[np.array([2, 0])])


def test_every_preset_names_a_device_and_a_topology():
    for name, mesh in MESHES.items():
        assert mesh.name == name
        assert mesh.platform == "cpu" or (mesh.device in DEVICES and mesh.topology)
        assert mesh.size % mesh.hosts == 0
