"""Clients of `hypereyes mcp` that are odd in hundreds of ways: each request is answered, and good ones go on working.

`python -m tests.chaos.test_odd_mcp_clients 300 SEED` prints the counts.
"""

from __future__ import annotations

import base64
import io
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest
from PIL import Image

from tests.chaos.damage import RAW, VALUES, damaged_bytes, damaged_value

PROGRAM = "import sys; from hypereyes_jax.cli.main import main; sys.exit(main())"
SECONDS = 600.0  # for an answer, on a machine that is very busy; what waits for ever is found by any bound
METHODS = [
    "tools/list", "tools/call", "ping", "initialize", "resources/list", "prompts/list", "resources/read", "prompts/get",
    "completion/complete", "logging/setLevel", "no/such", "", "tools/call/x", "__init__", "rpc.discover", "t" * 100_000,
]  # fmt: skip
NOTES = ["notifications/initialized", "notifications/cancelled", "notifications/progress", "notifications/x", "ping"]
HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "odd", "version": "1"},
}


def picture(size: tuple[int, int] = (40, 30), kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def arguments(draw: random.Random) -> Any:
    """Arguments of a search that may be wrong in any way."""
    images = [
        "img_0", "img_9", "", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/x.png",
        f"data:image/png;base64,{picture()}",
        "data:image/png;base64,", "data:image/png;base64,!!", "data:,x", "data:" + "A" * 300_000, picture(), b"x".hex(),
        {"data": picture(), "mimeType": "image/png"}, {"type": "image", "data": picture()}, [137, 80, 78, 71], None, 7,
        {"path": "/etc/passwd"}, {"bytes": picture()}, f"data:image/svg+xml;base64,{picture()}", "i" * 1_000_000,
        f"data:image/png;base64,{picture((3000, 2000))}", "data:image/png;base64," + picture()[:60], "\ud800", "\x00",
    ]  # fmt: skip
    areas = [
        None, [], [[0, 0, 1, 1]], [[0, 0, 1]], [[1, 1, 0, 0]], [["a", 0, 1, 1]], [[0, 0, 1e308, 1e308]],
        [[0.1] * 4] * 3000,
        "0,0,1,1", {"x": 1}, [None], [[-5, -5, 9, 9]], [[0, 0, 1, 1]] * 65, [[0.2, 0.2, 0.2, 0.2]], [0, 0, 1, 1],
    ]  # fmt: skip
    inputs = [
        ["a"], [], "a", None, [""], ["a"] * 5000, ["q" * 200_000], [7], [["a"]], {"a": 1}, ["\ud800"], ["\x1b[2J"],
        [None], ["a" * 300] * 300,
    ]  # fmt: skip
    return draw.choice([
        {"input": draw.choice(inputs)}, {"image": draw.choice(images), "area": draw.choice(areas)},
        {"image": draw.choice(images)}, {"image": "img_0", "area": draw.choice(areas)}, {}, None, [], "x", 7,
        {"image_id": "img_0"}, {"input": ["a"], "more": 1}, {"image": "img_0", "input": ["a"]}, draw.choice(VALUES),
    ])  # fmt: skip


def params(draw: random.Random, method: str) -> Any:
    if method == "tools/call" and draw.random() < 0.85:
        name = draw.choice(["text_search", "image_search", "image_search", "text_search", "no", "", None, 7, {}])
        extra = draw.choice([{}, {}, {"_meta": draw.choice([{"progressToken": 1}, {"progressToken": []}, None, 7])}])
        return {"name": name, "arguments": arguments(draw), **extra}
    if method == "initialize":
        version = draw.choice(["2025-06-18", "1999-01-01", "", None, 7, "2099-12-31", "v" * 10_000])
        return draw.choice([HELLO | {"protocolVersion": version}, HELLO, {}, None])
    return draw.choice([{}, None, {"cursor": draw.choice(VALUES)}, [], draw.choice(VALUES)])


def request(draw: random.Random, number: Any) -> dict[str, Any]:
    method = draw.choice(METHODS + ["tools/call"] * 12)
    made = {"jsonrpc": "2.0", "id": number, "method": method, "params": params(draw, method)}
    if made["params"] is None and draw.random() < 0.5:
        del made["params"]
    return made


def odd(draw: random.Random, number: int) -> tuple[list[bytes], set[Any]]:
    """(messages, ids that have to be answered)."""
    how = draw.random()
    if how < 0.5:
        number_or_text = draw.choice([number, f"id-{number}", number])
        return [encode(request(draw, number_or_text))], {number_or_text}
    if how < 0.58:
        made = damaged_value(draw, request(draw, number))
        return [encode(made)], set()
    if how < 0.66:
        return [damaged_bytes(draw, encode(request(draw, number)))[:2_000_000].replace(b"\n", b" ")], set()
    if how < 0.7:
        return [draw.choice(RAW)[:200_000].replace(b"\n", b" ")], set()
    if how < 0.76:
        return [encode([request(draw, number), request(draw, number + 0.5)])], set()  # a batch
    if how < 0.84:
        target = draw.choice([number, number - 1, "x", None, [], 10**30])
        note = {"jsonrpc": "2.0", "method": draw.choice(NOTES), "params": {"requestId": target, "reason": "no"}}
        made = request(draw, number)
        return draw.choice([[encode(note)], [encode(made), encode(note)], [encode(note), encode(made)]]), set()
    if how < 0.9:
        answer = {"jsonrpc": "2.0", "id": draw.choice([number, 1, "x"]), "result": draw.choice(VALUES)}
        refusal = {"jsonrpc": "2.0", "id": number, "error": {"code": 1, "message": "no"}}
        return [encode(draw.choice([answer, refusal]))], set()
    if how < 0.95:
        same = encode(request(draw, number))
        return [same, same], set()
    ids = {f"{number}-{each}" for each in range(200)}
    call = {"name": "text_search", "arguments": {"input": ["capital of Chad"]}}
    return [encode({"jsonrpc": "2.0", "id": each, "method": "tools/call", "params": call}) for each in ids], ids


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()


class StdioClient:
    """`hypereyes mcp` over its pipes, and the raw lines that it says."""

    def __init__(self, folder: Path):
        words = [sys.executable, "-c", PROGRAM, "mcp", str(folder / "red.png"), "--episode.text-min-score", "0"]
        self.log = open(folder / "stderr", "w+b")  # noqa: SIM115 - closed with the client
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log)
        self.said: Queue[bytes] = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.said.put(line)

    def send(self, message: bytes) -> None:
        self.process.stdin.write(message + b"\n")
        self.process.stdin.flush()

    def until(self, ids: set[Any]) -> tuple[dict[Any, list[Any]], list[str]]:
        """Replies by id until all of these have come, and what is wrong in words."""
        replies: dict[Any, list[Any]] = {}
        end = time.monotonic() + SECONDS
        while not ids <= set(replies):
            try:
                line = self.said.get(timeout=max(0.1, end - time.monotonic()))
            except Empty:
                return replies, [f"no answer to {sorted(map(str, ids - set(replies)))[:3]}"]
            try:
                value = json.loads(line)
            except ValueError:
                return replies, [f"not JSON: {line[:200]!r}"]
            if "method" not in value:
                replies.setdefault(value.get("id"), []).append(value)
        return replies, []

    def close(self) -> tuple[int | None, str]:
        """(exit code, what it said to the terminal)."""
        self.process.stdin.close()
        try:
            code = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = None
        with self.log:
            self.log.seek(0)
            return code, self.log.read().decode(errors="replace")


def wrong_reply(reply: Any) -> str:
    """What is wrong with a reply to a request, in words; empty for nothing."""
    if ("result" in reply) == ("error" in reply):
        return f"neither result nor error: {str(reply)[:300]}"
    text = json.dumps(reply)
    if "Traceback" in text or 'File \\"' in text:
        return f"a traceback on the wire: {text[:600]}"
    if "error" in reply:
        error = reply["error"]
        if not isinstance(error.get("code"), int) or not isinstance(error.get("message"), str):
            return f"no JSON-RPC error: {text[:300]}"
    elif reply["result"].get("isError") and len(text) > 20_000:
        return f"an error of {len(text)} characters: {text[:200]}"
    return ""


def run_stdio(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    draw, counts, faults = random.Random(seed), Counter[str](), []
    with tempfile.TemporaryDirectory() as name:
        Image.new("RGB", (64, 48), "red").save(Path(name) / "red.png")
        client = StdioClient(Path(name))
        client.send(encode({"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": HELLO}))
        _, problems = client.until({"hello"})
        client.send(encode({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        faults += problems
        for number in range(count):
            if problems:
                break
            messages, ids = odd(draw, 1000 + number)
            for message in messages:
                client.send(message)
            last = f"last-{number}"
            client.send(encode({"jsonrpc": "2.0", "id": last, "method": "ping"}))
            replies, problems = client.until({*ids, last})
            problems += [words for each in replies.values() for reply in each if (words := wrong_reply(reply))]
            problems += [
                f"{len(each)} answers to {key}" for key, each in replies.items() if key in ids and len(each) > 1
            ]
            counts["wrong" if problems else "answered" if ids else "borne"] += 1
            faults += [f"{number}: {messages[0][:200]!r}: {each}" for each in problems]
            if any("no answer" in each for each in problems):
                break
            problems = []
        code, said = client.close()
        if code != 0:
            faults.append(f"it ended with {code}: {said[-500:]}")
        if "Traceback" in said:
            place = said.index("Traceback")
            faults.append(
                f"{said.count('Traceback')} tracebacks at the terminal: {said[max(0, place - 300) : place + 1500]}"
            )
    return counts, faults


def post(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    asked = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(asked, timeout=SECONDS) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def run_http(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    draw, counts, faults = random.Random(seed), Counter[str](), []
    with tempfile.TemporaryDirectory() as name:
        Image.new("RGB", (64, 48), "red").save(Path(name) / "red.png")
        words = [sys.executable, "-c", PROGRAM, "mcp", f"{name}/red.png", "--transport", "http", "--port", "0"]
        with (
            open(Path(name) / "stderr", "w+b") as log,
            subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log) as server,
        ):
            url = re.search(r"http://\S+/mcp", server.stdout.readline().decode())[0]
            good = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
            hello = encode({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO})
            _, headers, _ = post(url, hello, good)
            session = {name.lower(): value for name, value in headers.items()}["mcp-session-id"]
            for number in range(count):
                messages, _ = odd(draw, 1000 + number)
                head = dict(good)
                if draw.random() < 0.8:
                    head["Mcp-Session-Id"] = session
                if draw.random() < 0.3:
                    change = draw.choice([
                        {"Mcp-Session-Id": "other"}, {"Content-Type": "text/plain"}, {"Accept": "text/html"},
                        {"Host": "evil"},
                        {"Origin": "http://evil"}, {"MCP-Protocol-Version": "1999-01-01"}, {"Content-Type": ""},
                        {"Mcp-Session-Id": "x" * 5000}, {"Content-Encoding": "gzip"}, {"Authorization": "Bearer x"},
                    ])  # fmt: skip
                    head |= change
                for message in messages[:3]:
                    try:
                        status, _, body = post(url, message, head)
                    except OSError as error:
                        faults.append(f"{number}: {message[:200]!r}: {error}")
                        counts["no reply"] += 1
                        continue
                    counts[f"{status // 100}xx"] += 1
                    if status >= 500 or b"Traceback" in body:
                        faults.append(f"{number}: {message[:200]!r} {head}: {status} {body[:300]!r}")
            call = {"name": "text_search", "arguments": {"input": ["capital of Chad"]}}
            ask = encode({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
            _, _, body = post(url, ask, good | {"Mcp-Session-Id": session})
            if b"search" not in body and b"result" not in body:
                faults.append(f"a good call fails in the end: {body[:300]!r}")
            server.send_signal(signal.SIGINT)
            code = server.wait(SECONDS)
            log.seek(0)
            said = log.read().decode(errors="replace")
            if code != 0 or "Traceback" in said:
                place = said.find("Traceback")
                faults.append(f"ended with {code}: {said[max(0, place - 300) : place + 1500]}")
    return counts, faults


def test_a_few_odd_clients_over_pipes_are_answered():
    pytest.importorskip("mcp")
    _, faults = run_stdio(60, 3)
    assert faults == []


@pytest.mark.chaos
@pytest.mark.parametrize("run", [run_stdio, run_http])
def test_hundreds_of_odd_clients_are_answered(run):
    pytest.importorskip("mcp")
    counts, faults = run(500, 0)
    print(dict(counts))
    assert faults == []


if __name__ == "__main__":
    for each in (run_stdio, run_http):
        total, wrong = each(int(sys.argv[1]), int(sys.argv[2]))
        print("\n".join(wrong[:40]))
        print(f"{each.__name__}: {total.total()}: {dict(total)}", flush=True)
