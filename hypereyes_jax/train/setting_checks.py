"""Settings of a training that can't be meant or would be ignored. They are told at once: nothing here imports jax."""

from __future__ import annotations

from hypereyes_jax.configs.reward import RewardConfig
from hypereyes_jax.configs.trace import NO_ANSWER
from hypereyes_jax.configs.training import LearnerConfig
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.train.settings import RlSettings, SftSettings
from hypereyes_jax.train.sizes import TrainingSizes, known_recipe

EXACT = "none"  # as a judge's URL: answers are compared exactly


def refuse_adapter_settings(
    sizes: TrainingSizes, settings: SftSettings | RlSettings, default: SftSettings | RlSettings
) -> None:
    """Raises UserError for settings of adapters where none train."""
    if sizes.learner.train == "lora":
        return
    for name in ("lora_rank", "lora_alpha", "dropout"):
        if getattr(settings, name, None) != getattr(default, name, None):
            raise UserError(
                f"--settings.{name.replace('_', '-')} applies to adapters, but this run trains the weights themselves: "
                "add --sizes.learner.train lora"
            )


def refuse_settings(sizes: TrainingSizes, default: TrainingSizes) -> None:
    """Raises UserError if the sizes were given what belongs to the settings, which would be ignored."""
    for name in ("learning_rate", "final_learning_rate", "warmup_steps", "total_steps"):
        if getattr(sizes.learner.optimizer, name) != getattr(default.learner.optimizer, name):
            option = f"--sizes.learner.optimizer.{name.replace('_', '-')}"
            raise UserError(f"{option} is computed: give --settings.learning-rate, or the number of steps there")
    if sizes.learner.opd_coef != default.learner.opd_coef:
        raise UserError("give the weight of distillation as --settings.opd-coef, not --sizes.learner.opd-coef")
    if sizes.learner.routing_replay != default.learner.routing_replay:
        raise UserError("give --settings.routing-replay, not --sizes.learner.routing-replay")


def refuse_miniature_services(recipe: str, search: SearchConfig, judge: JudgeConfig, needs_teacher: bool) -> None:
    """Raises UserError for a recipe of the paper that would be trained with what the miniature has for services.

    Args:
      needs_teacher: the settings distil, and name no teacher.
    """
    if recipe == "miniature":
        return
    missing = []
    if search.service == "world":
        missing.append("a search service (--search.service serpapi, retriever or serve-world)")
    if not judge.url and not judge.object:
        missing.append(f"a judge (--judge.url and --judge.model; --judge.url {EXACT} compares answers exactly)")
    if needs_teacher and known_recipe(recipe, "rl").distill:
        missing.append("a teacher (--teacher or --teacher-server.url; --settings.opd-coef 0 trains without one)")
    if missing:
        raise UserError(
            f"{recipe} needs {', '.join(missing)}. --accept-miniature trains it with what the miniature has: "
            "its world's searches, exact comparison, no distillation."
        )


def refuse_reward(reward: RewardConfig) -> None:
    """Raises UserError for constants that no reward can have, and for those of a reward that was not chosen."""
    default, trace = RewardConfig(), reward.trace
    weighted = reward.kind == "cost-weighted"
    replaced = (trace, reward.malformed_call, reward.format_floor)
    if reward.functions and replaced != (default.trace, default.malformed_call, default.format_floor):
        raise UserError("--reward.functions replace TRACE and R_fmt: leave out the settings of those")
    if not weighted and (reward.alpha, reward.beta, reward.prices) != (default.alpha, default.beta, default.prices):
        raise UserError(
            "--reward.alpha, --reward.beta and --reward.prices belong to another reward: add --reward.kind "
            "cost-weighted"
        )
    if weighted and trace != default.trace:
        raise UserError("--reward.trace.* belong to another reward: leave out --reward.kind cost-weighted")
    if reward.alpha <= 0 or reward.beta < 0:
        raise UserError(
            "--reward.alpha must be positive and --reward.beta at least 0: accuracy raises the reward, cost lowers it"
        )
    if trace.band < 1:
        raise UserError("--reward.trace.band must be at least 1 (of the reference)")
    if trace.efficient_high < trace.efficient_low or trace.redundant_high < trace.redundant_low:
        raise UserError("--reward.trace.*: each high must be at least its low, so that fewer searches never earn less")
    if not NO_ANSWER <= trace.format_failure < 0:
        raise UserError(
            f"--reward.trace.format-failure must lie in [{NO_ANSWER}, 0): a rollout without an answer gets {NO_ANSWER}"
        )


def refuse_unused_losses(learn: LearnerConfig) -> None:
    """Raises UserError for bounds of a loss that was not chosen, which would be ignored."""
    default = LearnerConfig()
    bounds = {"clipped": ("clip_low", "clip_high", "dual_clip"), "gspo": ("gspo_clip",), "cispo": ("cispo_clip",)}
    for loss, names in bounds.items():
        for name in names:
            if loss != learn.loss and getattr(learn, name) != getattr(default, name):
                option = f"--sizes.learner.{name}".replace("_", "-")
                raise UserError(f"{option} belongs to the loss {loss}, but --sizes.learner.loss is {learn.loss}")
    if learn.kl == "none" and learn.kl_coef != default.kl_coef:
        raise UserError("--sizes.learner.kl-coef needs a penalty: choose one with --sizes.learner.kl k1, k2 or k3")
