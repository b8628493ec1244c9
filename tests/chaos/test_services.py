"""5,000 replies of services: statuses x bodies x what came before x clients, over real sockets. None is silent."""

import json
from collections import Counter
from itertools import product

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hypereyes_jax.env import FatalSearchError, Question, SearchError
from hypereyes_jax.env.judging.llm_judge import LlmJudge
from hypereyes_jax.env.search.backends import RetrieverBackend, SerpApiBackend, SerpApiConfig
from hypereyes_jax.env.web.chat_api import ChatClient, ChatEndpoint, ChatError

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
QUESTION = Question("q", "?", (), ("Chad",))


async def outcome(kind, client):
    """What became of one request. Anything that is not raised here as one of our own errors fails the test."""
    try:
        if kind == "judge":
            verdict = await LlmJudge(client, format_attempts=1).verdict(QUESTION, "Chad")
            return "result" if isinstance(verdict, bool) else "silent"
        hits = await client.text_search("q", 3)
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
    }
    counts = Counter()
    for kind, worked in product(makers, (False, True)):
        for status, body in product(STATUSES, BODIES):
            client = makers[kind]()
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
            await client.aclose()
    await server.close()
    print(dict(counts))
    assert counts.total() >= 5_000
