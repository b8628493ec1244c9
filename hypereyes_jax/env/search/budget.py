"""What a run may ask of a search service: requests a second and dollars, over all its processes."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from aiolimiter import AsyncLimiter

from hypereyes_jax.env.search.config import CallPolicy
from hypereyes_jax.env.search.postgres import PostgresStore
from hypereyes_jax.env.types import FatalSearchError
from hypereyes_jax.env.web.per_loop import PerLoop
from hypereyes_jax.errors import UserError


@dataclass(frozen=True)
class RunShare:
    """This process's place among those of a run that search."""

    index: int = 0
    count: int = 1
    run: str = ""  # the same in all of them, and when the run is continued; "" = nobody else's

    def policy(self, policy: CallPolicy) -> CallPolicy:
        """The policy with this process's share of the requests in flight; shares add up to the whole.

        Raises:
          UserError: there are fewer requests in flight than processes.
        """
        each, over = divmod(policy.in_flight, self.count)
        own = each + (self.index < over)
        if own < 1:
            raise UserError(
                f"--search.policy.in-flight {policy.in_flight} holds for the whole run, and {self.count} of its "
                "processes search: allow at least one for each."
            )
        return replace(policy, in_flight=own)


class Budget(Protocol):
    """A run's rate and spending, which every request draws on."""

    async def pay(self, price: float) -> str:
        """Waits until the rate allows a request, and pays for it. Returns the payment's name, for `refund`.

        Raises:
          FatalSearchError: it would exceed the spending cap (kind "spending_cap"). Nothing is paid.
        """
        ...

    async def refund(self, payment: str, price: float) -> None:
        """Takes back what was paid for a request that was not charged."""
        ...

    def settle(self, spent: float) -> None:
        """Hears what all processes of the run have spent until now, in dollars."""
        ...


class OwnBudget:
    """One process's share of a run's rate and spending, counted in the process.

    The shares of the rate add up to the whole. What is left to spend is shared out anew whenever the processes tell
    each other what they spent (`settle`), so that together they never exceed the cap.
    """

    def __init__(self, policy: CallPolicy, share: RunShare = RunShare()):
        self._policy, self._count = policy, share.count
        self._spent = 0.0
        self._allowed = None if policy.spending_cap is None else policy.spending_cap / share.count
        self._limiters = PerLoop(self._limiter)

    def _limiter(self) -> AsyncLimiter | None:
        if self._policy.rate is None:
            return None
        rate = self._policy.rate / self._count
        bucket = max(1.0, rate * self._policy.burst)  # requests
        return AsyncLimiter(bucket, bucket / rate)

    async def pay(self, price: float) -> str:
        limiter = self._limiters.get()
        if limiter is not None:
            await limiter.acquire()
        if self._allowed is not None and self._spent + price > self._allowed + 1e-9:
            part = f" (this process's part of it is ${self._allowed:.2f})" if self._count > 1 else ""
            raise _cap_reached(self._policy, part)
        self._spent += price
        return ""

    async def refund(self, payment: str, price: float) -> None:
        self._spent -= price

    def settle(self, spent: float) -> None:
        if self._policy.spending_cap is not None:
            self._allowed = self._spent + max(0.0, self._policy.spending_cap - spent) / self._count


class StoreBudget:
    """A run's rate and spending, counted exactly in the store that all its processes share."""

    def __init__(self, store: PostgresStore, name: str, policy: CallPolicy):
        self._store, self._name, self._policy = store, name, policy
        self._counts = bool(policy.rate or policy.text_price or policy.image_price)
        self._threads = ThreadPoolExecutor(store.connections, thread_name_prefix="search-budget")
        if self._counts:
            store.open_budget(name)

    async def pay(self, price: float) -> str:
        if not self._counts:
            return ""
        policy, payment = self._policy, uuid.uuid4().hex
        paying = asyncio.get_running_loop().run_in_executor(
            self._threads,
            lambda: self._store.pay(
                self._name, payment, price, cap=policy.spending_cap, rate=policy.rate, burst=policy.burst
            ),
        )
        try:
            wait = await asyncio.shield(paying)
            if wait is not None:
                await asyncio.sleep(wait)
        except asyncio.CancelledError:  # nothing was sent
            paying.add_done_callback(lambda _: self._refund_later(payment))
            raise
        if wait is None:
            raise _cap_reached(policy, "")
        return payment

    def _refund_later(self, payment: str) -> None:
        with contextlib.suppress(RuntimeError):  # the budget is closed: what was paid stays paid
            self._threads.submit(self._store.refund, payment)

    async def refund(self, payment: str, price: float) -> None:
        if payment:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._store.refund, payment)

    def settle(self, spent: float) -> None:
        """Nothing to hear: the store knows."""

    def close(self) -> None:
        """Waits for the payments under way."""
        self._threads.shutdown()


def _cap_reached(policy: CallPolicy, part: str) -> FatalSearchError:
    return FatalSearchError(f"the spending cap of ${policy.spending_cap:.2f} is reached{part}", kind="spending_cap")
