import json

from hypereyes_jax.cli import main as cli
from hypereyes_jax.env.search.store import SearchStore, StoredSearch
from hypereyes_jax.env.types import SearchHit
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import write_json


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


def test_an_export_replaces_exports_only(tmp_path, capsys):
    one = store(tmp_path / "one.db", "Oslo")
    out, other, wal = tmp_path / "one.jsonl", tmp_path / "two.db", tmp_path / "one.db-wal"
    store(other, "Lima")
    wal.write_bytes(b"what the database has not taken in yet")
    for _ in range(2):
        shown(capsys, "export", one, str(out))
    for path in (other, wal):
        before = path.read_bytes()
        assert cli.main(["search-store", "export", one, str(path)]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"{path} exists and is not an export of searches, so it is not replaced." in said
        assert path.read_bytes() == before
    assert cli.main(["search-store", "import", one, str(other)]) == 2
    assert "is a search store, not an export of one: use `hypereyes search-store merge`" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_plan_replaces_plans_only_and_says_so_before_it_compiles(tmp_path, capsys, monkeypatch):
    def prepare(mesh):
        raise UserError("it gets so far")

    monkeypatch.setattr("hypereyes_jax.cli.plan.prepare", prepare)
    plan = tmp_path / "plan.json"
    write_json(plan, {"recipe": "rl", "mesh": "m"})  # as a plan begins
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"model": "2b"}')
    tries = (
        (recipe, "exists and is not a plan"),
        (recipe / "x", "is a file. Choose another place"),
        (plan, "it gets so far"),
        (tmp_path / "new.json", "it gets so far"),
    )
    for out, words in tries:
        assert cli.main(["plan", "hypereyes_30b_rl", "--mesh", "h20_8x8", "--out", str(out)]) == 2
        assert words in " ".join(capsys.readouterr().err.split())
    assert recipe.read_text() == '{"model": "2b"}'
