"""Wikidata: the dump as a graph, walks whose constraints leave one entity, and questions in words."""

import bz2
import gzip
import json
import lzma
from collections import Counter

import numpy as np
import pytest

from hypereyes_jax.data.wikidata import DumpConfig, Graph, read_dump, read_sparql, refuse_other_files
from hypereyes_jax.data.wikidata import dump as dump_module
from hypereyes_jax.data.wikidata.questions import (
    RivalSearch,
    make_questions,
    rivals_by_search,
    said,
    template_text,
    word_question,
)
from hypereyes_jax.data.wikidata.statements import read_entity
from hypereyes_jax.data.wikidata.walks import Constraint, ConstraintWalk, WalkConfig, find, matching
from hypereyes_jax.env.chat.client import ChatEndpoint, ChatReply
from hypereyes_jax.env.types import SearchHit
from hypereyes_jax.errors import UserError
from tests.data.wikidata_dump import COUNTRY, HUMAN, entities, entity, statement, write_dump

# Statements


def read(claims, **more):
    return read_entity(entity(42, "Douglas", claims, **more), "en")


def test_truthy_statements_are_the_preferred_or_else_the_normal_ones():
    found = read(
        [
            (27, statement(27, 1)),
            (27, statement(27, 2, rank="preferred")),
            (106, statement(106, 3)),
            (106, statement(106, 4, rank="deprecated")),
            (19, statement(19, 5, rank="deprecated")),
            (20, statement(20, snaktype="somevalue")),
            (20, statement(20, snaktype="novalue")),
            (569, statement(569, time=1952)),
            (2048, statement(2048, amount=1.96)),
        ],
        aliases=["DNA"],
    )
    assert found.edges == ((27, 2), (106, 3))
    assert found.values == ((569, 1952.0), (2048, 1.96))
    assert (found.number, found.label, found.aliases, found.sitelinks) == (42, "Douglas", ("DNA",), 3)


def test_a_time_known_to_the_century_only_is_left_out_and_years_before_christ_are_negative():
    vague, old = statement(569, time=1900), statement(569, time=400)
    vague["mainsnak"]["datavalue"]["value"]["precision"] = 7
    old["mainsnak"]["datavalue"]["value"]["time"] = "-0384-00-00T00:00:00Z"
    assert read([(569, vague)]).values == ()
    assert read([(569, old)]).values == ((569, -384.0),)


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"id": "X1"}, {"id": "Q1", "labels": {"fr": {"value": "x"}}}, {"id": "Q1", "labels": [1]}],
)
def test_what_is_no_entity_is_none(value):
    assert read_entity(value, "en") is None


def test_texts_for_all_languages_stand_in_for_those_of_a_language():
    value = entity(42, "x") | {
        "labels": {"mul": {"language": "mul", "value": "Douglas"}, "de": {"language": "de", "value": "Doug"}},
        "aliases": {name: [{"language": name, "value": name.upper()}, {"value": "DNA"}] for name in ("en", "mul")},
    }
    read = {language: read_entity(value, language) for language in ("en", "en-gb", "de", "fr")}
    assert {language: each.label for language, each in read.items()} == {
        "en": "Douglas",
        "en-gb": "Douglas",
        "de": "Doug",
        "fr": "Douglas",
    }
    assert read["en"].aliases == read["en-gb"].aliases == ("EN", "DNA", "MUL")
    assert read["fr"].aliases == ("MUL", "DNA")


def test_damaged_parts_of_an_entity_are_passed_over():
    value = entity(1, "x", [(27, statement(27, 2))])
    value["claims"] |= {"P31": "none", "Pxx": [], "P19": [7, {"rank": "normal", "mainsnak": {"snaktype": "value"}}]}
    value["aliases"], value["sitelinks"] = {"en": "y"}, []
    assert read_entity(value, "en").edges == ((27, 2),)


def test_an_amount_beyond_a_float_is_none():
    row = statement(2048, amount=1)
    row["mainsnak"]["datavalue"]["value"]["amount"] = 10**400
    assert read([(2048, row)]).values == ()


# Dumps


@pytest.fixture
def rows():
    return list(entities(400))


@pytest.mark.parametrize("suffix", ["json", "json.gz", "json.bz2"])
def test_a_dump_is_read_whole(tmp_path, rows, suffix):
    path = tmp_path / f"latest-all.{suffix}"
    assert write_dump(path, iter(rows)) == len(rows)
    with Graph(tmp_path / "g.sqlite") as graph:
        counts = read_dump(path, graph)
        assert counts["property"] == 8
        assert counts["entity"] == counts["label"] == len(rows) - 8
        assert graph.label(20_000) == "Person 0"
        assert graph.aliases(20_000) == ("P. 0",)
        assert HUMAN in graph.types(20_000)
        assert graph.property_label(19) == "place of birth"


def test_a_dump_is_filtered_by_class_and_fame_and_what_it_points_to_keeps_its_label(tmp_path, rows):
    path = tmp_path / "d.json"
    write_dump(path, iter(rows))
    with Graph(tmp_path / "g.sqlite") as graph:
        counts = read_dump(path, graph, DumpConfig(classes=("Q5",), min_sitelinks=2))
        wanted = sum(
            row["id"].startswith("Q2") and int(row["id"][1:]) >= 20_000 and len(row["sitelinks"]) >= 2 for row in rows
        )
        assert counts["entity"] == wanted
        assert graph.label(HUMAN) == "human"
        assert graph.label(2_000) == "Town 0"  # a place of birth, which is not kept itself
        assert graph.edges(2_000) == []
        assert graph.counts()["label"] > counts["entity"]


def test_fields_of_a_dump_may_come_in_any_order(tmp_path, rows):
    """As in a copy that another program wrote: what comes first may be the id of an item that is pointed to."""
    wanted = DumpConfig(classes=("Q5",), min_sitelinks=2)
    found = []
    for name in ("published", "sorted"):
        path = tmp_path / f"{name}.json"
        write_dump(path, ({key: row[key] for key in sorted(row)} if name == "sorted" else row for row in rows))
        with Graph(tmp_path / f"{name}.sqlite") as graph:
            counts = read_dump(path, graph, wanted)
            found.append((counts, graph.label(HUMAN), graph.label(2_000), graph.property_label(19)))
    assert found[0] == found[1]


def test_reading_goes_on_where_it_was_stopped(tmp_path, rows, monkeypatch):
    path = tmp_path / "d.json.gz"
    write_dump(path, iter(rows))
    monkeypatch.setattr(dump_module, "_BATCH", 20)
    with Graph(tmp_path / "whole.sqlite") as whole:
        expected = read_dump(path, whole)

    class Stop(Exception):
        pass

    reads = []

    def stop(lines):
        reads.append(lines)
        if len(reads) % 3 == 0:
            raise Stop

    with Graph(tmp_path / "g.sqlite") as graph:
        for _ in range(40):
            try:
                counts = read_dump(path, graph, advance=stop)
                break
            except Stop:
                pass
        assert counts == expected
        assert len(reads) > 6
        again = []
        assert read_dump(path, graph, advance=again.append) == expected
        assert again == []  # nothing was read a second time


def test_another_dump_or_other_settings_need_another_graph(tmp_path, rows):
    path = tmp_path / "d.json"
    write_dump(path, iter(rows))
    with Graph(tmp_path / "g.sqlite") as graph:
        read_dump(path, graph)
        with pytest.raises(UserError, match="was made of"):
            read_dump(path, graph, DumpConfig(language="de"))
    with pytest.raises(UserError, match=r"items such as Q5 \(human\), not 'bird species'. Search for it"):
        read_dump(path, Graph(tmp_path / "h.sqlite"), DumpConfig(classes=("bird species",)))


@pytest.mark.parametrize(
    "name", ["q5", "wd:Q5", "http://www.wikidata.org/entity/Q5", "https://www.wikidata.org/wiki/Q5"]
)
def test_a_class_is_known_by_all_that_names_its_item(tmp_path, rows, name):
    path = tmp_path / "d.json"
    write_dump(path, iter(rows))
    with Graph(tmp_path / "g.sqlite") as graph:
        assert read_dump(path, graph, DumpConfig(classes=(name,)))["entity"] == 400


def subclass_rows():
    """A city, a big city (a kind of city, which is a kind of itself), and one stated to be both, in Norway."""
    city, big, norway = 515, 1549591, 20
    yield entity(31, "instance of", kind="property")
    yield entity(17, "country", kind="property")
    yield entity(city, "city", [(279, statement(279, 486972))])
    yield entity(big, "big city", [(279, statement(279, city)), (279, statement(279, big))])
    for number, kinds in (
        (1001, [(city, "normal")]),
        (1002, [(big, "normal")]),
        (1003, [(city, "normal"), (big, "preferred")]),
    ):
        claims = [(31, statement(31, kind, rank=rank)) for kind, rank in kinds]
        yield entity(number, f"Place {number}", [*claims, (17, statement(17, norway))])
    yield entity(norway, "Norway")


@pytest.mark.parametrize(("subclasses", "kept"), [(False, {1001}), (True, {1001, 1002, 1003})])
@pytest.mark.parametrize("few", [20, 0])
def test_instances_of_subclasses_are_read_where_asked_for(tmp_path, monkeypatch, subclasses, kept, few):
    monkeypatch.setattr(dump_module, "_FEW", few)
    monkeypatch.setattr(dump_module, "_BATCH", 1)
    path = tmp_path / "d.json"
    write_dump(path, subclass_rows())
    with Graph(tmp_path / "g.sqlite") as graph:
        counts = read_dump(path, graph, DumpConfig(classes=("Q515",), subclasses=subclasses))
        assert graph.with_edge(17, 20, 10) == kept
        assert counts["entity"] == len(kept)


@pytest.mark.parametrize("classes", [(), ("Q515", "Q1549591")])
def test_an_instance_of_a_subclass_is_one_of_the_class_where_answers_are_counted(tmp_path, classes):
    """Which city is in Norway has three answers, and not the one that is stated to be a city and nothing finer."""
    path = tmp_path / "d.json"
    write_dump(path, subclass_rows())
    with Graph(tmp_path / "g.sqlite") as graph:
        read_dump(path, graph, DumpConfig(classes=classes))
        assert graph.of_type(515, {1001, 1002, 1003, 20}) == {1001, 1002, 1003}
        assert graph.of_type(1549591, {1001, 1002, 1003, 20}) == {1002, 1003}


def test_damage_is_told_and_what_was_read_is_kept(tmp_path, rows):
    path = tmp_path / "d.json.gz"
    write_dump(path, iter(rows))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cut short or damaged"):
        read_dump(path, Graph(tmp_path / "a.sqlite"))
    for text, message in (('[\n{"id": "Q1",\n]', "line 2 is not JSON"), ("hello\n", "line 1 is not an entity")):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(UserError, match=message):
            read_dump(tmp_path / "b.json", Graph(tmp_path / "b.sqlite"))
    with pytest.raises(UserError, match="there is no dump"):
        read_dump(tmp_path / "none.json", Graph(tmp_path / "c.sqlite"))
    (tmp_path / "no.sqlite").write_text("not a database, but long enough to be looked at " * 30)
    with pytest.raises(UserError, match="can't be used as a graph"):
        Graph(tmp_path / "no.sqlite")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (DumpConfig(classes=("Q999", "Q998")), "has a label in 'en' and is an instance of Q999 or Q998"),
        (DumpConfig(language="xx"), "has a label in 'xx'"),
        (DumpConfig(min_sitelinks=500), "and has 500 pages on Wikipedias or more"),
    ],
)
def test_a_dump_of_which_nothing_is_kept_is_told_with_what_was_asked_for(tmp_path, rows, config, why):
    write_dump(tmp_path / "d.json", iter(rows))
    for _ in range(2):  # the same command again says the same
        with Graph(tmp_path / "g.sqlite") as graph, pytest.raises(UserError, match=f"d.json has no item that .*{why}"):
            read_dump(tmp_path / "d.json", graph, config)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "has no item that"),
        (b'{"entities": {"Q1": {"id": "Q1"}}}', "has no item that"),
        (b'[\n{"id": "Q1", "labels": {"en": "A"}, "claims": {"P31": ["Q5"]}}\n]', "line 2 is an entity .* simplified"),
        (b'[\n {\n  "id": "Q1"\n }\n]', "entities over several lines.* jq -c"),
        (b"7z\xbc\xaf\x27\x1c rest", "compressed by zip, 7z or zstd"),
    ],
)
def test_what_is_no_dump_is_told_by_what_it_is(tmp_path, content, why):
    (tmp_path / "d.json").write_bytes(content)
    with Graph(tmp_path / "g.sqlite") as graph, pytest.raises(UserError, match=why):
        read_dump(tmp_path / "d.json", graph)


def test_a_dump_in_xz_and_a_code_of_a_language_in_capitals_are_read(tmp_path, rows):
    write_dump(tmp_path / "d.json", iter(rows))
    (tmp_path / "d.json.xz").write_bytes(lzma.compress((tmp_path / "d.json").read_bytes()))
    with Graph(tmp_path / "g.sqlite") as graph:
        assert read_dump(tmp_path / "d.json.xz", graph, DumpConfig(language="EN"))["entity"] == len(rows) - 8
    (tmp_path / "d.json.xz").write_bytes(lzma.compress((tmp_path / "d.json").read_bytes())[:-100])
    with Graph(tmp_path / "h.sqlite") as graph, pytest.raises(UserError, match="cut short or damaged"):
        read_dump(tmp_path / "d.json.xz", graph)


def test_results_that_are_compressed_are_told_in_one_line(tmp_path):
    (tmp_path / "r.json").write_bytes(gzip.compress(b"{}" * 10_000, 0))
    with Graph(tmp_path / "g.sqlite") as graph, pytest.raises(UserError) as caught:
        read_sparql(tmp_path / "r.json", graph)
    assert len(str(caught.value)) < 500


def test_a_dump_that_ends_between_two_lines_or_streams_is_cut_short(tmp_path, rows):
    write_dump(tmp_path / "d.json", iter(rows))
    whole = (tmp_path / "d.json").read_bytes().splitlines(keepends=True)
    half = len(whole) // 2
    streams = [bz2.compress(b"".join(part)) for part in (whole[:half], whole[half:])]
    (tmp_path / "d.json.bz2").write_bytes(b"".join(streams))
    with Graph(tmp_path / "g.sqlite") as graph:
        assert read_dump(tmp_path / "d.json.bz2", graph)["entity"]
    (tmp_path / "d.json.bz2").write_bytes(streams[0])
    with Graph(tmp_path / "h.sqlite") as graph, pytest.raises(UserError, match=r"cut short or damaged \(its last line"):
        read_dump(tmp_path / "d.json.bz2", graph)


def test_a_database_of_something_else_is_refused(tmp_path):
    import sqlite3

    other = sqlite3.connect(tmp_path / "x.sqlite")
    other.execute("CREATE TABLE t (a)")
    other.close()
    with pytest.raises(UserError, match="something else"):
        Graph(tmp_path / "x.sqlite")


def test_a_graph_that_a_stranger_changed_is_refused(tmp_path):
    import sqlite3

    changes = (
        "CREATE TRIGGER t AFTER INSERT ON entity BEGIN DELETE FROM edge; END;",
        "DROP TABLE label; CREATE VIEW label AS SELECT 1 AS id, 'x' AS text, 'y' AS about;",
        "CREATE TABLE other (x);",
    )
    for number, change in enumerate(changes):
        path = tmp_path / f"{number}.sqlite"
        for _ in range(2):  # its own, statistics included, is opened again
            graph = Graph(path)
            graph.finish()
            graph.close()
        other = sqlite3.connect(path)
        other.executescript(change)
        other.close()
        with pytest.raises(UserError, match="was changed"):
            Graph(path)


# SPARQL


def test_labels_with_half_a_surrogate_pair_are_kept_as_far_as_they_are_text(tmp_path):
    path = tmp_path / "d.json"
    path.write_text("\ufeff[\n" + json.dumps(entity(7, "an emoji \ud83d", [])) + "\n]\n", encoding="utf-8")
    with Graph(tmp_path / "g.sqlite") as graph:
        read_dump(path, graph)
        assert graph.label(7) == "an emoji ?"
    row = {"s": uri("Q7"), "p": uri("P19"), "o": uri("Q84"), "sLabel": literal("\ud83d"), "oLabel": literal("x\ud83d")}
    path.write_text(json.dumps({"head": {"vars": list(row)}, "results": {"bindings": [row]}}))
    with Graph(tmp_path / "h.sqlite") as graph:
        read_sparql(path, graph)
        assert (graph.label(7), graph.label(84)) == ("?", "x?")


def uri(name):
    base = "http://www.wikidata.org/" + ("entity/" if name[0] == "Q" else "prop/direct/")
    return {"type": "uri", "value": base + name}


def literal(value, kind=""):
    found = {"type": "literal", "value": value}
    return found | ({"datatype": f"http://www.w3.org/2001/XMLSchema#{kind}"} if kind else {"xml:lang": "en"})


def test_saved_sparql_results_are_a_graph(tmp_path):
    names = {"sLabel": literal("Ada"), "pLabel": literal("place of birth")}
    rows = [
        names | {"s": uri("Q7259"), "p": uri("P19"), "o": uri("Q84"), "oLabel": literal("London")},
        {
            "s": uri("Q7259"),
            "p": uri("P569"),
            "o": literal("1815-12-10T00:00:00Z", "dateTime"),
            "pLabel": literal("born"),
        },
        {"s": uri("Q7259"), "p": uri("P2048"), "o": literal("1.7", "decimal")},
        {"s": {"type": "bnode", "value": "t1"}, "p": uri("P19"), "o": uri("Q84")},
        # Where there is no label, the service gives the id.
        {"s": uri("Q9"), "p": uri("P19"), "o": uri("Q84"), "sLabel": literal("Q9")},
        names | {"s": uri("Q7259"), "p": uri("P19"), "o": uri("Q85"), "oLabel": literal("Q85")},
    ]
    path = tmp_path / "r.json"
    path.write_text(
        json.dumps({"head": {"vars": ["s", "p", "o", "sLabel", "pLabel", "oLabel"]}, "results": {"bindings": rows}})
    )
    with Graph(tmp_path / "g.sqlite") as graph:
        counts = read_sparql(path, graph)
        assert (counts["entity"], counts["edge"], counts["number"]) == (1, 2, 2)
        assert graph.label(7259) == "Ada"
        assert graph.label(85) != "Q85"
        assert graph.label(84) == "London"
        assert graph.numbers(7259) == [(569, 1815.0), (2048, 1.7)]
        assert graph.property_label(19) == "place of birth"
        assert graph.property_label(2048) == "P2048"
    path.write_text('{"head": {}, "boolean": true}')
    with pytest.raises(UserError, match="not a table of SPARQL results"):
        read_sparql(path, Graph(tmp_path / "h.sqlite"))
    path.write_text('{"head": {"vars": ["item"]}, "results": {"bindings": []}}')
    with pytest.raises(UserError, match="no variable s, p, o"):
        read_sparql(path, Graph(tmp_path / "i.sqlite"))


def test_results_of_another_query_need_another_graph(tmp_path):
    row = {"s": uri("Q7259"), "p": uri("P19"), "o": uri("Q84"), "sLabel": literal("Ada"), "oLabel": literal("London")}
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    for path, rows in ((one, [row]), (other, [row])):
        path.write_text(json.dumps({"head": {"vars": list(row)}, "results": {"bindings": rows}}))
    with Graph(tmp_path / "g.sqlite") as graph:
        refuse_other_files([one, other], graph)
        for path in (one, other):
            read_sparql(path, graph)
        refuse_other_files([other, one], graph)
        for paths in ([one], [one, tmp_path / "one.json"]):
            with pytest.raises(UserError, match=r"was made of other\.json, now it is not"):
                refuse_other_files(paths, graph)
        one.write_text(one.read_text() + " ")
        with pytest.raises(UserError, match=r"was made of one\.json"):
            refuse_other_files([one, other], graph)


@pytest.mark.parametrize("texts", [True, False])
def test_results_that_the_query_page_saved_are_read(tmp_path, texts):
    rows = [
        {"s": uri("Q7259"), "p": uri("P19"), "o": uri("Q84"), "sLabel": literal("Ada"), "oLabel": literal("London")},
        {"s": uri("Q7259"), "p": uri("P569"), "o": literal("1815-12-10T00:00:00Z", "dateTime")},
    ]
    if texts:
        rows = [{name: cell["value"] for name, cell in row.items()} for row in rows]
    (tmp_path / "query.json").write_text(json.dumps(rows))
    with Graph(tmp_path / "g.sqlite") as graph:
        read_sparql(tmp_path / "query.json", graph)
        assert (graph.label(7259), graph.label(84)) == ("Ada", "London")
        assert graph.edges(7259) == [(19, 84)]
        assert graph.numbers(7259) == [(569, 1815.0)]
    (tmp_path / "query.json").write_text('[{"item": "http://www.wikidata.org/entity/Q1"}]')
    with pytest.raises(UserError, match="no variable s, p, o; it has item"):
        read_sparql(tmp_path / "query.json", Graph(tmp_path / "h.sqlite"))


def test_a_text_that_is_a_number_is_none_where_types_were_not_saved(tmp_path):
    row = {"s": uri("Q7259")["value"], "p": uri("P281")["value"], "o": "10115", "sLabel": "Ada"}
    (tmp_path / "query.json").write_text(json.dumps([row]))
    with Graph(tmp_path / "g.sqlite") as graph:
        read_sparql(tmp_path / "query.json", graph)
        assert graph.numbers(7259) == []


def test_typed_literals_of_older_servers_are_literals(tmp_path):
    born = literal("1815-12-10T00:00:00Z", "dateTime") | {"type": "typed-literal"}
    row = {"s": uri("Q7259"), "p": uri("P569"), "o": born, "sLabel": literal("Ada")}
    (tmp_path / "r.json").write_text(json.dumps({"head": {"vars": list(row)}, "results": {"bindings": [row]}}))
    with Graph(tmp_path / "g.sqlite") as graph:
        read_sparql(tmp_path / "r.json", graph)
        assert graph.numbers(7259) == [(569, 1815.0)]


# Walks


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graph")
    write_dump(folder / "d.json", entities(2000))
    graph = Graph(folder / "g.sqlite")
    read_dump(folder / "d.json", graph)
    yield graph
    graph.close()


def meets(graph, number, constraint):
    """Whether an entity meets a constraint, looked up statement by statement."""
    if constraint.item is None:
        return (constraint.path[0], constraint.value) in graph.numbers(number)
    reached = [item for prop, item in graph.edges(number) if prop == constraint.path[0]]
    if len(constraint.path) == 1:
        return constraint.item in reached
    return any((constraint.path[1], constraint.item) in graph.edges(item) for item in reached)


def test_constraints_leave_exactly_the_answers_and_each_is_needed(graph):
    rng = np.random.default_rng(0)
    everyone = [n for n in range(20_000, 22_000)] + [n for n in range(2_000, 2_010)] + [1000, 1001, 1002]
    depths, sizes = set(), set()
    for _ in range(40):
        found = find(graph, rng, WalkConfig())
        of_kind = [n for n in everyone if found.kind in graph.types(n)]
        fitting = [n for n in of_kind if all(meets(graph, n, c) for c in found.constraints)]
        assert tuple(fitting) == found.answers
        assert len(found.answers) == 1
        assert 2 <= len(found.constraints) <= 4
        for left_out in found.constraints:
            rest = [c for c in found.constraints if c is not left_out]
            assert sum(all(meets(graph, n, c) for c in rest) for n in of_kind) > 1
        depths |= {c.hops for c in found.constraints}
        sizes.add(len(found.constraints))
        assert found.hops == sum(len(c.path) for c in found.constraints)
    assert depths == {1, 2}
    assert len(sizes) > 1


def test_several_answers_are_allowed_where_asked_for(graph):
    rng = np.random.default_rng(1)
    counts = {len(find(graph, rng, WalkConfig(answers=3)).answers) for _ in range(30)}
    assert counts <= {1, 2, 3}
    assert len(counts) > 1


def test_others_that_lack_a_statement_are_counted_as_open(graph):
    """A third of the people have no employer: where one is asked for, they may be rivals."""
    rng = np.random.default_rng(2)
    open_ones = [find(graph, rng, WalkConfig()) for _ in range(60)]
    with_employer = [f for f in open_ones if any(c.path[0] == 108 for c in f.constraints)]
    assert any(f.open_rivals for f in with_employer)
    assert not any(f.open_rivals for f in open_ones if all(c.path[0] in (19, 27, 106, 569) for c in f.constraints))
    closed = [find(graph, rng, WalkConfig(closed=True)) for _ in range(15)]
    assert not any(f.open_rivals for f in closed)


async def test_a_graph_without_anything_gives_nothing(tmp_path):
    with Graph(tmp_path / "g.sqlite") as empty:
        assert find(empty, np.random.default_rng(0), WalkConfig(tries=3)) is None
        with pytest.raises(UserError, match="gave 0 of 2"):
            await make_questions(empty, np.random.default_rng(0), WalkConfig(tries=3), 2)


def test_matching_looks_at_numbers_and_chains(graph):
    year = next(value for prop, value in graph.numbers(20_000) if prop == 569)
    assert 20_000 in matching(graph, Constraint((569,), None, year), 10_000)
    town = next(item for prop, item in graph.edges(20_000) if prop == 19)
    country = next(item for prop, item in graph.edges(town) if prop == 17)
    assert 20_000 in matching(graph, Constraint((19, 17), country), 10_000)


@pytest.mark.parametrize(
    "change", [{"p": uri("Q19")}, {"s": uri("P7259")}, {"sLabel": literal("Q7259")}, {"sLabel": {}}]
)
def test_results_without_items_direct_properties_or_labels_are_told(tmp_path, change):
    path = tmp_path / "r.json"
    row = {"s": uri("Q7259"), "p": uri("P19"), "o": uri("Q84"), "sLabel": literal("Ada")} | change
    path.write_text(json.dumps({"head": {"vars": list(row)}, "results": {"bindings": [row]}}))
    with Graph(tmp_path / "g.sqlite") as graph, pytest.raises(UserError, match=r"none of its 1 results has an item"):
        read_sparql(path, graph)


def test_items_that_words_cannot_tell_apart_are_one(tmp_path):
    path = tmp_path / "r.json"
    cell = {"sLabel": literal("Ada"), "pLabel": literal("place of birth"), "p": uri("P19")}
    rows = [
        cell | {"s": uri(f"Q{person}"), "o": uri(f"Q{town}"), "oLabel": literal(name)}
        for person, town, name in ((1, 90, "Paris"), (2, 91, "Paris"), (3, 92, "Rome"))
    ]
    path.write_text(json.dumps({"head": {"vars": list(rows[0])}, "results": {"bindings": rows}}))
    with Graph(tmp_path / "g.sqlite") as graph:
        read_sparql(path, graph)
        assert matching(graph, Constraint((19,), 90), 9) == {1, 2}
        assert len(matching(graph, Constraint((19,), 90), 1)) == 1
        assert matching(graph, Constraint((19,), 92), 9) == {3}


@pytest.mark.parametrize(
    ("saved", "year", "words"), [("-0043", -44, "44 BC"), ("0000", -1, "1 BC"), ("0079", 79, "79")]
)
def test_years_before_christ_are_those_of_historians_though_rdf_has_a_year_0(tmp_path, saved, year, words):
    path = tmp_path / "r.json"
    died = literal(f"{saved}-03-15T00:00:00Z", "dateTime")
    row = {"s": uri("Q1048"), "p": uri("P570"), "o": died, "sLabel": literal("Caesar"), "pLabel": literal("died")}
    path.write_text(json.dumps({"head": {"vars": list(row)}, "results": {"bindings": [row]}}))
    with Graph(tmp_path / "g.sqlite") as graph:
        read_sparql(path, graph)
        assert graph.numbers(1048) == [(570, year)]
        assert said(graph, Constraint((570,), None, year)) == f"died in the year {words}"


# Words


async def test_questions_say_every_constraint_and_not_the_answer(graph):
    made = await make_questions(graph, np.random.default_rng(0), WalkConfig(), 25)
    assert len({q.answers for q in made}) == 25
    for asked in made:
        assert all(row["says"] in asked.text for row in asked.meta["constraints"])
        assert asked.answers[0] not in asked.text
        assert asked.meta["source"] == "Wikidata (CC0)"
        assert {"hops", "rarity", "open_rivals"} <= asked.meta.keys()
        if asked.answers[0].startswith("Person"):
            assert asked.answers[1] == asked.answers[0].replace("Person", "P.")  # an alias is accepted
    again = await make_questions(graph, np.random.default_rng(0), WalkConfig(), 25)
    assert [q.text for q in again] == [q.text for q in made]


FOUND = ConstraintWalk(
    (20_000,),
    HUMAN,
    (Constraint((19,), 2_003), Constraint((27, 31), COUNTRY), Constraint((569,), None, 1850.0)),
    (9, 9, 9),
    (),
)


def test_a_template_by_hand(graph):
    assert template_text(graph, FOUND) == (
        "Which human was born in Town 3; has, as its country of citizenship, one whose instance of is country; "
        "and was born in the year 1850?"
    )


class Client:
    endpoint = ChatEndpoint("http://127.0.0.1:1/v1", "m")

    def __init__(self, *replies):
        self.replies, self.prompts = list(replies), []

    async def complete(self, messages, **_):
        self.prompts.append(messages[0][1][0])
        return ChatReply(json.dumps(self.replies.pop(0)), "stop")


async def test_a_models_wording_is_checked(graph):
    good = {"question": "Who first saw the light of day in Town 3 in 1850?"}
    client = Client(good, {"same": True})
    assert await word_question(client, graph, FOUND) == good["question"]
    assert "was born in Town 3" in client.prompts[0]
    assert await word_question(Client(good, {"same": False}), graph, FOUND) is None
    assert await word_question(Client({"question": "Is it Person 0 of Town 3?"}), graph, FOUND) is None
    assert await word_question(Client({"question": 7}), graph, FOUND) is None


async def test_a_search_can_show_that_a_rival_fits(graph):
    lacking = next(n for n in range(20_000, 20_050) if all(prop != 108 for prop, _ in graph.edges(n)))
    found = ConstraintWalk((20_001,), HUMAN, (Constraint((108,), 2_003),), (9,), (lacking,))

    class Search:
        def __init__(self, text):
            self.text = text

        async def text_search(self, query, k):
            assert query == f"{graph.label(lacking)} employer Town 3"
            return [SearchHit("Page", self.text, 0.9)]

    told = f"{graph.label(lacking)} has worked in Town 3 since 1999."
    assert await rivals_by_search(Search(told), graph, found, [lacking]) == [lacking]
    assert await rivals_by_search(Search("Nothing of it."), graph, found, [lacking]) == []


async def test_a_question_whose_rival_a_search_confirms_is_left_out(graph):
    class Search:
        """Says of everybody that all holds."""

        asked = 0

        async def text_search(self, query, k):
            Search.asked += 1
            return [SearchHit("Page", query, 0.9)]

    plain = await make_questions(graph, np.random.default_rng(3), WalkConfig(), 20)
    open_ones = [asked for asked in plain if asked.meta["open_rivals"]]
    assert open_ones
    why = Counter()
    made = await make_questions(
        graph, np.random.default_rng(3), WalkConfig(), 20, dropped=why, rivals=RivalSearch(Search(), 2)
    )
    assert not any(asked.meta["open_rivals"] for asked in made)
    assert why["a rival fits by search"] >= len(open_ones)
    assert Search.asked >= why["a rival fits by search"]


def test_damage_that_shows_while_a_graph_is_used_is_named(tmp_path, rows):
    path = tmp_path / "g.sqlite"
    write_dump(tmp_path / "dump.json", rows)
    with Graph(path) as graph:
        read_dump(tmp_path / "dump.json", graph)
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : -100] = b"\x07" * (len(data) - len(data) // 3 - 100)
    path.write_bytes(data)

    def read_all():
        with Graph(path) as graph:
            for table in ("entity", "label", "edge", "number"):
                list(graph._db.execute(f"SELECT * FROM {table}"))

    with pytest.raises(UserError, match=r"g\.sqlite can't be used as a graph .*Remove it, and the same command"):
        read_all()
