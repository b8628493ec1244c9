"""GRPO with the TRACE reward, and on-policy distillation from a frozen teacher on failed rollouts.

First the questions are selected: those that the policy fails at once and solves within five tries. Then each step plays
groups of episodes, scores and ranks them, and makes one update. Killed at any moment, the same command continues from
its last checkpoint. With several processes (`--distributed.join` in each) every one plays its share of the questions on
its first device, and one training step runs over all devices.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from hypereyes_jax.env.recorded import StoreMode
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import read_json, write_json
from hypereyes_jax.launch import miniature
from hypereyes_jax.launch.distributed import DistributedConfig
from hypereyes_jax.launch.memory import give_back
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.launch.progress import Stages
from hypereyes_jax.launch.run_dir import RunDirectory
from hypereyes_jax.launch.searching import Transport, searching
from hypereyes_jax.launch.teaching import TeacherServerConfig, Teaching, choose, teaching
from hypereyes_jax.launch.watching import Watch, profiled

if TYPE_CHECKING:
    from hypereyes_jax.env.recorded import RecordedBackend
    from hypereyes_jax.env.types import Question, SearchBackend
    from hypereyes_jax.launch.policy import Policy
    from hypereyes_jax.processing import ChatFormat
    from hypereyes_jax.rl.experience import Experience
    from hypereyes_jax.rollout import Engine, Generator, Timeline, Trajectory

SELECTION = "rl_selection.json"  # question id -> initial (rounds, invocations)
TIMELINE = "timeline-rl.json"  # of the latest step: all of them would fill the disk
PASSES = 5  # the paper's pass@5
_AT_A_TIME = 512  # episodes of the selection, after which memory is given back


@dataclass(frozen=True)
class RlSettings:
    """How the miniature is trained by RL. Group size, clips, TRACE and OPD are the paper's."""

    steps: int = 36
    prompts: int = 16
    """Questions a step."""
    group: int = 8
    """Rollouts a question."""
    learning_rate: float = 3e-4
    """Constant. The paper's is 1e-6; a model this small takes larger steps."""
    opd_coef: float = 0.05
    checkpoint_every: int = 4
    """Steps."""
    latency: float = 0.2
    """Seconds a search takes."""
    search: Transport = "http"
    """Over a real HTTP server on loopback, or in this process."""
    search_store: Path | None = None
    """A file that searches are recorded to and replayed from; none = every search is made."""
    search_mode: Annotated[StoreMode, tyro.conf.EnumChoicesFromValues] = StoreMode.REPLAY_THEN_LIVE
    """With a store: live (leave it alone), record (ask always), replay-strict (never ask), replay-then-live."""
    seed: int = 0


@dataclass(frozen=True)
class RlConfig:
    checkpoint: Path
    """The policy after SFT, in HF layout with its tokenizer."""
    questions: Path
    """Candidates, JSON lines as `hypereyes synth` writes them."""
    teacher: Path | None = None
    """Frozen teacher in HF layout; neither this nor a teacher's server = no distillation."""
    teacher_server: TeacherServerConfig = field(default_factory=TeacherServerConfig)
    out: Path = Path("runs/rl")
    """Run directory; the trained model goes to `model/` in it."""
    exact: bool = False
    """One shape a device program: repeatable to the bit where every rollout has a slot of its own; slower."""
    profile_step: int | None = None
    """Number of a step whose profile is written to `profile/`, for XProf or Perfetto."""
    wandb: str = ""
    """Weights & Biases project that the scalars also go to (needs the extra `wandb`); none = JSONL and TensorBoard."""
    settings: RlSettings = field(default_factory=RlSettings)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)


def run(config: RlConfig) -> None:
    from hypereyes_jax.data.files import read_questions
    from hypereyes_jax.launch.checkpoint_files import load_model, save_model
    from hypereyes_jax.launch.policy import Policy
    from hypereyes_jax.rollout import Engine

    processes = Processes.start(config.distributed)
    teacher = choose(config.teacher, config.teacher_server, miniature.sampling_config().temperature)
    directory = processes.open(config.out, "rl", config, config.wandb)
    questions = read_questions(config.questions)
    model, params, chat = load_model(config.checkpoint)
    engine = miniature.engine_config()
    policy = Policy(Engine(model, params, engine.exact() if config.exact else engine), chat)
    with processes.stages() as stages:
        params = train(
            directory,
            policy,
            questions,
            teacher,
            config.settings,
            stages,
            processes,
            profile_step=config.profile_step,
        )
    if not processes.first:
        return
    save_model(directory.file("model"), model, params, config.checkpoint)
    print(f"wrote {directory.file('model')}")


def train(
    directory: RunDirectory,
    policy: Policy,
    candidates: Sequence[Question],
    teacher: Path | TeacherServerConfig | None,
    settings: RlSettings,
    stages: Stages,
    processes: Processes = Processes(),  # noqa: B008 - holds nothing that changes
    *,
    profile_step: int | None = None,
) -> Any:
    """Select, train, and return the trained weights; the policy's engine holds them, too."""
    return asyncio.run(_train(directory, policy, candidates, teacher, settings, stages, processes, profile_step))


async def _train(
    directory: RunDirectory,
    policy: Policy,
    candidates: Sequence[Question],
    teacher: Path | TeacherServerConfig | None,
    settings: RlSettings,
    stages: Stages,
    processes: Processes,
    profile_step: int | None,
) -> Any:
    from hypereyes_jax.env.world import World

    world = World.load()
    seen = world.restrict(world.split()[0], passages=True)
    packing = miniature.pack_config(settings.prompts * settings.group // processes.count // 2)
    temperature = miniature.sampling_config().temperature
    async with (
        teaching(teacher, policy, packing, temperature, processes) as taught,
        searching(seen, settings.search, settings.latency, settings.search_store, settings.search_mode) as backend,
    ):
        references = await _select(directory, policy, candidates, backend, settings, stages, processes)
        chosen = [question for question in candidates if question.id in references]
        if len(chosen) < settings.prompts:
            raise UserError(
                f"only {len(chosen)} of {len(candidates)} candidates fail at first and succeed within {PASSES} tries, "
                f"fewer than the {settings.prompts} questions of a step. Give more candidates, or a lower `prompts`."
            )
        trainer = _Trainer(directory, policy, chosen, references, taught, settings, backend, processes)
        return await trainer.train(stages, profile_step)


async def _select(
    directory: RunDirectory,
    policy: Policy,
    candidates: Sequence[Question],
    backend: SearchBackend,
    settings: RlSettings,
    stages: Stages,
    processes: Processes,
) -> dict[str, tuple[int, int]]:
    from hypereyes_jax.data.selection import Try, initial_reference, settled

    path = directory.file(SELECTION)
    found = processes.gather(read_json(path) if processes.first and path.exists() else None)[0]
    if found is not None:
        return {key: tuple(counts) for key, counts in found.items()}
    mine = candidates[processes.index :: processes.count]
    seeds = _seeds(settings.seed, 0, PASSES * len(candidates)).reshape(-1, PASSES)[processes.index :: processes.count]
    tries: list[list[Try]] = [[] for _ in mine]
    with stages.stage("selection", PASSES * len(mine)) as stage:
        # All are tried once; those that succeed are out, so only the others cost their further tries.
        for wave in (range(1), range(1, PASSES)):
            open_ = [number for number, made in enumerate(tries) if not settled(made)]
            stage.advance(len(wave) * (len(mine) - len(open_)))
            plays = [(number, attempt) for number in open_ for attempt in wave]
            for first in range(0, len(plays), _AT_A_TIME):
                part = plays[first : first + _AT_A_TIME]
                asked = [mine[number] for number, _ in part]
                part_seeds = [int(seeds[place]) for place in part]
                played = await _play(policy.engine, policy.chat, asked, backend, part_seeds, stage.advance)
                for (number, _), trajectory, verdict in zip(part, played, await _verdicts(played), strict=True):
                    result = trajectory.result
                    tries[number].append(Try.of(result, result.answer is not None and verdict))
                give_back()  # without it the process grew by 5 GiB over 4,000 episodes
    references: dict[str, tuple[int, int]] = {}
    for question, made in zip(mine, tries, strict=True):
        reference = initial_reference(made)
        if reference is not None:
            references[question.id] = reference
    for others in processes.gather({key: list(counts) for key, counts in references.items()}):
        references |= {key: tuple(counts) for key, counts in others.items()}
    if processes.first:
        write_json(path, {key: list(counts) for key, counts in references.items()})
    return references


async def _play(
    generator: Engine | Generator,
    chat: ChatFormat,
    questions: Sequence[Question],
    backend: SearchBackend,
    seeds: Sequence[int],
    advance: Any = None,
    timeline: Timeline | None = None,
) -> list[Trajectory]:
    from hypereyes_jax.env.episode import Episode
    from hypereyes_jax.rollout import run_episodes

    episodes = [Episode(question, backend, miniature.EPISODE) for question in questions]
    on_end = None if advance is None else lambda *_: advance()
    return await run_episodes(
        generator, episodes, chat, miniature.sampling_config(), seeds, on_end=on_end, timeline=timeline
    )


async def _verdicts(played: Sequence[Trajectory]) -> list[bool | None]:
    """None where there is nothing to judge."""
    from hypereyes_jax.env.judges import ExactJudge

    judge = ExactJudge()
    return [None if t.result.answer is None else await judge.judge(t.result.question, t.result.answer) for t in played]


def _seeds(seed: int, step: int, count: int) -> np.ndarray:
    """Of `count` rollouts, over all processes; step 0 is the selection."""
    return np.random.SeedSequence([seed, step]).generate_state(count)


class _Trainer:
    """The RL loop of one run."""

    def __init__(
        self,
        directory: RunDirectory,
        policy: Policy,
        questions: Sequence[Question],
        references: dict[str, tuple[int, int]],
        teaching: Teaching,
        settings: RlSettings,
        backend: RecordedBackend,
        processes: Processes,
    ):
        import jax

        from hypereyes_jax.rl.learner import LearnerConfig, make_learner
        from hypereyes_jax.rl.optimizer import OptimizerConfig
        from hypereyes_jax.rl.references import ReferenceStore

        self._directory, self._policy, self._backend, self._settings = directory, policy, backend, settings
        self._questions, self._processes = questions, processes
        self._references = ReferenceStore(references)
        rollouts = settings.prompts * settings.group // processes.count
        self._packing = miniature.pack_config(rollouts)
        self._watch = Watch(policy.engine.config, "language")
        optimizer = OptimizerConfig(
            learning_rate=settings.learning_rate, schedule="constant", b1=0.9, b2=0.98, weight_decay=0.1
        )
        model = policy.engine.config
        # The vision tower stays as it is: it sees well after base training, and its backward pass costs much.
        self._learner = make_learner(
            model, LearnerConfig(optimizer=optimizer, train="language", opd_coef=settings.opd_coef), processes.mesh
        )
        state = self._learner.init(jax.random.key(settings.seed), policy.engine.params)
        self._state = processes.place(self._learner, state)
        self._teaching = teaching

    async def train(self, stages: Stages, profile_step: int | None) -> Any:
        from hypereyes_jax.rl.checkpoint import Checkpoints, KeepPolicy
        from hypereyes_jax.rl.references import ReferenceStore
        from hypereyes_jax.rl.state import weights

        settings = self._settings
        with Checkpoints(self._directory.file("rl-checkpoints"), KeepPolicy(latest=2)) as checkpoints:
            restored = checkpoints.restore(self._state)
            if restored is not None:
                self._state, cursor = restored
                self._references = ReferenceStore.from_state(cursor["references"])
            done = int(self._state.step)
            self._publish(done)
            give_back()  # what the selection held
            metrics = self._processes.metrics(self._directory, "rl", done)
            with stages.stage("RL", settings.steps) as stage, metrics as log:
                stage.skip_to(done)
                for step in range(done, settings.steps):
                    with profiled(self._directory.file("profile"), step == profile_step):
                        values = await self._step(step)
                    give_back()
                    log.log(step, values)
                    stage.advance(
                        accuracy=values["accuracy"], rounds=values["rounds"], reference=values["reference_rounds"]
                    )
                    if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
                        checkpoints.save(self._state, {"references": self._references.state()})
        return self._processes.whole(weights(self._state, "language")[0])

    async def _step(self, step: int) -> dict[str, float]:
        from hypereyes_jax.rl.experience import Experience, observe, score_group, summary
        from hypereyes_jax.rl.pack import TrainingSample
        from hypereyes_jax.rollout import Scheduler, Timeline

        settings, engine, timeline = self._settings, self._policy.engine, Timeline()
        asked = [self._questions[index] for index in self._order(step)]
        mine = self._processes.share(asked)
        repeated = [question for question in mine for _ in range(settings.group)]
        began = time.perf_counter()
        async with Scheduler(engine, timeline=timeline) as scheduler:
            by_question = _seeds(settings.seed, step + 1, len(asked) * settings.group).reshape(len(asked), -1)
            seeds = [int(seed) for own in self._processes.share(list(by_question)) for seed in own]
            played = await _play(scheduler, self._policy.chat, repeated, self._backend, seeds, timeline=timeline)
        if self._processes.first:
            timeline.write(self._directory.file(TIMELINE))
        generated = time.perf_counter()
        verdicts = await _verdicts(played)
        played_groups: list[Experience] = []
        for number, question in enumerate(mine):
            own = slice(number * settings.group, (number + 1) * settings.group)
            played_groups.append(score_group(played[own], verdicts[own], self._references.get(question.id)))
        # What the references learn and the curves show is of all processes' groups, alike in each.
        shares = self._processes.gather([group.record() for group in played_groups])
        groups = [Experience.from_record(record) for record in self._processes.merged(shares)]
        held = [self._references.get(question.id) for question in asked]
        for question, group in zip(asked, groups, strict=True):
            observe(self._references, question.id, group)
        tightened = self._references.commit() if self._ends_epoch(step) else 0
        samples = [sample for group in played_groups for sample in group.samples()]
        if not samples:  # the world failed this process; the others' step needs its part, which weighs nothing
            samples = [TrainingSample(played[0].chunks, weight=0.0)]
        samples, taught = await self._teaching(samples)
        # In a dead group only failed rollouts, which the teacher scored, have a gradient: the others cost nothing.
        live = [sample for sample in samples if sample.advantage != 0 or sample.teacher_logp is not None]
        left_out = [sample for sample in samples if sample.advantage == 0 and sample.teacher_logp is None]
        if not live:  # a step with nothing to learn has the shape of any other
            live, left_out = left_out[:1], left_out[1:]
        batch = self._processes.batch(engine.config, live, self._packing, left_out)
        packed = time.perf_counter()
        self._state, metrics = self._learner.rl_step(self._state, batch)
        values = {name: float(value) for name, value in metrics.items()}
        trained = time.perf_counter()
        self._publish(step + 1)
        return {
            **values,
            **summary(groups),
            "reference_rounds": sum(r.rounds for r in held) / len(held),
            "reference_invocations": sum(r.invocations for r in held) / len(held),
            "references_tightened": float(tightened),
            **taught,
            "seconds_generation": generated - began - scheduler.counts.waiting_seconds,
            "seconds_search": scheduler.counts.waiting_seconds,
            "seconds_training": trained - generated - taught["seconds_teacher"],
            **self._watch.figures(batch, trained - packed),
            "seconds_sync": time.perf_counter() - trained,
            "rollouts_per_second": len(played) / (generated - began),
            **{f"engine_{name}": share for name, share in timeline.utilisation().items()},
            **self._backend.metrics.numbers(),  # of the run so far
        }

    def _publish(self, version: int) -> None:
        """The engine samples from the trainer's present weights; the last step consumed the buffers it had."""
        from hypereyes_jax.rl.state import weights

        params, lora = self._processes.whole(weights(self._state, "language"))
        self._policy.engine.set_weights(params, lora, version)

    def _epoch_steps(self) -> int:
        return len(self._questions) // self._settings.prompts

    def _order(self, step: int) -> list[int]:
        """Indices of a step's questions: each epoch is a new permutation, its incomplete last batch is dropped."""
        epoch, place = divmod(step, self._epoch_steps())
        order = np.random.default_rng([self._settings.seed, epoch]).permutation(len(self._questions))
        return [int(i) for i in order[place * self._settings.prompts : (place + 1) * self._settings.prompts]]

    def _ends_epoch(self, step: int) -> bool:
        return (step + 1) % self._epoch_steps() == 0
