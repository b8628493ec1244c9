"""Thousands of broken replies of all services: each is a result, a typed failure or an end of the run.

They are broken on the wire (heads, encodings, lengths, moments) and in what they say. The clients are those of
generation servers, teachers, searches, chat models and pages. `python -m tests.chaos.test_broken_replies 4000 SEED`
prints the counts.
"""

import asyncio
import contextlib
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.env import FatalSearchError, SearchError
from hypereyes_jax.env.chat.client import ChatClient, ChatEndpoint, ChatError, ChatReply
from hypereyes_jax.env.search.backends import RetrieverBackend, SerpApiBackend, SerpApiConfig
from hypereyes_jax.env.web.http import HttpLimits, JsonHttp
from hypereyes_jax.env.web.retries import RetryPolicy
from hypereyes_jax.env.web.urls import UrlError, UrlGuard
from hypereyes_jax.processing import ContextChunk, SampledChunk
from hypereyes_jax.rollout.episodes import GeneratorError
from hypereyes_jax.rollout.servers.scoring import score_conversations
from hypereyes_jax.rollout.servers.sglang import SGLangServer
from hypereyes_jax.rollout.servers.vllm import VLLMServer
from hypereyes_jax.rollout.servers.weight_check import EchoError
from tests.chaos.damage import VALUES, changed, damaged_bytes, places
from tests.chaos.wire import Wire, broken, good, wire_server

MODEL = Qwen3VLConfig.from_hf(str(resources.files("hypereyes_jax.assets") / "base"))
PROMPT = np.arange(30, 36, dtype=np.int32)
STOP = 50
SAMPLING = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=3)
CONVERSATION = (
    ContextChunk(PROMPT[:3]),
    SampledChunk(PROMPT[3:], np.zeros(3, np.float32), np.zeros(3, np.float32), 0),
)
SECONDS = 20.0  # for one reply; clients here wait for 0.2 seconds
SGLANG = {
    "text": "",
    "output_ids": [40, 41, STOP],
    "meta_info": {
        "id": "x",
        "prompt_tokens": len(PROMPT),
        "completion_tokens": 3,
        "output_token_logprobs": [[-0.5, 40, None], [-0.75, 41, None], [-0.25, STOP, None]],
        "finish_reason": {"type": "stop", "matched": STOP},
        "input_token_logprobs": [[None, 30, None], *([-0.5, int(token), None] for token in PROMPT[1:])],
    },
}
VLLM = {
    "usage": {"prompt_tokens": len(PROMPT)},
    "prompt_token_ids": PROMPT.tolist(),
    "choices": [
        {
            "index": 0,
            "token_ids": [40, 41, STOP],
            "logprobs": {
                "content": [
                    {"token": "token_id:40", "logprob": -0.5},
                    {"token_id": 41, "logprob": -0.75},
                    {"token_id": STOP, "logprob": -0.25},
                ]
            },
            "finish_reason": "stop",
        }
    ],
    "prompt_logprobs": [None, *({str(token): {"logprob": -0.5, "rank": 3}} for token in PROMPT[1:])],
}
CHAT = {
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": [{"type": "text", "text": "Chad"}],
                "reasoning_content": "so",
                "tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"input": []}'}}],
            },
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
}
RETRIEVAL = {"result": [[{"document": {"id": "1", "contents": "Chad\nCountry.", "url": "https://c"}, "score": 0.9}]]}
SERPAPI = {
    "search_metadata": {"status": "Success"},
    "organic_results": [{"position": 1, "title": "Chad", "link": "https://c", "snippet": "A country."}],
    "answer_box": {"title": "Chad", "answer": "yes"},
    "knowledge_graph": {"title": "Chad", "description": "A country."},
}
ADAPTER = {"success": True, "error_message": "", "loaded_adapters": {"a": "/a"}}
NUMBERS = [
    math.nan, math.inf, -math.inf, 0.5, 3.0, 1e-3, -1e-9, -999.0, -1e4, 2**31, 2**63, 10**400, -(10**400), 40.0, 40.7,
    "40", "-0.5", "NaN", "Infinity", True, False, 151_936, -1, 10**12, STOP, "token_id:40", "token_id:x", "token_id:",
    "\x1b[2J" * 3, "\n" * 5, "x" * 100_000, {"type": "stop"}, {"type": "x" * 50_000}, [STOP], [[-0.5, 40, None]] * 3,
]  # fmt: skip


def nested(depth: int) -> object:
    value: object = []
    for _ in range(depth):
        value = [value]
    return value


def altered(draw: random.Random, reply: dict) -> bytes:
    """A reply with one or two values replaced, removed, doubled, renamed, or put twice."""
    for _ in range(draw.choice([1, 1, 1, 2])):
        path = draw.choice([each for each in places(reply) if each])
        other = draw.choice([*NUMBERS, *VALUES, nested(draw.randint(100, 900)), nested(draw.randint(2, 9))])

        def act(container, key, other=other):
            how = draw.random()
            if how < 0.12:
                del container[key]
            elif how < 0.2 and isinstance(container, dict):
                container[key + "_"] = container.pop(key)
            elif how < 0.3 and isinstance(container, list):
                container.insert(key, container[key])
            elif how < 0.36 and isinstance(container, list):
                draw.shuffle(container)
            else:
                container[key] = other
            return container

        reply = changed(reply, path, act)
    if draw.random() < 0.1:  # a failure beside a result
        words = draw.choice(
            ["no", "insufficient_quota", {"message": "no", "deep": nested(draw.randint(2, 900))}, 7, []]
        )
        reply = {**reply, "error": words}
    text = json.dumps(reply)
    if draw.random() < 0.05:  # a field that stands twice
        text = text[:-1] + ', "choices": 1, "meta_info": {}}'
    return text.encode()


def drawn(draw: random.Random, reply: dict) -> Wire:
    """What a server answers: another reply, damaged bytes, or a reply that is broken on the wire."""
    how = draw.random()
    if how < 0.45:
        status = draw.choice([b"200 OK"] * 8 + [b"201 Created", b"400 Bad", b"500 E", b"429 Many"])
        return Wire(f"altered {status!r}", good(altered(draw, reply), status).steps)
    if how < 0.6:
        body = damaged_bytes(draw, json.dumps(reply).encode())
        return Wire("bytes", good(body).steps)
    return broken(draw, json.dumps(reply).encode())


def plausible(tokens, logps, most: int) -> bool:
    finite = np.isfinite(logps).all() and (np.asarray(logps) <= 0).all()
    return len(tokens) == len(logps) and 1 <= len(tokens) <= most and bool(finite)


async def sampled(client) -> str:
    session = await client.open(0, SAMPLING, (STOP,))
    turn = (await session.turn(ContextChunk(PROMPT))).sampled
    whole = plausible(turn.tokens, turn.logp_full, SAMPLING.max_new_tokens)
    right = whole and all(0 <= token < MODEL.text.vocab_size for token in turn.tokens) and STOP not in turn.tokens[:-1]
    return "result" if right else "silent"


async def scored(client) -> str:
    (scores,) = await score_conversations(client, [CONVERSATION], deadline=SECONDS)
    if isinstance(scores, GeneratorError):
        raise scores
    return "result" if plausible(scores, scores, 3) and len(scores) == 3 else "silent"


async def echoed(client) -> str:
    error = await client.echo_check(PROMPT, np.full(len(PROMPT) - 1, -0.5, np.float32))
    return "result" if error <= 0.05 else "silent"


async def searched(client) -> str:
    hits = await client.text_search("q", 3)
    texts = all(isinstance(text, str) for hit in hits for text in (hit.title, hit.content, hit.url))
    return "result" if texts and len(hits) <= 3 and all(math.isfinite(hit.score) for hit in hits) else "silent"


def told(reply: ChatReply) -> str:
    counts = all(type(count) is int and count >= 0 for count in (reply.prompt_tokens, reply.completion_tokens))
    reply.text.encode(), reply.reasoning.encode()
    return "result" if counts and (reply.text or reply.reasoning or reply.finish_reason == "length") else "silent"


async def completed(client) -> str:
    return told(await client.complete([("user", ["?"])]))


async def streamed(client) -> str:
    pieces = [piece async for piece in client.stream([("user", ["?"])])]
    same = "".join(piece for piece in pieces if isinstance(piece, str)) == pieces[-1].text
    return told(pieces[-1]) if same else "silent"


async def fetched(client) -> str:
    return "result" if isinstance(await client.fetch(client.url), bytes) else "silent"


def pusher(folder: Path):
    async def pushed(client) -> str:
        await client.push_adapter(folder, 1)
        return "result"

    return pushed


async def outcome(act, client) -> str:
    """What became of one request. What is raised here as none of our own errors is a fault."""
    try:
        return await act(client)
    except (GeneratorError, EchoError, SearchError, ChatError, UrlError) as error:
        words = str(error)
        if not words or len(words) > 1500 or any(ord(char) < 32 for char in words):
            return f"words: {words[:200]!r} of {len(words)}"
        return "end of run" if isinstance(error, FatalSearchError) or getattr(error, "fatal", False) else "failure"


def stream_of(reply: dict) -> bytes:
    """A chat reply as a stream of events."""
    (choice,) = reply["choices"]
    events = [
        {"choices": [{"index": 0, "delta": choice["message"], "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"content": "!"}, "finish_reason": choice["finish_reason"]}]},
        {"choices": [], "usage": reply["usage"]},
    ]
    return b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"


class Page(UrlGuard):
    """A page of the server."""

    def __init__(self, url: str):
        super().__init__(allow_private=True, ports=None, seconds=0.3, max_bytes=1 << 20)
        self.url = url


LIMITS = HttpLimits(idle=0.2, reply_bytes=1 << 20)
RETRIES = RetryPolicy(1, (0.0, 0.001), retry_after_cap=0.001, patience=0.002)


@contextlib.asynccontextmanager
async def generation(kind, url: str):
    async with kind(url, MODEL, attempts=1) as client:
        client._http, client._retries = JsonHttp(LIMITS), RETRIES
        yield client


@contextlib.asynccontextmanager
async def asking(kind, url: str):
    makers = {
        RetrieverBackend: lambda: RetrieverBackend(f"{url}/retrieve", limits=LIMITS),
        SerpApiBackend: lambda: SerpApiBackend(SerpApiConfig("s3cr3t-key", url=f"{url}/search"), limits=LIMITS),
        ChatClient: lambda: ChatClient(ChatEndpoint(url, "m", "s3cr3t-key", timeout=0.2)),
    }
    client = makers[kind]()
    if kind is ChatClient:
        client._policy = RETRIES
    yield client
    await client.aclose()


@contextlib.asynccontextmanager
async def reading(kind, url: str):
    yield kind(url)


async def once(act, client) -> None:
    """Until a good reply was read: on a busy machine it may come later than a client with these limits waits."""
    for _ in range(20):
        if await outcome(act, client) == "result":
            return
    raise AssertionError(f"{act.__name__}: twenty good replies were no results")


async def run(count: int, seed: int, folder: Path) -> tuple[Counter, list[str]]:
    """Counts of what became of so many replies, and the faults in words."""
    draw, counts, faults = random.Random(seed), Counter(), []
    kinds = [
        (generation, SGLangServer, SGLANG, sampled), (generation, VLLMServer, VLLM, sampled),
        (generation, SGLangServer, SGLANG, scored), (generation, VLLMServer, VLLM, scored),
        (generation, SGLangServer, SGLANG, echoed), (generation, VLLMServer, VLLM, echoed),
        (generation, SGLangServer, ADAPTER, pusher(folder)), (generation, VLLMServer, ADAPTER, pusher(folder)),
        (asking, RetrieverBackend, RETRIEVAL, searched), (asking, SerpApiBackend, SERPAPI, searched),
        (asking, ChatClient, CHAT, completed), (asking, ChatClient, CHAT, streamed), (reading, Page, CHAT, fetched),
    ]  # fmt: skip
    async with wire_server() as server:
        for number in range(count):
            open_client, kind, reply, act = draw.choice(kinds)
            wire = drawn(draw, reply)
            if act is streamed and draw.random() < 0.6:
                events = stream_of(reply)
                wire = broken(draw, draw.choice([events, damaged_bytes(draw, events)]))
            worked, probed = draw.random() < 0.5, draw.random() < 0.8
            async with open_client(kind, server.url) as client:
                if worked:
                    client._mode_is_right = True
                    server.wire = good(json.dumps(reply).encode())
                    await once(act, client)
                client._mode_is_right = probed  # else vLLM is asked first what its log-probs are of
                server.wire = wire
                try:
                    async with asyncio.timeout(SECONDS):
                        became = await outcome(act, client)
                except TimeoutError:
                    became = "hang"
                except Exception as error:
                    became = f"traceback: {type(error).__name__}: {error}"[:300]
            counts[became.partition(":")[0]] += 1
            if became not in ("result", "failure", "end of run"):
                body = wire.steps[0] if wire.steps else b""
                faults.append(f"{number} {kind.__name__} {act.__name__}: {wire.what}: {became}: {body[:600]!r}")
    return counts, faults


async def test_a_few_broken_replies_are_results_typed_failures_or_the_end_of_the_run(tmp_path):
    counts, faults = await run(100, 0, tmp_path)
    assert faults == []
    assert min(counts["result"], counts["failure"], counts["end of run"]) > 0


@pytest.mark.chaos
async def test_thousands_of_broken_replies_are_results_typed_failures_or_the_end_of_the_run(tmp_path):
    counts, faults = await run(4000, 1, tmp_path)
    print(dict(counts))
    assert faults == []


if __name__ == "__main__":
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        total, wrong = asyncio.run(run(int(sys.argv[1]), int(sys.argv[2]), Path(name)))
    print("\n".join(wrong[:1000]))
    print(f"{total.total()} replies in {time.monotonic() - began:.0f} s: {dict(total)}")
