import json

from hypereyes_jax.cli import main as cli
from hypereyes_jax.env.search.store import SearchStore, StoredSearch
from hypereyes_jax.env.types import SearchHit


def store(path, *queries):
    made = SearchStore(path)
    for query in queries:
        hits = (SearchHit(query, "A page.", 0.9),) if query != "nothing" else ()
        made.put(StoredSearch("google", "text_search", query, 3, hits, cost=0.01, created=1.0))
    made.close()
    return str(path)


def shown(capsys, *words):
    assert cli.main(["search-store", *words]) == 0
    return capsys.readouterr().out


def test_each_action_does_what_it_says(tmp_path, capsys):
    one, two = store(tmp_path / "one.db", "Oslo", "nothing"), store(tmp_path / "two.db", "Lima")
    (group,) = json.loads(shown(capsys, "inspect", one))["groups"]
    assert (group["searches"], group["empty"], round(group["cost"], 6)) == (2, 1, 0.02)

    assert "2 searches written" in shown(capsys, "export", one, str(tmp_path / "one.jsonl"))
    assert "2 searches added" in shown(capsys, "import", two, str(tmp_path / "one.jsonl"))
    assert "1 searches deleted" in shown(capsys, "prune", two, "--empty")
    assert "2 searches added" in shown(capsys, "merge", str(tmp_path / "three.db"), two)
    (group,) = json.loads(shown(capsys, "inspect", str(tmp_path / "three.db")))["groups"]
    assert (group["searches"], group["empty"]) == (2, 0)


def test_a_missing_store_and_a_prune_of_everything_are_refused(tmp_path, capsys):
    assert cli.main(["search-store", "inspect", str(tmp_path / "gone.db")]) == 2
    assert "no search store" in capsys.readouterr().err
    assert cli.main(["search-store", "prune", store(tmp_path / "one.db", "Oslo")]) == 2
    assert "needs a condition" in capsys.readouterr().err
