"""Our episodes as an environment of SkyRL. Needs `pip install skyrl-gym`.

A module that SkyRL can load is a few lines:

    from hypereyes_jax.env.adapters.skyrl import environment_class
    SearchEnv = environment_class(questions, backend, judge)

and is registered by its name, so that each worker makes its own:

    skyrl_gym.register(id="hypereyes", entry_point="that_module:SearchEnv")

`dataset_rows(questions)` are the rows of the data set that goes with it. Questions with images need SkyRL's
`SkyRLVLMGymGenerator`, which renders the messages anew at each turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypereyes_jax.env.adapters.reset_step import EpisodeReward, Message, SyncSearchEnvironment, accuracy
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.judging.judges import Judge
from hypereyes_jax.env.tools.types import Tool
from hypereyes_jax.env.types import Question, SearchBackend
from hypereyes_jax.env.web.loop_thread import LoopThread
from hypereyes_jax.errors import UserError


def environment_class(
    questions: Sequence[Question],
    backend: SearchBackend,
    judge: Judge,
    config: EpisodeConfig | None = None,
    *,
    tools: Sequence[Tool] = (),
    reward: EpisodeReward = accuracy,
) -> type:
    """A class `BaseTextEnv` over `questions`. SkyRL makes one for each rollout and steps it in any of its threads.

    A rollout's question is that of its row's `question_id`; the system prompt and the images are the episode's own,
    whatever the row's `prompt` says. `generator.max_turns` of SkyRL replaces `config.max_turns`.

    SkyRL can't leave a rollout out of its loss. Where the world or the judge failed, the reward is 0 and the metric
    `masked` is 1, which a generator finds in `TrajectoryOutput.env_metrics`.

    Args:
      tools: further tools that the model may call.
      reward: of an episode that was judged.

    Raises:
      UserError: skyrl-gym is not installed.
      ValueError: two questions have the same id.
    """
    try:
        from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput
    except ImportError as error:
        raise UserError("the SkyRL adapter needs: pip install skyrl-gym") from error

    by_id = {question.id: question for question in questions}
    if len(by_id) != len(questions):
        raise ValueError("the questions' ids must differ")
    rules, loop = config or EpisodeConfig(), LoopThread()

    class SearchEnv(BaseTextEnv):
        def __init__(self, env_config: Any = None, extras: dict[str, Any] | None = None):
            super().__init__()
            row = extras or {}
            self.question = _question(by_id, row)
            self.max_turns = int(row.get("max_turns", rules.max_turns))
            rounds = min(rules.max_rounds, self.max_turns - 1)  # a search of the last turn is not made
            episode = replace(rules, max_turns=self.max_turns, max_rounds=rounds)
            options: dict[str, Any] = {"tools": tools, "reward": reward, "image_urls": True}
            self._inner = SyncSearchEnvironment(backend, judge, episode, loop=loop, **options)
            self._metrics: dict[str, Any] = {}

        def init(self, prompt: Any) -> tuple[list[Message], dict[str, Any]]:
            messages, info = self._inner.reset(options={"question": self.question})
            return [_plain(message) for message in messages], info

        def step(self, action: str) -> Any:
            messages, value, terminated, truncated, info = self._inner.step(action)
            self.turns += 1
            self._metrics = _metrics(info)
            return BaseTextEnvStepOutput(
                observations=[_plain(message) for message in messages],
                reward=value,
                done=terminated or truncated,
                metadata=info,
            )

        def get_metrics(self) -> dict[str, Any]:
            return {**self._metrics, "turns": self.turns}

        def close(self) -> None:
            self._inner.close()

    return SearchEnv


def dataset_rows(questions: Sequence[Question], env_class: str = "hypereyes") -> list[dict[str, Any]]:
    """Rows of the data set that SkyRL reads (`data.train_data`, parquet or JSON).

    Args:
      env_class: the id that the environment is registered by.
    """
    return [
        {
            "prompt": [{"role": "user", "content": question.text}],
            "env_class": env_class,
            "question_id": question.id,
        }
        for question in questions
    ]


def _question(by_id: dict[str, Question], row: dict[str, Any]) -> Question:
    name = row.get("question_id")
    if name not in by_id:
        raise UserError(
            f"a row of SkyRL's data set has question_id {name!r}, which is none of the environment's "
            f"{len(by_id)} questions; make the data set of dataset_rows(questions)"
        )
    return by_id[name]


def _plain(message: Message) -> Message:
    """Text alone as a string: chat templates of models without images take no parts."""
    content = message["content"]
    if isinstance(content, str) or any(part["type"] != "text" for part in content):
        return message
    return {**message, "content": "".join(part["text"] for part in content)}


def _metrics(info: dict[str, Any]) -> dict[str, Any]:
    """The metrics of an episode that ended; empty before."""
    if not info:
        return {}
    verdict = {} if info["masked"] else {"accuracy": float(info["correct"])}
    return {**verdict, "rounds": info["rounds"], "invocations": info["invocations"], "masked": float(info["masked"])}
