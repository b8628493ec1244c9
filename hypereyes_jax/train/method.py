"""The method of a run with a user's own parts in it: loaded, tried once, and noted with the run."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from hypereyes_jax.configs.objects import NamedObject, load_object, named_object
from hypereyes_jax.configs.reward import RewardConfig, check_resources
from hypereyes_jax.configs.training import LearnerConfig
from hypereyes_jax.data.sources import source_objects
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.judging.judges import Judge
from hypereyes_jax.env.judging.own import OwnJudge
from hypereyes_jax.env.own_prompt import PromptFunction, check_rules, prompt_object
from hypereyes_jax.env.search.backends.mapping import mapping_object
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.env.search.own_backend import check_backend
from hypereyes_jax.env.tools.named import tool_objects
from hypereyes_jax.env.tools.types import Tool
from hypereyes_jax.env.types import SearchBackend
from hypereyes_jax.errors import SettingError
from hypereyes_jax.eval.own_metrics import Metric, OwnMetrics, load_metrics
from hypereyes_jax.learner.advantage import Advantage, chosen_advantage, load_advantage
from hypereyes_jax.learner.optax_pieces import own_pieces
from hypereyes_jax.learner.reward import GroupReward, WeightedRewards, load_rewards
from hypereyes_jax.learner.token_loss import OwnLoss, TokenLoss, chosen_loss, load_loss

_SEARCHES = ("image_search", "text_search")


@dataclass(frozen=True)
class OwnObjects:
    """A user's own parts of a training as Python objects. Settings name the same things by `module:object`."""

    rewards: Sequence[GroupReward] = ()  # summed with those that `RewardConfig.functions` names
    advantage: Advantage | None = None  # in place of `RewardConfig.advantage`
    loss: OwnLoss | None = None  # in place of `LearnerConfig.loss`
    metrics: Sequence[Metric] = ()  # beside those that `RlSettings.metrics` names
    tools: Sequence[Tool] = ()  # beside those that `EpisodeConfig.tools` names
    prompt: PromptFunction | None = None  # in place of `EpisodeConfig.system`
    search: SearchBackend | None = None  # in place of the service that the settings name
    judge: Judge | OwnJudge | None = None  # in place of the judge that the settings name

    def __post_init__(self) -> None:
        for name in ("rewards", "metrics", "tools"):
            if not isinstance(getattr(self, name), list | tuple):
                raise SettingError(
                    f"OwnObjects.{name} must be a list, also of a single one: [{name.removesuffix('s')}]"
                )
        for thing in (*self.tools, self.search):
            if inspect.isclass(thing):
                raise SettingError(
                    f"OwnObjects holds the class {thing.__name__}: give an object of it, {thing.__name__}()"
                )

    def named(self) -> list[tuple[str, NamedObject]]:
        """(what it is for, the object and where it came from) of each."""
        several: list[tuple[str, Sequence[Any]]] = [
            ("reward", self.rewards), ("metric", self.metrics), ("tool", self.tools)
        ]  # fmt: skip
        pairs = [(role, named_object(each, role)) for role, objects in several for each in objects]
        single: dict[str, Any] = {
            "advantage": self.advantage,
            "loss": self.loss,
            "prompt": self.prompt,
            "search backend": self.search,
            "judge": self.judge,
        }
        return [*pairs, *((role, named_object(each, role)) for role, each in single.items() if each is not None)]


@dataclass(frozen=True)
class RlMethod:
    """What of the method a run may choose."""

    reward: RewardConfig = RewardConfig()  # ranks the rollouts of a question
    tighten: Literal["epoch", "step", "never"] = "epoch"  # when better references come in force: `ReferenceStore`
    own: OwnObjects = field(default_factory=OwnObjects)


class LoadedMethod(NamedTuple):
    """The method as the loop calls it. A user's own parts were called once on made-up rollouts."""

    rewards: WeightedRewards | None
    advantage: Advantage
    loss: TokenLoss
    metrics: OwnMetrics


def load_method(
    method: RlMethod, learn: LearnerConfig, episode: EpisodeConfig, metrics: Sequence[str] = ()
) -> LoadedMethod:
    """The method that settings and objects make.

    Args:
      episode: the rules; its tools and prompt are tried, too, and prices must be of what the tools can spend.
      metrics: those that the settings name.

    Raises:
      UserError: an object can't be loaded, or is not what it is needed for.
    """
    own = method.own
    advantage = load_advantage(own.advantage)[0] if own.advantage else chosen_advantage(method.reward.advantage)
    loss = load_loss(own.loss, learn)[0] if own.loss else chosen_loss(learn)
    tools = check_rules(episode, own.tools, own.prompt)
    if own.search is not None:
        check_backend(own.search, f"the {type(own.search).__name__}")
    names = (*_SEARCHES, *(tool.name for tool in tools))
    check_resources(method.reward.price_list(), names, "price")
    check_resources(method.reward.budget.target(), names, "target")
    rewards = load_rewards((*method.reward.functions, *own.rewards))
    return LoadedMethod(rewards, advantage, loss, load_metrics((*metrics, *own.metrics)))


def own_records(
    method: RlMethod,
    learn: LearnerConfig,
    episode: EpisodeConfig,
    search: SearchConfig,
    judge: JudgeConfig,
    metrics: Sequence[str] = (),
    sources: Sequence[str] = (),
    benchmarks: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """What a run's record says of each part that is a user's own: what it is for, its name, file and hash, and of a
    reward its weight. Parts that the settings name by what is shipped are left out.

    Args:
      sources: of the questions.
    """
    rewards = load_rewards(method.reward.functions)
    records = [] if rewards is None else [{"role": "reward", **each} for each in rewards.record()]
    by_name = [("advantage", method.reward.advantage), ("loss", learn.loss), ("judge", judge.object)]
    by_name += [("search backend", search.backend), *(("metric", each) for each in metrics)]
    by_name += [("benchmark", each) for each in benchmarks]
    pairs = [(role, load_object(name, role)) for role, name in by_name if ":" in name]
    pairs += [("tool", each) for each in tool_objects(episode.tools)]
    pairs += own_pieces(learn.optimizer)
    pairs += [pair for source in sources for pair in source_objects(source)]
    if search.mapping and (mapping := mapping_object(search.mapping)) is not None:
        pairs.append(("search mapping", mapping))
    if (prompt := prompt_object(episode.system)) is not None:
        pairs.append(("prompt", prompt))
    pairs += method.own.named()
    return records + [{"role": role, **each.record()} for role, each in pairs]
