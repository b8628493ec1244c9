"""Messages between the processes of a group: a name, plain JSON values and numpy arrays, over one TCP connection.

A message is the length of its head (4 bytes), the head (JSON: name, values, and dtype and shape of each array), and the
arrays' bytes. Nothing in it is ever executed.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401 - makes "bfloat16" a name that numpy knows
import numpy as np

_LENGTH = struct.Struct("!I")
_MOST_HEAD = 1 << 26  # bytes
_SMALL = 1 << 16  # bytes; below, one call of the system costs more than a copy


class Message(NamedTuple):
    """A call, or its reply, between the processes that share a replica."""

    name: str
    values: list[Any] = []  # noqa: RUF012 - of JSON; never changed
    arrays: Sequence[np.ndarray] = ()

    def encoded(self) -> list[Any]:
        """What goes over the connection, one piece after the other: a small message is one, large arrays are views."""
        arrays = [np.ascontiguousarray(array) for array in self.arrays]
        # ascontiguousarray gives a scalar an axis
        shapes = [
            [array.dtype.name, np.shape(array_given)] for array, array_given in zip(arrays, self.arrays, strict=True)
        ]
        head = json.dumps([self.name, self.values, shapes]).encode()
        pieces: list[Any] = [
            _LENGTH.pack(len(head)) + head,
            *(array.reshape(-1).view(np.uint8).data for array in arrays),
        ]
        return [b"".join(pieces)] if sum(map(len, pieces)) < _SMALL else pieces


def receive(connection: socket.socket) -> Message:
    """Waits for the next message. Raises ConnectionError if the other side is gone, ValueError for what is none."""
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if length > _MOST_HEAD:
        raise ValueError(f"it sent a header of {length:,} bytes, too long for a message")
    try:
        name, values, shapes = json.loads(_exactly(connection, length))
        if not isinstance(name, str) or not isinstance(values, list):
            raise TypeError("it has no name or no values")
        arrays = [np.empty(shape, dtype) for dtype, shape in shapes]
    except (TypeError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise ValueError(f"it sent something that is not a message: {error}") from error
    for array in arrays:
        _fill(connection, array.reshape(-1).view(np.uint8).data)
    return Message(name, values, arrays)


def _exactly(connection: socket.socket, count: int) -> bytearray:
    data = bytearray(count)
    _fill(connection, memoryview(data))
    return data


def _fill(connection: socket.socket, place: memoryview) -> None:
    while place:
        count = connection.recv_into(place)
        if not count:
            raise ConnectionError("the connection was closed")
        place = place[count:]
