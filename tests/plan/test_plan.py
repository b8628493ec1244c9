import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tyro

from hypereyes_jax import miniature
from hypereyes_jax.cli.main import main
from hypereyes_jax.cli.rl import RlConfig
from hypereyes_jax.configs.mesh import MESHES
from hypereyes_jax.configs.model import PRESETS
from hypereyes_jax.configs.recipes import RECIPES
from hypereyes_jax.errors import UserError
from hypereyes_jax.models.flops import active_parameters, useful_flops
from hypereyes_jax.plan import platform
from hypereyes_jax.plan import topology as target
from hypereyes_jax.plan.compile import GIB, ProgramPlan, compile_program
from hypereyes_jax.plan.plan import _largest, _refusal, plan
from hypereyes_jax.plan.programs import replica_config, weight_bytes
from hypereyes_jax.plan.report import EnginePlan, Plan, TrainPlan, render
from hypereyes_jax.plan.roofline import roofline_seconds
from hypereyes_jax.plan.settings import PlanConfig
from hypereyes_jax.train.settings import RlSettings
from hypereyes_jax.train.sizes import MINIATURE_RL


def test_the_30b_has_three_billion_active_parameters_and_the_235b_twenty_two():
    for name, low, high in (("30b-a3b", 2.5e9, 3.5e9), ("235b-a22b", 20e9, 23e9)):
        text = PRESETS[name].text
        head_and_embedding = 2 * text.hidden_size * text.vocab_size
        assert low < active_parameters(text) + head_and_embedding < high


def test_a_training_token_costs_six_flops_a_weight_and_an_adapter_token_four():
    model = PRESETS["30b-a3b"]
    weights = active_parameters(model.text) + model.text.hidden_size * model.text.vocab_size
    full = useful_flops(model, 1000, 1, 0, "full")
    assert full == pytest.approx(6000 * weights, rel=1e-3)
    assert useful_flops(model, 1000, 1, 0, "lora") == pytest.approx(full * 2 / 3, rel=1e-3)
    longer = useful_flops(model, 1000, 32_000, 0, "full")
    assert longer - full == pytest.approx(6000 * 48 * 32 * 128 * 31_999)  # scores and values, half of them masked


@pytest.mark.parametrize("limit", [900, 5_000, 33_000])
def test_the_search_finds_the_largest_that_fits(limit):
    found = _largest(lambda n: n <= limit, start=1024, unit=64)
    assert found["fits"] <= limit < found["fails"]
    assert found["fails"] - found["fits"] <= max(64, limit // 8) + 64


def test_traffic_that_leaves_a_node_counts_against_the_network():
    program = ProgramPlan("step", sent_gib={"fsdp": {"all-gather": 2.0}, "expert": {"all-gather": 4.0}})
    times = roofline_seconds(MESHES["h20_8x8"], program)
    assert times["network"] == pytest.approx(2 * 2**30 / 50e9)
    assert times["links"] == pytest.approx(4 * 2**30 / 450e9)
    assert roofline_seconds(MESHES["v5p_64"], program)["network"] == 0.0


def test_compute_and_memory_are_bound_by_the_published_peaks():
    times = roofline_seconds(MESHES["h100_8x8"], ProgramPlan("step", tflops=989 * 3, traffic_gib=3350e9 / 2**30))
    assert (times["compute"], times["memory"]) == (pytest.approx(3.0), pytest.approx(1.0))


class FakeProgram:
    """What `compile_program` asks of a traced, a lowered and a compiled program."""

    jaxpr = SimpleNamespace(eqns=[], outvars=[])

    def lower(self):
        return self

    def compile(self, **_):
        return self

    def as_text(self):
        return ""

    def memory_analysis(self):
        return SimpleNamespace(
            argument_size_in_bytes=4 * GIB, output_size_in_bytes=3 * GIB, alias_size_in_bytes=2 * GIB,
            temp_size_in_bytes=9 * GIB, peak_memory_in_bytes=11 * GIB,
        )  # fmt: skip


def test_the_peak_is_arguments_and_temporaries_and_on_a_tpu_what_lives_at_once():
    assert compile_program("step", FakeProgram, MESHES["h20_8x8"]).peak_gib == 4 + 1 + 9
    on_tpu = compile_program("step", FakeProgram, MESHES["v5p_64"])
    assert (on_tpu.arguments_gib, on_tpu.outputs_gib, on_tpu.temporaries_gib) == (4, 1, 6)


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"no recipe 'x'. Known: miniature, hypereyes_2b_sft"):
        plan(PlanConfig("x", "cpu"))
    with pytest.raises(UserError, match=r"no mesh 'x'\..* Known: cpu"):
        plan(PlanConfig("hypereyes_30b_sft", "x"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("hypereyes_30b_sft --mesh cpu --teacher 30b-a3b", "--teacher is for RL"),
        ("hypereyes_30b_sft --mesh cpu --ahead", "--ahead is for RL"),
        ("hypereyes_30b_rl --mesh cpu --teacher 31b", "31b is not a model: give 2b,"),
        ("--mesh cpu hypereyes_30b_rl --sizes.slots 4", "name the recipe first (hypereyes plan hypereyes_30b_rl ...)"),
        ("miniature --mesh cpu --largest", "--largest needs a mesh whose devices' memory is known"),
        ("miniature --mesh cpu --workload.tokens-a-step 2", "--workload.tokens-a-step 2 must be 1 to 1:"),
        ("x --mesh cpu", "no recipe 'x'"),
    ],
)
def test_what_can_not_be_planned_is_refused(words, message, capsys, monkeypatch):
    monkeypatch.setattr("hypereyes_jax.cli.plan.prepare", lambda mesh: None)  # jax is here already
    assert main(["plan", *words.split()]) == 2
    assert message in capsys.readouterr().err


def table_of(page):
    """(recipe, mesh, fits) of each row of the table of what fits, which has seven columns."""
    rows = [
        line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `") and line.count("|") == 8
    ]
    return [(row[0].strip("`"), row[1].strip("`"), row[-1].strip(" |")) for row in rows if row[0].strip("`") in RECIPES]


def test_every_training_of_the_paper_fits_a_gpu_and_a_tpu_in_the_documented_table():
    rows = table_of((Path(__file__).parents[2] / "docs/plan.md").read_text())
    assert {fits for _, _, fits in rows} == {"yes"}
    assert {name for name, _, _ in rows} <= RECIPES.keys()
    for recipe in ("miniature", *(f"hypereyes_{size}_{stage}" for size in ("30b", "235b") for stage in ("sft", "rl"))):
        platforms = {MESHES[mesh].platform for name, mesh, _ in rows if name == recipe}
        assert platforms >= ({"cpu", "gpu"} if recipe == "miniature" else {"gpu", "tpu"}), recipe


def hypereyes_plan(*arguments):
    script = "import sys; from hypereyes_jax.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "plan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)


@pytest.mark.slow
def test_the_miniature_is_planned_on_a_cpu(tmp_path):
    out = tmp_path / "plan.json"
    done = hypereyes_plan("miniature", "--mesh", "cpu", "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("FITS")
    found = json.loads(out.read_text())
    train, engine = found["train"], found["engine"]
    assert train["micro_batches"] * train["rows"] * MINIATURE_RL.row_samples == RECIPES["miniature"].batch
    parts = [train[f"{name}_gib"] for name in ("weights", "optimizer", "batch", "gradients", "activations")]
    program = train["program"]
    peak = sum(program[f"{name}_gib"] for name in ("arguments", "outputs", "temporaries"))
    assert sum(parts) == pytest.approx(peak, rel=0.02)  # the outputs beside the donated state are a few scalars
    assert 0.4 < train["useful_share"] < 1
    assert [each["name"].split()[0] for each in engine["programs"]] == ["encode", "extend", "decode"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "mesh"),
    [
        ("libtpu", "'tpu', fsdp=2, expert=2, tensor=2, hosts=2, device='v5p', topology='v5p:2x2x2'"),
        ("jax_cuda13_plugin", "'gpu', fsdp=2, expert=2, tensor=2, hosts=2, device='h100', topology='1x2x4'"),
    ],
)
def test_a_mixture_of_experts_compiles_for_devices_that_are_not_there(compiler, mesh, tmp_path):
    """A small model through every part: the platform's attention, experts in blocks, three mesh axes, the engine."""
    if importlib.util.find_spec(compiler) is None:
        pytest.skip("the extra `plan` is not installed")
    out = tmp_path / "plan.json"
    script = (
        "import dataclasses, sys\n"
        "from hypereyes_jax.configs import mesh, model, recipes\n"
        "big = model.PRESETS['30b-a3b']\n"
        "text = dataclasses.replace(big.text, num_hidden_layers=2, hidden_size=512, num_attention_heads=8, "
        "moe_intermediate_size=128, num_experts=16, vocab_size=8192)\n"
        "tower = dataclasses.replace(big.vision, depth=2, hidden_size=256, num_heads=4, intermediate_size=512, "
        "out_hidden_size=512, deepstack_visual_indexes=(0, 1))\n"
        "model.PRESETS['small'] = dataclasses.replace(big, text=text, vision=tower)\n"
        "recipe = dataclasses.replace(recipes.HYPEREYES_30B_RL, name='small', model='small', context=1024, "
        "image_tokens=64, row_images=2, batch=8)\n"
        "recipes.RECIPES['small'] = recipe\n"
        f"mesh.MESHES['small'] = mesh.MeshConfig('small', {mesh})\n"
        "from hypereyes_jax.cli.main import main\n"
        "sys.exit(main(['plan', 'small', '--mesh', 'small', '--out', sys.argv[1]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(out)], capture_output=True, text=True, timeout=3000, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["fits"]
    assert {"fsdp", "expert", "tensor"} <= {
        axis for axes in found["train"]["program"]["sent_gib"] for axis in axes.split("+")
    }
    assert found["train"]["bound"] in found["train"]["roofline_seconds"]
    assert found["train"]["activations_gib"] > 0
    assert [each["name"].split()[0] for each in found["engine"]["programs"]] == ["encode", "extend", "decode"]
    assert all(each["temporaries_gib"] > 0 for each in found["engine"]["programs"])


def test_a_missing_compiler_is_named_with_the_command_that_installs_it(monkeypatch):
    def missing(**_):
        raise RuntimeError("JAX TPU support not installed")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", missing)
    with pytest.raises(UserError, match=r"pip install 'libtpu==0\.0\.42\.\*'"):
        target.devices(MESHES["v5p_64"])
    with pytest.raises(UserError, match=rf"pip install 'jax-cuda13-plugin=={re.escape(jax.__version__[:5])}"):
        target.devices(MESHES["h20_8x8"])


def test_a_sampler_takes_the_fewest_devices_that_leave_room_for_slots():
    recipe, model = RECIPES["hypereyes_30b_rl"], PRESETS["30b-a3b"]
    size = weight_bytes(recipe, model, "given")
    assert size == pytest.approx(62e9, rel=0.02)  # 31 billion weights of 2 bytes
    roomy = replica_config(MESHES["v6e_64"], recipe, model, room=size)
    assert (roomy.tensor, roomy.expert, roomy.topology) == (4, 1, "v6e:2x2")  # a KV head a device
    tight = replica_config(MESHES["v6e_64"], recipe, model, room=size / 6)
    assert (tight.tensor, tight.expert, tight.hosts, tight.topology) == (4, 4, 4, "v6e:4x4")
    assert replica_config(MESHES["v6e_64"], recipe, model, room=size / 100) is None
    gpus = replica_config(MESHES["h20_8x8"], recipe, model, room=size / 6)
    assert (gpus.expert, gpus.hosts, gpus.topology) == (4, 2, "1x2x8")


def first_mesh(name):
    """A preset's mesh, on devices that stand in for the hosts' own."""
    preset = MESHES[name]
    a_host = preset.size // preset.hosts
    devices = [SimpleNamespace(process_index=number // a_host) for number in range(preset.size)]
    grid = np.array(devices, object).reshape(preset.shape)
    return SimpleNamespace(devices=grid, shape=dict(zip(preset.axes, preset.shape, strict=True)))


@pytest.mark.parametrize(
    ("recipe", "mesh", "replica", "said"),
    [
        ("hypereyes_235b_rl", "v6e_256", 64, ""),  # 4 drivers
        ("hypereyes_235b_rl", "v5p_256", 16, ""),
        ("hypereyes_235b_rl", "h20_8x8_paper", 8, ""),
        ("hypereyes_235b_rl", "h20_8x8", 16, ""),
        ("hypereyes_235b_sft", "v6e_256", 0, ""),
        ("hypereyes_30b_rl", "v6e_64", 4, ""),
        ("hypereyes_30b_rl", "v6e_64", 6, "replica of 6 devices is not a whole number of processes, which have 4 each"),
        ("hypereyes_30b_rl", "v5p_256", 4, "32 questions a step do not divide among 64 processes"),
    ],
)
def test_what_the_training_commands_would_refuse_is_said(recipe, mesh, replica, said):
    recipe = RECIPES[recipe]
    assert said in _refusal(recipe, PRESETS[recipe.model], MESHES[mesh], first_mesh(mesh), replica)
    assert bool(said) == bool(_refusal(recipe, PRESETS[recipe.model], MESHES[mesh], first_mesh(mesh), replica))


def test_a_mesh_whose_data_shards_lie_across_hosts_is_refused():
    mesh = first_mesh("v6e_64")
    mesh.devices = mesh.devices.reshape(-1, 2).T.reshape(mesh.devices.shape)  # each host's devices far apart
    recipe = RECIPES["hypereyes_30b_sft"]
    said = _refusal(recipe, PRESETS[recipe.model], MESHES["v6e_64"], mesh, 0)
    assert "each process must hold whole, consecutive data shards" in said


def test_the_settings_that_a_plan_names_give_the_engine_it_compiled():
    engine = EnginePlan(4, 64, 2, 38_912, 80_000, (1,), 1.7, 0.5, [], 0.005, 16, fits=True)
    program = ProgramPlan("training step")
    train = TrainPlan(program, "attention", 256, 38_912, 38_912, 1, *[1.0] * 7, {}, "compute", 0.0, 0.5, 0.5, fits=True)
    found = Plan("hypereyes_235b_rl", "v6e_256", 256, 30.0, True, train, engine)
    (line,) = [line for line in render(found).splitlines() if "--sizes" in line]
    words = line.partition(": ")[2].split()
    default = RlConfig.of("hypereyes_235b_rl")
    sizes = tyro.cli(RlConfig, args=["--checkpoint", "c", "--questions", "q", *words], default=default).sizes
    assert (sizes.replica_devices, sizes.slots, sizes.cache_tokens, sizes.extend_rows) == (64, 2, 80_000, (1,))
    assert sizes.engine().extend_rows == (1,)
    refused = render(replace(found, fits=False, refused="too many"))
    assert refused.splitlines()[-2:] == ["`hypereyes rl` refuses it: too many", "REFUSED"]


def test_the_miniatures_recipe_is_what_its_commands_run_by_default():
    recipe, settings = RECIPES["miniature"], RlSettings()
    assert (recipe.batch, recipe.steps) == (settings.prompts * settings.group, settings.steps)
    assert recipe.learner.optimizer.learning_rate == settings.learning_rate
    assert recipe.learner.opd_coef == settings.opd_coef
    assert recipe.context == miniature.CONTEXT == MINIATURE_RL.engine().context
    assert recipe.shard_rows == MINIATURE_RL.pack(1).rows
    assert recipe.image_tokens == miniature.MAX_PIXELS // 32**2
    assert recipe.rollout.turn_tokens == MINIATURE_RL.sampling().max_new_tokens
    assert recipe.rollout.slots == MINIATURE_RL.engine().slots


def test_preparing_after_jax_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", object())
    with pytest.raises(RuntimeError, match="before jax is imported"):
        platform.prepare(MESHES["v5p_64"])


def test_recipes_hold_the_papers_values():
    rl, sft = RECIPES["hypereyes_30b_rl"], RECIPES["hypereyes_30b_sft"]
    assert (rl.rollout.prompts, rl.rollout.group, rl.batch) == (32, 8, 256)
    assert (rl.learner.optimizer.learning_rate, rl.learner.optimizer.b2) == (1e-6, 0.98)
    assert (rl.learner.clip_low, rl.learner.clip_high, rl.learner.dual_clip, rl.learner.tis_cap) == (
        0.2,
        0.28,
        3.0,
        2.0,
    )
    assert rl.context >= rl.rollout.prompt_tokens + rl.rollout.turns * rl.rollout.turn_tokens
    assert (sft.lora.rank, sft.lora.alpha, sft.lora.dropout) == (8, 32.0, 0.05)
    assert sft.learner.optimizer.warmup_steps == round(0.05 * sft.steps)
    assert sft.steps == -(-sft.samples // sft.batch)
    assert not RECIPES["hypereyes_235b_rl"].distill
    assert RECIPES["hypereyes_235b_rl"].model == RECIPES["hypereyes_235b_sft"].model == "235b-a22b"
