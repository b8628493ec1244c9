"""`hypereyes ask`: a scripted endpoint and a checkpoint with random weights, both through the command line."""

import io
import json
from dataclasses import replace

import pytest
from aiohttp import web
from PIL import Image

from hypereyes_jax import miniature
from hypereyes_jax.cli import main as cli
from hypereyes_jax.cli.ask import AskConfig, _rules
from hypereyes_jax.env import EpisodeConfig, tool_call
from hypereyes_jax.env.actions import ImageSearch
from hypereyes_jax.env.types import Invocation, SearchHit, TurnRecord
from hypereyes_jax.eval.drawing import draw_boxes
from hypereyes_jax.eval.records import read_records
from tests.launch.small_model import small_model
from tests.serving import served

TURNS = (
    "<reason>Two\x1b[31m flags.</reason>" + tool_call(ImageSearch("img_0", ((0, 0, 0.5, 1), (0.5, 0, 1, 1)))),
    "<reason>Read.</reason><answer>[bold]Chad[/bold]</answer>",
)


@pytest.fixture
def endpoint():
    """An OpenAI-compatible server that plays TURNS; yields its base URL and the requests it got."""
    bodies = []

    async def reply(request):
        body = await request.json()
        bodies.append((request.headers.get("Authorization"), body))
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        text = TURNS[min(sum(m["role"] == "assistant" for m in body["messages"]), 1)]
        for piece in (text[:9], text[9:]):
            await stream.write(f"data: {json.dumps({'choices': [{'delta': {'content': piece}}]})}\n\n".encode())
        usage = {"choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}
        await stream.write(f"data: {json.dumps(usage)}\n\ndata: [DONE]\n\n".encode())
        return stream

    with served("/v1/chat/completions", reply) as url:
        yield f"{url}/v1", bodies


@pytest.fixture
def flags(tmp_path):
    image = Image.new("RGB", (200, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    image.save(tmp_path / "flags.png")
    return tmp_path / "flags.png"


def test_a_question_to_an_endpoint(endpoint, flags, tmp_path, capsys, monkeypatch):
    url, bodies = endpoint
    monkeypatch.setenv("OPENAI_API_KEY", "s3cr3t-k3y")
    out = tmp_path / "asked.jsonl"
    prices = ("--prompt-price", "3", "--completion-price", "10", "--search.policy.image-price", "0.01")
    words = ["ask", str(flags), "Which countries?", "--model-url", url, "--model", "m", "--out", str(out), *prices]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "<reason>Two\\x1b[31m flags.</reason>" in shown  # the escape character is text
    assert "\x1b" not in shown
    assert "[img_2]" in shown
    assert "answer: [bold]Chad[/bold]" in shown
    assert "1 rounds, 2 searches" in shown
    assert "$0.0200 search + $0.0080 model" in shown.replace("\n", " ")
    (record,) = read_records(out)
    assert (record.answer, record.rounds, record.invocations) == ("[bold]Chad[/bold]", 1, 2)
    assert record.extra["searches"]["sent"] == 2
    drawn = Image.open(out.with_suffix(".png"))
    assert drawn.size == (640, 320)
    assert bodies[0][0] == "Bearer s3cr3t-k3y"
    assert all(b"s3cr3t-k3y" not in path.read_bytes() for path in tmp_path.iterdir())
    assert "s3cr3t-k3y" not in shown
    assert cli.main(words) == 0
    assert len(list(read_records(out))) == 2
    assert cli.main(["report", str(out)]) == 0


def test_without_an_image_with_several_and_in_a_conversation(endpoint, flags, tmp_path, monkeypatch, capsys):
    url, bodies = endpoint
    model = ["--model-url", url, "--model", "m"]
    assert cli.main(["ask", "Which countries?", *model, "--out", str(tmp_path / "none.jsonl")]) == 0
    (record,) = read_records(tmp_path / "none.jsonl")
    assert (record.question, record.images) == ("Which countries?", ())
    assert not (tmp_path / "none.png").exists()

    out = tmp_path / "two.jsonl"
    monkeypatch.setattr("sys.stdin", io.StringIO("And which is larger?\n"))
    assert cli.main(["ask", str(flags), str(flags), "Which?", "--chat", *model, "--out", str(out)]) == 0
    first, second = read_records(out)
    assert len(first.images) == 2
    assert second.question == (
        "Earlier in this conversation:\nuser: Which?\nassistant: [bold]Chad[/bold]\n\nNow: And which is larger?"
    )
    assert (tmp_path / "two.png").exists()
    assert (tmp_path / "two-1.png").exists()
    shown = bodies[-1][1]["messages"][1]["content"]
    assert [part["type"] for part in shown] == ["image_url", "image_url", "text"]


def test_a_question_that_is_missing_is_told(capsys):
    assert cli.main(["ask", " ", "--model-url", "http://127.0.0.1:9/v1", "--model", "m"]) == 2
    assert "no question was given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "give either"),
        (("--model-url", "http://127.0.0.1:9/v1", "--model", "m"), "the model gave no answer"),
        (("--model-url", "http://127.0.0.1:9/v1", "--model", "m", "--search.service", "serpapi"), "SERPAPI_API_KEY"),
    ],
)
def test_what_is_wrong_is_said(flags, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.delenv("SERPAPI_API_KEY", raising=False)
    assert cli.main(["ask", str(flags), "?", "--out", str(tmp_path / "a.jsonl"), *more]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("image", ["gone.png", "http://127.0.0.1/x.png", "broken.png"])
def test_an_image_that_can_not_be_opened_is_named(image, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert cli.main(["ask", image, "?", "--model-url", "http://127.0.0.1:9/v1", "--model", "m"]) == 2
    assert f"can't open {image}" in capsys.readouterr().err


def test_boxes_are_drawn_where_they_were_cut():
    hit = SearchHit("Chad", "", 0.9)
    invocation = Invocation("image_search", "img_1", "img_0", (0.5, 0.0, 1.0, 1.0), "img_1", (hit,))
    other = Invocation("image_search", "img_2", "img_1", (0.0, 0.0, 1.0, 1.0), "img_2")
    turn = TurnRecord("", "", (invocation, other), True)
    drawn = draw_boxes(Image.new("RGB", (640, 320), "white"), [turn])
    assert drawn.getpixel((320, 200)) == (230, 25, 75)  # the left edge of the box
    assert drawn.getpixel((160, 160)) == (255, 255, 255)  # outside it
    assert drawn.getpixel((600, 160)) == (255, 255, 255)  # within it: only the edge is drawn


@pytest.mark.slow
def test_a_question_to_a_checkpoint_run_here(flags, tmp_path, capsys):
    small_model(tmp_path / "model")
    out = tmp_path / "asked.jsonl"
    words = ["ask", str(flags), "?", "--checkpoint", str(tmp_path / "model"), "--miniature", "--out", str(out)]
    assert cli.main([*words, "--max-new-tokens", "4"]) == 0
    (record,) = read_records(out)
    assert record.sampled_tokens == 4
    assert "no answer" in capsys.readouterr().out


def test_a_rule_that_is_given_replaces_that_of_the_miniature_and_no_other():
    config = AskConfig(("Which?",), miniature=True, episode=EpisodeConfig(tools=("zoom",)))
    assert _rules(config) == replace(miniature.EPISODE, tools=("zoom",))
    assert _rules(replace(config, miniature=False)) == config.episode
