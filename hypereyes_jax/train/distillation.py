"""Failed rollouts get a teacher's log-probs: from weights that this run holds, or from a server.

A server scores at temperature 1: neither SGLang nor vLLM applies the request's temperature to tokens that it is given
(SGLang's `input_token_logprobs`, vLLM's `prompt_logprobs` with raw and with processed log-probs alike; both have open
proposals for a field of its own). Distillation compares at the student's sampling temperature, 0.8, and the log-prob at
one temperature does not follow from that at another: it takes all logits. So the server is given a copy of the teacher
whose logits are already divided, by its last norm: `hypereyes export --temperature 0.8`. A server said to score at
another temperature than the student's is refused.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import numpy as np

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.env.outages import OutageLimits, failure_in_words
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.global_arrays import pack_for_all
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.learner.forward import reads_alike
from hypereyes_jax.learner.packing import TrainingSample
from hypereyes_jax.learner.state import Params
from hypereyes_jax.learner.teacher import LocalTeacher, Teacher, Unscored
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.processing import ChatFormat, SampledChunk
from hypereyes_jax.rollout.servers.scoring import score_conversations
from hypereyes_jax.rollout.servers.server import GenerationServer, PromptLimits, PromptMismatch
from hypereyes_jax.rollout.servers.sglang import SGLangServer
from hypereyes_jax.rollout.servers.vllm import VLLMServer
from hypereyes_jax.train.samplers import RolloutEngines
from hypereyes_jax.train.settings import TeacherServerConfig
from hypereyes_jax.train.sizes import TrainingSizes
from hypereyes_jax.train.types import OwnBase, TeacherSource

_LOG = logging.getLogger(__name__)


def choose_teacher(
    directory: str | Path | None,
    server: TeacherServerConfig,
    temperature: float,
    opd: Literal["advantage", "reverse-kl"] = "advantage",
    base: str = "",
) -> TeacherSource | None:
    """The teacher that the settings name, if any.

    Args:
      temperature: the student's, at which the two are compared.
      opd: the form of distillation, as `LearnerConfig.opd`.
      base: the policy's checkpoint, where it stays frozen beside adapters that train.

    Raises UserError for two teachers, a server that can't be one, or no weights for a form that needs them.
    """
    if opd == "reverse-kl" and (directory is None or server.url):
        raise UserError(
            "--sizes.learner.opd reverse-kl compares whole vocabularies, which needs the teacher's weights here: "
            "give --teacher DIR and no --teacher-server.url, or leave --sizes.learner.opd at advantage"
        )
    if not server.url:
        if server != TeacherServerConfig():
            raise UserError("settings of a teacher's server are given without its URL: add --teacher-server.url")
        # A step takes its frozen weights' buffers, so the loss that runs a teacher inside of it needs others.
        same = directory is not None and base != "" and Path(directory).resolve() == Path(base).resolve()
        return OwnBase() if same and opd == "advantage" else directory
    if directory is not None:
        raise UserError(f"two teachers: {directory} and {server.url}. Give either --teacher or --teacher-server.url.")
    if urlsplit(server.url).scheme not in ("http", "https") or not urlsplit(server.url).netloc:
        raise UserError(f"--teacher-server.url {server.url} is not a valid URL like http://host:30000")
    for name in ("in_flight", "timeout", "attempts", "deadline"):
        if not getattr(server, name) > 0:
            raise UserError(f"--teacher-server.{name.replace('_', '-')} must be positive")
    if not abs(server.temperature - temperature) <= 1e-6:
        raise UserError(
            f"the teacher's server scores at temperature {server.temperature:g}, but the student samples at "
            f"{temperature:g}, and log-probs can't be converted from one to the other. SGLang and vLLM do not apply a "
            f"temperature to given tokens: serve a copy made by `hypereyes export --temperature {temperature:g}`, and "
            f"add --teacher-server.temperature {temperature:g}."
        )
    return server


class Distillation:
    """The distillation part of a training step. Every process must call it at every step.

    Args:
      teacher: None = no distillation.
      shares_base: its weights are those that `share_base` is given.
    """

    def __init__(self, teacher: Teacher | None, processes: Processes, shares_base: bool = False):
        self._teacher, self._processes, self._shares_base = teacher, processes, shares_base
        self._row: Counter[str] = Counter()  # failed samples since the teacher scored one, by why it did not

    @property
    def is_active(self) -> bool:
        """Whether there is a teacher, so that failed rollouts teach something whatever the others earned."""
        return self._teacher is not None

    @property
    def local(self) -> LocalTeacher | None:
        """The teacher, if its weights are here."""
        return self._teacher if isinstance(self._teacher, LocalTeacher) else None

    def share_base(self, params: Params) -> None:
        """The policy's present frozen weights, whose buffers each step takes anew."""
        if self._shares_base and self.local is not None:
            self.local.params = params

    def check(self, limits: OutageLimits) -> None:
        """Raises SystematicFailure, in all processes, if too many samples in a row got no score.

        A teacher that is gone for good would leave a run that goes on as if it had none.
        """
        if self._row.total() >= limits.in_a_row:
            raise failure_in_words(
                f"the teacher scored none of the last {self._row.total()} failed rollouts", self._row
            )

    async def __call__(self, samples: Sequence[TrainingSample]) -> tuple[list[TrainingSample], dict[str, float]]:
        """Gives failed samples the teacher's log-probs of their tokens, where it has any.

        Returns:
          (the samples in their order, counts of the step over all processes: `distilled` samples with a score, and
          `teacher_failures` and `teacher_mismatches` without one).
        """
        out = list(samples)
        counts, why = [0, 0, 0], ""
        if self._teacher is not None:
            failures = [number for number, sample in enumerate(out) if sample.failed]
            logps = await self._teacher.score([out[number] for number in failures])
            for number, logp in zip(failures, logps, strict=True):
                out[number] = replace(out[number], teacher_logp=logp)
            unscored = self._teacher.unscored
            why = unscored.why
            if why:
                _LOG.warning("%d of %d failed rollouts not scored: %s", sum(unscored[:2]), len(failures), why)
            counts = [sum(logp is not None for logp in logps), unscored.failures, unscored.mismatches]
        gathered = self._processes.gather([*counts, why])
        totals = np.sum([each[:3] for each in gathered], axis=0)
        if totals[0]:
            self._row.clear()
        else:
            for _, failed, wrong, reason in gathered:
                if reason:
                    self._row[reason] += failed + wrong
        names = ("distilled", "teacher_failures", "teacher_mismatches")
        return out, dict(zip(names, map(float, totals), strict=True))


class TeacherServer:
    """A `learner.teacher.Teacher` behind a server. Failures are retried, then counted; it never raises for them.

    Args:
      server: open.
      in_flight, deadline: as `score_conversations`.
    """

    def __init__(self, server: GenerationServer, in_flight: int, deadline: float):
        self.unscored = Unscored()
        self._server, self._in_flight, self._deadline = server, in_flight, deadline

    async def score(self, samples: Sequence[TrainingSample]) -> list[np.ndarray | None]:
        """Scores as `Teacher.score` says."""
        results = await score_conversations(
            self._server, [sample.chunks for sample in samples], in_flight=self._in_flight, deadline=self._deadline
        )
        errors = [each for each in results if isinstance(each, Exception)]
        mismatches = sum(isinstance(error, PromptMismatch) for error in errors)
        self.unscored = Unscored(len(errors) - mismatches, mismatches, str(errors[0]) if errors else "")
        return [None if isinstance(each, Exception) else each for each in results]


@contextlib.asynccontextmanager
async def open_distillation(
    teacher: TeacherSource | None,
    model: Qwen3VLConfig,
    rollouts: RolloutEngines,
    samples: int,
    processes: Processes,
) -> AsyncIterator[Distillation]:
    """The teacher of a run, ready to score.

    Args:
      teacher: what `choose_teacher` returned.
      model: the policy's.
      rollouts: how the policy renders messages and samples.
      samples: of a step, over all processes; about half of them fail and are scored.

    Raises UserError if a directory holds no model or one with another vocabulary than the policy's, or if a server does
    not score a first, made-up conversation. Later failures of a server only mask samples, up to `Distillation.check`.
    """
    if teacher is None:
        yield Distillation(None, processes)
    elif isinstance(teacher, OwnBase):
        yield Distillation(_scorer(model, None, rollouts.sizes, samples, processes), processes, shares_base=True)
    elif not isinstance(teacher, TeacherServerConfig):
        yield Distillation(_local(teacher, model, rollouts, samples, processes), processes)
    else:
        async with _client(teacher, model, rollouts.sizes) as server:
            scorer = TeacherServer(server, teacher.in_flight, teacher.deadline)
            # All processes end if one can't reach it: one that goes on would wait for the others for ever.
            problems = [problem for problem in processes.gather(await _problem(scorer, rollouts.chat)) if problem]
            if problems:
                raise UserError(f"the teacher at {teacher.url} ({teacher.kind}) does not score: {problems[0]}")
            yield Distillation(scorer, processes)


def _local(
    path: str | Path, policy: Qwen3VLConfig, rollouts: RolloutEngines, samples: int, processes: Processes
) -> Teacher:
    learn, sizes = rollouts.sizes.learner, rollouts.sizes
    model, params, chat = load_model(path, learn.compute_dtype, processes.mesh)
    if learn.opd == "reverse-kl" and not reads_alike(model, policy):
        raise UserError(
            f"{path} cuts images or embeds tokens in another way than the policy, so the two can't read one batch, as "
            "--sizes.learner.opd reverse-kl needs: leave it at advantage."
        )
    if chat.tokenizer.get_vocab() != rollouts.chat.tokenizer.get_vocab():
        raise UserError(
            f"{path} has another vocabulary than the policy, whose tokens it can't score. Choose another teacher."
        )
    return _scorer(model, params, sizes, samples, processes)


def _scorer(
    model: Qwen3VLConfig, params: Params | None, sizes: TrainingSizes, samples: int, processes: Processes
) -> LocalTeacher:
    learn = sizes.learner
    packing = sizes.pack(samples // processes.count // 2, processes.shards)
    return LocalTeacher(
        model,
        params,
        packing,
        learn.temperature,
        processes.mesh,
        partial(pack_for_all, processes),
        compute_dtype=learn.compute_dtype,
    )


def _client(config: TeacherServerConfig, model: Qwen3VLConfig, sizes: TrainingSizes) -> GenerationServer:
    kind = {"sglang": SGLangServer, "vllm": VLLMServer}[config.kind]
    server = kind(
        config.url,
        model,
        api_key=os.environ.get(config.key_env, ""),
        concurrency=config.in_flight,
        timeout=config.timeout,
        attempts=config.attempts,
        prompts=PromptLimits(min_pixels=sizes.min_pixels, max_pixels=sizes.max_pixels),
    )
    server.adapter = config.model or None
    return server


async def _problem(teacher: Teacher, chat: ChatFormat) -> str:
    """Why a prompt with an image and a reply of one token get no score; empty if they do."""
    from PIL import Image

    logp, version = np.zeros(1, np.float32), np.zeros(1, np.int32)
    reply = SampledChunk(np.array(chat.stop_ids[:1], np.int32), logp, logp, version)
    prompt = chat.prompt("", [Image.new("RGB", (64, 48)), "What is it?"])
    await teacher.score([TrainingSample((prompt, reply))])
    return teacher.unscored.why
