"""A store in PostgreSQL, tried on a real server: one search a key over all, exact spending, kills, restarts."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from hypereyes_jax.env import FatalSearchError, SearchError, SearchHit
from hypereyes_jax.env.search.budget import StoreBudget
from hypereyes_jax.env.search.config import CallPolicy, SearchConfig, StoreMode
from hypereyes_jax.env.search.postgres import PostgresStore
from hypereyes_jax.env.search.postgres_schema import SCHEMA
from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.env.search.resilience import ResilientBackend
from hypereyes_jax.env.search.services import connected
from hypereyes_jax.env.search.store import SearchStore, StoredSearch
from hypereyes_jax.env.search.store_tools import export_store, import_store, inspect_store, merge_stores, prune_store
from hypereyes_jax.env.search.stores import is_postgres, open_store
from hypereyes_jax.errors import UserError
from tests.postgres_server import PASSWORD, running

ROOT = Path(__file__).parents[3]
HITS = (SearchHit("Title", "A passage.\nOf two lines, é and \x00 in it.", 0.25, "https://example.org/1"),)


@pytest.fixture(scope="module")
def server():
    with running() as server:
        yield server


@pytest.fixture
def url(server, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    import psycopg

    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    return server.url


def sql(url, *statements):
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        return [connection.execute(statement).rowcount for statement in statements]


def search(query, **more):
    return StoredSearch("google", "text_search", query, 3, more.pop("hits", HITS), created=1.5, **more)


class Service:
    """Counts what it is asked."""

    engine = "service"

    def __init__(self, asked, seconds=0.02, failures=0):
        self._asked, self._seconds, self._failures = asked, seconds, failures

    async def text_search(self, query, k):
        self._asked[query] += 1
        await asyncio.sleep(self._seconds)
        if self._asked[query] <= self._failures:
            raise SearchError("down", transient=False)
        return [SearchHit(query, "found", 1.0, "")]

    image_search = text_search


def test_a_search_comes_back_as_it_was_stored(url):
    with PostgresStoreOf(url) as store:
        for each in (search("Oslo \x00 é \U0001f600"), search("none", hits=(), cost=0.015, run="r")):
            assert store.get(each.key) is None
            assert store.put(each) == each
            assert store.get(each.key) == each
        assert store.put(search("none", hits=HITS)).hits == ()  # the first stays
        assert store.put(search("none", hits=HITS), replace=True).hits == HITS
        store.end_run("r", "record", {"sent": 2})
        assert store.runs()[0][0] == "r"
    seen = inspect_store(url)
    assert [(group["tool"], group["searches"], group["empty"]) for group in seen["groups"]] == [("text_search", 2, 0)]
    assert seen["bytes"] > 0
    assert seen["runs"][0]["sent"] == 2


class PostgresStoreOf:
    """A store for the time of a block."""

    def __init__(self, url, **more):
        self._store = PostgresStore(url, **more)

    def __enter__(self):
        return self._store

    def __exit__(self, *_):
        self._store.close()


def test_stores_of_both_kinds_are_brought_together(url, tmp_path):
    file, other = SearchStore(tmp_path / "a.sqlite"), SearchStore(tmp_path / "b.sqlite")
    searches = [search(f"query {number}") for number in range(1_203)]
    file.add_all(searches[:1_100])
    file.end_run("run", "record", {})
    file.close()
    other.close()
    assert merge_stores(url, [tmp_path / "a.sqlite"]) == 1_100
    with PostgresStoreOf(url) as store:
        assert store.add_all(searches[1_000:]) == 103
        assert [row[0] for row in store.runs()] == ["run"]
    assert merge_stores(tmp_path / "b.sqlite", [url]) == 1_203
    assert export_store(url, tmp_path / "p.jsonl") == export_store(tmp_path / "b.sqlite", tmp_path / "s.jsonl")
    assert (tmp_path / "p.jsonl").read_bytes() == (tmp_path / "s.jsonl").read_bytes()
    assert prune_store(url, older_than_days=1, engine="other") == 0
    assert prune_store(url, older_than_days=1) == 1_203
    assert import_store(url, tmp_path / "p.jsonl") == 1_203
    (tmp_path / "p.jsonl").write_text((tmp_path / "p.jsonl").read_text() + "{}\n")
    assert prune_store(url, engine="google") == 1_203
    with pytest.raises(UserError, match=r"line 1204"):
        import_store(url, tmp_path / "p.jsonl")
    assert inspect_store(url)["groups"] == []  # all or none


async def test_each_search_is_made_once_and_paid_exactly_over_all_processes(url):
    """Four stores with connections of their own, as four processes have; the slow test has real ones."""
    asked, policy = Counter(), CallPolicy(text_price=0.015)
    stores = [PostgresStore(url) for _ in range(4)]
    budgets = [StoreBudget(store, "run", policy) for store in stores]
    backends = [
        RecordedBackend(ResilientBackend(Service(asked), policy, budget=budget), store, prices=(0.015, 0.0))
        for store, budget in zip(stores, budgets, strict=True)
    ]
    own = [[f"of {number}: {n}" for n in range(10)] for number in range(4)]
    both = [f"of all: {n}" for n in range(10)]
    found = await asyncio.gather(
        *(b.text_search(q, 3) for b, mine in zip(backends, own, strict=True) for q in both + mine)
    )
    assert {hits[0].title for hits in found} == {*both, *(query for mine in own for query in mine)}
    assert set(asked.values()) == {1}
    assert len(asked) == 50
    assert stores[0].spent("run") == 0.75  # 50 x 0.015, to the cent and beyond
    shared = sum(backend.metrics.shared + backend.metrics.cache_hits for backend in backends)
    assert shared == 4 * 20 - 50
    again = RecordedBackend(None, stores[1], StoreMode.REPLAY, engine="service")
    assert (await again.text_search(both[0], 3))[0].title == both[0]
    with pytest.raises(FatalSearchError, match="was not recorded"):
        await again.text_search("new", 3)
    for backend, budget, store in zip(backends, budgets, stores, strict=True):
        await backend.aclose()
        budget.close()
        store.close()


async def test_record_asks_anew_and_still_once_for_all(url):
    asked = Counter()
    with PostgresStoreOf(url) as one, PostgresStoreOf(url) as two:
        one.put(StoredSearch("service", "text_search", "Chad", 3, ()))
        backends = [RecordedBackend(Service(asked, 0.2), store, StoreMode.RECORD) for store in (one, two)]
        found = await asyncio.gather(*(backend.text_search("Chad", 3) for backend in backends))
        assert asked == {"Chad": 1}
        assert [hits[0].title for hits in found] == ["Chad", "Chad"]
        for backend in backends:
            await backend.aclose()


async def test_a_search_that_failed_or_was_cancelled_is_left_to_the_others(url):
    asked = Counter()
    with PostgresStoreOf(url) as one, PostgresStoreOf(url) as two:
        failing = RecordedBackend(Service(asked, 0.1, failures=1), one)
        waiting = RecordedBackend(Service(asked, 0.0), two)
        first = asyncio.ensure_future(failing.text_search("Chad", 3))
        await asyncio.sleep(0.05)
        assert (await waiting.text_search("Chad", 3))[0].title == "Chad"
        with pytest.raises(SearchError):
            await first
        slow = asyncio.ensure_future(RecordedBackend(Service(asked, 60.0), one).text_search("Togo", 3))
        await asyncio.sleep(0.2)
        slow.cancel()
        assert (await asyncio.wait_for(waiting.text_search("Togo", 3), 10))[0].title == "Togo"
        assert asked == {"Chad": 2, "Togo": 2}
        await failing.aclose()
        await waiting.aclose()


async def test_a_backend_that_is_closed_in_mid_search_complains_of_nothing(url, caplog):
    with PostgresStoreOf(url) as store:
        backend = RecordedBackend(Service(Counter(), 60.0), store)
        search = asyncio.ensure_future(backend.text_search("Chad", 3))
        await asyncio.sleep(0.2)
        await backend.aclose()
        search.cancel()
        await asyncio.gather(search, return_exceptions=True)
        await asyncio.sleep(0.05)
    assert caplog.records == []


async def test_a_spending_cap_and_a_rate_are_of_all_processes_together(url):
    policy = CallPolicy(text_price=0.1, spending_cap=0.7, attempts=1)
    with PostgresStoreOf(url) as one, PostgresStoreOf(url) as two:
        budgets = [StoreBudget(store, "run", policy) for store in (one, two)]
        paid = await asyncio.gather(*(budgets[n % 2].pay(0.1) for n in range(12)), return_exceptions=True)
        payments = [each for each in paid if isinstance(each, str)]
        assert len(payments) == 7  # 7 x 0.1 is 0.7 in dollars, and 0.7000000000000001 in binary fractions
        assert {each.kind for each in paid if isinstance(each, FatalSearchError)} == {"spending_cap"}
        await budgets[0].refund(payments[0], 0.1)
        await budgets[0].refund(payments[0], 0.1)  # once is enough
        assert one.spent("run") == 0.6
        assert one.pay("run", payments[1], 0.1, cap=0.7, rate=None, burst=1.0) == 0.0  # told again, not paid again
        assert two.spent("run") == 0.6
        for budget in budgets:
            budget.close()

        calm = [StoreBudget(store, "calm", CallPolicy(rate=20.0, burst=0.05)) for store in (one, two)]
        began = time.monotonic()
        await asyncio.gather(*(calm[n % 2].pay(0.0) for n in range(12)))
        assert time.monotonic() - began > 11 / 20 * 0.95  # one at once, then one every 50 ms
        for budget in calm:
            budget.close()


async def test_settings_connect_to_it_and_commands_share_a_budget(url):
    config = SearchConfig(store=url, budget="both", policy=CallPolicy(text_price=0.5, spending_cap=1.0))
    async with connected(config) as (first, _), connected(config) as (second, _):
        await first.text_search("capital of Chad", 1)
        await second.text_search("capital of Togo", 1)
        await second.text_search("capital of Chad", 1)  # stored
        with pytest.raises(FatalSearchError, match="spending cap"):
            await first.text_search("capital of Benin", 1)
    with pytest.raises(UserError, match="PostgreSQL"):
        async with connected(SearchConfig(budget="both")):
            pass


WORKER = """
import asyncio, json, sys, time
from collections import Counter
from hypereyes_jax.env import SearchHit
from hypereyes_jax.env.search.budget import RunShare
from hypereyes_jax.env.search.config import CallPolicy
from hypereyes_jax.env.search.budget import StoreBudget
from hypereyes_jax.env.search.postgres import PostgresStore
from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.env.search.resilience import ResilientBackend

class Service:
    engine = "service"
    async def text_search(self, query, k):
        print(json.dumps(["asked", query]), flush=True)
        await asyncio.sleep(0.02)
        return [SearchHit(query, "found", 1.0, "")]
    image_search = text_search

async def main(url, name, count, lease):
    policy = RunShare(0, 4).policy(CallPolicy(text_price=0.015))
    store = PostgresStore(url, lease=lease)
    budget = StoreBudget(store, "run", policy)
    backend = RecordedBackend(ResilientBackend(Service(), policy, budget=budget), store, prices=(0.015, 0.0))
    async def one(n):
        query = f"of all: {n}" if n % 2 else f"of {name}: {n}"
        hits = await backend.text_search(query, 3)
        assert hits[0].title == query
        print(json.dumps(["found", query]), flush=True)
    gate = asyncio.Semaphore(32)
    async def gated(n):
        async with gate:
            await one(n)
    await asyncio.gather(*(gated(n) for n in range(count)))
    await backend.aclose()
    budget.close()
    store.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
"""


def worker(url, name, count, lease=30.0):
    """A process that searches. It says what into a file: a pipe that nobody empties would stop it."""
    words = [sys.executable, "-c", WORKER, url, name, str(count), str(lease)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PGPASSWORD": PASSWORD}
    said, problem = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `told`
    process = subprocess.Popen(words, stdout=said, stderr=problem, env=environment)
    process.said, process.problem = said, problem
    return process


def told(process, timeout=600):
    """(queries asked, queries found) of a worker that has ended."""
    code = process.wait(timeout)
    with process.said as said, process.problem as problem:
        said.seek(0)
        problem.seek(0)
        assert code in (0, -signal.SIGKILL), problem.read()[-2000:]
        lines = [json.loads(line) for line in said.read().splitlines() if line.endswith("]")]
    return [query for kind, query in lines if kind == "asked"], [query for kind, query in lines if kind == "found"]


def stored(url):
    with PostgresStoreOf(url) as store:
        return Counter(each.query for each in store.searches()), store.spent("run")


def test_a_kill_loses_nothing_that_was_acknowledged_and_its_searches_are_made_by_others(url):
    killed = worker(url, "killed", 4_000, lease=1.5)
    while len(stored(url)[0]) < 60:
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    _, found = told(killed)
    held, _ = stored(url)
    assert len(found) > 20
    assert set(found) <= set(held)
    survivor = worker(url, "survivor", 300, lease=1.5)
    follow_up, found_after = told(survivor)
    assert len(found_after) == 300
    assert not set(follow_up) & set(found)
    held, spent = stored(url)
    assert set(found_after) <= set(held)
    paid = round(spent / 0.015, 6)
    assert paid == int(paid)
    assert len(held) <= paid <= len(held) + 2 * 16  # what it had paid for when it was killed was paid for, maybe, twice


def test_a_restart_of_the_server_is_waited_for(server, url):
    with PostgresStoreOf(url) as store:
        store.put(search("before"))
        server.stop()
        later = threading.Timer(1.0, server.start)
        later.start()
        store.put(search("during"))
        later.join()
        assert {each.query for each in store.searches()} == {"before", "during"}
        assert store.claim(b"k", "mine")
        server.stop()
        server.start()
        with PostgresStoreOf(url) as other:
            assert not other.claim(b"k", "theirs")  # a claim outlives a restart
            store.release("mine")
            assert other.claim(b"k", "theirs")


def test_a_claim_of_a_process_that_is_gone_ends_and_one_that_lives_does_not(url):
    with PostgresStoreOf(url, lease=0.6) as store, PostgresStoreOf(url) as other:
        assert store.claim(b"k", "mine")
        time.sleep(1.2)
        assert not other.claim(b"k", "theirs")
        store._closed.set()  # as dead: nothing renews it
        time.sleep(1.0)
        assert other.claim(b"k", "theirs")


def test_what_goes_wrong_is_told_in_one_sentence_without_the_login(url, server, monkeypatch):
    login = url.replace("hypereyes@", "hypereyes:wrong-secret@")
    with pytest.raises(UserError, match="can't use the search store postgresql://127") as told_so:
        PostgresStore(login)
    assert "wrong-secret" not in str(told_so.value)
    assert "hypereyes@" not in str(told_so.value)
    with pytest.raises(UserError, match="not an address of a PostgreSQL"):
        PostgresStore("postgresql://h:x:y/?nonsense=1")
    with pytest.raises(UserError, match="there is no search store"):
        inspect_store(url)
    monkeypatch.delenv("PGPASSWORD")
    with pytest.raises(UserError, match="can't use the search store"):
        PostgresStore(url)


@pytest.mark.parametrize(
    "change",
    [
        f"ALTER TABLE {SCHEMA}.searches ADD COLUMN extra text",
        f"DROP TABLE {SCHEMA}.claims",
        f"CREATE VIEW {SCHEMA}.more AS SELECT 1",
        f"CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
        f"CREATE TRIGGER t BEFORE INSERT ON {SCHEMA}.searches FOR EACH ROW EXECUTE FUNCTION evil()",
        f"COMMENT ON SCHEMA {SCHEMA} IS 'another program'",
    ],
)
def test_a_schema_that_is_not_ours_is_refused(url, change):
    PostgresStore(url).close()
    sql(url, "DROP FUNCTION IF EXISTS evil CASCADE", change)
    with pytest.raises(UserError, match="another program's, or was changed"):
        PostgresStore(url)


def test_a_newer_store_and_a_row_of_somebody_elses_are_refused(url):
    with PostgresStoreOf(url) as store:
        store.put(search("Oslo"))
        sql(url, f"UPDATE {SCHEMA}.searches SET hits = '[[7]]'")
        with pytest.raises(UserError, match="did not write"):
            list(store.searches())
        with pytest.raises(UserError, match="did not write"):
            store.get(search("Oslo").key)
    sql(url, f"COMMENT ON SCHEMA {SCHEMA} IS 'hypereyes-jax searches, version 99'")
    with pytest.raises(UserError, match="version 99"):
        PostgresStore(url)


def test_a_path_that_names_a_database_is_not_made_into_a_file(url):
    mangled = Path(url)  # one slash where there were two
    assert is_postgres(mangled)
    assert is_postgres("postgres://h/d")
    assert not is_postgres("runs/postgresql.sqlite")
    open_store(mangled).close()


@pytest.mark.slow
def test_four_processes_with_half_their_searches_equal_ask_each_once_and_spend_exactly(url):
    workers = [worker(url, f"w{number}", 2_000) for number in range(4)]
    results = [told(process) for process in workers]
    asked = Counter(query for queries, _ in results for query in queries)
    assert [len(found) for _, found in results] == [2_000] * 4
    assert set(asked.values()) == {1}
    assert len(asked) == 1_000 + 4 * 1_000
    held, spent = stored(url)
    assert held == asked
    assert spent == 75.0  # 5,000 x 0.015


@pytest.mark.slow
def test_restarts_and_a_kill_under_load_lose_nothing(server, url):
    workers = [worker(url, f"w{number}", 1_000, lease=4.0) for number in range(4)]
    while not any(query.startswith("of w0") for query in stored(url)[0]):
        assert workers[0].poll() is None
        time.sleep(0.05)
    workers[0].kill()
    restarts = 0
    while restarts < 3 and any(process.poll() is None for process in workers[1:]):
        server.stop()
        time.sleep(0.5)
        server.start()
        time.sleep(1.0)
        restarts += 1
    assert restarts
    results = [told(process) for process in workers]
    asked = Counter(query for queries, _ in results for query in queries)
    assert [len(found) for _, found in results[1:]] == [1_000] * 3
    held, spent = stored(url)
    assert {query for _, found in results for query in found} <= set(held)
    assert round(spent / 0.015, 9) >= len(asked)
    repeated = {query: count for query, count in asked.items() if count > 1}
    print(f"{restarts} restarts, {len(asked)} searches, {len(repeated)} made again, ${spent}")
    assert len(repeated) <= 32  # what the killed process had in flight
