"""Replies of HTTP servers that are broken on the wire: heads, encodings, lengths, moments at which they break off."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

RESET, HANG = "reset", "hang"
Step = bytes | float | str
"""What a server does next: sends bytes, waits for seconds, resets the connection, or says no more."""

STATUSES = [
    b"200 OK", b"200", b"200 ", b"201 Created", b"202 Accepted", b"203 Other", b"204 No Content", b"205 Reset",
    b"206 Partial", b"300 Choices", b"301 Moved", b"302 Found", b"303 Other", b"304 Not Modified", b"307 T", b"308 P",
    b"400 Bad", b"401 No", b"402 Pay", b"403 No", b"404 No", b"405 No", b"406 No", b"407 Proxy", b"408 Slow", b"409 C",
    b"410 Gone", b"413 Large", b"415 Type", b"418 Tea", b"421 M", b"422 U", b"425 Early", b"429 Many", b"451 Law",
    b"499 Client", b"500 E", b"501 N", b"502 B", b"503 U", b"504 T", b"505 V", b"507 D", b"520 W", b"529 O", b"599 X",
    b"999 Beyond", b"0 Zero", b"-1 Minus", b"abc", b"", b"2000 Long", b"200 \xff\xfe", b"200 \x1b[31mred",
]  # fmt: skip
RETRY_AFTER = [
    b"0", b"1", b"0.001", b"-3", b"1e400", b"nan", b"inf", b"1_0", b"3 seconds", b"", b" ", b"\xd9\xa3",
    b"Wed, 21 Oct 2015 07:28:00 GMT", b"Wed, 21 Oct 2099 07:28:00 GMT", b"Wed, 21 Oct 2015 07:28:00 +9999",
    b"Wed, 21 Oct 99999999999999999999 07:28:00 GMT", b"Mon, 99 Jan 2026 99:99:99 GMT", b"1 Jan 0001 00:00:00 +2359",
    b"31 Dec 9999 23:59:59 -2359", b"Wed, 21 Oct 2015 07:28:00", b"2026-01-01T00:00:00Z", b"9" * 400, b"0x10", b"0,1",
    b"Wed,", b",,,,,", b"Wed, 21 Oct 2015 07:28:00 GMT" * 20, b"1 1 1 1:1:1 +99999999999999999999",
]  # fmt: skip
CONTENT_TYPES = [
    b"application/json", b"text/html", b"text/plain", b"text/event-stream", b"application/json; charset=nonexistent",
    b"application/json; charset=utf-16", b"", b";", b"/", b"application", b"image/png", b"a/b; c=\"d", b"x" * 4000,
    b"application/json; charset=\"", b"multipart/form-data; boundary=a", b"text/plain; charset=\xff", b"a/b;;;=;=",
]  # fmt: skip
ENCODINGS = [b"gzip", b"deflate", b"br", b"zstd", b"identity", b"x-gzip", b"compress", b"gzip, gzip", b"GZIP", b"?"]
LENGTHS = [
    b"0",
    b"-1",
    b"x",
    b"",
    b"1e3",
    b"99999999999999999999",
    b"+5",
    b"5, 5",
    b"5, 6",
    b" 7",
    b"0x10",
    b"\xd9\xa3",
]
HEADERS = [
    b"no colon here", b": no name", b"A B: c", b"X: \x00", b"X: \x1b[31m", b"\x00: y", b"X: " + b"y" * 9_000,
    b"X: " + b"y" * 300_000, b" folded: a", b"X: a\r\n folded", b"X\xff: y", b"Set-Cookie: a=b; Expires=never",
    b"Set-Cookie: \x01=\x02", b"Connection: upgrade\r\nUpgrade: websocket", b"Connection: close", b"Connection: \xff",
    b"Content-Length: 3\r\nContent-Length: 4", b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked, chunked",
    b"Trailer: X", b"Keep-Alive: timeout=0", b"Date: x", b"X:y\nY:z", b"X: a\rb",
    *(b"Y%d: z" % number for number in range(3)),
]  # fmt: skip
LOCATIONS = [
    b"/",
    b"http://[",
    b"//",
    b"http://127.0.0.1:1/",
    b"\xff",
    b"javascript:1",
    b"",
    b"http://a b/",
    b"x" * 9000,
]


@dataclass
class Wire:
    """What a server does once it has read a request."""

    what: str
    steps: list[Step] = field(default_factory=list)
    body: bytes | None = None  # what an intact reply holds; None where it can't be read whole


def good(body: bytes, status: bytes = b"200 OK") -> Wire:
    return Wire("good", [_head(status, len(body)) + body], body)


def _head(status: bytes, length: int | None, *more: bytes, kind: bytes = b"application/json") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Type: " + kind]
    if length is not None:
        lines.append(b"Content-Length: %d" % length)
    return b"\r\n".join([*lines, *more]) + b"\r\n\r\n"


def _deflated(body: bytes, raw: bool) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS if raw else zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def _chunked(draw: random.Random, body: bytes) -> bytes:
    out, at = b"", 0
    while at < len(body):
        size = draw.randint(1, max(1, len(body) // 3))
        piece = body[at : at + size]
        out += b"%x\r\n%s\r\n" % (len(piece), piece)
        at += size
    return out + b"0\r\n\r\n"


def _overwritten(draw: random.Random, data: bytes) -> bytes:
    altered = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        if altered:
            altered[draw.randrange(len(altered))] = draw.randrange(256)
    return bytes(altered)


def broken(draw: random.Random, body: bytes) -> Wire:
    """A reply that is broken in one way, or odd in one that a client should bear."""
    return draw.choice(_WAYS)(draw, body)


def _status(draw: random.Random, body: bytes) -> Wire:
    status, location, retry = draw.choice(STATUSES), draw.choice(LOCATIONS), draw.choice(RETRY_AFTER)
    body = draw.choice([body, b"", b"no", b'{"error": "no"}'])
    more = [b"Location: " + location] if draw.random() < 0.5 else []
    more += [b"Retry-After: " + retry] if draw.random() < 0.7 else []
    return Wire(f"status {status!r} {more}", [_head(status, len(body), *more) + body])


def _retry_after(draw: random.Random, body: bytes) -> Wire:
    status, retry = draw.choice([b"429 Many", b"503 U", b"200 OK", b"500 E"]), draw.choice(RETRY_AFTER)
    return Wire(f"retry-after {status!r} {retry!r}", [_head(status, 2, b"Retry-After: " + retry) + b"{}"])


def _type(draw: random.Random, body: bytes) -> Wire:
    kind = draw.choice(CONTENT_TYPES)
    body = draw.choice([body, b"\xff\xfe" + body, body.decode("latin-1").encode("utf-16"), b"<html>no</html>"])
    status = draw.choice([b"200 OK", b"500 E"])
    return Wire(f"content type {kind!r} {status!r}", [_head(status, len(body), kind=kind) + body])


def _encoding(draw: random.Random, body: bytes) -> Wire:
    encoding = draw.choice(ENCODINGS)
    packed = draw.choice([gzip.compress(body), _deflated(body, True), _deflated(body, False), body])
    how = draw.choice(["whole", "cut", "overwritten", "tail", "twice", "bomb"])
    if how == "cut":
        packed = packed[: draw.randrange(len(packed) + 1)]
    elif how == "overwritten":
        packed = _overwritten(draw, packed)
    elif how == "tail":
        packed += draw.randbytes(20)
    elif how == "twice":
        packed += packed
    elif how == "bomb":
        packed = gzip.compress(b" " * (40 << 20), 9) if draw.random() < 0.1 else gzip.compress(b" " * (3 << 20), 9)
    status = draw.choice([b"200 OK", b"200 OK", b"503 U"])
    head = _head(status, len(packed), b"Content-Encoding: " + encoding)
    if draw.random() < 0.3:
        head, packed = (
            _head(status, None, b"Content-Encoding: " + encoding, b"Transfer-Encoding: chunked"),
            _chunked(draw, packed),
        )
    return Wire(f"encoding {encoding!r} {how} {status!r}", [head + packed])


def _length(draw: random.Random, body: bytes) -> Wire:
    length = draw.choice([*LENGTHS, b"%d" % (len(body) + draw.randint(-5, 5))])
    head = _head(b"200 OK", None, b"Content-Length: " + length)
    return Wire(f"length {length!r} of {len(body)}", [head + body, *draw.choice([[], [HANG], [RESET]])])


def _header(draw: random.Random, body: bytes) -> Wire:
    extra = draw.choice(HEADERS)
    return Wire(f"header {extra[:40]!r}", [_head(b"200 OK", len(body), extra) + body])


def _start(draw: random.Random, body: bytes) -> Wire:
    whole = _head(b"200 OK", len(body)) + body
    first = draw.choice([
        b"HTTP/1.1 100 Continue\r\n\r\n" + whole, b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\n" + whole, b"\r\n\r\n" + whole,
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n" + whole, b"HTTP/0.9 200\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n" + body, b"ICY 200 OK\r\n\r\n", body, b"\x16\x03\x01\x02\x00\x01", b"SSH-2.0-x\r\n",
        whole.replace(b"\r\n", b"\n"), whole + whole, whole.replace(b"HTTP/1.1", b"http/1.1"), b"\x00" * 100,
        b"HTTP/1.1 200 OK\r\n" * 3 + b"\r\n", b"HTTP/1.0 200 OK\r\n\r\n" + body,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 40_000, b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + whole, whole + b"end",
    ])  # fmt: skip
    return Wire(f"start {first[:40]!r}", [first, *draw.choice([[], [], [HANG], [RESET]])])


def _chunks(draw: random.Random, body: bytes) -> Wire:
    whole = _chunked(draw, body)
    data = draw.choice([
        whole, whole[: draw.randrange(len(whole) + 1)], _overwritten(draw, whole), whole[:-5], b"zz\r\n" + whole,
        b"-5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffffffff\r\n" + body, b"0\r\n\r\n", whole + whole,
        b"5;ext=" + b"x" * 20_000 + b"\r\nhello\r\n0\r\n\r\n", whole[:-2] + b"X-Trailer: y\r\n\r\n",
        b"5\nhello\n0\n\n", whole[:-2] + b"T: \x00\r\n\r\n",
    ])  # fmt: skip
    head = _head(b"200 OK", None, b"Transfer-Encoding: chunked")
    return Wire(f"chunks {data[:30]!r}", [head + data, *draw.choice([[], [], [HANG], [RESET]])])


def _moment(draw: random.Random, body: bytes) -> Wire:
    whole = _head(b"200 OK", len(body)) + body
    place = draw.randrange(len(whole) + 1)
    end = draw.choice([[], [RESET], [HANG]])
    return Wire(f"broken off at {place} of {len(whole)}: {end}", [whole[:place], *end])


def _drip(draw: random.Random, body: bytes) -> Wire:
    whole = _head(b"200 OK", len(body)) + body
    places = sorted(draw.randrange(len(whole)) for _ in range(8))
    steps: list[Step] = []
    for first, last in zip([0, *places], [*places, len(whole)], strict=True):
        steps += [whole[first:last], 0.01]
    return Wire("drip", steps, body)


def _large(draw: random.Random, body: bytes) -> Wire:
    size = draw.choice([2 << 20, 5 << 20])
    filler = draw.choice([b" ", b"[", b"9", b'"', b"\x00"]) * size
    status = draw.choice([b"200 OK", b"500 E"])
    return Wire(f"{size} bytes of {filler[:1]!r} {status!r}", [_head(status, len(filler) + len(body)), filler, body])


_WAYS: list[Callable[[random.Random, bytes], Wire]] = [
    _status, _retry_after, _type, _encoding, _encoding, _length, _header, _start, _chunks, _moment, _moment, _drip,
    _large,
]  # fmt: skip


class WireServer:
    """Answers each request with `wire`, whatever was asked."""

    def __init__(self) -> None:
        self.wire = Wire("nothing")
        self.url = ""
        self._open: set[asyncio.StreamWriter] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                ),
                0,
            )
            await reader.readexactly(length)
            for step in self.wire.steps:
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                elif isinstance(step, float):
                    await asyncio.sleep(step)
                elif step == RESET:
                    connection = writer.get_extra_info("socket")
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                else:
                    await reader.read()  # until the client leaves
        self._open.discard(writer)
        writer.close()


@contextlib.asynccontextmanager
async def wire_server() -> AsyncIterator[WireServer]:
    """A server on a free port of loopback for the time of the block; each connection serves one request."""
    wires = WireServer()
    server = await asyncio.start_server(wires._serve, "127.0.0.1", 0)
    wires.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield wires
    finally:
        server.close()
        for writer in list(wires._open):
            writer.close()
