"""GRPO with the TRACE reward, and on-policy distillation from a frozen teacher on failed rollouts.

    hypereyes rl --checkpoint SFT --questions FILE                                      # the miniature
    hypereyes rl hypereyes_30b_rl --mesh h20_8x8 --checkpoint SFT --questions FILE     # a recipe of the paper
    hypereyes rl hypereyes_8b_rl_lora --mesh gpu --checkpoint SFT --questions FILE     # adapters, on one GPU

First the questions are selected: those that the policy fails at once and solves within five tries. Then each step plays
groups of episodes, scores and ranks them, and makes one update. Killed at any moment, the same command continues from
its last checkpoint. With several devices or processes (`--distributed.join` in each) every process plays its share of
the questions on rollout engines of its own devices, and one training step runs over all devices. A model that needs
more devices than a process has is sampled by groups of processes: the first of a group plays, the others follow.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from hypereyes_jax import miniature
from hypereyes_jax.cli.inputs import refuse_missing_inputs
from hypereyes_jax.cli.source_settings import SourceSettings, refuse_settings_of_demonstrations
from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.configs.mesh_text import refuse_unknown_mesh
from hypereyes_jax.configs.recipes import AdapterConfig
from hypereyes_jax.configs.reward import RewardConfig
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.outputs import check_replaced_directories
from hypereyes_jax.runs.stop import StopConfig, StopRequest
from hypereyes_jax.runs.tracking import TrackingConfig
from hypereyes_jax.train.setting_checks import (
    EXACT,
    refuse_adapter_settings,
    refuse_miniature_services,
    refuse_reward,
    refuse_settings,
    refuse_unused_losses,
)
from hypereyes_jax.train.settings import RlSettings, SamplerServerConfig, SelectionRule, TeacherServerConfig
from hypereyes_jax.train.sizes import MINIATURE_RL, TrainingSizes, known_recipe, sized_for, sizes_of

if TYPE_CHECKING:
    from hypereyes_jax.train.method import RlMethod


@dataclass(frozen=True)
class RlConfig:
    checkpoint: str
    """Policy after SFT, with its tokenizer: a directory in Hugging Face layout, a hub id (org/name[@revision]) or a
    URL."""
    questions: str
    """Candidate questions: a file, folder, glob, hub id, URL or module:object; see `hypereyes data check`."""
    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[RECIPE]")] = "miniature"
    """Recipe that sets the defaults of settings and sizes: miniature, hypereyes_SIZE_rl (all weights) or
    hypereyes_SIZE_rl_lora (adapters), like hypereyes_8b_rl_lora."""
    mesh: str = ""
    """How weights and batch are distributed over the devices: a preset as in `hypereyes plan`, axes like
    fsdp=8,expert=2, or auto. Without one, FSDP runs over all devices. With learner=MESH,sampler=COUNT, such as
    learner=4,sampler=4, learner and samplers have devices of their own."""
    teacher: str | None = None
    """Frozen teacher, named as the checkpoint is; without it and without a teacher's server, nothing is distilled. If
    adapters train and the teacher is the checkpoint itself, its weights are kept once."""
    teacher_server: TeacherServerConfig = field(default_factory=TeacherServerConfig)
    sampler_server: SamplerServerConfig = field(default_factory=SamplerServerConfig)
    eval_questions: str | None = None
    """Other questions that the policy answers once each while it trains; without any, it is not evaluated."""
    eval_every: int = 20
    """Number of steps between two such evaluations."""
    out: Path = Path("runs/rl")
    """The run directory; the trained model goes to `model/` in it, adapters also by themselves to `adapter/`."""
    exact: bool = False
    """Use one shape for each device program: slower, but repeatable to the bit where every rollout has a slot of its
    own."""
    profile_step: int | None = None
    """Step whose profile is written to `profile/`, for XProf or Perfetto."""
    resume_step: int | None = None
    """Go back to the checkpoint of this step and remove those after it; without one, go on from the newest."""
    select: Literal["yes", "no"] = "yes"
    """Train only on the candidates that the policy fails at first and solves within five tries (yes), or on all of them
    (no)."""
    references: Path | None = None
    """A file of initial references, {id: [rounds, invocations]} or another run's rl_selection.json. The questions in it
    are trained on, and no candidate is tried."""
    accept_miniature: bool = False
    """Let a recipe of the paper train with the miniature's searches, answers compared exactly, and no teacher."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    settings: RlSettings = field(default_factory=RlSettings)
    reward: RewardConfig = field(default_factory=RewardConfig)
    """The rule that ranks the rollouts of a question."""
    tighten: Literal["epoch", "step", "never"] = "epoch"
    """When better references of TRACE take effect: after each pass over the questions (epoch, the paper's), after each
    step, or never, which keeps the first ones for comparison."""
    first_reference: Literal["cheapest", "first"] = "cheapest"
    """Which successful try gives a question its first reference: the one with the fewest rounds (cheapest), or the
    first one made (first). The paper doesn't say."""
    data: Annotated[SourceSettings, tyro.conf.arg(name="")] = field(default_factory=SourceSettings)
    sizes: TrainingSizes = MINIATURE_RL
    search: Annotated[SearchConfig, tyro.conf.EnumChoicesFromValues] = miniature.SEARCH
    """What is searched, and how; of the miniature's world, the part that training may see."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    @classmethod
    def of(cls, name: str) -> RlConfig:
        """The defaults of a recipe; checkpoint and questions are missing. Raises UserError if there is no such one."""
        recipe = known_recipe(name, "rl")
        if name == "miniature":
            return cls(tyro.MISSING, tyro.MISSING)
        assert recipe.rollout is not None
        settings = RlSettings(
            steps=recipe.steps,
            prompts=recipe.rollout.prompts,
            group=recipe.rollout.group,
            learning_rate=recipe.learner.optimizer.learning_rate,
            opd_coef=recipe.learner.opd_coef,
            lora_rank=(recipe.lora or AdapterConfig()).rank,
            lora_alpha=(recipe.lora or AdapterConfig()).alpha,
            checkpoint_every=recipe.checkpoint_every,
            seed=recipe.seed,
        )
        return cls(
            tyro.MISSING,
            tyro.MISSING,
            name,
            eval_every=recipe.eval_every,
            settings=settings,
            sizes=sizes_of(recipe),
            search=SearchConfig(),
        )


def run(config: RlConfig) -> None:
    with StopRequest(config.stop) as stop:
        _run(config, stop)


def _run(config: RlConfig, stop: StopRequest) -> None:
    _check_settings(config)

    from hypereyes_jax.launch.processes import Processes
    from hypereyes_jax.launch.run_output import open_run, open_stages
    from hypereyes_jax.train.adapters import model_writer, save_trained
    from hypereyes_jax.train.distillation import choose_teacher
    from hypereyes_jax.train.method import RlMethod
    from hypereyes_jax.train.rl_policy import load_rl_policy
    from hypereyes_jax.train.rl_questions import open_rl_questions
    from hypereyes_jax.train.rl_run import train
    from hypereyes_jax.train.rollout_source import check_ahead
    from hypereyes_jax.train.server_engines import check_sampler_server
    from hypereyes_jax.train.types import RlServices, TrainingRun

    method = RlMethod(config.reward, config.tighten)
    _check_own_objects(config, method)
    if config.judge.url == EXACT:
        config = replace(config, judge=replace(config.judge, url=""))
    sizes = sized_for(config.sizes, config.recipe, config.mesh)
    check_sampler_server(config.sampler_server, sizes)
    base = config.checkpoint if sizes.learner.train == "lora" else ""
    learn = sizes.learner
    teacher = choose_teacher(config.teacher, config.teacher_server, learn.temperature, learn.opd, base)
    processes = Processes.start(config.distributed, config.mesh, config.checkpoint)
    check_ahead(config.settings, sizes.learner, config.exact, bool(config.sampler_server.url))
    rule = SelectionRule(config.select == "yes", config.references, config.first_reference)
    questions = open_rl_questions(
        config.questions, rule, config.eval_questions, config.eval_every, config.data.options(), say=processes.first
    )
    inputs = {
        "checkpoint": Path(config.checkpoint),
        "questions": Path(config.questions),
        "teacher": None if config.teacher is None else Path(config.teacher),
        "references": config.references,
    }
    outputs = [config.out / "model", config.out / "adapter"]
    check_replaced_directories(outputs, [path for path in inputs.values() if path is not None])
    # as asked for: sizes are the mesh's
    directory = open_run(processes, config.out, "rl", config, inputs, config.tracking, stop)
    if processes.first and sizes != config.sizes:
        slots = f"{sizes.replica_devices} replica devices, {sizes.slots} slots, extend rows {sizes.extend_rows}"
        print(f"sizes known to fit {config.mesh}: {slots}, recomputation {sizes.learner.remat}")
    model, params, rollouts, processes = load_rl_policy(
        config.checkpoint, sizes, config.settings, processes,
        server=config.sampler_server, exact=config.exact, directory=directory,
    )  # fmt: skip
    with rollouts, open_stages(processes) as stages:
        training = TrainingRun(
            directory,
            stages,
            processes,
            config.profile_step,
            config.resume_step,
            model_writer(model, config.checkpoint, sizes, processes),
        )
        params, adapters = train(
            training,
            rollouts,
            model,
            params,
            questions,
            config.settings,
            RlServices(config.search, config.judge, teacher),
            method,
        )
    save_trained(directory, model, params, adapters, config.checkpoint, sizes, processes)


def _check_settings(config: RlConfig) -> None:
    """Raises UserError for settings that can't be meant. It needs no jax, whose import takes a second."""
    from hypereyes_jax.env.search.services import check_search

    default = RlConfig.of(config.recipe)
    refuse_settings(config.sizes, default.sizes)
    refuse_adapter_settings(config.sizes, config.settings, default.settings)
    refuse_reward(config.reward)
    refuse_unused_losses(config.sizes.learner)
    if not config.accept_miniature:
        has_teacher = config.teacher is not None or bool(config.teacher_server.url)
        needs_teacher = config.settings.opd_coef != 0 and not has_teacher
        refuse_miniature_services(config.recipe, config.search, config.judge, needs_teacher)
    check_search(config.search, default.search)
    refuse_settings_of_demonstrations(config.data, "rl")
    refuse_unknown_mesh(config.mesh, splits=True)
    if config.eval_every < 1:
        raise UserError("--eval-every must be at least 1 step; without --eval-questions nothing is tried")
    if config.references is not None and config.select == "no":
        raise UserError("--references names the questions to train on: leave out --select no")
    refuse_missing_inputs(config)


def check(config: RlConfig) -> None:
    """Raises UserError for what a run would refuse before it begins."""
    from hypereyes_jax.train.method import RlMethod

    _check_settings(config)
    _check_own_objects(config, RlMethod(config.reward, config.tighten))


def _check_own_objects(config: RlConfig, method: RlMethod) -> None:
    """Raises UserError for an optimiser or an object of the user's that can't be used, before anything is spent."""
    from hypereyes_jax.env.judging.own import check_own_judge
    from hypereyes_jax.learner.optimizer import make_optimizer
    from hypereyes_jax.train.method import load_method

    make_optimizer(config.sizes.learner.optimizer)
    if config.judge.object:
        check_own_judge(config.judge.object)
    load_method(method, config.sizes.learner, config.sizes.episode, config.settings.metrics)
