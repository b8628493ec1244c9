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
from hypereyes_jax.cli.source_settings import SourceSettings
from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.configs.mesh_text import refuse_unknown_mesh
from hypereyes_jax.configs.recipes import AdapterConfig
from hypereyes_jax.configs.reward import NO_ANSWER, RewardConfig
from hypereyes_jax.configs.training import LearnerConfig
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.outputs import check_replaced_directories
from hypereyes_jax.runs.stop import StopConfig, StopRequest
from hypereyes_jax.runs.trackers import TrackingConfig
from hypereyes_jax.train.settings import RlSettings, SamplerServerConfig, SelectionRule, TeacherServerConfig
from hypereyes_jax.train.sizes import (
    MINIATURE_RL,
    TrainingSizes,
    known_recipe,
    refuse_adapter_settings,
    refuse_settings,
    sized_for,
    sizes_of,
)

if TYPE_CHECKING:
    from hypereyes_jax.launch.processes import Processes
    from hypereyes_jax.train.method import RlMethod
    from hypereyes_jax.train.types import RlQuestions

EXACT = "none"  # as a judge's URL: answers are compared exactly


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
    from hypereyes_jax.models.pretrained import load_model
    from hypereyes_jax.rollout.engines import Engines
    from hypereyes_jax.rollout.replicas.layout import replica_groups
    from hypereyes_jax.rollout.replicas.weights import ReplicaWeights
    from hypereyes_jax.train.adapters import adapter_rules, fresh_adapters, model_writer, save_trained
    from hypereyes_jax.train.distillation import choose_teacher
    from hypereyes_jax.train.method import RlMethod
    from hypereyes_jax.train.rl_run import train
    from hypereyes_jax.train.rollout_source import check_ahead, check_replicas_ahead, check_routing_replay
    from hypereyes_jax.train.samplers import RolloutEngines
    from hypereyes_jax.train.server_engines import ServerEngines, check_sampler_server
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
    questions = _questions(config, processes)
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
    model, params, chat = load_model(config.checkpoint, sizes.weights_dtype(), processes.mesh)
    check_routing_replay(config.settings, model, bool(config.sampler_server.url))
    records = config.settings.routing_replay == "sampler"
    lora = None
    if sizes.learner.train == "lora":
        rules = adapter_rules(config.settings.lora_rank, config.settings.lora_alpha)
        lora = fresh_adapters(model, params, rules, processes)
    if config.sampler_server.url:
        server = ServerEngines(config.sampler_server, model, sizes, directory, processes)
        rollouts = RolloutEngines(server, chat, sizes)
    elif processes.mesh is None:
        engine = replace(sizes.engine(), record_routes=records)
        engines = (
            Engines.on_one_device(model, params, engine.exact(), count=1, lora=lora)
            if config.exact
            else Engines.on_one_device(model, params, engine, lora=lora)
        )
        rollouts = RolloutEngines(engines, chat, sizes)
    elif config.exact:
        raise UserError("--exact needs a single device: over several, sums are made in other orders")
    else:
        copies = ReplicaWeights(
            model, processes.mesh, sizes.learner.compute_dtype, sizes.replica_devices, processes.samplers
        )
        processes = processes.sharing_replicas(replica_groups(copies.grid))
        check_replicas_ahead(config.settings, processes.replicas)
        at_once = config.settings.prompts * config.settings.group
        rollouts = RolloutEngines.on_mesh(model, params, chat, sizes, copies, processes, at_once, lora, records)
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


def _questions(config: RlConfig, processes: Processes) -> RlQuestions:
    """The questions that the settings name, unread. Raises UserError if there are none, or the references are wrong."""
    from hypereyes_jax.data import open_questions
    from hypereyes_jax.train.question_selection import read_selection
    from hypereyes_jax.train.types import RlQuestions, Validation

    questions = open_questions(config.questions, options=config.data.options())
    validation = None
    if config.eval_questions:
        validation = open_questions(config.eval_questions, options=config.data.options())
        validation.report.refuse_default_split(config.eval_questions)
    for source in (questions, *([validation] if validation is not None else [])):
        for sentence in source.report.left_out() if processes.first else ():
            print(sentence)
    if config.references is not None:
        if config.select == "no":
            raise UserError("--references names the questions to train on: leave out --select no")
        read_selection(config.references)
    return RlQuestions(
        questions,
        SelectionRule(config.select == "yes", config.references, config.first_reference),
        None if validation is None else Validation(validation, config.eval_every),
        (config.questions, *([config.eval_questions] if config.eval_questions else [])),
    )


def _check_settings(config: RlConfig) -> None:
    """Raises UserError for settings that can't be meant. It needs no jax, whose import takes a second."""
    from hypereyes_jax.env.search.services import check_search

    default = RlConfig.of(config.recipe)
    refuse_settings(config.sizes, default.sizes)
    refuse_adapter_settings(config.sizes, config.settings, default.settings)
    _refuse_reward(config.reward)
    _refuse_unused_losses(config.sizes.learner)
    _refuse_miniature_services(config)
    check_search(config.search, default.search)
    refuse_unknown_mesh(config.mesh)
    if config.eval_every < 1:
        raise UserError("--eval-every must be at least 1 step; without --eval-questions nothing is tried")
    refuse_missing_inputs(config)


def check(config: RlConfig) -> None:
    """Raises UserError for what a run would refuse before it begins."""
    from hypereyes_jax.train.method import RlMethod

    _check_settings(config)
    _check_own_objects(config, RlMethod(config.reward, config.tighten))


def _check_own_objects(config: RlConfig, method: RlMethod) -> None:
    """Raises UserError for an optimiser or an object of the user's that can't be used, before anything is spent."""
    from hypereyes_jax.learner.optimizer import make_optimizer
    from hypereyes_jax.train.method import load_method

    make_optimizer(config.sizes.learner.optimizer)
    load_method(method, config.sizes.learner, config.sizes.episode, config.settings.metrics)


def _refuse_miniature_services(config: RlConfig) -> None:
    """Raises UserError for a recipe of the paper that would be trained with what the miniature has for services."""
    if config.recipe == "miniature" or config.accept_miniature:
        return
    missing = []
    if config.search.service == "world":
        missing.append("a search service (--search.service serpapi, retriever or serve-world)")
    if not config.judge.url and not config.judge.object:
        missing.append(f"a judge (--judge.url and --judge.model; --judge.url {EXACT} compares answers exactly)")
    distils = known_recipe(config.recipe, "rl").distill and config.settings.opd_coef != 0
    if distils and config.teacher is None and not config.teacher_server.url:
        missing.append("a teacher (--teacher or --teacher-server.url; --settings.opd-coef 0 trains without one)")
    if missing:
        raise UserError(
            f"{config.recipe} needs {', '.join(missing)}. --accept-miniature trains it with what the miniature has: "
            "its world's searches, exact comparison, no distillation."
        )


def _refuse_reward(reward: RewardConfig) -> None:
    """Raises UserError for constants that no reward can have, and for those of a reward that was not chosen."""
    default, trace = RewardConfig(), reward.trace
    weighted = reward.kind == "cost-weighted"
    replaced = (trace, reward.malformed_call, reward.format_floor)
    if reward.functions and replaced != (default.trace, default.malformed_call, default.format_floor):
        raise UserError("--reward.functions take the place of TRACE and R_fmt: leave out their settings")
    if not weighted and (reward.alpha, reward.beta, reward.prices) != (default.alpha, default.beta, default.prices):
        raise UserError(
            "--reward.alpha, --reward.beta and --reward.prices belong to another reward: add --reward.kind "
            "cost-weighted"
        )
    if weighted and trace != default.trace:
        raise UserError("--reward.trace.* belong to another reward: leave out --reward.kind cost-weighted")
    if reward.alpha <= 0 or reward.beta < 0:
        raise UserError(
            "--reward.alpha must be positive and --reward.beta at least 0: accuracy counts for, rounds against"
        )
    if trace.band < 1:
        raise UserError("--reward.trace.band must be at least 1 (of the reference)")
    if trace.efficient_high < trace.efficient_low or trace.redundant_high < trace.redundant_low:
        raise UserError("--reward.trace.*: fewer searches must not earn less, so a set's high is at least its low")
    if not NO_ANSWER <= trace.format_failure < 0:
        raise UserError(
            f"--reward.trace.format-failure must lie in [{NO_ANSWER}, 0): no readable answer counts {NO_ANSWER}"
        )


def _refuse_unused_losses(learn: LearnerConfig) -> None:
    """Raises UserError for bounds of a loss that was not chosen, which would be ignored."""
    default = LearnerConfig()
    bounds = {"clipped": ("clip_low", "clip_high", "dual_clip"), "gspo": ("gspo_clip",), "cispo": ("cispo_clip",)}
    for loss, names in bounds.items():
        for name in names:
            if loss != learn.loss and getattr(learn, name) != getattr(default, name):
                option = f"--sizes.learner.{name}".replace("_", "-")
                raise UserError(f"{option} belongs to the loss {loss}, and --sizes.learner.loss is {learn.loss}")
    if learn.kl == "none" and learn.kl_coef != default.kl_coef:
        raise UserError("--sizes.learner.kl-coef needs a penalty: choose one with --sizes.learner.kl k1, k2 or k3")
