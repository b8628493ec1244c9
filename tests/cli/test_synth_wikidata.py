"""`hypereyes synth-wikidata` on a made dump."""

import json

import pytest

from hypereyes_jax.cli import main as cli
from hypereyes_jax.data.files import read_questions
from hypereyes_jax.files import read_json
from tests.cli.test_synth_photos import serve
from tests.data.wikidata_dump import entities, write_dump


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    path = tmp_path_factory.mktemp("dump") / "d.json.bz2"
    write_dump(path, entities(600))
    return path


def test_a_dump_becomes_questions_and_the_command_repeats(dump, tmp_path):
    command = ["synth-wikidata", str(dump), "--out", str(tmp_path / "out"), "--classes", "Q5", "--count", "20"]
    assert cli.main(command) == 0
    made = read_questions(tmp_path / "out" / "questions.jsonl")
    assert len({question.answers[0] for question in made}) == 20
    summary = read_json(tmp_path / "out" / "synth_wikidata.json")
    assert summary["rows"]["entity"] == 600
    before = (tmp_path / "out" / "questions.jsonl").read_bytes()
    assert cli.main(command) == 0
    assert (tmp_path / "out" / "questions.jsonl").read_bytes() == before
    assert cli.main([*command, "--closed"]) == 2  # other questions belong elsewhere


async def test_a_chat_model_words_them(dump, tmp_path):
    import asyncio

    def reply(prompt):
        data = json.loads(prompt[prompt.rindex("\n\n{") :])
        if "Does the question state" in prompt.replace("\n", " "):
            return {"same": "Please" in data["question"]}
        return {"question": f"Please find out which {data['asked for']} this is: {' / '.join(data['conditions'])}"}

    served = await serve(reply)
    command = ["synth-wikidata", str(dump), "--out", str(tmp_path / "out"), "--count", "5"]
    words = [*command, "--llm.url", f"{served}/v1", "--llm.model", "stub"]
    assert await asyncio.to_thread(cli.main, words) == 0
    made = read_questions(tmp_path / "out" / "questions.jsonl")
    assert all(q.text.startswith("Please") and q.meta["writer"] == "stub" for q in made)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--count", "0"), "--count"),
        (("--constraints", "1", "4"), "two constraints"),
        (("--llm.url", "x"), "--llm.model"),
        (("--ask-rivals", "3"), "--search.service"),
        (("--sparql", "--classes", "Q5"), "belong to a dump"),
        (("--sparql", "--language", "de"), "belong to a dump"),
        (("--subclasses",), "--subclasses needs --classes"),
        (("--llm.model", "m"), "--llm.model needs --llm.url"),
    ],
)
def test_settings_that_can_not_work_leave_nothing_behind(dump, tmp_path, capsys, more, message):
    assert cli.main(["synth-wikidata", str(dump), "--out", str(tmp_path / "out"), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main(["synth-wikidata", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_a_search_service_leaves_out_questions_whose_rivals_it_confirms(dump, tmp_path):
    """Through the command: the service is an object of a file, which says of everybody that all holds."""
    (tmp_path / "mine.py").write_text(
        "from hypereyes_jax.env.types import SearchHit\n"
        "class Everything:\n"
        "    async def text_search(self, query, k):\n"
        "        return [SearchHit('Page', query, 0.9)]\n"
        "    async def image_search(self, image, k):\n"
        "        return []\n"
    )
    command = ["synth-wikidata", str(dump), "--count", "20"]
    service = ["--search.service", "object", "--search.backend", f"{tmp_path / 'mine.py'}:Everything"]
    assert cli.main([*command, "--out", str(tmp_path / "plain")]) == 0
    assert cli.main([*command, "--out", str(tmp_path / "asked"), "--ask-rivals", "2", *service]) == 0
    plain, asked = (read_questions(tmp_path / name / "questions.jsonl") for name in ("plain", "asked"))
    assert any(question.meta["open_rivals"] for question in plain)
    assert not any(question.meta["open_rivals"] for question in asked)
    assert read_json(tmp_path / "asked" / "synth_wikidata.json")["dropped"]["a rival fits by search"] > 0
