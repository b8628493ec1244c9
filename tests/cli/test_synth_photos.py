"""`hypereyes synth-photos` offline, and against a chat model and a search service on loopback."""

import json

import pytest

from hypereyes_jax.cli import main as cli
from hypereyes_jax.data.files import read_questions
from hypereyes_jax.files import read_json
from tests.data import photo_folders

FACTS = {
    "Laysan Albatross": {"wingspan": 195, "diet": "squid"},
    "Indigo Bunting": {"wingspan": 21, "diet": "seeds"},
    "Black footed Albatross": {"wingspan": 220, "diet": "fish"},
}


@pytest.fixture
def command(tmp_path):
    photo_folders.cub(tmp_path / "cub")
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps(FACTS))
    return ["synth-photos", "cub", str(tmp_path / "cub"), "--out", str(tmp_path / "out")]


def test_offline_templates_write_from_a_dictionary_and_the_command_repeats(command, tmp_path, capsys):
    offline = [*command, "--facts", str(tmp_path / "facts.json"), "--count", "60", "--max-entities", "3"]
    assert cli.main(offline) == 0
    made = read_questions(tmp_path / "out" / "questions.jsonl")
    assert len({question.id for question in made}) == 60
    assert all(question.meta["licence"] for question in made)
    assert read_json(tmp_path / "out" / "synth_photos.json")["questions"] == 60
    parts = sorted((tmp_path / "out" / "parts").iterdir())
    before = [part.stat().st_mtime_ns for part in parts]
    assert cli.main(offline) == 0
    assert [part.stat().st_mtime_ns for part in parts] == before  # nothing was made anew
    with_a_model = ["--llm.url", "http://127.0.0.1:1/v1", "--llm.model", "m"]
    for other in (["--no-drop-one"], with_a_model):
        assert cli.main([*offline, *other]) == 2  # other questions belong elsewhere
    assert 'llm.model was "", is "m"' in capsys.readouterr().err
    again = read_questions(tmp_path / "out" / "questions.jsonl")
    assert [q.text for q in again] == [q.text for q in made]


def test_photos_that_are_not_there_are_told(command, tmp_path, capsys):
    next((tmp_path / "cub").rglob("*_5.jpg")).unlink()
    assert cli.main([*command, "--facts", str(tmp_path / "facts.json"), "--count", "2", "--max-entities", "3"]) == 0
    assert "1 of 6 photos are not there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "give --facts FILE"),
        (("--llm.url", "http://127.0.0.1:1/v1", "--llm.model", "m"), "knows no photos"),
        (("--facts", "FACTS", "--count", "0"), "--count"),
        (("--facts", "DAMAGED"), "). Write it as one JSON object {class: {field: value}}."),
        (("--facts", "FACTS", "--llm.url", "http://127.0.0.1:1/v1"), "needs --llm.model"),
        (("--facts", "FACTS", "--splits", "val"), "--splits val: cub has test, train. Name one that is there"),
    ],
)
def test_settings_that_can_not_work_are_told_before_anything_is_made(command, tmp_path, capsys, more, message):
    (tmp_path / "damaged.json").write_text(json.dumps(FACTS)[:-9])
    files = {"FACTS": "facts.json", "DAMAGED": "damaged.json"}
    words = [str(tmp_path / files[word]) if word in files else word for word in more]
    assert cli.main([*command, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


async def test_with_a_chat_model_and_a_search_service_on_loopback(command, tmp_path, monkeypatch):
    """The whole way: pages, knowledge, questions, checks; stubs that answer as a model would."""
    import asyncio

    served = await serve(reply)
    words = [
        *command,
        *("--count", "3", "--max-entities", "2", "--llm.url", f"{served}/v1", "--llm.model", "stub", "--llm.no-looks"),
        *("--search.service", "retriever", "--search.url", f"{served}/retrieve", "--no-drop-one"),
    ]
    assert await asyncio.to_thread(cli.main, words) == 0
    made = read_questions(tmp_path / "out" / "questions.jsonl")
    assert len(made) == 3
    assert all(question.answers[0] == "42" and question.meta["writer"] == "stub" for question in made)
    summary = read_json(tmp_path / "out" / "synth_photos.json")
    assert summary["classes"] == 3
    entry = read_json(tmp_path / "out" / "knowledge" / "indigo-bunting.json")
    assert entry["facts"][0]["value"] == "21 cm"


def reply(prompt):
    if "the fields that are wanted" in prompt:
        return {"facts": [{"name": "wingspan", "value": "21 cm", "page": 1, "quote": "its wingspan is 21 cm"}]}
    if "You write questions" in prompt:
        used = [{"entity": number, "fact": "wingspan"} for number in (1, 2)]
        question = "What do the wingspans of the two birds add up to, in centimetres?"
        return {"question": question, "answer": "42", "aliases": ["42 cm"], "used": used}
    return {"answers": [] if '"facts": "unknown"' in prompt else ["42"]}


async def serve(answer):
    """An OpenAI-compatible model and a Search-R1 style retriever at one address."""
    from aiohttp import web

    async def complete(request):
        body = await request.json()
        text = json.dumps(answer(body["messages"][0]["content"]))
        return web.json_response({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})

    async def retrieve(request):
        body = await request.json()
        page = {"document": {"contents": "Page\nOf this bird its wingspan is 21 cm."}, "score": 0.9}
        return web.json_response({"result": [[page] for _ in body["queries"]]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_post("/retrieve", retrieve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"


def test_facts_are_of_the_classes_however_a_file_spells_them_and_what_lacks_some_is_told(command, tmp_path, capsys):
    own = {name.upper().replace(" ", "_"): {"wingspan": str(n)} for n, name in enumerate(list(FACTS)[:2])}
    path = tmp_path / "own.json"
    path.write_text(json.dumps(own))
    assert cli.main([*command, "--facts", str(path), "--count", "2", "--max-entities", "2"]) == 0
    assert "1 of 3 classes have no facts in" in capsys.readouterr().out
    path.write_text(json.dumps({"Robin": {"wingspan": 3}}))
    assert cli.main([*command, "--facts", str(path), "--out", str(tmp_path / "none")]) == 2
    assert "names none of the classes of cub: it has Robin, and they are Black footed Alb" in capsys.readouterr().err
