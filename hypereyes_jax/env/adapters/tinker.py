"""Our episodes as environments of tinker-cookbook's RL, token in, token out. Needs `pip install tinker-cookbook`.

    from hypereyes_jax.env.adapters.tinker import environment
    SearchEnv, SearchGroup = environment(backend, judge, renderer)

    class Questions(RLDataset):  # what tinker_cookbook.rl.train takes
        def __len__(self):
            return len(questions) // 8

        def get_batch(self, index):
            return [SearchGroup(question, 16) for question in questions[8 * index : 8 * index + 8]]

Each observation is the one before it, the tokens that were sampled, and what the turn found: nothing is rendered anew,
so an episode is one `Datum` whose mask is 1 on the sampled tokens only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hypereyes_jax.env.adapters.reset_step import EnvironmentStep, EpisodeReward, Message, SearchEnvironment, accuracy
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.judging.judges import Judge
from hypereyes_jax.env.tools.types import Tool
from hypereyes_jax.env.types import Question, SearchBackend, StopReason
from hypereyes_jax.errors import UserError

# tinker-cookbook's own words for why an episode ended, for the metric "stop/...".
_STOPS = {
    StopReason.ANSWERED.value: "completed",
    StopReason.TURN_LIMIT.value: "max_turns",
    StopReason.TRUNCATED.value: "max_tokens",
    StopReason.NO_ACTION.value: "parse_error",
}


def environment(
    backend: SearchBackend,
    judge: Judge,
    renderer: Any,
    config: EpisodeConfig | None = None,
    *,
    tools: Sequence[Tool] = (),
    reward: EpisodeReward = accuracy,
    limits: Any = None,
) -> tuple[type, type]:
    """The classes (Env, EnvGroupBuilder): `SearchEnv(question)` and `SearchGroup(question, size)`.

    An outage of the search or the judge raises, so that `RetryOnFailure` or `MinViableGroup` play the rollout again or
    leave it out, and it is not counted as wrong.

    Args:
      renderer: tinker-cookbook's renderer of the model, such as `Qwen3VLInstructRenderer(tokenizer, image_processor)`.
      tools: further tools that the model may call.
      reward: of an episode that was judged.
      limits: `RolloutLimits` that the rollout loop keeps to, such as the length of the context.

    Raises:
      UserError: tinker-cookbook is not installed, or the renderer ends a turn with text and not with a token.
    """
    try:
        import tinker
        from tinker_cookbook.rl.types import Env, EnvGroupBuilder, StepResult
    except ImportError as error:
        raise UserError("the tinker-cookbook adapter needs: pip install tinker-cookbook") from error

    stops = renderer.get_stop_sequences()
    if not stops or not all(isinstance(stop, int) for stop in stops):
        raise UserError(
            f"{type(renderer).__name__} ends a turn with {stops!r}; give a renderer that ends it with a token, "
            "as those of Qwen do"
        )

    def after_turn(messages: list[Message]) -> list[Any]:
        """What stands between the end of one turn and the beginning of the next."""
        empty_turn: Message = {"role": "user", "content": ""}
        chunks = renderer.build_generation_prompt([empty_turn, *messages]).chunks
        at = next(i for i, chunk in enumerate(chunks) if set(stops) & set(getattr(chunk, "tokens", ())))
        tokens = list(chunks[at].tokens)
        end = next(i for i, token in enumerate(tokens) if token in stops)
        rest = tokens[end + 1 :]
        return [*([tinker.EncodedTextChunk(tokens=rest)] if rest else []), *chunks[at + 1 :]]

    class SearchEnv(Env):
        def __init__(self, question: Question):
            self.question, self.rollout_limits = question, limits
            self.episode = SearchEnvironment(backend, judge, config, tools=tools, reward=reward)
            self._chunks: list[Any] = []

        async def initial_observation(self) -> Any:
            messages = await self.episode.reset(self.question)
            prompt = await asyncio.to_thread(renderer.build_generation_prompt, messages)
            self._chunks = list(prompt.chunks)
            return prompt, stops

        async def step(self, action: list[int], *, extra: Any = None) -> Any:
            closed = bool(action) and action[-1] in stops
            text = renderer.tokenizer.decode(action[:-1] if closed else action)
            observation = await self.episode.step(text, truncated=(extra or {}).get("stop_reason") == "length")
            if observation.done:
                refuse_outage(self.episode, observation)
                return StepResult(
                    reward=observation.reward,
                    episode_done=True,
                    next_observation=tinker.ModelInput.empty(),
                    next_stop_condition=stops,
                    metrics=_metrics(observation),
                )
            sampled = tinker.EncodedTextChunk(tokens=[*action, *([] if closed else stops[:1])])
            self._chunks += [sampled, *await asyncio.to_thread(after_turn, observation.messages)]
            return StepResult(
                reward=observation.reward,
                episode_done=False,
                next_observation=tinker.ModelInput(chunks=list(self._chunks)),
                next_stop_condition=stops,
            )

    class SearchGroup(EnvGroupBuilder):
        def __init__(self, question: Question, size: int):
            self.question, self.size = question, size

        async def make_envs(self) -> Sequence[Any]:
            return [SearchEnv(self.question) for _ in range(self.size)]

        def logging_tags(self) -> list[str]:
            return ["hypereyes"]

    return SearchEnv, SearchGroup


def refuse_outage(episode: SearchEnvironment, played: EnvironmentStep) -> None:
    """Raises RuntimeError where an episode that ended says nothing about the policy."""
    if played.info["stop"] == StopReason.INFRASTRUCTURE.value:
        raise RuntimeError(f"the search failed: {episode.result().why}")
    if played.info["masked"]:
        raise RuntimeError("the judge gave no verdict")


def _metrics(played: EnvironmentStep) -> dict[str, float]:
    stop = _STOPS.get(played.info["stop"], played.info["stop"])
    counts = {name: float(played.info[name]) for name in ("rounds", "invocations")}
    return {"accuracy": float(played.info["correct"]), **counts, f"stop/{stop}": 1.0}
