"""Our episodes as a verifiers (v1) environment: the engine plays the user, turn by turn. Needs `pip install verifiers`.

A module that verifiers can load is then a few lines:

    from hypereyes_jax.env.adapters.verifiers import environment
    SearchTaskset, SearchEnv = environment(questions, backend, judge)
    __all__ = ["SearchEnv", "SearchTaskset"]

and `vf-eval that_module --env.player.harness.id null ...` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.judging.judges import Judge
from hypereyes_jax.env.media.images import data_uri
from hypereyes_jax.env.types import EpisodeResult, Part, Question, SearchBackend, StopReason
from hypereyes_jax.errors import UserError


def environment(
    questions: Sequence[Question], backend: SearchBackend, judge: Judge, config: EpisodeConfig | None = None
) -> tuple[type, type]:
    """The classes (Taskset, Env) of a verifiers environment over `questions`.

    Each trace gets the reward `accuracy` and the metrics `rounds` (t_c) and `invocations` (t_s). An outage of the
    search or the judge raises, so that verifiers counts the rollout as failed and not as wrong.
    """
    try:
        import verifiers.v1 as vf
    except ImportError as error:
        raise UserError("the verifiers adapter needs: pip install verifiers") from error

    by_id = {question.id: question for question in questions}
    if len(by_id) != len(questions):
        raise ValueError("the questions' ids must differ")

    class SearchData(vf.TaskData):
        question_id: str

    class SearchTask(vf.Task[SearchData]):
        pass

    class SearchTaskset(vf.Taskset[SearchTask, vf.TasksetConfig]):
        def load(self) -> Iterator[Any]:
            for question in questions:
                system = Episode(question, backend, config).system
                data = SearchData(id=question.id, question_id=question.id, system_prompt=system, prompt=None)
                yield SearchTask(data, self.config.task)

    class SearchEnvConfig(vf.EnvConfig):
        player: vf.AgentConfig = vf.AgentConfig()

    class SearchEnv(vf.Env[SearchEnvConfig]):
        async def run(self, task: Any, agents: Any) -> None:
            question = by_id[task.data.question_id]
            async with agents.player.interaction(task) as interaction:
                result = await converse(interaction, Episode(question, backend, config))
            if result.stop is StopReason.INFRASTRUCTURE:
                raise RuntimeError(f"the search failed: {result.why}")
            verdict = await judge.judge(question, result.answer)
            if verdict is None:
                raise RuntimeError(f"the judge {judge.name} gave no verdict")
            interaction.trace.record_reward("accuracy", float(verdict))
            interaction.trace.record_metrics({"rounds": result.rounds, "invocations": result.invocations})

    return SearchTaskset, SearchEnv


async def converse(interaction: Any, episode: Episode) -> EpisodeResult:
    """Plays `episode` over a verifiers `Interaction`; an interaction that ends early truncates the episode."""
    parts: tuple[Part, ...] | None = episode.prompt()
    while parts is not None:
        segment = await interaction.turn([{"role": "user", "content": _content(parts)}])
        if segment.terminated:
            episode.end(StopReason.TRUNCATED, "the conversation was ended from outside")
            break
        parts = await episode.step(segment.last_reply)
    return episode.result()


def _content(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [
        {"type": "image_url", "image_url": {"url": data_uri(part, max_side=2048)}}
        if isinstance(part, Image.Image)
        else {"type": "text", "text": part}
        for part in parts
    ]
