"""The RL loop: play groups, score and rank them, distil what failed, update, publish the weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from hypereyes_jax.env.outages import OutageWatch, SystematicFailure, mask_reason
from hypereyes_jax.env.search.metrics import SearchMetrics
from hypereyes_jax.env.types import Question, StopReason
from hypereyes_jax.eval.records import write_records
from hypereyes_jax.eval.rollout_files import drop_rollouts, write_rollouts
from hypereyes_jax.eval.run_files import REFERENCES_LOG
from hypereyes_jax.files import append_json_line
from hypereyes_jax.launch.exchange import SampleExchange, open_exchange
from hypereyes_jax.launch.global_arrays import initial_state, pack_for_all
from hypereyes_jax.launch.run_output import NoMetrics, open_metrics
from hypereyes_jax.learner.checkpoint import Checkpoints, CheckpointSchedule, KeepPolicy
from hypereyes_jax.learner.experience import Experience, observe, score_group, summary, trained_groups
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.packing import TrainingSample
from hypereyes_jax.learner.state import weights
from hypereyes_jax.models.lora import Lora, init_lora
from hypereyes_jax.models.qwen3_vl import Params
from hypereyes_jax.rl.references import ReferenceStore
from hypereyes_jax.rollout import Trajectory
from hypereyes_jax.runs.memory import give_back
from hypereyes_jax.runs.metrics import MetricsWriter
from hypereyes_jax.runs.progress import Stage
from hypereyes_jax.runs.stop import RunStopped
from hypereyes_jax.train.adapters import adapter_rules
from hypereyes_jax.train.budget import BudgetController
from hypereyes_jax.train.finite import FiniteSteps
from hypereyes_jax.train.kl_reference import KlReference
from hypereyes_jax.train.open_run import OpenRun, OpenServices
from hypereyes_jax.train.question_order import QuestionOrder
from hypereyes_jax.train.question_selection import verdicts
from hypereyes_jax.train.rollout_samples import rollout_records, rollout_sample, validation_records
from hypereyes_jax.train.rollout_source import RolloutSource, StepDropped, open_rollouts
from hypereyes_jax.train.snapshots import Snapshots
from hypereyes_jax.train.step_metrics import Laps, over_processes, searches_so_far
from hypereyes_jax.train.step_monitor import StepMonitor, profiled
from hypereyes_jax.train.types import SelectedQuestions

VALIDATION = "trajectories-validation.jsonl"
_LOG = logging.getLogger(__name__)


class _Scored(NamedTuple):
    """What judging and ranking of a step's rollouts gave."""

    samples: list[TrainingSample]  # of this process's rollouts
    figures: dict[str, float]  # over all processes, alike in each


class RlLoop:
    """The RL loop of one run."""

    def __init__(self, opened: OpenRun, params: Params, questions: SelectedQuestions, services: OpenServices):
        """`params` are used up: the state takes their buffers."""
        run, rollouts, model, settings = opened.run, opened.rollouts, opened.model, opened.settings
        sizes = rollouts.sizes
        self._run, self._rollouts, self._model, self._settings = run, rollouts, model, settings
        self._directory, self._processes = run.directory, run.processes
        self._backend, self._judge, self._distillation = services
        self._order, self._validation = QuestionOrder(questions.questions, settings), questions.validation
        self._method, self._reward = opened.loaded, opened.method.reward
        self._budget = BudgetController(self._reward.budget)
        self._references = ReferenceStore(questions.references, opened.method.tighten)
        samples = settings.prompts * settings.group // run.processes.count
        routes = (model.text.num_hidden_layers, model.text.num_experts_per_tok)
        replays = settings.routing_replay == "sampler"
        if replays and not all(engine.settings.record_routes for engine in rollouts.engines.all):
            raise ValueError('routing_replay="sampler" needs engines with EngineConfig.record_routes')
        self._packing = replace(
            sizes.pack(samples, run.processes.shards),
            weighting=sizes.learner.reduction,
            routes=routes if replays else None,
        )
        optimizer = replace(
            sizes.learner.optimizer,
            learning_rate=settings.learning_rate,
            final_learning_rate=settings.learning_rate / 10,
            total_steps=settings.steps,
        )
        learn = replace(
            sizes.learner, optimizer=optimizer, opd_coef=settings.opd_coef, routing_replay=settings.routing_replay
        )
        self._train_mode = learn.train
        self._monitor, self._finite = StepMonitor(model, learn.train), FiniteSteps()
        teacher = services.distillation.local if learn.opd == "reverse-kl" else None
        teacher_model = teacher.model if teacher else None
        self._learner = make_learner(
            model, learn, run.processes.mesh, teacher_config=teacher_model, token_loss=self._method.loss
        )
        self._learner_takes = (teacher.params,) if teacher else ()  # beside state and batch
        self._kl_reference = KlReference.of(learn, self._learner, params)
        rules = adapter_rules(settings.lora_rank, settings.lora_alpha) if learn.train == "lora" else None
        adapters = None if rules is None else partial(init_lora, config=model, lora_config=rules)
        self._state = initial_state(run.processes.mesh, self._learner, settings.seed, params, adapters)
        self._distils = services.distillation.is_active and settings.opd_coef != 0
        self._outages = OutageWatch(settings.outages)
        self._earlier_searches: dict[str, Any] | None = None  # before the checkpoint that this process went on from
        self._source: RolloutSource
        self._exchange: SampleExchange | None

    async def train(self) -> tuple[Params, Lora | None]:
        """The weights after all steps that the settings ask for; where adapters train, those beside them, and these.

        Raises RunStopped if the run was asked to stop, once what was done is saved.
        """
        settings = self._settings
        keep = KeepPolicy(latest=self._rollouts.sizes.keep_checkpoints)
        wanted = self._rollouts.sizes.balance
        with (
            Checkpoints(self._directory.checkpoints("rl-checkpoints"), keep, self._directory.run) as checkpoints,
            open_exchange(self._processes, wanted) as self._exchange,
        ):
            checkpoint = checkpoints.restore(self._state, self._run.resume_step)
            under_way: dict[str, Any] | None = None
            if checkpoint is not None:
                self._state, cursor = checkpoint
                self._references = ReferenceStore.from_state(cursor["references"])
                self._earlier_searches = cursor["searches"]
                self._searches()
                self._budget.restore(cursor.get("budget", {}))
                under_way = cursor.get("rollouts")
            first = int(self._state.step)
            if self._processes.first:
                drop_rollouts(self._directory.path, first)
            if first == 0:
                self._note_references(0)
            async with open_rollouts(
                self._run, self._rollouts, settings, self._backend, self._order.plan, first, under_way
            ) as self._source:
                await self._publish(first)
                give_back()  # what the selection held
                snapshots = self._snapshots(first)
                metrics = open_metrics(self._processes, self._directory, "rl", first)
                with self._run.stages.stage("RL", settings.steps) as stage, metrics as log:
                    stage.skip_to(first)
                    await self._steps(first, checkpoints, snapshots, stage, log)
        return self._weights()

    async def _steps(
        self,
        first: int,
        checkpoints: Checkpoints,
        snapshots: Snapshots | None,
        stage: Stage,
        log: MetricsWriter | NoMetrics,
    ) -> None:
        """All steps from `first` on, each logged, and saved when a checkpoint is due."""
        settings, processes, saved = self._settings, self._processes, first
        schedule = CheckpointSchedule(settings.checkpoint_every, settings.checkpoint_minutes, settings.steps)
        for step in range(first, settings.steps):
            reason = ""
            with profiled(self._directory.file("profile"), step == self._run.profile_step):
                try:
                    values = await self._step(step, log)
                except StepDropped as dropped:
                    reason = str(dropped)
                except SystematicFailure:
                    if saved < step:
                        await self._save(checkpoints)
                    raise
            if reason:
                if saved < step:
                    await self._save(checkpoints)
                raise RunStopped(f"stopped after step {step} of {settings.steps} ({reason}); it is saved.")
            if self._validation is not None and (step + 1) % self._validation.every == 0:
                values |= await self._validate(self._validation.questions, step)
                if snapshots is not None and "eval_accuracy" in values:
                    snapshots.keep_if_best(step + 1, values["eval_accuracy"], values["eval_masked"], *self._weights())
            give_back()
            log.log(step, values)
            self._finite.check(step, values)
            stage.advance(accuracy=values["accuracy"], rounds=values["rounds"], reference=values["reference_rounds"])
            if snapshots is not None:
                snapshots.write_if_due(step + 1, *self._weights())
            # The first process's clock decides for all.
            is_due = processes.gather(schedule.is_due(step + 1))[0]
            if is_due:
                await self._save(checkpoints)
                schedule.written()
                saved = step + 1

    def _weights(self) -> tuple[Params, Lora | None]:
        return weights(self._state, self._train_mode)

    def _snapshots(self, first: int) -> Snapshots | None:
        if self._run.write_model is None:
            return None
        return Snapshots(self._directory, self._processes, self._run.write_model, self._settings.save_every, first)

    async def _save(self, checkpoints: Checkpoints) -> None:
        # The search store has no position: see docs/environment.md.
        cursor = {
            "references": self._references.state(),
            "searches": self._searches().state(),
            "budget": self._budget.state(),
            "rollouts": self._source.state(),
        }
        async with self._source.at_rest():
            checkpoints.save(self._state, cursor)

    async def _step(self, step: int, log: MetricsWriter | NoMetrics) -> dict[str, float]:
        """Play, score, distil, update, publish.

        Raises StepDropped if the run is to stop, and SystematicFailure if the world fails, before anything changes.

        Every process makes these calls in this order, also one that has nothing to play: in each of them processes wait
        for each other.
        """
        self._distillation.check(self._settings.outages)
        laps = Laps(self._processes)
        rollouts = await self._source.take(step, laps)
        experience = await self._score(step, rollouts.questions, rollouts.trajectories, log, laps)
        samples, distilled = await self._distil(experience.samples, laps)
        updated, machine = await self._source.beside(lambda: self._update(samples, laps))
        self._warn_of_gap(step, updated["sampler_gap"])
        synced = await self._publish(step + 1)
        laps.lap("sync")
        own = {**laps.seconds(), **machine, **synced, **rollouts.figures}
        over_all = over_processes(self._processes, own, len(rollouts.trajectories), rollouts.seconds, self._searches())
        return {**updated, **experience.figures, **distilled, **over_all}

    async def _score(
        self,
        step: int,
        questions: Sequence[Question],
        trajectories: Sequence[Trajectory],
        log: MetricsWriter | NoMetrics,
        laps: Laps,
    ) -> _Scored:
        """Judges and ranks this process's rollouts; the references learn from the groups of all processes."""
        group, processes, references = self._settings.group, self._processes, self._references
        verdict = await verdicts(self._judge, trajectories)
        reasons = [mask_reason(each.result, correct) for each, correct in zip(trajectories, verdict, strict=True)]
        # All processes end together, before anything of the step counts.
        self._outages.check([reason for each in processes.gather(reasons) for reason in each])
        own: list[Experience] = []
        for number, question in enumerate(processes.replicas.share(questions)):
            part = slice(number * group, (number + 1) * group)
            reference = references.get(question.id)
            experience = score_group(
                trajectories[part], verdict[part], reference, self._reward,
                self._method.rewards, self._method.advantage, self._budget.prices,
            )  # fmt: skip
            own.append(experience)
        self._keep(step, own, log)
        laps.lap("judging")
        # What the references learn and the curves show is of all processes' groups, alike in each.
        shares = processes.gather([each.record() for each in own])
        groups = [Experience.from_record(record) for record in processes.replicas.merge(shares)]
        before = [references.get(question.id) for question in questions]
        for question, each in zip(questions, groups, strict=True):
            observe(references, question.id, each)
        tightened = sum(references.get(q.id) != old for q, old in zip(questions, before, strict=True))
        if self._order.ends_epoch(step):
            tightened += references.commit()
            self._note_references(step + 1)
        selection = trained_groups(groups, self._settings.prompts, self._distils)
        numbers = processes.replicas.part(range(len(groups)))  # of this process's own
        samples = [s for number, each in zip(numbers, own, strict=True) if number in selection for s in each.samples()]
        if trajectories and not samples:  # the world failed this process; the others' step needs its part, of no weight
            samples = [TrainingSample(trajectories[0].chunks, weight=0.0)]
        laps.lap("judging")
        figures = {
            **summary(groups),
            **self._budget.update(groups),
            **self._own_metrics(trajectories, verdict, own),
            "groups_left_out": float(len(groups) - len(selection)),
            "reference_rounds": sum(r.rounds for r in before) / len(before),
            "reference_invocations": sum(r.invocations for r in before) / len(before),
            "references_tightened": float(tightened),
        }
        return _Scored(samples, figures)

    def _own_metrics(
        self, trajectories: Sequence[Trajectory], verdict: Sequence[bool | None], groups: Sequence[Experience]
    ) -> dict[str, float]:
        """The means of a user's metrics over the valid rollouts of all processes, alike in each."""
        if not self._method.metrics.parts:
            return {}
        valid = [bool(each) for group in groups for each in group.valid_G]
        rows = [
            self._method.metrics.of(trajectory.result, correct)
            for trajectory, correct, counts in zip(trajectories, verdict, valid, strict=True)
            if counts
        ]
        everyone = [row for rows_of_one in self._processes.gather(rows) for row in rows_of_one]
        return {name: float(np.mean([row[name] for row in everyone])) for name in (everyone[0] if everyone else ())}

    async def _distil(
        self, samples: Sequence[TrainingSample], laps: Laps
    ) -> tuple[list[TrainingSample], dict[str, float]]:
        """(what this process feeds to the learner, failed samples with the teacher's log-probs; counts)."""
        own = await self._rollouts.scatter(samples)
        laps.lap("waiting")  # a process without an engine of its own, for the one it shares a replica with
        with_teacher, counts = await self._distillation(own)
        laps.lap("teacher")
        return with_teacher, counts

    def _update(self, samples: Sequence[TrainingSample], laps: Laps) -> tuple[dict[str, float], dict[str, float]]:
        """One optimiser step: (the learner's figures, this machine's)."""
        # In a dead group only failed rollouts, which the teacher scored, have a gradient: the others cost nothing.
        live = [sample for sample in samples if sample.advantage != 0 or sample.teacher_logp is not None]
        left_out = [sample for sample in samples if sample.advantage == 0 and sample.teacher_logp is None]
        if not live:  # a step with nothing to learn has the shape of any other
            live, left_out = left_out[:1], left_out[1:]
        batch = pack_for_all(self._processes, self._model, live, self._packing, left_out, self._exchange)
        self._monitor.check(batch, self._packing)
        laps.lap("packing")
        if self._kl_reference is not None:
            batch = self._kl_reference.score(batch)
        self._state, metrics = self._learner.rl_step(self._state, batch, *self._learner_takes)
        figures = {name: float(value) for name, value in metrics.items()}
        if self._exchange is not None:
            figures["samples_moved"] = float(self._exchange.moved)
        return figures, self._monitor.figures(batch, laps.lap("training"))

    def _note_references(self, step: int) -> None:
        """Adds the references in force to the run's log of them, which shows how they moved over epochs."""
        if self._processes.first:
            current = self._references.state()["current"]
            append_json_line(self._directory.file(REFERENCES_LOG), {"step": step, "references": current})

    def _keep(self, step: int, groups: Sequence[Experience], log: MetricsWriter | NoMetrics) -> None:
        """Keep sampled groups of this step's rollouts for the report, and show the trackers some."""
        settings = self._settings
        if not (self._processes.first and settings.keep_groups and groups):
            return
        count = min(settings.keep_groups, len(groups))
        numbers = np.random.default_rng([settings.seed, step]).choice(len(groups), count, replace=False)
        rows = [record for n in sorted(numbers) for record in rollout_records(groups[n], step, self._judge.name)]
        write_rollouts(self._directory.path, step, rows, settings.keep_mib * 2**20)
        if step % settings.checkpoint_every == 0:
            log.log_samples(step, [rollout_sample(group) for group in (groups[n] for n in sorted(numbers))])

    async def _validate(self, questions: Sequence[Question], step: int) -> dict[str, float]:
        """One rollout of each question, always with the same seeds; failures of the world are left out of the means.

        The latest rollouts lie in `trajectories-validation.jsonl`, for the report.
        """
        mine = self._processes.replicas.part(range(len(questions)))
        trajectories = await self._source.answer([questions[n] for n in mine], mine)
        if self._processes.first_reason(self._directory.stop.reason) or trajectories is None:
            return {}  # the next step ends the run
        verdict_of_each = await verdicts(self._judge, trajectories)
        records = validation_records(trajectories, verdict_of_each, step, self._judge.name)
        write_records(self._directory.file(self._processes.own_name(VALIDATION)), records)
        rows = [
            [float(bool(verdict)), t.result.rounds, t.result.invocations]
            for t, verdict in zip(trajectories, verdict_of_each, strict=True)
            if t.result.stop is not StopReason.INFRASTRUCTURE and (t.result.answer is None or verdict is not None)
        ]
        everyone = [row for rows_of_one in self._processes.gather(rows) for row in rows_of_one]
        if not everyone:
            return {"eval_masked": 1.0}
        means = np.mean(everyone, axis=0).tolist()
        names = ("eval_accuracy", "eval_rounds", "eval_invocations")
        return {**dict(zip(names, means, strict=True)), "eval_masked": 1 - len(everyone) / len(questions)}

    def _searches(self) -> SearchMetrics:
        """Searches of all processes since the run began, alike in each; the spending cap is over these."""
        searches = searches_so_far(self._processes, self._backend.metrics, self._earlier_searches)
        self._backend.settle(searches.cost)
        return searches

    async def _publish(self, version: int) -> dict[str, float]:
        """The engines sample from the trainer's present weights; the last step consumed the buffers they had."""
        params, lora = self._weights()
        self._distillation.share_base(params)
        return await self._source.publish(params, lora, version)

    def _warn_of_gap(self, step: int, gap: float) -> None:
        """The learner's log-probs are to be the sampler's but for rounding, and for what trained in between."""
        level = self._settings.gap_warning
        if not (self._processes.first and level and gap > level):
            return
        causes = "low precision" if self._settings.ahead == 0 else "rollouts too far ahead, low precision"
        if self._model.text.moe and self._settings.routing_replay != "sampler":
            causes += ", experts chosen otherwise (--settings.routing-replay sampler)"
        _LOG.warning(
            "step %d: the learner's log-probs are %.3f nats from the sampler's, more than --settings.gap-warning %g. "
            "Known causes: %s.",
            step, gap, level, causes,
        )  # fmt: skip
