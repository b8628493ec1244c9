"""Where a step's rollouts come from: played for it, on policy, or taken from those that run ahead of the learner."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.training import LearnerConfig
from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.env.types import Question
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.replicas import ReplicaGroups
from hypereyes_jax.models.lora import Lora
from hypereyes_jax.models.qwen3_vl.moe import UNKNOWN_EXPERT
from hypereyes_jax.rollout import Timeline, Trajectory
from hypereyes_jax.rollout.engines import Engines, RunningEngines
from hypereyes_jax.rollout.versions import version_figures
from hypereyes_jax.train.group_queue import GroupQueue
from hypereyes_jax.train.question_selection import unless_stopped
from hypereyes_jax.train.rl_ahead import AheadRollouts, GroupPlan, OnEnd
from hypereyes_jax.train.samplers import RolloutEngines
from hypereyes_jax.train.settings import RlSettings
from hypereyes_jax.train.step_metrics import Laps
from hypereyes_jax.train.types import TrainingRun

TIMELINE = "timeline-rl.json"  # of the latest step: all of them would fill the disk
T = TypeVar("T")
PlanOf = Callable[[int], GroupPlan]  # the group of a number: question n % count of step n // count, of so many a step


class StepDropped(Exception):
    """The run is to stop, and the step under way has not changed the state; says why."""


class StepRollouts(NamedTuple):
    """What a step trains on."""

    questions: list[Question]  # of all processes
    trajectories: list[Trajectory]  # of this process, group by group
    seconds: float  # that this process's engines took for them
    figures: dict[str, float]


class RolloutSource(Protocol):
    """What the loop asks of its rollouts. Every process makes these calls in the same order."""

    async def take(self, step: int, laps: Laps) -> StepRollouts:
        """The rollouts of a step. Raises StepDropped if the run is to stop, before anything changes."""

    async def publish(self, params: Any, lora: Lora | None, version: int) -> dict[str, float]:
        """The engines sample from the learner's present weights from now on: figures of the exchange."""

    async def beside(self, work: Callable[[], T]) -> T:
        """What a training step's `work` returns; rollouts go on meanwhile where they can."""

    async def answer(self, questions: Sequence[Question], seeds: Sequence[int]) -> list[Trajectory] | None:
        """One rollout of each question, sampled as in evaluation; None if a stop was asked for."""

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint keeps of it, JSON-able and alike in all processes."""

    def at_rest(self) -> contextlib.AbstractAsyncContextManager[None]:
        """No engine works within the block, where its devices may be asked for a program that spans processes."""


class OnPolicy:
    """Plays each step's rollouts with the weights that they train, and nothing else meanwhile."""

    def __init__(
        self, run: TrainingRun, rollouts: RolloutEngines, settings: RlSettings, backend: RecordedBackend, plan: PlanOf
    ):
        self._run, self._rollouts, self._settings, self._backend, self._plan = run, rollouts, settings, backend, plan

    async def take(self, step: int, laps: Laps) -> StepRollouts:
        """The step's rollouts, as `RolloutSource.take` says."""
        prompts, processes, stop = self._settings.questions_played, self._run.processes, self._run.directory.stop
        plans = [self._plan(number) for number in range(step * prompts, (step + 1) * prompts)]
        mine = processes.replicas.share(plans)
        questions = [plan.question for plan in mine for _ in plan.seeds]
        seeds = [seed for plan in mine for seed in plan.seeds]
        timeline = Timeline()
        group = self._settings.group
        play = self._rollouts.play(questions, self._backend, seeds, group=group, timeline=timeline)
        result = await unless_stopped(stop, play)
        await self._rollouts.finish_plays()
        # Every process comes by here once a step, and all go on or all stop: one that was asked to later in the step
        # ends after it.
        reason = processes.first_reason(stop.reason)
        if result is None or reason:
            raise StepDropped(reason)
        trajectories, waited = result
        self._rollouts.suspend()
        if processes.replicas.drives:
            timeline.write(self._run.directory.file(processes.own_name(TIMELINE)))
        seconds = laps.lap("generation")
        laps.move(waited, "generation", "search")
        return StepRollouts([plan.question for plan in plans], trajectories, seconds, _engine_shares(timeline))

    async def publish(self, params: Any, lora: Lora | None, version: int) -> dict[str, float]:
        """Gives the engines the weights between two plays."""
        return self._rollouts.publish(params, version, lora)

    async def beside(self, work: Callable[[], T]) -> T:
        """What `work` returns: there is nothing that could go on meanwhile."""
        return work()

    async def answer(self, questions: Sequence[Question], seeds: Sequence[int]) -> list[Trajectory] | None:
        """One rollout of each question, as `RolloutSource.answer` says."""
        play = self._rollouts.play(questions, self._backend, seeds, evaluation=True)
        result = await unless_stopped(self._run.directory.stop, play)
        await self._rollouts.finish_plays()
        return None if result is None else result.trajectories

    def state(self) -> dict[str, Any] | None:
        """Nothing is under way between steps."""
        return None

    def at_rest(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Nothing is under way between steps."""
        return contextlib.nullcontext()


class RunsAhead:
    """Rollouts that run ahead of the learner, on engines that stay in use from the first step to the last.

    On devices that learner and engines share, a mesh's programs take turns: two in flight together may run in another
    order on another device, and then wait for each other for ever. Engines work there while the loop waits for
    rollouts, and at no other time: what the loop does else may span devices, those of other processes included. One
    device runs both as it can. Engines on devices of their own work all the time, but for checkpoints.

    Each process plays its part of all groups, and takes of these alone.
    """

    def __init__(
        self,
        run: TrainingRun,
        rollouts: RolloutEngines,
        settings: RlSettings,
        backend: RecordedBackend,
        ahead: tuple[RunningEngines, GroupQueue, PlanOf],
        timeline: Timeline,
    ):
        self._run, self._rollouts, self._backend, self._timeline = run, rollouts, backend, timeline
        self._generator, self._queue, self._plan = ahead
        replicas = run.processes.replicas
        self._place, self._players = replicas.drivers.index(replicas.index), len(replicas.drivers)
        live = settings.questions_played // self._players * settings.group  # as many as on policy
        self._ahead = AheadRollouts(self._play, lambda own: self._plan(self._number_of_all(own)), self._queue, live)
        self._takes_turns = run.processes.mesh is not None and not rollouts.apart(run.processes.mesh)
        self._pause: contextlib.AsyncExitStack | None = None
        self._taken = time.perf_counter()

    async def take(self, step: int, laps: Laps) -> StepRollouts:
        """The step's rollouts, as `RolloutSource.take` says."""
        processes, stop = self._run.processes, self._run.directory.stop
        before = self._waited()
        async with self._working():
            own = await unless_stopped(stop, self._ahead.take(step))
        # Every process comes by here once a step, and all go on or all stop.
        reason = processes.first_reason(stop.reason)
        if own is None or reason:
            raise StepDropped(reason)
        shares = processes.gather([self._number_of_all(number) for number in own.numbers])
        questions = [self._plan(number).question for number in processes.replicas.merge(shares)]
        timeline = self._timeline.cut()
        timeline.write(self._run.directory.file(processes.own_name(TIMELINE)))
        waited = min(laps.lap("generation"), self._waited() - before)
        laps.move(waited, "generation", "search")
        last, self._taken = self._taken, time.perf_counter()
        figures = own.figures | version_figures(own.trajectories, step) | _engine_shares(timeline)
        return StepRollouts(questions, own.trajectories, self._taken - last, figures)

    async def publish(self, params: Any, lora: Lora | None, version: int) -> dict[str, float]:
        """Swaps the weights between two decode calls of each engine; rollouts under way go on."""
        self._queue.trained()
        copies, figures = await asyncio.to_thread(self._rollouts.copies, params, lora)
        await self._generator.swap(copies, version)
        self._ahead.set_version(version)
        return figures

    async def beside(self, work: Callable[[], T]) -> T:
        """What `work` returns, made in a thread of its own."""
        return await asyncio.to_thread(work)

    async def answer(self, questions: Sequence[Question], seeds: Sequence[int]) -> list[Trajectory] | None:
        """One rollout of each question, beside the rollouts under way."""
        play = self._rollouts.episodes(self._generator, questions, self._backend, seeds, evaluation=True)
        async with self._working():
            return await unless_stopped(self._run.directory.stop, play)

    def state(self) -> dict[str, Any] | None:
        """Which groups are still to be trained on: those under way are played anew by a run that goes on."""
        return {"shares": self._run.processes.gather(self._queue.state())}

    def at_rest(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Engines beside the learner stop for what spans all devices of several processes, as barriers do."""
        works = not self._takes_turns and self._run.processes.count > 1
        return self._generator.paused() if works else contextlib.nullcontext()

    async def pause(self) -> None:
        """Ends the engines' work, where they take turns with the learner, until the loop waits for rollouts."""
        if self._takes_turns:
            self._pause = contextlib.AsyncExitStack()
            await self._pause.enter_async_context(self._generator.paused())

    async def close(self) -> None:
        """Ends what is under way."""
        await self._ahead.close()
        await self._resume()

    async def _resume(self) -> None:
        pause, self._pause = self._pause, None
        if pause is not None:
            await pause.aclose()

    @contextlib.asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        """The engines work within the block."""
        await self._resume()
        yield
        await self.pause()

    def _number_of_all(self, own: int) -> int:
        """The number among all processes' groups of one of this process's, as `ReplicaGroups.part` shares them out."""
        return own * self._players + self._place

    async def _play(self, plan: GroupPlan, on_end: OnEnd) -> list[Trajectory]:
        questions = [plan.question] * len(plan.seeds)
        return await self._rollouts.episodes(
            self._generator, questions, self._backend, plan.seeds, on_end=on_end, timeline=self._timeline
        )

    def _waited(self) -> float:
        """Seconds that an engine stood still because every rollout was searching, the mean of the engines."""
        counts = self._generator.counts
        return sum(each.waiting_seconds for each in counts) / len(counts)


def check_ahead(settings: RlSettings, learner: LearnerConfig, exact: bool = False, on_server: bool = False) -> None:
    """Raises UserError for settings of rollouts ahead that do not fit each other, the loss or who samples.

    Args:
      exact: the run is to be repeatable to the bit.
      on_server: a server samples.
    """
    if settings.ahead < 0:
        raise UserError(f"--settings.ahead must be 0 steps or more, not {settings.ahead}")
    if settings.ahead == 0 and settings.max_staleness is not None:
        raise UserError("--settings.max-staleness applies to rollouts that run ahead: add --settings.ahead")
    if settings.ahead:
        GroupQueue(settings.questions_played, settings.steps, settings.ahead, settings.staleness_limit)
        if not learner.tis_cap:
            raise UserError(
                "--settings.ahead trains on tokens that older weights sampled, which --sizes.learner.tis-cap 0 leaves "
                "unweighted: give a cap, like 2"
            )
        if exact:
            raise UserError(
                "--exact makes a run repeatable to the bit, but with --settings.ahead timing decides which rollouts a "
                "step gets: leave one of them out"
            )
        if on_server:
            raise UserError(
                "--settings.ahead swaps the weights of this run's own engines, but with --sampler-server.url a server "
                "samples: leave one of them out"
            )


def check_replicas_ahead(settings: RlSettings, replicas: ReplicaGroups) -> None:
    """Raises UserError if rollouts are to run ahead on replicas that several processes share."""
    if settings.ahead and any(len(group) > 1 for group in replicas.groups):
        raise UserError(
            "--settings.ahead needs each replica on the devices of one process: give a --sizes.replica-devices that "
            "divides them, or set --settings.ahead 0"
        )


def check_routing_replay(settings: RlSettings, model: Qwen3VLConfig, on_server: bool = False) -> None:
    """Raises UserError for a replay of experts that the model has not, or that a server does not tell."""
    if settings.routing_replay == "sampler" and on_server:
        raise UserError(
            "--settings.routing-replay sampler needs the experts of each token, which a server does not report: "
            "use trainer, or leave the server out"
        )
    if settings.routing_replay != "off" and not 0 < model.text.num_experts <= UNKNOWN_EXPERT:
        raise UserError(
            f"--settings.routing-replay {settings.routing_replay} needs a model with 1 to {UNKNOWN_EXPERT} experts in "
            f"a layer, and this one has {model.text.num_experts}: leave it off"
        )


@contextlib.asynccontextmanager
async def open_rollouts(
    run: TrainingRun,
    rollouts: RolloutEngines,
    settings: RlSettings,
    backend: RecordedBackend,
    plan: PlanOf,
    first: int,
    state: dict[str, Any] | None,
) -> AsyncIterator[RolloutSource]:
    """The rollouts of a run, as `settings.ahead` says.

    Args:
      plan: the group of a number.
      first: the step to begin with.
      state: what `RolloutSource.state` gave behind them; None = nothing, or the run begins.
    """
    if settings.ahead == 0:
        yield OnPolicy(run, rollouts, settings, backend, plan)
        return
    replicas = run.processes.replicas
    prompts = len(replicas.share(range(settings.questions_played)))
    queue = GroupQueue(prompts, settings.steps, settings.ahead, settings.staleness_limit)
    queue.restore(_own_state(state, replicas), first)
    timeline = Timeline()
    assert isinstance(rollouts.engines, Engines)  # `check_ahead`
    async with rollouts.engines.running(settings.group, timeline) as generator:
        source = RunsAhead(run, rollouts, settings, backend, (generator, queue, plan), timeline)
        await source.pause()
        try:
            yield source
        finally:
            await source.close()


def _own_state(state: dict[str, Any] | None, replicas: ReplicaGroups) -> dict[str, Any] | None:
    """This process's part of what `RunsAhead.state` gave. Raises UserError if another number of processes played."""
    if state is None:
        return None
    shares, count = state["shares"], len(replicas.drivers)
    if len(shares) != count:
        raise UserError(
            f"{len(shares)} processes played the rollouts ahead of this run, and there are {count}: go on with as many"
        )
    return shares[replicas.drivers.index(replicas.index)]


def _engine_shares(timeline: Timeline) -> dict[str, float]:
    return {f"engine_{name}": share for name, share in timeline.utilisation().items()}
