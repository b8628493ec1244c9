"""Half the image searches: a learnt budget against a hard cap, on the miniature.

    python benchmarks/budget.py --checkpoint runs/quickstart/sft-model --out runs/budget           # hours
    python benchmarks/budget.py --checkpoint runs/quickstart/sft-model --out runs/b --seeds 0 --steps 4 --questions 16

The policy's mean number of image searches is measured on seen questions, and half of it is the target. In one arm RL
trains with a price on image searches that the budget controller sets (`--reward.budget.targets image_search=TARGET`);
in the other with TRACE alone, under a hard cap on the image searches of an episode (`--episode.image-searches`), once
for each of the two caps that the target lies between. All arms train for as many steps on the same seen questions and
are then asked the same held-out ones, which nothing was chosen on. The cap's accuracy at the spending of the budget's
arm is read off between the two caps' points.

All sample from the whole distribution at temperature 1: at the miniature's 0.8 and top-p 0.95 a group's rollouts hardly
ever leave a flag out, so that no price can teach them to. And all take group-centred advantages: divided by a group's
spread, as GRPO's are, any price outweighs accuracy in groups that are all right or all wrong, and the policy ends at
one search for each picture, from where it does not come back. Both were seen on seen questions (seed 0). A KL penalty
to the SFT model keeps some rollouts searching (docs/guides/your_reward.md has the figures with and without it).

The last line is JSON: for each seed what was spent before, the target, the first step whose epoch (the last steps in
which each seen question came once) spends within a tenth of it, what the seen questions cost at the end, and accuracy
and spending of each arm on held-out ones; and the means over seeds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypereyes_jax import miniature
from hypereyes_jax.configs.reward import BudgetConfig, RewardConfig
from hypereyes_jax.env.judging.judges import ExactJudge
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.env.types import Question
from hypereyes_jax.env.world import World, WorldBackend
from hypereyes_jax.eval.policy import load_policy, runner
from hypereyes_jax.eval.split import world_questions
from hypereyes_jax.rollout import Trajectory
from hypereyes_jax.train.rl_call import rl
from hypereyes_jax.train.settings import RlSettings, SelectionRule
from hypereyes_jax.train.sizes import MINIATURE_RL
from hypereyes_jax.train.types import RlServices

WITHIN = 0.1  # of the target
ADVANTAGE = "group-centred"
SIZES = replace(MINIATURE_RL, top_p=1.0, learner=replace(MINIATURE_RL.learner, temperature=1.0, kl="k3"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--questions", type=int, default=200, help="held-out ones that are asked at the end")
    parser.add_argument("--seen", type=int, default=80, help="seen ones to train on: a whole number of steps")
    parser.add_argument("--rate", type=float, default=0.02, help="of the controller, see BudgetConfig")
    parser.add_argument("--gain", type=float, default=0.2)
    parser.add_argument("--kl-coef", type=float, default=0.05, help="of the penalty to the SFT model, in all arms")
    return parser.parse_args()


def asked(
    checkpoint: str, questions: list[Question], cap: int | None, seed: int, held_out: bool
) -> tuple[float, float]:
    """(share right, mean image searches) of one rollout a question, sampled as in training."""
    policy = load_policy(checkpoint, SIZES.engine())
    world = World.load()
    backend = WorldBackend(world if held_out else world.training_world)
    rules = replace(miniature.EPISODE, image_searches=cap)

    async def play() -> Sequence[Trajectory]:
        return await runner(policy, backend, rules, SIZES.sampling(), seed=seed)(questions)

    played = asyncio.run(play())
    judge = ExactJudge()
    right = [any(judge.matches(t.result.answer or "", answer) for answer in t.result.question.answers) for t in played]
    images = [
        sum(call.sent and call.tool == "image_search" for turn in t.result.turns for call in turn.invocations)
        for t in played
    ]
    return statistics.fmean(right), statistics.fmean(images)


def steps_to_target(spent: list[float], target: float, epoch: int) -> int | None:
    """After how many steps the mean of the last epoch is first within a tenth of the target; None if it never is."""
    means = [statistics.fmean(spent[end - epoch : end]) for end in range(epoch, len(spent) + 1)]
    return next((epoch + n for n, mean in enumerate(means) if abs(mean - target) <= WITHIN * target), None)


def at_spending(points: list[tuple[float, float]], spending: float) -> float:
    """Accuracy at a spending, on the line through two (accuracy, spending) points; the nearer one's beyond its end."""
    (first, low), (second, high) = sorted(points, key=lambda point: point[1])
    share = 0.0 if high == low else min(1.0, max(0.0, (spending - low) / (high - low)))
    return first + share * (second - first)


def one_seed(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    world = World.load()
    seen = world_questions(world, "seen", options.seen, 100 + seed)
    held_out = world_questions(world, "heldout", options.questions, 900 + seed)
    before = asked(options.checkpoint, seen, None, seed, held_out=False)
    target = before[1] / 2
    settings = RlSettings(
        steps=options.steps, prompts=options.prompts, seed=seed,
        checkpoint_every=options.steps, opd_coef=0.0, keep_groups=0,
    )  # fmt: skip

    def trained(name: str, reward: RewardConfig, cap: int | None) -> dict[str, Any]:
        learner = replace(SIZES.learner, kl_coef=options.kl_coef)
        sizes = replace(SIZES, learner=learner, episode=replace(miniature.EPISODE, image_searches=cap))
        out = options.out / f"seed{seed}-{name}"
        run = rl(
            options.checkpoint,
            seen,
            out,
            settings=settings,
            services=RlServices(SearchConfig()),
            reward=reward,
            sizes=sizes,
            rule=SelectionRule(select=False),
        )
        accuracy, spending = asked(str(run.model), held_out, cap, seed, held_out=True)
        _, on_seen = asked(str(run.model), seen, cap, seed, held_out=False)
        return {"accuracy": accuracy, "image_searches": spending, "seen_image_searches": on_seen, "steps": run.steps}

    budget = BudgetConfig(targets=(f"image_search={target}",), rate=options.rate, gain=options.gain)
    learnt = trained("budget", RewardConfig(advantage=ADVANTAGE, budget=budget), None)
    steps = learnt.pop("steps")
    spent = [row["rl/spent_image_search"] for row in steps]
    caps = {cap: trained(f"cap{cap}", RewardConfig(advantage=ADVANTAGE), cap) for cap in (int(target), int(target) + 1)}
    for each in caps.values():
        del each["steps"]
    capped = at_spending(
        [(each["accuracy"], each["image_searches"]) for each in caps.values()], learnt["image_searches"]
    )
    held_before = asked(options.checkpoint, held_out, None, seed, held_out=True)
    return {
        "seed": seed,
        "before": {"accuracy": held_before[0], "image_searches": held_before[1], "seen_image_searches": before[1]},
        "target": target,
        "steps_to_target": steps_to_target(spent, target, options.seen // options.prompts),
        "spent": spent,
        "prices": [row["rl/price_image_search"] for row in steps],
        "budget": learnt,
        "caps": caps,
        "cap_at_budget_spending": capped,
        "advantage": learnt["accuracy"] - capped,
    }


def main() -> None:
    options = arguments()
    seeds = [one_seed(options, seed) for seed in options.seeds]
    means = {
        "budget_accuracy": statistics.fmean(each["budget"]["accuracy"] for each in seeds),
        "cap_accuracy_at_that_spending": statistics.fmean(each["cap_at_budget_spending"] for each in seeds),
        "advantage": statistics.fmean(each["advantage"] for each in seeds),
    }
    print(json.dumps({"steps": options.steps, "seeds": seeds, "means": means}))


if __name__ == "__main__":
    main()
