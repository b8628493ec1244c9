import asyncio
import json
import math
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from hypereyes_jax.env import FatalSearchError, SearchError, SearchHit
from hypereyes_jax.env.search.backends import HttpWorldBackend
from hypereyes_jax.env.search.config import CallPolicy
from hypereyes_jax.env.search.faults import FaultPlan
from hypereyes_jax.env.search.metrics import LatencyHistogram, SearchMetrics
from hypereyes_jax.env.search.resilience import ResilientBackend
from hypereyes_jax.env.search.serve import SearchServerConfig, serving

QUICK = {"backoff": (0.0, 0.001)}


class Scripted:
    """Fails as told, in order, then answers."""

    def __init__(self, *failures, seconds=0.0):
        self.failures, self.seconds, self.calls, self.times = list(failures), seconds, 0, []

    async def text_search(self, query, k):
        self.calls += 1
        self.times.append(time.perf_counter())
        await asyncio.sleep(self.seconds)
        if self.failures:
            raise self.failures.pop(0)
        return [SearchHit("t", "c", 1.0)]

    async def image_search(self, image, k):
        return await self.text_search("", k)


def transient(kind="http_503", **more):
    return SearchError("down", transient=True, kind=kind, **more)


async def test_transient_failures_are_tried_again():
    inner = Scripted(transient(), transient())
    backend = ResilientBackend(inner, CallPolicy(**QUICK))
    assert len(await backend.text_search("q", 1)) == 1
    assert inner.calls == 3
    assert backend.metrics.summary()["attempts"] == 3
    assert backend.metrics.summary()["success_rate"] == 1.0


@pytest.mark.parametrize(
    "failure",
    [
        SearchError("no", transient=False, refused=True, kind="http_400"),
        FatalSearchError("no credit", kind="no_credit"),
    ],
)
async def test_failures_that_will_not_pass_are_not_tried_again(failure):
    inner = Scripted(failure)
    backend = ResilientBackend(inner, CallPolicy(**QUICK))
    with pytest.raises(SearchError) as error:
        await backend.text_search("q", 1)
    assert error.value is failure
    assert inner.calls == 1
    assert backend.metrics.summary()["failures"] == {failure.kind: 1}


async def test_the_last_failure_is_raised_after_three_attempts():
    inner = Scripted(*[transient()] * 9)
    with pytest.raises(SearchError, match="down"):
        await ResilientBackend(inner, CallPolicy(**QUICK)).text_search("q", 1)
    assert inner.calls == 3


async def test_retry_after_is_obeyed_up_to_its_cap():
    for asked, cap, least in ((0.15, 60.0, 0.15), (60.0, 0.1, 0.1)):
        inner = Scripted(transient("throttled", retry_after=asked))
        await ResilientBackend(inner, CallPolicy(**QUICK, retry_after_cap=cap)).text_search("q", 1)
        assert least <= inner.times[1] - inner.times[0] < least + 0.5


async def test_each_attempt_has_its_timeout():
    inner = Scripted(seconds=60)
    started = time.perf_counter()
    with pytest.raises(SearchError) as error:
        await ResilientBackend(inner, CallPolicy(timeout=0.02, attempts=2, **QUICK)).text_search("q", 1)
    assert error.value.kind == "timeout"
    assert inner.calls == 2
    assert time.perf_counter() - started < 2


async def test_no_more_than_the_allowed_number_is_in_flight(slow_library):
    backend = ResilientBackend(slow_library, CallPolicy(in_flight=8))
    await asyncio.gather(*(backend.text_search("chad", 1) for _ in range(40)))
    assert slow_library.most_in_flight == 8


async def test_the_rate_limit_spreads_requests():
    inner = Scripted()
    backend = ResilientBackend(inner, CallPolicy(rate=50, burst=0.1))
    started = time.perf_counter()
    await asyncio.gather(*(backend.text_search("q", 1) for _ in range(25)))
    assert 0.35 <= time.perf_counter() - started < 2  # 5 at once, 20 more at 50 a second


async def test_the_spending_cap_is_never_exceeded_even_by_parallel_searches():
    inner = Scripted(seconds=0.01)
    policy = CallPolicy(text_price=0.01, image_price=0.02, spending_cap=0.1)
    backend = ResilientBackend(inner, policy)
    found = await asyncio.gather(*(backend.text_search("q", 1) for _ in range(30)), return_exceptions=True)
    assert inner.calls == 10
    stopped = [f for f in found if isinstance(f, FatalSearchError)]
    assert {f.kind for f in stopped} == {"spending_cap"}
    assert len(stopped) == 20
    assert backend.metrics.cost == pytest.approx(0.1)


async def test_failed_searches_are_not_paid_but_timed_out_ones_may_be():
    backend = ResilientBackend(Scripted(transient()), CallPolicy(text_price=0.01, **QUICK))
    await backend.text_search("q", 1)
    assert backend.metrics.cost == pytest.approx(0.01)
    hung = ResilientBackend(Scripted(seconds=9), CallPolicy(image_price=0.01, timeout=0.01, attempts=2, **QUICK))
    with pytest.raises(SearchError):
        await hung.image_search(Image.new("RGB", (2, 2)), 1)
    assert hung.metrics.cost == pytest.approx(0.02)


async def test_the_circuit_opens_after_failures_in_a_row_and_closes_again():
    inner = Scripted(*[transient()] * 5)
    backend = ResilientBackend(inner, CallPolicy(attempts=1, breaker_failures=5, breaker_seconds=0.1))
    for _ in range(5):
        with pytest.raises(SearchError):
            await backend.text_search("q", 1)
    with pytest.raises(SearchError) as error:
        await backend.text_search("q", 1)
    assert error.value.kind == "circuit_open"
    assert inner.calls == 5
    await asyncio.sleep(0.12)
    assert len(await backend.text_search("q", 1)) == 1
    assert len(await backend.text_search("q", 1)) == 1


async def test_refusals_do_not_open_the_circuit():
    refusals = [SearchError("no", transient=False, refused=True) for _ in range(9)]
    backend = ResilientBackend(Scripted(*refusals), CallPolicy(breaker_failures=3))
    for _ in range(9):
        with pytest.raises(SearchError, match="no"):
            await backend.text_search("q", 1)
    assert len(await backend.text_search("q", 1)) == 1


async def test_cancellation_leaves_no_task_and_frees_its_slot():
    inner = Scripted(seconds=60)
    backend = ResilientBackend(inner, CallPolicy(in_flight=1))
    tasks = [asyncio.ensure_future(backend.text_search("q", 1)) for _ in range(5)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    inner.seconds = 0
    assert len(await asyncio.wait_for(backend.text_search("q", 1), 1)) == 1
    assert backend.metrics.summary()["failures"] == {"cancelled": 5}


async def test_every_search_under_mixed_faults_is_accounted_for(library):
    rates = {"error_503": 0.04, "malformed_json": 0.03, "cut_connection": 0.03}
    async with serving(library, SearchServerConfig(faults=FaultPlan(rates))) as server:
        http = HttpWorldBackend(server.url)
        backend = ResilientBackend(http, CallPolicy(attempts=2, **QUICK))
        found = await asyncio.gather(
            *(backend.text_search("chad" if i % 2 else "nothing", 1) for i in range(400)), return_exceptions=True
        )
        kinds = Counter(f.kind if isinstance(f, SearchError) else "result" if f else "empty" for f in found)
        counted = Counter()
        for (_, outcome), count in backend.metrics.outcomes.items():
            counted[outcome] += count
        assert counted == kinds
        assert kinds.total() == 400
        assert kinds["result"] > 180
        assert kinds["empty"] > 180
        assert backend.metrics.attempts == sum(server.served.values())
        await backend.aclose()


def test_latency_percentiles_are_close_and_add_up():
    seconds = np.random.default_rng(0).lognormal(-2, 1, 5000)
    parts = [LatencyHistogram(), LatencyHistogram()]
    for i, value in enumerate(seconds):
        parts[i % 2].add(value)
    parts[0].merge(parts[1])
    for q in (0.5, 0.9, 0.99):
        assert parts[0].quantile(q) == pytest.approx(np.quantile(seconds, q), rel=0.03)
    assert math.isnan(LatencyHistogram().quantile(0.5))


def test_metrics_of_several_processes_add_up():
    one, two = SearchMetrics(), SearchMetrics()
    one.record("text_search", "result", 0.1)
    two.record("text_search", "timeout", 0.3)
    two.cache_hits, two.cost = 3, 0.5
    one.merge(two)
    summary = one.summary()
    assert summary["searches"] == 5
    assert summary["success_rate"] == 0.5
    assert summary["failures"] == {"timeout": 1}
    assert summary["cost"] == 0.5
    numbers = one.numbers()
    assert (numbers["search_success_rate"], numbers["search_failures"]) == (0.5, 1.0)
    assert all(isinstance(value, float) for value in numbers.values())
    again = SearchMetrics.from_state(json.loads(json.dumps(one.state())))
    assert (again.summary(), again.state()) == (summary, one.state())
    assert SearchMetrics().summary()["success_rate"] is None
