"""Ways in which a file can be damaged: cut, torn, overwritten, of another kind, another encoding, another shape."""

import json
import os
import random
from pathlib import Path

VALUES = [
    None, True, False, 0, -1, 1, 3.5, -0.0, 1e308, -1e308, 10**29, "", "x", "\x1b[31m", "\ud800", "\u202e", "é" * 50,
    "y" * 10_000, [], {}, [None], [[[]]], [1, 2, 3], ["a"], {"a": None}, {"": {}}, {"stages": []}, "NaN", "1",
    "data:image/png;base64,", "javascript:alert(1)",
]  # fmt: skip
RAW = [
    b"", b"\n", b"null", b"[]", b"{}", b"3", b'""', b"true", b"\x00" * 64, b"\xff\xfe\x00", b"[" * 100_000,
    b"[" * 500 + b"]" * 500, b'{"a":' * 300 + b"1" + b"}" * 300, b'{"a": NaN}', b'{"a": 1e999}', b"9" * 5000,
    "{\"name\": \"ü\"}".encode("latin-1"), b"PK\x03\x04", b"\x1f\x8b\x08", b"<html></html>", b'{"a": 1}{"a": 2}',
]  # fmt: skip


def places(value, path=()):
    """The paths of all values within a JSON value, itself included."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def changed(value, path, act):
    """A copy of a JSON value in which `act(container, key)` was done at a path; another value at its root."""
    if not path:
        return act(None, None)
    root = json.loads(json.dumps(value))
    container = root
    for key in path[:-1]:
        container = container[key]
    act(container, path[-1])
    return root


def damaged_value(draw: random.Random, value):
    """A JSON value with one value of it replaced, removed, renamed or doubled."""
    path = draw.choice(list(places(value)))
    other = draw.choice(VALUES)

    def act(container, key):
        if container is None:
            return other
        how = draw.random()
        if how < 0.25 and isinstance(container, dict):
            del container[key]
        elif how < 0.35 and isinstance(container, dict):
            container[str(key) + "x"] = container.pop(key)
        elif how < 0.45 and isinstance(container, list):
            container.insert(key, container[key])
        elif how < 0.5 and isinstance(container, list):
            del container[key]
        else:
            container[key] = other
        return container

    return changed(value, path, act)


def damaged_bytes(draw: random.Random, data: bytes) -> bytes:
    """Bytes that were cut, overwritten, doubled, or are another file's altogether."""
    how, place = draw.random(), draw.randrange(len(data) + 1)
    if how < 0.25:
        return data[:place]
    if how < 0.5:
        altered = bytearray(data)
        for _ in range(draw.randint(1, 8)):
            if altered:
                altered[draw.randrange(len(altered))] = draw.randrange(256)
        return bytes(altered)
    if how < 0.65:
        return data[:place] + draw.randbytes(draw.randint(1, 50)) + data[place:]
    if how < 0.75:
        return data[place:]
    if how < 0.8:
        return data + data
    return draw.choice(RAW)


def damage(draw: random.Random, path: Path, lines: bool, text: bool = True) -> str:
    """Damage a file in one way. Returns the way, in words.

    Args:
      lines: it holds JSON lines.
      text: it holds JSON; False = other bytes.
    """
    how = draw.random()
    if how < 0.02:
        path.unlink()
        os.mkfifo(path)
        return "a FIFO"
    if how < 0.04:
        path.unlink()
        path.mkdir()
        return "a directory"
    if how < 0.05:
        path.unlink()
        path.symlink_to(path)
        return "a link to itself"
    data = path.read_bytes()
    if text and how < 0.6:
        rows = data.decode().splitlines() if lines else [data.decode()]
        number = draw.randrange(len(rows))
        rows[number] = json.dumps(damaged_value(draw, json.loads(rows[number])))
        path.write_text("\n".join(rows) + "\n")
        return f"a value of line {number + 1}"
    path.write_bytes(damaged_bytes(draw, data))
    return "bytes"
