"""10,000 replies of services: statuses x bodies x what came before x clients, over real sockets. None is silent.

The clients are those of searches, judges, generation servers and teachers that score.
"""

import json
import math
from collections import Counter
from importlib import resources
from itertools import product

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.env import FatalSearchError, Question, SearchError
from hypereyes_jax.env.chat.client import ChatClient, ChatEndpoint, ChatError
from hypereyes_jax.env.judging.llm_judge import LlmJudge
from hypereyes_jax.env.search.backends import RetrieverBackend, SerpApiBackend, SerpApiConfig
from hypereyes_jax.processing import ContextChunk, SampledChunk
from hypereyes_jax.rollout.episodes import GeneratorError
from hypereyes_jax.rollout.servers.scoring import score_conversations
from hypereyes_jax.rollout.servers.sglang import SGLangServer
from hypereyes_jax.rollout.servers.vllm import VLLMServer

pytestmark = pytest.mark.chaos

STATUSES = [200, 201, 204, 301, 302, 400, 401, 402, 403, 404, 405, 408, 409, 410, 413, 415, 418, 422, 425, 429, 451,
            500, 501, 502, 503, 504, 507, 520, 529, 599]  # fmt: skip
GOOD = {
    "search": {"result": [[{"document": {"contents": "Chad\nCountry."}, "score": 0.9}]]},
    "serpapi": {"search_metadata": {"status": "Success"}, "organic_results": [{"title": "Chad", "link": "https://c"}]},
    "judge": {"choices": [{"message": {"content": "correct"}, "finish_reason": "stop"}]},
}
BODIES = [
    None, "", "<html>Bad gateway</html>", "{", "[" * 2_000, "null", "7", '"text"', "[]", "{}", '{"result": []}',
    '{"result": [[]]}', '{"result": null}', '{"result": [[7]]}', '{"result": [{"contents": 3}]}', '{"error": "no"}',
    '{"error": {"message": "no", "code": "insufficient_quota"}}', '{"error": {"message": 7}}', '{"choices": []}',
    '{"choices": [{"message": {"content": null}}]}', '{"choices": [{"message": {"content": [{"type": "text"}]}}]}',
    '{"choices": [{"message": {"content": "correct"}, "finish_reason": "error"}]}', '{"choices": "x"}',
    '{"search_metadata": {"status": "Error"}, "error": "x"}', '{"search_metadata": 7}', "\x00\x01", '{"a": NaN}',
    '{"result": [[{"document": {"contents": "a"}, "score": 1e999}]]}',
]  # fmt: skip
MODEL = Qwen3VLConfig.from_hf(str(resources.files("hypereyes_jax.assets") / "base"))
PROMPT = np.arange(30, 36, dtype=np.int32)
STOP = 50
SGLANG = {
    "output_ids": [40, STOP],
    "meta_info": {
        "prompt_tokens": len(PROMPT),
        "output_token_logprobs": [[-0.5, 40, None], [-0.25, STOP, None]],
        "finish_reason": {"type": "stop"},
        "input_token_logprobs": [[None, 30, None], *([-0.5, int(token), None] for token in PROMPT[1:])],
    },
}
VLLM = {
    "usage": {"prompt_tokens": len(PROMPT)},
    "choices": [
        {
            "token_ids": [40, STOP],
            "logprobs": {"content": [{"token_id": 40, "logprob": -0.5}, {"token_id": STOP, "logprob": -0.25}]},
            "finish_reason": "stop",
        }
    ],
}
GOOD |= {"sglang": SGLANG, "vllm": VLLM, "teacher": SGLANG}


def altered(good, *path, to):
    """A good reply with one value changed."""
    whole = json.loads(json.dumps(good))
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return json.dumps(whole)


META, CHOICE = ("meta_info",), ("choices", 0)
WRONG = [math.nan, math.inf, 3.0, -1e30, None, "x", [], {}, True, 10**12, -1]
GENERATED = [
    *(altered(SGLANG, *META, "output_token_logprobs", 0, 0, to=value) for value in WRONG),
    *(altered(SGLANG, "output_ids", 0, to=value) for value in WRONG),
    *(altered(SGLANG, *META, "prompt_tokens", to=value) for value in WRONG),
    *(altered(SGLANG, *META, "finish_reason", to=value) for value in WRONG),
    *(altered(SGLANG, *META, "input_token_logprobs", 2, to=value) for value in WRONG),
    *(altered(SGLANG, *META, "input_token_logprobs", 2, 0, to=value) for value in WRONG),
    *(altered(VLLM, *CHOICE, "logprobs", to=value) for value in WRONG),
    *(altered(VLLM, *CHOICE, "logprobs", "content", 0, to=value) for value in WRONG),
    *(altered(VLLM, *CHOICE, "logprobs", "content", 0, "logprob", to=value) for value in WRONG),
    *(altered(VLLM, *CHOICE, "token_ids", to=value) for value in WRONG),
    *(altered(VLLM, *CHOICE, to=value) for value in WRONG),
    *(altered(VLLM, "usage", to=value) for value in WRONG),
]
QUESTION = Question("q", "?", (), ("Chad",))


CONVERSATION = (
    ContextChunk(PROMPT[:3]),
    SampledChunk(PROMPT[3:], np.zeros(3, np.float32), np.zeros(3, np.float32), 0),
)


async def outcome(kind, client):
    """What became of one request. Anything that is not raised here as one of our own errors fails the test."""
    try:
        if kind in ("sglang", "vllm"):
            seat = await client.open(0, SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=2), (STOP,))
            turn = await seat.turn(ContextChunk(PROMPT))
            told = turn.sampled
            good = len(told.tokens) == 2 and np.isfinite(told.logp_full).all() and (told.logp_full <= 0).all()
            return "result" if good else "silent"
        if kind == "teacher":
            (scored,) = await score_conversations(client, [CONVERSATION])
            if isinstance(scored, GeneratorError):
                return "failure" if str(scored) else "silent"
            return "result" if len(scored) == 3 and np.isfinite(scored).all() else "silent"
        if kind == "judge":
            verdict = await LlmJudge(client, format_attempts=1).verdict(QUESTION, "Chad")
            return "result" if isinstance(verdict, bool) else "silent"
        hits = await client.text_search("q", 3)
    except GeneratorError as error:
        return "failure" if str(error) else "silent"
    except FatalSearchError as error:
        return "end of run" if str(error) else "silent"
    except ChatError as error:
        return ("end of run" if error.fatal else "failure") if str(error) else "silent"
    except SearchError as error:
        return "failure" if error.kind and str(error) else "silent"
    return "result" if hits else "empty"


async def test_every_reply_is_a_result_an_empty_one_a_typed_failure_or_the_end_of_the_run():
    reply = {}

    async def handle(request):
        status, body, headers = reply["next"]
        return web.Response(status=status, body=body.encode(), headers=headers, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    server = TestServer(app)
    await server.start_server()
    base = str(server.make_url("")).rstrip("/")
    makers = {
        "search": lambda: RetrieverBackend(f"{base}/retrieve"),
        "serpapi": lambda: SerpApiBackend(SerpApiConfig("key", url=f"{base}/search")),
        "judge": lambda: ChatClient(ChatEndpoint(f"{base}/v1", "m", attempts=1), backoff=0.001),
        "sglang": lambda: SGLangServer(base, MODEL, attempts=1),
        "vllm": lambda: VLLMServer(base, MODEL, attempts=1),
        "teacher": lambda: SGLangServer(base, MODEL, attempts=1),
    }
    serves = ("sglang", "vllm", "teacher")
    counts = Counter()
    for kind, worked in product(makers, (False, True)):
        bodies = [(status, body) for status, body in product(STATUSES, BODIES)]
        bodies += [(200, body) for body in GENERATED if kind in serves]
        for status, body in bodies:
            client = makers[kind]()
            if kind in serves:
                client = await client.__aenter__()
            if kind == "vllm":
                client._mode_is_right = worked  # else its first request asks what the log-probs are of
            good = json.dumps(GOOD[kind])
            if worked:
                reply["next"] = (200, good, {})
                assert await outcome(kind, client) == "result"
                counts["result"] += 1
            reply["next"] = (status, good if body is None else body, {"Location": "/elsewhere"})
            became = await outcome(kind, client)
            assert became != "silent", (kind, worked, status, body)
            if status >= 300:
                assert became in ("failure", "end of run"), (kind, worked, status, body, became)
            counts[became] += 1
            await (client.__aexit__(None, None, None) if kind in serves else client.aclose())
    await server.close()
    print(dict(counts))
    assert counts.total() >= 10_000
