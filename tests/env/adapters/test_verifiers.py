"""Our environment run by the real verifiers, from its command line, with a scripted model.

Needs `pip install verifiers` (an environment of its own is best) and then `pytest -m oracle tests/env`.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from hypereyes_jax.env import tool_call
from hypereyes_jax.env.actions import ImageSearch
from tests.serving import served

pytestmark = pytest.mark.oracle

MODULE = """
from PIL import Image
from hypereyes_jax.env import ExactJudge, Question, SearchError, SearchHit
from hypereyes_jax.env.adapters.verifiers import environment

class Library:
    async def text_search(self, query, k):
        raise SearchError("HTTP 503", transient=True)
    async def image_search(self, image, k):
        return [SearchHit("Chad" if image.getpixel((0, 0))[0] else "Togo", "A country.", 0.9)]

FLAGS = Image.new("RGB", (400, 200), "red")
FLAGS.paste("blue", (200, 0, 400, 200))
questions = [Question(name, name, (FLAGS,), ("Chad",)) for name in ("right", "wrong", "outage")]
SearchTaskset, SearchEnv = environment(questions, Library(), ExactJudge())
__all__ = ["SearchEnv", "SearchTaskset"]
"""

HALVES = "<reason>Both.</reason>" + tool_call(ImageSearch("img_0", ((0, 0, 0.5, 1), (0.5, 0, 1, 1))))
TURNS = {
    "right": (HALVES, "<answer>Chad</answer>"),
    "wrong": (HALVES, "<answer>Togo</answer>"),
    "outage": ('<tool_call>{"name": "text_search", "arguments": {"input": ["Chad"]}}</tool_call>',),
}


def text_of(message):
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@contextlib.contextmanager
def endpoint():
    """An OpenAI-compatible server that plays TURNS, streamed; yields its URL and the conversations it saw."""
    seen = []

    async def reply(request):
        messages = (await request.json())["messages"]
        seen.append(messages)
        name = next(text_of(message) for message in messages if message["role"] == "user")
        turn = sum(message["role"] == "assistant" for message in messages)
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        common = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        for delta, finish in (({"role": "assistant", "content": TURNS[name][turn]}, None), ({}, "stop")):
            event = common | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            await stream.write(f"data: {json.dumps(event)}\n\n".encode())
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        await stream.write(f"data: {json.dumps(common | {'choices': [], 'usage': usage})}\n\n".encode())
        await stream.write(b"data: [DONE]\n\n")
        return stream

    with served("/v1/chat/completions", reply) as url:
        yield f"{url}/v1", seen


def test_verifiers_plays_scores_and_masks(tmp_path):
    pytest.importorskip("verifiers.v1")
    (tmp_path / "flags_env.py").write_text(MODULE)
    here = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    with endpoint() as (url, seen):
        command = [
            str(Path(sys.executable).parent / "vf-eval"), "flags_env", "-m", "m", "--no-push",
            "--env.player.harness.id", "null", "--env.player.runtime.type", "subprocess",
            "--client.base-url", url, "--client.api-key-var", "NO_KEY", "-o", str(tmp_path), "--run.dir", "run",
        ]  # fmt: skip
        environment = dict(os.environ, PYTHONPATH=here, NO_KEY="none")
        subprocess.run(command, env=environment, cwd=tmp_path, timeout=300, check=True, capture_output=True)
    episodes = [json.loads(line) for line in (tmp_path / "run" / "traces.jsonl").read_text().splitlines()]
    found = {episode["task"]["data"]["id"]: episode for episode in episodes}
    assert found["right"]["ok"]
    assert found["wrong"]["ok"]
    assert not found["outage"]["ok"]  # counted as failed, not as wrong
    for name, reward in (("right", 1.0), ("wrong", 0.0)):
        (trace,) = found[name]["traces"]
        assert trace["rewards"]["accuracy"]["score"] == reward
        assert (trace["metrics"]["rounds"], trace["metrics"]["invocations"]) == (1, 2)
    shown = [messages for messages in seen if any(message["role"] == "assistant" for message in messages)]
    assert [part["type"] for part in shown[0][-1]["content"]] == ["image_url", "image_url", "text"]
