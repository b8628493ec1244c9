"""What a run may ask of a search service, shared out to its processes."""

import asyncio
import contextlib
import time

import pytest

from hypereyes_jax.env import FatalSearchError
from hypereyes_jax.env.search.budget import OwnBudget, RunShare
from hypereyes_jax.env.search.config import CallPolicy, SearchConfig, SearchKeys
from hypereyes_jax.env.search.recorded import RecordedBackend, StoreMode
from hypereyes_jax.env.search.resilience import ResilientBackend
from hypereyes_jax.env.search.services import connected
from hypereyes_jax.errors import UserError


async def paid(budget, price, times):
    """How many of so many payments were allowed."""
    count = 0
    for _ in range(times):
        with contextlib.suppress(FatalSearchError):
            await budget.pay(price)
            count += 1
    return count


@pytest.mark.parametrize("count", [1, 3, 8, 64])
def test_the_requests_in_flight_of_all_processes_are_those_of_the_run(count):
    shares = [RunShare(index, count).policy(CallPolicy()).in_flight for index in range(count)]
    assert sum(shares) == 64
    assert max(shares) - min(shares) <= 1


def test_more_processes_than_requests_in_flight_are_refused():
    with pytest.raises(UserError, match="at least one for each"):
        RunShare(9, 10).policy(CallPolicy(in_flight=8))


async def test_a_cap_is_shared_out_and_what_is_left_of_it_anew():
    policy = CallPolicy(spending_cap=1.0)
    one, two = (OwnBudget(policy, RunShare(index, 2)) for index in range(2))
    assert await paid(one, 0.1, 9) == 5  # half of it
    assert await paid(two, 0.1, 1) == 1
    for budget in (one, two):
        budget.settle(0.6)  # 0.4 are left, 0.2 for each
    assert [await paid(budget, 0.1, 9) for budget in (one, two)] == [2, 2]
    one.settle(1.0)
    assert await paid(one, 0.1, 9) == 0


async def test_a_continued_run_has_only_what_is_left():
    budget = OwnBudget(CallPolicy(spending_cap=1.0))
    budget.settle(0.8)  # what the checkpoint tells of the earlier processes
    assert await paid(budget, 0.1, 9) == 2


async def test_what_failed_is_given_back():
    budget = OwnBudget(CallPolicy(spending_cap=0.3))
    payment = await budget.pay(0.3)
    await budget.refund(payment, 0.3)
    assert await paid(budget, 0.3, 2) == 1


async def test_the_rate_of_all_processes_is_that_of_the_run():
    policy = CallPolicy(rate=40.0, burst=0.02)
    budgets = [OwnBudget(policy, RunShare(index, 2)) for index in range(2)]
    began = time.monotonic()
    await asyncio.gather(*(budgets[n % 2].pay(0.0) for n in range(14)))
    assert time.monotonic() - began > 6 / 20 * 0.95  # each one at once, then one every 50 ms


async def test_a_settlement_reaches_the_budget_through_the_layers(library):
    service = ResilientBackend(library, CallPolicy(text_price=0.1, spending_cap=1.0))
    backend = RecordedBackend(service, None, StoreMode.LIVE)
    backend.settle(0.95)
    with pytest.raises(FatalSearchError, match="spending cap"):
        await backend.text_search("Chad", 1)
    RecordedBackend(library, None, StoreMode.LIVE).settle(1.0)  # a backend without a budget


async def test_images_of_several_processes_have_addresses_of_their_own():
    config = SearchConfig(service="serpapi", image_url="https://tunnel.example/", image_port=8100)
    with pytest.raises(UserError, match=r"\{process\}"):
        async with connected(config, SearchKeys(serpapi="k"), RunShare(0, 2)):
            pass
