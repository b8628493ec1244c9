"""What the ten commands ask of the outside world, served on loopback.

A chat model that follows our own prompts by rules, a judge, and a text retriever. They stand in for paid services where
only the way is tried, not the quality.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

from aiohttp import web

from hypereyes_jax.data.collection.endpoint import DIRECT
from hypereyes_jax.env.judging.judges import normalise
from hypereyes_jax.env.web.app_thread import serving_app

UNKNOWN = "I do not know."
_GIVE_UP = f"<reason>{UNKNOWN}</reason><answer>unknown</answer>"


def chat_reply(messages: list[dict[str, Any]]) -> str:
    """What the rule-following chat model says to a conversation of one of our prompts."""
    first = _text(messages[0])
    if first == DIRECT:
        return UNKNOWN
    if messages[0].get("role") == "system":
        return _GIVE_UP  # an episode: this model solves none
    if first.endswith("Reply with exactly one word, correct or incorrect."):
        return "correct" if _is_right(_data(first)) else "incorrect"
    if first.endswith("Reply with one letter, A, B or C."):
        return "A" if _is_right(_data(first)) else "B"
    if '"extracted_final_answer"' in first:
        right = "yes" if _is_right(_data(first)) else "no"
        return json.dumps({"extracted_final_answer": "", "reasoning": "", "correct": right, "confidence": 100})
    if "the fields that are wanted" in first:
        return json.dumps(_structured(_data(first)))
    if first.startswith("You write questions"):
        return json.dumps(_question(_data(first)))
    if first.startswith("Answer a question about a picture from facts alone"):
        return json.dumps({"answers": _solved(_data(first))})
    if "Does the question state" in first.replace("\n", " "):
        return json.dumps({"same": True})
    if '"conditions"' in first:
        data = _data(first)
        return json.dumps({"question": f"Which {data.get('asked for', 'one')} is it? {'; '.join(data['conditions'])}."})
    return json.dumps({"answers": []})  # from the picture alone


def bird_pages(query: str) -> list[dict[str, Any]]:
    """Pages of a retriever about the made-up birds that a query names: each has a wingspan of its own."""
    match = re.search(r"made bird (\w+)", query.lower())
    if match is None:
        return []
    number = wingspan(match[1])
    text = f"About {query[:60]}\nAn adult's wingspan is {number} cm."
    return [{"document": {"contents": text}, "score": 0.9}]


def wingspan(name: str) -> int:
    """The wingspan of a made-up bird in centimetres: a number of its own for each name."""
    return 20 + 7 * (ord(name[0].lower()) - ord("a"))


def offline_services(port: int = 0) -> contextlib.AbstractContextManager[str]:
    """The services on loopback for the time of the block, which is given their address.

    Args:
      port: to be taken if it is free; else, and with 0, any other.
    """
    return serving_app(_app(), port)


def _app() -> web.Application:
    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        message = {"role": "assistant", "content": chat_reply(body["messages"])}
        usage = {"prompt_tokens": 100, "completion_tokens": 20}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    async def retrieve(request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"result": [bird_pages(query) for query in body["queries"]]})

    app = web.Application(client_max_size=1 << 27)
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_post("/retrieve", retrieve)
    return app


def _text(message: dict[str, Any]) -> str:
    content = message.get("content", "")
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content if isinstance(part, dict))


def _data(prompt: str) -> dict[str, Any]:
    """The JSON object of a prompt of ours; an empty one where there is none."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"^\{", prompt, re.M):
        with contextlib.suppress(ValueError):
            value, _ = decoder.raw_decode(prompt, match.start())
            if isinstance(value, dict) and len(value) > 1:
                return value
    return {}


def _is_right(data: dict[str, Any]) -> bool:
    """Whether the answer holds one of the accepted ones."""
    answer = normalise(str(data.get("answer", "")))
    return any(word and word in answer for word in map(normalise, data.get("references") or data.get("targets") or ()))


def _structured(data: dict[str, Any]) -> dict[str, Any]:
    facts: list[dict[str, Any]] = []
    for page in data.get("pages", []):
        match = re.search(r"wingspan is (\d+) cm", page["text"])
        if match and not facts:
            facts.append({"name": "wingspan", "value": f"{match[1]} cm", "page": page["page"], "quote": match[0]})
    return {"aliases": [], "facts": facts}


def _question(data: dict[str, Any]) -> dict[str, Any]:
    things = data.get("things", [])
    total = sum(_span(thing.get("facts", {})) or 0 for thing in things)
    sources = [{"entity": thing["entity"], "fact": "wingspan"} for thing in things]
    text = "What do the wingspans of all the birds shown add up to, in centimetres?"
    return {"question": text, "answer": str(total), "aliases": [f"{total} cm"], "used": sources}


def _solved(data: dict[str, Any]) -> list[str]:
    spans = [_span(thing["facts"]) if isinstance(thing["facts"], dict) else None for thing in data.get("things", [])]
    numbers = [span for span in spans if span is not None]
    return [str(sum(numbers))] if spans and len(numbers) == len(spans) else []


def _span(facts: dict[str, str]) -> int | None:
    match = re.match(r"(\d+)", str(facts.get("wingspan", "")))
    return int(match[1]) if match else None
