"""The knowledge base: built from pages, checked against them, resumed, corrected by hand."""

import asyncio
import json

import pytest
from PIL import Image

from hypereyes_jax.data.knowledge import (
    Fact,
    KnowledgeEntry,
    dictionary_knowledge,
    entry_path,
    fields_of,
    read_entry,
    read_knowledge,
    write_entry,
)
from hypereyes_jax.data.knowledge_build import build_knowledge, read_facts
from hypereyes_jax.env.chat.client import ChatEndpoint, ChatError, ChatReply
from hypereyes_jax.env.types import FatalSearchError, SearchError, SearchHit
from hypereyes_jax.errors import UserError

PAGES = [
    SearchHit("Laysan albatross", "Its wingspan is 195 to 203 cm. It eats squid at night.", 0.9, "https://a.example/1"),
    SearchHit("Diomedeidae", "Albatrosses are seabirds of the family Diomedeidae.", 0.8, "https://a.example/2"),
]
FIELDS = fields_of("cub")


def fact(name, value, quote, page=1):
    return {"name": name, "value": value, "quote": quote, "page": page}


GOOD = fact("wingspan", "195 cm", "wingspan is 195 to 203 cm")


def test_a_fact_is_kept_only_if_its_words_stand_on_its_page():
    said = {
        "aliases": ["Gooney", "laysan ALBATROSS", 7],
        "facts": [
            GOOD,
            fact("diet", "squid", "It eats squid at night", 1),
            fact("family", "Diomedeidae", "of the family Diomedeidae", 2),
            fact("nest", "on sand", "nests on sand"),  # on no page
            fact("diet", "fish", "It eats squid at night"),  # given before
            fact("colour", "grey", "Laysan albatross"),  # not asked for
            fact("length", "80 cm", "wingspan is 195 to 203 cm"),  # a number that the quotation does not hold
            fact("described", "long ago", "It eats squid"),  # no number
            fact("order", "x", "Diomedeidae", 3),  # no such page
            "nonsense",
        ],
    }
    entry, refused = read_facts("Laysan Albatross", said, PAGES, FIELDS)
    assert [(f.name, f.value, f.number, f.source) for f in entry.facts] == [
        ("wingspan", "195 cm", 195.0, "https://a.example/1"),
        ("diet", "squid", None, "https://a.example/1"),
        ("family", "Diomedeidae", None, "https://a.example/2"),
    ]
    assert refused == 7
    assert entry.aliases == ("Gooney",)
    assert read_facts("x", {"facts": "none"}, PAGES, FIELDS) == (KnowledgeEntry("x"), 0)


class Search:
    def __init__(self, fails=()):
        self.asked, self.fails = [], fails

    async def text_search(self, query, k):
        self.asked.append(query)
        for name, error in self.fails:
            if name in query:
                raise error
        return PAGES[:k]

    async def image_search(self, image, k):
        self.asked.append(image.size)
        return PAGES[1:]


class Client:
    endpoint = ChatEndpoint("http://127.0.0.1:1/v1", "writer")

    def __init__(self, reply=None):
        self.reply, self.prompts = reply or json.dumps({"facts": [GOOD]}), []

    async def complete(self, messages, **_):
        self.prompts.append(messages[0][1][0])
        if isinstance(self.reply, Exception):
            raise self.reply
        return ChatReply(self.reply, "stop")


async def build(tmp_path, labels, search=None, client=None, **more):
    classes = {label: (lambda: Image.new("RGB", (9, 9))) for label in labels}
    return await build_knowledge(
        classes, FIELDS, "bird species", tmp_path / "kb", search or Search(), client or Client(), **more
    )


async def test_each_class_gets_a_file_with_sources_once(tmp_path):
    search, client = Search(), Client()
    first = await build(tmp_path, ["Laysan Albatross", "Indigo Bunting"], search, client)
    assert (first.built, first.kept, first.searches) == (2, 0, 8)
    assert (9, 9) in search.asked
    assert all("<|" not in prompt for prompt in client.prompts)
    again = Search()
    second = await build(tmp_path, ["Laysan Albatross", "Indigo Bunting", "Rook"], again)
    assert (second.built, second.kept) == (1, 2)
    assert not any("Laysan" in str(query) for query in again.asked)
    known = read_knowledge(tmp_path / "kb")
    assert set(known) == {"Laysan Albatross", "Indigo Bunting", "Rook"}
    assert known["Rook"].fact("wingspan").source == "https://a.example/1"
    assert known["Rook"].searches == 4


async def test_what_failed_is_no_finding_and_is_tried_again(tmp_path):
    down = SearchError("timeout", transient=True)
    outcome = await build(tmp_path, ["Rook", "Jay"], Search(fails=[("Rook", down)]))
    assert outcome.built == 2  # the image search of Rook told enough
    lost = Search(fails=[("Robin", down)])
    lost.image_search = lost.text_search
    outcome = await build_knowledge({"Robin": None}, FIELDS, "bird", tmp_path / "kb", lost, Client())
    assert outcome.failed == {"Robin": "timeout"}
    assert not entry_path(tmp_path / "kb", "Robin").exists()
    silent = await build(tmp_path, ["Wren"], client=Client("no object here"))
    assert "Wren" in silent.failed
    assert (await build(tmp_path, ["Wren", "Robin"])).built == 2


@pytest.mark.parametrize(
    ("search", "client", "error"),
    [
        (Search(fails=[("", FatalSearchError("no credit", kind="credit"))]), None, FatalSearchError),
        (None, Client(ChatError("key refused", transient=False, fatal=True)), ChatError),
    ],
)
async def test_what_can_never_work_ends_the_building(tmp_path, search, client, error):
    with pytest.raises(error):
        await build(tmp_path, [f"class {i}" for i in range(30)], search, client)
    await asyncio.sleep(0)
    assert not list((tmp_path / "kb").glob("*.json"))


async def test_pages_are_visited_where_that_is_possible(tmp_path):
    async def visit(url):
        if url.endswith("2"):
            raise SearchError("gone", transient=False)
        return "Whole page: wingspan is 195 to 203 cm."

    client = Client()
    await build(tmp_path, ["Rook"], client=client, visit=visit)
    assert "Whole page" in client.prompts[0]
    assert "family Diomedeidae" in client.prompts[0]  # as the search told it


def test_a_person_may_correct_a_file_and_is_told_what_is_wrong(tmp_path):
    path = entry_path(tmp_path, "Laysan Albatross")
    assert path.name == "laysan-albatross.json"
    entry = KnowledgeEntry("Laysan Albatross", ("Gooney",), (Fact("wingspan", "195 cm", "s", "q", 195.0),), 4, "m")
    write_entry(path, entry)
    assert read_entry(path) == entry
    value = json.loads(path.read_text())
    value["facts"].append({"name": "diet", "value": "squid"})
    path.write_text(json.dumps(value))
    assert read_entry(path).fact("diet") == Fact("diet", "squid", "")
    for broken in (
        "[]",
        '{"label": 1}',
        '{"label": "x", "facts": [{"name": "a"}]}',
        '{"label": "x", "aliases": "y"}',
        "{",
    ):
        path.write_text(broken)
        with pytest.raises(UserError, match=r"laysan-albatross.json is not an entry"):
            read_entry(path)
    for number in ("NaN", "1e999", "-Infinity", "1" + "0" * 400, "9" * 5000):
        path.write_text(f'{{"label": "x", "facts": [{{"name": "a", "value": 1, "number": {number}}}]}}')
        with pytest.raises(UserError, match=r"laysan-albatross.json is not an entry"):
            read_entry(path)
    path.write_text('{"label": "x", "facts": [{"name": "a", "value": "half a pair: \\ud800"}]}')
    read_entry(path).facts[0].value.encode()
    path.write_text('{"label": "x", "facts": [{"name": "a", "value": 1, "number": "two"}]}')
    with pytest.raises(UserError, match="number of 'a'"):
        read_entry(path)
    with pytest.raises(UserError, match="holds no knowledge"):
        read_knowledge(tmp_path / "none")


def test_offline_a_dictionary_stands_in():
    known = dictionary_knowledge({"Rook": {"wingspan": 90, "diet": "worms"}})
    assert known["Rook"].fact("wingspan") == Fact("wingspan", "90", "dictionary", "", 90.0)
    assert known["Rook"].fact("diet").number is None


def test_classes_of_every_script_have_files_of_their_own(tmp_path):
    labels = ["猫", "犬", "Кошка", "Épagneul", "!!!", "---", "x" * 500, "猫" * 300, "A-10"]
    paths = [entry_path(tmp_path, label) for label in labels]
    assert len(set(paths)) == len(labels)
    assert (paths[0].name, paths[3].name) == ("猫.json", "epagneul.json")
    for path in paths:
        path.touch()
    assert len(list(tmp_path.glob("*.json"))) == len(labels)


async def test_classes_that_would_have_the_same_file_are_refused_before_anything_is_searched(tmp_path):
    with pytest.raises(UserError, match=r"the classes 'Robin' and 'The Robin' would have the same file"):
        await build_knowledge({"Robin": None, "The Robin": None}, FIELDS, "bird", tmp_path / "kb", None, None)
    assert not (tmp_path / "kb").exists()
