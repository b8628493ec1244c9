"""`hypereyes synth-wikidata` on a made dump."""

import json

import pytest

from hypereyes_jax.cli import main as cli
from hypereyes_jax.data.files import read_questions
from hypereyes_jax.files import read_json
from tests.cli.test_synth_photos import serve
from tests.data.wikidata_dump import entities, write_dump


@pytest.fixture
def dump(tmp_path):
    write_dump(tmp_path / "d.json.bz2", entities(1500))
    return tmp_path / "d.json.bz2"


def test_a_dump_becomes_questions_and_the_command_repeats(dump, tmp_path):
    command = ["synth-wikidata", str(dump), "--out", str(tmp_path / "out"), "--classes", "Q5", "--count", "60"]
    assert cli.main(command) == 0
    made = read_questions(tmp_path / "out" / "questions.jsonl")
    assert len({question.answers[0] for question in made}) == 60
    summary = read_json(tmp_path / "out" / "synth_wikidata.json")
    assert summary["rows"]["entity"] == 1500
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
    ],
)
def test_settings_that_can_not_work_leave_nothing_behind(dump, tmp_path, capsys, more, message):
    assert cli.main(["synth-wikidata", str(dump), "--out", str(tmp_path / "out"), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main(["synth-wikidata", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
