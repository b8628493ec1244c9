"""Recipes of the paper as the commands run them, and what the documentation tells people to type."""

import json
import re
import shlex
import sys
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

import pytest
import tyro

from hypereyes_jax.cli.main import COMMANDS, main
from hypereyes_jax.cli.rl import RlConfig
from hypereyes_jax.cli.rl import run as run_rl
from hypereyes_jax.cli.sft import SftConfig
from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.configs.mesh import MESHES
from hypereyes_jax.configs.model import PRESETS
from hypereyes_jax.configs.recipes import ENGINE_SIZES, FULL_REMAT, LONGER_ROWS, MOMENTS_ON_HOST, RECIPES
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import read_json
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.launch.run_output import open_run
from hypereyes_jax.rollout.cache.pages import pages_of_part
from hypereyes_jax.rollout.cache.slot_layout import SlotLayout
from hypereyes_jax.rollout.replicas.layout import replica_size
from hypereyes_jax.runs.run_directory import settings_text, to_jsonable
from hypereyes_jax.runs.tracking import TrackingConfig
from hypereyes_jax.train.setting_checks import refuse_settings
from hypereyes_jax.train.sizes import MINIATURE_RL, sized_for, sizes_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["hypereyes_30b_rl", "hypereyes_235b_rl"])
def test_rl_runs_the_papers_recipe(name):
    config, recipe = RlConfig.of(name), RECIPES[name]
    settings, sizes = config.settings, config.sizes
    assert (settings.steps, settings.prompts, settings.group, settings.learning_rate) == (400, 32, 8, 1e-6)
    assert (settings.checkpoint_every, sizes.keep_checkpoints, settings.opd_coef) == (20, 8, 0.05)
    assert (config.eval_every, sizes.eval_top_p) == (20, 0.7)
    assert sizes.learner == recipe.learner
    assert sizes.replica_devices == {"hypereyes_30b_rl": 0, "hypereyes_235b_rl": 8}[name]
    engine, sampling = sizes.engine(), sizes.sampling()
    assert (engine.slots, engine.context, engine.kv) == (64, 38_912, "bfloat16")
    assert (engine.max_prompt_tokens, engine.max_images, engine.max_pixels) == (15_000, 50, 1_200 * 32**2)
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.8, 0.95, 1_524)
    assert (sizes.episode.max_turns, sizes.episode.max_rounds, sizes.episode.system) == (9, 8, None)


def test_sft_runs_the_papers_recipe():
    config = SftConfig.of("hypereyes_30b_sft")
    settings = config.settings
    assert (settings.epochs, settings.batch, settings.learning_rate, settings.seed) == (1, 64, 1e-4, 42)
    assert (settings.lora_rank, settings.lora_alpha, settings.dropout) == (8, 32.0, 0.05)
    assert (config.sizes.context, config.sizes.learner.train, config.sizes.learner.remat) == (32_000, "lora", "full")


def test_a_step_is_packed_as_it_is_planned():
    pack = RlConfig.of("hypereyes_30b_rl").sizes.pack(256 // 8, shards=8)  # one of 8 processes
    assert (pack.rows, pack.shards, pack.row_lengths) == (8, 8, (38_912, 24_576, 32_768))
    assert (pack.at_least, pack.patch_dtype) == ((2, 8 * 12, 4 * 1_200), "uint8")


def test_rows_have_further_lengths_where_they_are_long_or_where_they_are_asked_for(monkeypatch):
    paper = sizes_of(RECIPES["hypereyes_30b_rl"])
    assert paper.row_lengths == (38_912, 24_576, 32_768)
    assert replace(paper, context=16_384).row_lengths == (16_384, 10_240, 14_336)
    assert replace(paper, context=4_096).row_lengths == (4_096,)
    assert replace(paper, row_choices=()).row_lengths == (38_912,)
    assert replace(paper, row_choices=(50_000,)).row_lengths == (38_912, 50_000)
    assert MINIATURE_RL.row_lengths == (1_024,)
    monkeypatch.setitem(LONGER_ROWS, ("hypereyes_30b_rl", "v5e_8"), (57_344,))
    assert sized_for(paper, "hypereyes_30b_rl", "v5e_8").row_lengths == (38_912, 24_576, 32_768, 57_344)
    for other in (replace(paper, row_choices=()), replace(paper, context=40_000)):  # chosen otherwise, or not planned
        assert sized_for(other, "hypereyes_30b_rl", "v5e_8").row_choices == other.row_choices


def test_a_recipe_is_named_first_and_its_values_can_be_overridden():
    given = "--checkpoint c --questions q --settings.steps 7 --sizes.slots 16 --sizes.learner.clip-high 0.3".split()
    config = tyro.cli(RlConfig, args=["hypereyes_30b_rl", *given], default=RlConfig.of("hypereyes_30b_rl"))
    assert (config.settings.steps, config.sizes.slots, config.sizes.learner.clip_high) == (7, 16, 0.3)
    assert (config.settings.prompts, config.sizes.context) == (32, 38_912)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("rl hypereyes_30b_sft", "no recipe 'hypereyes_30b_sft' for rl. Known: miniature, hypereyes_2b_rl"),
        ("sft x", "no recipe 'x' for sft. Known: miniature, hypereyes_2b_sft"),
        ("sft --mesh h200 --checkpoint c --demonstrations d", "Known: cpu, cpu_8, gpu,"),
        ("sft --mesh gpu_8 --checkpoint org/c --demonstrations org/d", "mesh gpu_8 needs 8 devices, but there are 1"),
        ("rl --checkpoint c --questions q --eval-every 0", "--eval-every must be at least 1"),
        (
            "rl --checkpoint c --questions q --sizes.learner.optimizer.learning-rate 1",
            "give --settings.learning-rate",
        ),
    ],
)
def test_what_can_not_be_run_is_refused(words, message, capsys):
    assert main(words.split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("recipe", "mesh"), ENGINE_SIZES)
def test_engines_have_the_sizes_that_fit_unless_others_are_chosen(recipe, mesh):
    sizes, known = sizes_of(RECIPES[recipe]), ENGINE_SIZES[recipe, mesh]
    sized = sized_for(sizes, recipe, mesh)
    assert {name: getattr(sized, name) for name in asdict(known)} == asdict(known)
    assert MESHES[mesh].size % known.replica_devices == 0
    hosts = MESHES[mesh].hosts
    text = PRESETS[RECIPES[recipe].model].text
    parts, _ = replica_size(text, MESHES[mesh].size // hosts, hosts, known.replica_devices)
    assert SlotLayout(known.slots, parts).parts == parts  # they divide
    assert pages_of_part(sized.engine(), parts) >= sized.engine().slot_pages
    for chosen in (replace(sizes, slots=5), replace(sizes, replica_devices=32), replace(sizes, extend_rows=(2,))):
        assert replace(sized_for(chosen, recipe, mesh), learner=chosen.learner) == chosen
    assert sized_for(sizes, recipe, "gpu_8") == sizes


@pytest.mark.parametrize(("recipe", "mesh"), sorted(MOMENTS_ON_HOST))
def test_moments_wait_on_the_hosts_where_devices_have_no_room_for_them(recipe, mesh):
    sizes = sizes_of(RECIPES[recipe])
    assert not sizes.learner.optimizer.moments_on_host
    assert sized_for(sizes, recipe, mesh).learner.optimizer.moments_on_host
    assert not sized_for(sizes, recipe, "h20_8x8").learner.optimizer.moments_on_host


def test_keys_values_and_weights_are_kept_as_the_learner_computes_or_in_int8():
    paper = sizes_of(RECIPES["hypereyes_30b_rl"])
    assert (MINIATURE_RL.engine().kv, paper.engine().kv) == ("float32", "bfloat16")
    assert replace(paper, kv="int8").engine().kv == "int8"
    assert paper.engine().weights == "given"
    assert replace(paper, sampler_weights="int8").engine().weights == "int8"


@pytest.mark.parametrize(("recipe", "mesh"), sorted(FULL_REMAT))
def test_attention_is_computed_again_only_where_it_does_not_fit_unless_chosen(recipe, mesh):
    sizes = sizes_of(RECIPES[recipe])
    assert sizes.learner.remat == "attention"
    assert sized_for(sizes, recipe, mesh).learner.remat == "full"
    chosen = replace(sizes, learner=replace(sizes.learner, remat="dots"))
    assert sized_for(chosen, recipe, mesh).learner.remat == "dots"
    assert sized_for(sizes, recipe, "h20_8x8").learner.remat == "attention"


def test_a_weight_of_distillation_beside_the_settings_is_refused():
    wrong = replace(MINIATURE_RL, learner=replace(MINIATURE_RL.learner, opd_coef=0.5))
    with pytest.raises(UserError, match=r"--settings.opd-coef"):
        refuse_settings(wrong, MINIATURE_RL)


def test_the_settings_of_a_run_are_printed_whole(tmp_path, capsys):
    config = RlConfig(Path("c"), Path("q"), out=tmp_path / "run")
    open_run(Processes.start(DistributedConfig()), config.out, "rl", config)
    shown = " ".join(capsys.readouterr().out.split())
    settings, started, versions = shown.partition(" started=")
    assert settings == " ".join(settings_text(config).split())
    for word in ("git=", "devices=", "jax="):  # and what it runs on
        assert word in started + versions
    steps = f"steps={config.settings.steps}"
    for word in ("checkpoint=c", steps, "learner.clip_high=0.28", "learner.optimizer.b2=0.98", "context=1024"):
        assert word in shown.split()


def begun(config: RlConfig) -> Processes:
    """The processes of a run that has done some work."""
    processes = Processes()
    open_run(processes, config.out, "rl", config).file("metrics.jsonl").touch()
    return processes


def test_rl_may_go_on_on_another_mesh_with_engines_of_other_sizes(tmp_path):
    asked = replace(
        RlConfig.of("hypereyes_30b_rl"), checkpoint=Path("c"), questions=tmp_path / "q", out=tmp_path / "run"
    )
    assert sized_for(asked.sizes, asked.recipe, "v6e_64") != asked.sizes
    processes = begun(replace(asked, mesh="v6e_64"))
    open_run(processes, asked.out, "rl", replace(asked, mesh="h20_8x8"))
    saved = read_json(asked.out / "config.json")
    assert saved["config"]["sizes"] == to_jsonable(asked.sizes)
    starts = [json.loads(line) for line in (asked.out / "starts.jsonl").read_text().splitlines()]
    assert [start["different"] for start in starts] == [{}, {"mesh": "h20_8x8"}]


def test_a_typo_in_a_path_leaves_no_directory_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, "start", lambda *_: Processes())
    config = RlConfig(resources.files("hypereyes_jax.assets") / "base", tmp_path / "q", out=tmp_path / "run")
    with pytest.raises(UserError, match=r"/q"):
        run_rl(config)
    assert not config.out.exists()


def test_a_run_goes_on_with_what_changes_no_number_made_so_far_and_with_nothing_else(tmp_path):
    config = RlConfig(Path("c"), Path("q"), out=tmp_path / "run")
    processes = begun(config)
    optimizer = replace(config.sizes.learner.optimizer, moments_on_host=True)
    sizes = replace(config.sizes, slots=3, replica_devices=2, extend_rows=(1,), row_choices=(2048,), balance=False)
    moved = replace(
        config,
        mesh="gpu_8",
        resume_step=3,
        eval_every=3,
        judge=replace(config.judge, url="http://elsewhere", model="other"),
        search=replace(config.search, url="http://elsewhere", policy=replace(config.search.policy, in_flight=3)),
        settings=replace(config.settings, steps=1000, checkpoint_every=7),
        sizes=replace(sizes, learner=replace(sizes.learner, optimizer=optimizer)),
    )
    open_run(processes, config.out, "rl", moved)
    different = json.loads((config.out / "starts.jsonl").read_text().splitlines()[-1])["different"]
    assert different["settings.steps"] == 1000
    assert different["judge.model"] == "other"
    other = replace(config, sizes=replace(config.sizes, learner=replace(config.sizes.learner, clip_high=0.5)))
    with pytest.raises(UserError, match=r"other settings \(sizes\.learner\.clip_high was 0\.28, is 0\.5\)"):
        open_run(processes, config.out, "rl", other)
    with pytest.raises(UserError, match=r"settings\.group was"):
        open_run(processes, config.out, "rl", replace(config, settings=replace(config.settings, group=2)))


def test_a_run_that_needs_a_missing_package_ends_before_it_has_a_directory(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = RlConfig(Path("c"), Path("q"), out=tmp_path / "run", tracking=TrackingConfig(wandb="project"))
    with pytest.raises(UserError, match=r"pip install 'hypereyes-jax\[wandb\]'"):
        open_run(Processes(), config.out, "rl", config, tracking=config.tracking)
    assert not config.out.exists()


@pytest.mark.parametrize("page", ["README.md", "docs/clusters.md"])
def test_the_documented_training_commands_can_be_typed(page):
    text = (ROOT / page).read_text().replace("\\\n", " ")
    commands = re.findall(r"^ *hypereyes launch slurm[^\n]* -- ((?:sft|rl) [^\n]*)$", text, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        name, recipe, *words = shlex.split(command)
        settings = {"sft": SftConfig, "rl": RlConfig}[name]
        assert COMMANDS[name].config == settings.__name__
        config = tyro.cli(settings, args=[recipe, *words], default=settings.of(recipe))
        assert config.mesh == "h20_8x8"
