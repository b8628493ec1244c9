"""What is planned for the sizes, the teacher and the rollouts that were asked for; nothing is compiled."""

import functools
import math
from dataclasses import replace

import jax
import pytest
import tyro

from hypereyes_jax.configs.mesh import MESHES, MeshConfig
from hypereyes_jax.configs.model import PRESETS
from hypereyes_jax.configs.recipes import RECIPES
from hypereyes_jax.errors import UserError
from hypereyes_jax.models.qwen3_vl import Kernels
from hypereyes_jax.plan import engine as engine_module
from hypereyes_jax.plan import plan as plan_module
from hypereyes_jax.plan import programs as plan_programs
from hypereyes_jax.plan.compile import GIB, ProgramPlan
from hypereyes_jax.plan.plan import plan
from hypereyes_jax.plan.report import render
from hypereyes_jax.plan.settings import PlanConfig, planned_model

# what was traced for one plan is there for the next: tracing is the most of what these tests would do
same_learner = functools.cache(plan_programs.make_learner)


class Compiler:
    """Takes the place of the compiler: each program traces, and takes the memory that a test says."""

    def __init__(self, monkeypatch):
        self.gib = {}  # first word of a program's name -> what it takes
        self.batches = []
        real = plan_programs.abstract_batch

        def batch(*arguments):
            self.batches.append(real(*arguments))
            return self.batches[-1]

        def compiled(name, trace, mesh, folder):
            if name.startswith("teacher's scoring"):
                trace()
            return ProgramPlan(name, arguments_gib=self.gib.get(name.split()[0], 0.0), tflops=1.0)

        monkeypatch.setattr(plan_programs, "make_learner", same_learner)
        monkeypatch.setattr(plan_module, "abstract_batch", batch)
        for module in (plan_module, engine_module):
            monkeypatch.setattr(module, "compile_program", compiled)
        # one device with a card's memory, on this CPU
        monkeypatch.setitem(MESHES, "one", MeshConfig("one", "cpu", device="h20"))
        self._monkeypatch = monkeypatch

    def card(self, gib):
        """The device has so much usable memory from now on."""
        self._monkeypatch.setattr(plan_module, "_capacity", lambda mesh: gib)


@pytest.fixture
def compiler(monkeypatch):
    return Compiler(monkeypatch)


def planned(*words, recipe="miniature"):
    args = [recipe, "--mesh", "one", *words]
    return plan(tyro.cli(PlanConfig, args=args, default=PlanConfig.of(recipe)))


def test_what_is_given_as_for_training_is_planned(compiler):
    words = (
        "--sizes.context 512 --sizes.shard-rows 2 --sizes.row-samples 1 --sizes.row-images 3 "
        "--sizes.learner.compute-dtype bfloat16 --sizes.slots 5 --sizes.extend-rows 2"
    )
    found = planned(*words.split())
    (batch,) = compiler.batches
    assert batch.targets_MBT.shape == (64, 2, 512)  # 128 trajectories
    assert batch.inputs.vision.segment_RL.shape == (64, 2 * 3, 48 * 4)
    assert batch.inputs.vision.patches_NP.dtype == "uint8"
    assert (found.engine.slots, found.engine.context, found.engine.extend_rows) == (5, 512, (2,))
    plain = planned()
    assert (plain.engine.slots, plain.engine.extend_rows) == (64, (1, 4))
    assert plain.engine.kv_gib / 65 / 1024 == pytest.approx(2 * found.engine.kv_gib / 6 / 512)  # half the precision
    assert compiler.batches[-1].targets_MBT.shape == (32, 2, 1024)  # two trajectories a row, as training packs them


def test_memory_is_that_of_the_longest_rows_and_slots_are_those_of_a_trajectory(compiler):
    found = planned("--teacher", "base", "--sizes.row-choices", "512", "1536")
    shapes = {batch.targets_MBT.shape for batch in compiler.batches}
    assert shapes == {(32, 2, 1536), (16, 2, 1536)}  # the learner's and the teacher's
    assert (found.train.row_length, found.train.context, found.engine.context) == (1536, 1024, 1024)


def test_drafts_are_part_of_the_decode_program(compiler):
    (drafted,) = (each for each in planned("--sizes.draft-tokens", "3").engine.programs if "decode" in each.name)
    assert drafted.name == "decode 16 steps of 3 drafts in 64 slots"


def test_a_token_takes_as_much_less_of_a_step_as_drafts_are_taken_to_give(compiler):
    words = ("--sizes.draft-tokens", "3", "--workload.tokens-a-step")
    one, two = (planned(*words, tokens).engine.decode_seconds for tokens in ("1", "2"))
    assert 0 < two == pytest.approx(one / 2)


def test_a_sampler_with_weights_in_int8_holds_a_byte_a_weight_of_its_layers(compiler):
    given, small = (planned(*words).engine for words in ((), ("--sizes.sampler-weights", "int8")))
    text = planned_model("base").text
    heads = (2 * text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim * text.hidden_size
    linear = text.num_hidden_layers * (heads + 3 * text.hidden_size * text.intermediate_size)
    outputs = text.num_attention_heads * text.head_dim + 2 * text.num_key_value_heads * text.head_dim  # q, k, v
    outputs += 2 * text.hidden_size + 2 * text.intermediate_size  # o and down; gate and up
    saved = 3 * linear - 4 * text.num_hidden_layers * outputs
    assert (given.weights_gib - small.weights_gib) * GIB == pytest.approx(saved)


@pytest.mark.parametrize("program", ["gradients", "teacher's", "extend"])
def test_a_teacher_on_the_mesh_takes_room_from_every_program(program, compiler):
    found = planned("--teacher", "base")
    assert found.fits
    assert found.teacher.weights_gib == pytest.approx(found.train.weights_gib)  # all float32, the same model
    assert compiler.batches[-2].teacher_logp_MBT is not None
    assert compiler.batches[-1].teacher_logp_MBT is None
    assert compiler.batches[-1].targets_MBT.shape == (16, 2, 1024)  # half of the rollouts
    teacher, resident = found.teacher.weights_gib, found.train.weights_gib + found.train.optimizer_gib
    # programs take no memory here, so that a peak is what lies beside them: the next micro-batch, and the moments
    in_training, in_scoring = found.train.program.peak_gib, found.teacher.program.peak_gib
    assert in_training - found.train.optimizer_gib == pytest.approx(found.train.batch_gib / 2)
    beside = {
        "gradients": teacher + in_training,
        "teacher's": resident + in_scoring,
        "extend": teacher + resident,
    }[program]
    compiler.gib[program] = found.capacity_gib - beside - 1e-6
    assert planned("--teacher", "base").fits
    compiler.gib[program] += 2e-6
    assert not planned("--teacher", "base", "--sizes.slots", "8").fits
    if program != "teacher's":
        assert planned("--sizes.slots", "8").fits  # without one


def test_a_teacher_is_told_of(compiler):
    text = render(planned("--teacher", "base"))
    assert "teacher base: 0.00557 GiB of weights a device, which stay" in text
    assert "a step scores 16 micro-batches" in text
    assert "`--teacher MODEL` plans one" in render(planned())


@pytest.mark.parametrize("program", ["gradients", "teacher's"])
def test_engines_of_rollouts_ahead_keep_weights_and_slots(program, compiler):
    words = ("--ahead", "--teacher", "base", "--sizes.slots", "8")
    found = planned(*words)
    stays = found.engine.weights_gib + found.engine.kv_gib
    assert found.train.beside_gib == pytest.approx(stays)
    assert f"engines keep {stays:.3g} GiB meanwhile" in render(found)
    beside = (
        stays
        + {
            "gradients": found.teacher.weights_gib + found.train.program.peak_gib,
            "teacher's": found.train.weights_gib + found.train.optimizer_gib + found.teacher.program.peak_gib,
        }[program]
    )
    compiler.gib[program] = found.capacity_gib - beside - 1e-6
    assert planned(*words).fits
    compiler.gib[program] += 2e-6
    assert not planned(*words).fits
    assert planned(*words[1:]).fits  # on policy they leave


def test_new_weights_lie_beside_the_old_ones_while_they_are_swapped(compiler):
    words = ("--ahead", "--sizes.slots", "8", "--sizes.shard-rows", "1")
    found = planned(*words)
    train, engine = found.train, found.engine
    whole = train.weights_gib + train.optimizer_gib + 2 * engine.weights_gib + engine.kv_gib
    compiler.card(whole + 1e-6)
    assert planned(*words).fits
    compiler.card(whole - 1e-6)
    assert not planned(*words).fits
    assert planned(*words[1:]).fits


def test_where_whole_slots_do_not_fit_caches_share_what_room_there_is(compiler, monkeypatch):
    """Programs take the memory of their arguments here."""

    def compiled(name, trace, *_):
        size = sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in jax.tree.leaves(trace().in_avals))
        return ProgramPlan(name, arguments_gib=size / 2**30, tflops=1.0)

    monkeypatch.setattr(engine_module, "compile_program", compiled)
    monkeypatch.setattr(engine_module.Kernels, "for_sampling", lambda *_: Kernels(slots="in_place"))  # without views
    whole = planned()
    assert (whole.engine.slots, whole.engine.cache_tokens) == (64, 0)
    resident = whole.train.weights_gib + whole.train.optimizer_gib
    others = max(each.peak_gib for each in whole.engine.programs) - whole.engine.kv_gib
    for share, slots in ((0.7, 64), (0.25, 32), (0.12, 15)):
        compiler.card(resident + others + share * whole.engine.kv_gib)
        found = planned()
        engine = found.engine
        assert engine.fits
        assert abs(engine.slots - slots) <= 1
        assert engine.cache_tokens == engine.slots * 512  # half of the longest trajectory is the workload's mean here
        assert engine.kv_gib == pytest.approx(whole.engine.kv_gib * engine.cache_tokens / (65 * 1024))
        assert f"--sizes.slots {engine.slots} --sizes.cache-tokens {engine.cache_tokens} " in render(found)
    compiler.card(resident + others + 0.001 * whole.engine.kv_gib)
    assert not planned().engine.fits  # not even one of the longest


def test_the_search_asks_whether_the_engine_fits_too(compiler, monkeypatch):
    real = plan_module.plan_engine

    def train_plan(*arguments):
        *_, sizes, rows, _ = arguments
        if not traced:
            traced.append(real_train(*arguments))
        return replace(traced[0], rows=rows, context=sizes.context, fits=rows <= 100 and sizes.context <= 9_000)

    traced, real_train = [], plan_module._train_plan
    monkeypatch.setattr(plan_module, "_train_plan", train_plan)
    monkeypatch.setattr(plan_module, "plan_engine", lambda *a: replace(real(*a), fits=a[-1] <= 3_000))
    found = planned("--largest")
    assert found.largest == {"context": {"fits": 2048, "fails": 3072}, "rows": {"fits": 96, "fails": 104}}
    assert "largest that fits: 2,048 tokens a row (3,072 do not)" in render(found)
    assert "`--largest`" in render(planned())
    assert "`--largest`" not in render(found)


def test_samplers_with_devices_of_their_own_have_all_of_their_memory_and_work_while_the_learner_trains(
    compiler, monkeypatch
):
    one = MESHES["one"]
    monkeypatch.setattr(plan_module, "planned_meshes", lambda text, model: (one, replace(one, name="samplers")))
    compiler.gib |= {"micro-batch": 1.0, "encode": 1.0, "extend": 1.0, "decode": 1.0}
    compiler.card(1.0)  # no room for anything beside either
    found = planned("--ahead")
    assert found.fits
    assert (found.devices, found.samplers) == (2, 1)
    assert "2 devices of 1.0 GiB usable; 1 train, 1 sample" in render(found)
    seconds = found.step.seconds
    sampling = sum(seconds[part] for part in ("prefill", "generation", "search"))
    learning = sum(seconds[part] for part in ("teacher", "training", "host"))
    assert seconds["total"] == pytest.approx(max(sampling, learning) + seconds["sync"])
    assert found.step.device_hours == pytest.approx(2 * seconds["total"] / 3600)
    by_turns = planned().step.seconds
    assert by_turns["total"] == pytest.approx(sampling + learning + seconds["sync"])
    compiler.card(0.999)
    assert not planned("--ahead").engine.fits


def test_a_replica_of_samplers_lies_within_a_host():
    learner = replace(MESHES["h20_8x8"], fsdp=4, topology="1x8x4")
    samplers = MeshConfig("samplers", "gpu", fsdp=32, hosts=8, device="h20", topology="1x8x4")
    recipe = RECIPES["hypereyes_30b_rl"]
    said = plan_module._refusal(recipe, PRESETS[recipe.model], learner, None, 8, samplers)
    assert said == "a rollout replica of 8 devices is not within a host, which samples with 4"
    assert not plan_module._refusal(recipe, PRESETS[recipe.model], learner, None, 4, samplers)


def test_sft_has_no_use_for_samplers(compiler):
    with pytest.raises(UserError, match="hypereyes_2b_sft plays no rollouts; give it one mesh"):
        planned("--mesh", "learner=1,device=h200,sampler=1", recipe="hypereyes_2b_sft")
