"""Progressive rejection sampling: of all successful trajectories, the one found under the smallest turn budget.

A policy tries each question with a budget of 1 round, then 2, and so on; the first success is kept and ends the search,
failures are dropped. What is kept is therefore short by construction (arXiv 2605.07177, data curation).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from hypereyes_jax.data.demonstration import Demonstration
from hypereyes_jax.env.judging.judges import Judge
from hypereyes_jax.env.types import Question

Attempt = Callable[[Question, int, int], Awaitable[Demonstration]]  # (question, round budget, trial) -> episode


async def progressive_rejection_sampling(
    question: Question, attempt: Attempt, judge: Judge, budgets: Sequence[int] = range(1, 9), trials: int = 1
) -> Demonstration | None:
    """Returns the success with the smallest budget, or None if every budget failed.

    Args:
      attempt: runs one episode within a budget of tool rounds. The paper does not state its budgets or trials; here
        they ascend one by one with `trials` tries each.
    """
    for budget in budgets:
        for trial in range(trials):
            demonstration = await attempt(question, budget, trial)
            if demonstration.result.rounds > budget or demonstration.result.answer is None:
                continue
            if await judge.judge(question, demonstration.result.answer):
                return demonstration
    return None
