import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypereyes_jax.rl import NO_REFERENCE, Reference, ReferenceFileError, ReferenceStore

VECTORS = json.loads((Path(__file__).parent / "data" / "trace_vectors.json").read_text())


@pytest.mark.parametrize("tighten", ["epoch", "step"])
def test_the_published_sequence(tighten):
    operations = VECTORS["reference_store"]
    first = operations[0]["orig"]
    store = ReferenceStore({"q": (first["tc"], sum(first["parallel"]))}, tighten)
    for operation in operations:
        if operation["op"] == "update":
            store.observe("q", operation["new"]["tc"], operation["ts_new"])
            if tighten == "epoch":
                store.commit()
        else:
            assert store.get("q") == (operation["out"]["tc"], operation["out"]["ts"])


def test_by_default_a_better_rollout_counts_from_the_next_epoch_on():
    store = ReferenceStore({"q": (3, 5)})
    store.observe("q", 2, 9)
    store.observe("q", 2, 8)
    assert store.get("q") == (3, 5)
    assert store.commit() == 1
    assert store.get("q") == (2, 8)  # fewer rounds first, although the searches rose
    assert store.commit() == 0


def test_a_question_without_a_reference_gets_one_from_its_first_success():
    store = ReferenceStore()
    assert store.get("q") == NO_REFERENCE == (-1, -1)
    store.observe("q", 4, 7)
    store.commit()
    assert store.get("q") == Reference(rounds=4, invocations=7)


def test_rollouts_without_tools_are_no_evidence():
    store = ReferenceStore({"q": (1, 1)}, "step")
    store.observe("q", 0, 0)
    assert store.get("q") == (1, 1)


@pytest.mark.parametrize("tighten", ["epoch", "step"])
def test_a_round_without_a_search_is_refused_as_evidence(tighten):
    store = ReferenceStore({"q": (3, 5)}, tighten)
    with pytest.raises(ValueError, match="invocations must be positive"):
        store.observe("q", 1, 0)
    store.commit()
    assert store.get("q") == (3, 5)


def test_an_unknown_half_of_a_reference_is_filled_without_raising_the_other():
    store = ReferenceStore({"q": (2, -1)}, "step")
    store.observe("q", 3, 3)
    assert store.get("q") == (2, -1)
    store.observe("q", 2, 9)
    assert store.get("q") == (2, 9)


observations = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 6), st.integers(1, 12)), max_size=30)


@settings(deadline=None)
@given(observations, st.integers(1, 7))
def test_references_only_tighten_and_only_to_counts_of_one_rollout(seen, epoch):
    store = ReferenceStore({"a": (4, 6)})
    for index, (key, rounds, invocations) in enumerate(seen):
        store.observe(key, rounds, invocations)
        if index % epoch == 0:
            before = {key: store.get(key) for key in "ab"}
            store.commit()
            for key, reference in before.items():
                after = store.get(key)
                assert after <= reference or reference == NO_REFERENCE
                assert after in {reference} | {(c, s) for k, c, s in seen if k == key and c > 0}


@settings(deadline=None)
@given(observations, st.randoms())
def test_the_order_of_observations_does_not_matter(seen, random):
    shuffled = random.sample(seen, len(seen))
    stores = [ReferenceStore({"a": (4, 6)}, "epoch"), ReferenceStore({"a": (4, 6)}, "step")]
    for store, order in zip(stores, (seen, shuffled), strict=True):
        for observation in order:
            store.observe(*observation)
        store.commit()
    assert [stores[0].get(key) for key in "ab"] == [stores[1].get(key) for key in "ab"]


def test_the_file_keeps_everything_uncommitted_counts_included(tmp_path):
    store = ReferenceStore({"q": (3, 5), 7: (1, 1)})
    store.observe("q", 2, 2)
    store.save(tmp_path / "references.json")
    loaded = ReferenceStore.load(tmp_path / "references.json")
    assert (loaded.tighten, len(loaded)) == ("epoch", 2)
    assert [loaded.get(key) for key in ("q", 7, "7")] == [(3, 5), (1, 1), (1, 1)]
    loaded.commit()
    assert loaded.get("q") == (2, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["references.json"]


KILLED = """
import os, signal, sys
from hypereyes_jax.rl.references import ReferenceStore
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)  # the draft is written, the rename never comes
ReferenceStore({"q": (1, 1)}).save(sys.argv[1])
"""


def test_a_kill_between_write_and_rename_leaves_the_old_file_and_the_next_save_works(tmp_path):
    path = tmp_path / "references.json"
    ReferenceStore({"q": (3, 5)}).save(path)
    process = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=Path(__file__).parents[2], timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert ReferenceStore.load(path).get("q") == (3, 5)
    ReferenceStore({"q": (2, 2)}).save(path)
    assert ReferenceStore.load(path).get("q") == (2, 2)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "references.json"
    ReferenceStore({"q": (3, 5)}).save(path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        ReferenceStore({"q": (1, 1)}).save(path)
    assert ReferenceStore.load(path).get("q") == (3, 5)
    assert len(list(tmp_path.iterdir())) == 1


def damaged(text):
    document = json.loads(text)
    yield "truncated", text[: len(text) // 2]
    yield "empty", ""
    yield "not text", b"\xff\xfe\x00"
    yield "another file", json.dumps({"q": [3, 5]})
    yield "a list", "[]"
    yield "a changed digit", text.replace("[3, 5]", "[3, 4]")
    yield "a missing part", json.dumps({key: value for key, value in document.items() if key != "pending"})


def test_a_damaged_file_is_named_with_a_cure(tmp_path):
    path = tmp_path / "references.json"
    ReferenceStore({"q": (3, 5)}).save(path)
    for what, content in damaged(path.read_text()):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ReferenceFileError, match=r"references\.json: damaged .* Restore it") as error:
            ReferenceStore.load(path)
        assert error.value, what


def test_a_missing_file_is_not_an_empty_store(tmp_path):
    with pytest.raises(FileNotFoundError):
        ReferenceStore.load(tmp_path / "references.json")


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="invocations must be positive"):
        ReferenceStore().observe("q", 1, -2)
    with pytest.raises(ValueError, match='"epoch", "step" or "never"'):
        ReferenceStore(tighten="batch")


# The published code counts a call that sent nothing as a round; here there is no round without a search.
SENT = [group for group in VECTORS["groups"] if all(r["ts"] or not r["tc"] for r in group["rollouts"])]


@pytest.mark.parametrize("group", SENT, ids=lambda group: group["id"])
def test_the_reference_of_a_published_group_is_its_best_correct_rollout(group):
    store = ReferenceStore()
    for rollout in group["rollouts"]:
        if rollout["acc"] > 0:
            store.observe("q", rollout["tc"], rollout["ts"])
    store.commit()
    best = group["best_correct"]
    assert store.get("q") == ((best["tc"], best["ts"]) if best else NO_REFERENCE)


def test_references_that_never_tighten_stay_what_they_were_at_first():
    store = ReferenceStore({"a": (4, 6)}, tighten="never")
    store.observe("a", 1, 1)
    store.observe("new", 1, 1)
    assert store.commit() == 0
    assert store.get("a") == (4, 6)
    assert "new" not in store
    assert ReferenceStore.from_state(store.state()).tighten == "never"
