import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from hypereyes_jax.env import Episode, FatalSearchError, Question, SearchError, tool_call
from hypereyes_jax.env.actions import ImageSearch, TextSearch
from hypereyes_jax.env.search.config import StoreMode
from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.env.search.store import SearchStore, StoredSearch, image_query, normal_query
from hypereyes_jax.env.search.store_tools import export_store, import_store, inspect_store, merge_stores, prune_store
from hypereyes_jax.errors import UserError


@pytest.fixture
def store(tmp_path):
    store = SearchStore(tmp_path / "searches.sqlite")
    yield store
    store.close()


async def test_a_recorded_search_is_not_sent_again_even_when_it_found_nothing(library, store):
    backend = RecordedBackend(library, store)
    for _ in range(3):
        assert [hit.title for hit in await backend.text_search("Chad", 3)] == ["Chad"]
        assert await backend.text_search("nothing", 3) == []
    assert library.calls == 2
    assert backend.metrics.cache_hits == 4


async def test_the_key_is_engine_tool_query_and_k(library, store):
    backend = RecordedBackend(library, store)
    await backend.text_search("Chad", 3)
    await backend.text_search("  Chad\n", 3)
    assert library.calls == 1
    await backend.text_search("Chad", 4)
    await backend.text_search("chad", 3)
    await RecordedBackend(library, store, engine="other").text_search("Chad", 3)
    assert library.calls == 4


def test_an_images_key_is_its_pixels():
    red = Image.new("RGB", (4, 3), "red")
    assert image_query(red) == image_query(red.copy())
    assert image_query(red) == image_query(red.quantize().convert("RGB"))
    assert image_query(red) != image_query(Image.new("RGB", (3, 4), "red"))
    assert image_query(red) != image_query(Image.new("RGB", (4, 3), "blue"))


def test_a_queries_unicode_form_and_spacing_do_not_matter():
    assert normal_query("Cote\u0301  d'Ivoire ") == normal_query("Cot\u00e9 d'Ivoire")


async def test_failures_are_never_recorded(store, library):
    class Failing:
        engine = "library"

        async def text_search(self, query, k):
            raise SearchError("down", transient=True)

        image_search = text_search

    with pytest.raises(SearchError):
        await RecordedBackend(Failing(), store).text_search("Chad", 3)
    assert len(await RecordedBackend(library, store).text_search("Chad", 3)) == 1


async def test_identical_searches_in_flight_are_sent_once(slow_library, store):
    for mode in StoreMode:
        if mode is StoreMode.REPLAY:
            continue
        backend = RecordedBackend(slow_library, store, mode)
        before = slow_library.calls
        found = await asyncio.gather(*(backend.text_search(f"Chad {mode}", 3) for _ in range(20)))
        assert slow_library.calls == before + 1
        assert all(hits == found[0] for hits in found)
        assert backend.metrics.shared == 19


async def test_a_shared_search_outlives_the_caller_that_started_it(slow_library, store):
    backend = RecordedBackend(slow_library, store)
    first, second = (asyncio.ensure_future(backend.text_search("Chad", 3)) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    assert len(await second) == 1
    assert slow_library.calls == 1


async def test_cancelling_all_callers_cancels_the_search(slow_library, store):
    backend = RecordedBackend(slow_library, store)
    tasks = [asyncio.ensure_future(backend.text_search("Chad", 3)) for _ in range(3)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert slow_library.in_flight == 0
    assert len(await backend.text_search("Chad", 3)) == 1


async def test_strict_replay_needs_no_backend_and_a_miss_ends_the_run(library, store):
    await RecordedBackend(library, store).text_search("Chad", 3)
    replay = RecordedBackend(None, store, StoreMode.REPLAY, engine="library")
    assert len(await replay.text_search("Chad", 3)) == 1
    with pytest.raises(FatalSearchError, match=r"'Togo'.*was not recorded"):
        await replay.text_search("Togo", 3)


async def test_record_refreshes_and_live_ignores_the_store(library, store):
    stale = StoredSearch("library", "text_search", "Chad", 3, ())
    store.put(stale)
    assert len(await RecordedBackend(library, store, StoreMode.LIVE).text_search("Chad", 3)) == 1
    assert store.get(stale.key).hits == ()
    assert len(await RecordedBackend(library, store, StoreMode.RECORD).text_search("Chad", 3)) == 1
    assert len(store.get(stale.key).hits) == 1


async def test_a_replayed_episode_is_the_same_to_the_letter(library, store):
    question = Question("q", "?", (Image.linear_gradient("L").convert("RGB"),), ("Chad",))
    turns = [
        tool_call(ImageSearch("img_0", ((0, 0, 0.5, 1), (0.5, 0, 1, 1)))),
        tool_call(TextSearch(("Chad", "everything", "nothing"))),
        "<answer>Chad</answer>",
    ]

    async def play(backend):
        episode = Episode(question, backend)
        for text in turns:
            await episode.step(text)
        result = episode.result()
        # wall times differ; nothing else may
        return [
            replace(t, seconds=0, invocations=tuple(replace(i, seconds=0) for i in t.invocations)) for t in result.turns
        ]

    live = await play(RecordedBackend(library, store, StoreMode.RECORD))
    assert await play(RecordedBackend(None, store, StoreMode.REPLAY, engine="library")) == live


async def test_a_run_records_what_it_did_and_cost(library, store):
    backend = RecordedBackend(library, store, prices=(0.015, 0.02))
    await backend.text_search("Chad", 3)
    await backend.image_search(Image.new("RGB", (2, 2), "red"), 3)
    await backend.aclose()
    seen = inspect_store(store.path)
    assert {(g["tool"], g["searches"], g["empty"]) for g in seen["groups"]} == {
        ("text_search", 1, 0),
        ("image_search", 1, 0),
    }
    assert seen["runs"][0]["recorded_cost"] == pytest.approx(0.035)
    assert seen["runs"][0]["mode"] == "replay-then-live"


def fill(path, *queries, created=0.0):
    store = SearchStore(path)
    for query in queries:
        store.put(StoredSearch("e", "text_search", query, 3, (), created=created))
    store.close()


def test_export_and_import_give_the_same_store(tmp_path):
    fill(tmp_path / "a.sqlite", "x", "y\u2028é")
    assert export_store(tmp_path / "a.sqlite", tmp_path / "a.jsonl") == 2
    assert import_store(tmp_path / "b.sqlite", tmp_path / "a.jsonl") == 2
    assert import_store(tmp_path / "b.sqlite", tmp_path / "a.jsonl") == 0
    a, b = SearchStore(tmp_path / "a.sqlite"), SearchStore(tmp_path / "b.sqlite")
    assert list(a.searches()) == list(b.searches())
    a.close()
    b.close()


@pytest.mark.parametrize("line", [b'{"engine": 1}', b"\xe9", b"[" * 100_000])
def test_a_bad_line_of_an_export_is_named(tmp_path, line):
    (tmp_path / "bad.jsonl").write_bytes(line + b"\n")
    with pytest.raises(UserError, match=r"bad\.jsonl, line 1"):
        import_store(tmp_path / "b.sqlite", tmp_path / "bad.jsonl")


def test_merge_adds_what_is_missing(tmp_path):
    fill(tmp_path / "a.sqlite", "x", "y")
    fill(tmp_path / "b.sqlite", "y", "z")
    assert merge_stores(tmp_path / "a.sqlite", [tmp_path / "b.sqlite"]) == 1
    with pytest.raises(UserError, match="there is no search store"):
        merge_stores(tmp_path / "a.sqlite", [tmp_path / "none.sqlite"])


def test_prune_by_age_and_engine(tmp_path):
    fill(tmp_path / "a.sqlite", "old", created=time.time() - 10 * 86_400)
    fill(tmp_path / "a.sqlite", "new")
    assert prune_store(tmp_path / "a.sqlite", older_than_days=5, engine="other") == 0
    assert prune_store(tmp_path / "a.sqlite", older_than_days=5) == 1
    assert prune_store(tmp_path / "a.sqlite", empty=True) == 1
    with pytest.raises(UserError, match="condition"):
        prune_store(tmp_path / "a.sqlite")


def test_files_that_are_no_store_are_refused_by_name(tmp_path):
    (tmp_path / "text.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(UserError, match=r"text\.sqlite is not a search store"):
        SearchStore(tmp_path / "text.sqlite")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE mine (x)")
    other.close()
    with pytest.raises(UserError, match="another program's"):
        SearchStore(tmp_path / "other.sqlite")
    newer = sqlite3.connect(tmp_path / "newer.sqlite")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(UserError, match="version 99"):
        SearchStore(tmp_path / "newer.sqlite")


WRITER = """
import sys
from hypereyes_jax.env.search.store import SearchStore, StoredSearch
store = SearchStore(sys.argv[1])
for i in range(int(sys.argv[3])):
    store.put(StoredSearch("e", "text_search", f"{sys.argv[2]} {i}", 3, (), run=sys.argv[2]))
    print(i, flush=True)
"""


def writer(path, name, count):
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
        text=True,
    )


def test_many_processes_write_one_store(tmp_path):
    path = tmp_path / "shared.sqlite"
    writers = [writer(path, f"w{n}", 150) for n in range(3)]
    assert [w.communicate(timeout=60) and w.returncode for w in writers] == [0, 0, 0]
    assert inspect_store(path)["groups"][0]["searches"] == 450


def test_a_kill_while_recording_loses_nothing_that_was_acknowledged(tmp_path):
    path = tmp_path / "killed.sqlite"
    process = writer(path, "w", 1_000_000)
    acknowledged = [process.stdout.readline() for _ in range(200)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()
    process.wait()
    last = len(acknowledged) + rest.count("\n") - 1
    store = SearchStore(path)
    assert store.rows("PRAGMA integrity_check") == [("ok",)]
    held = {search.query for search in store.searches()}
    store.close()
    assert {f"w {i}" for i in range(last + 1)} <= held
    assert len(held) <= last + 2  # at most the one in flight besides
