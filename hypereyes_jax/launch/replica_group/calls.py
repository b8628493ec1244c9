"""A replica over several processes: one leads it, the others follow.

The driver has the engine, the scheduler and the environment. It tells the workers each call before it makes it, and
they make the same one on their part of the devices: all run the same programs in the same order, as a mesh of several
processes needs. A worker computes nothing on its own, and answers nothing: what a call gives, the driver reads from
its own devices.

A process may be inside of a device program that waits for another one for ever, when that one dies. So each end reads
its connections in a thread, and tells `lost` at once what it learns.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import socket
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hypereyes_jax.launch.links.messages import Message, receive
from hypereyes_jax.launch.links.peers import Peer
from hypereyes_jax.processing.types import VisionInputs
from hypereyes_jax.rollout.device import Device, DeviceCalls, Kept
from hypereyes_jax.rollout.programs.decode import Decoded, PackedDecodeRows
from hypereyes_jax.rollout.programs.extend import ExtendRows

Lost = Callable[[str], None]  # is told why another process of the replica group can't be waited for any more

_REST, _FAILED, _BYE = "rest", "failed", "bye"
_GRACE = 2.0  # seconds in which this process may end by itself: an error that all meet is told by each


class GroupDriver:
    """The driver's end.

    Args:
      workers: connected.
      lost: called in a thread of its own when a worker fails or is gone, unless this end is done by then.
    """

    def __init__(self, workers: Sequence[Peer], lost: Lost):
        self._workers, self._lost = list(workers), lost
        self._closed = threading.Event()
        for peer in self._workers:
            threading.Thread(target=self._watch, args=(peer,), name=f"worker {peer.number}", daemon=True).start()

    def __len__(self) -> int:
        return len(self._workers)

    def shared_calls(self, device: Device) -> DeviceCalls:
        """The device's calls, made by the workers, too."""
        return _DriverCalls(device, self)

    def broadcast(self, message: Message) -> None:
        """Raises ConnectionError if a worker is gone."""
        pieces = message.encoded()
        for peer in self._workers:
            _send(peer, pieces)

    def scatter(self, messages: Sequence[Message]) -> None:
        """One message to each worker. Raises ConnectionError if one is gone."""
        for peer, message in zip(self._workers, messages, strict=True):
            _send(peer, message.encoded())

    def release(self) -> None:
        """Lets the workers return from `GroupWorker.serve`."""
        self.broadcast(Message(_REST))

    def close(self, why: str = "") -> None:
        """Ends the connections.

        Args:
          why: this process failed; the workers' `lost` is told so. This end's own still hears of them: a process that
            failed waits for the others as it ends, and some may never come.
        """
        if not why:
            self._closed.set()
        for peer in self._workers:
            _part(peer, why)

    def _watch(self, peer: Peer) -> None:
        why = _last_words(peer)
        if why and not self._closed.wait(_GRACE):
            self._lost(why)


class GroupWorker:
    """A worker's end.

    Args:
      driver: connected.
      lost: called in a thread of its own when the driver fails or is gone, unless this end is done by then.
    """

    def __init__(self, driver: Peer, lost: Lost):
        self._driver, self._lost = driver, lost
        self._closed = threading.Event()
        self._kept: dict[int, Kept] = {}
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name=f"driver {driver.number}", daemon=True).start()

    def serve(self, device: Device) -> None:
        """Makes the driver's calls until it says that they may rest, or `stop` is called."""
        while (message := self._messages.get()) is not None and message.name != _REST:
            self._make(device, message)

    def stop(self) -> None:
        """Ends `serve` in another thread after the call that it makes."""
        self._messages.put(None)

    def receive(self) -> Message:
        """Waits for what the driver hands out. Raises ConnectionError if `stop` was called."""
        message = self._messages.get()
        if message is None:
            raise ConnectionError("stopped")
        return message

    def close(self, why: str = "") -> None:
        """Ends the connection, as `GroupDriver.close` does."""
        if not why:
            self._closed.set()
        _part(self._driver, why)

    def _read(self) -> None:
        why = _last_words(self._driver, self._messages.put)
        if why and not self._closed.wait(_GRACE):
            self._lost(why)

    def _make(self, device: Device, message: Message) -> None:
        numbers, arrays = message.values, message.arrays
        match message.name:
            case "encode":
                device.encode(VisionInputs(*arrays[:-1]), arrays[-1])
            case "extend":
                device.extend(ExtendRows(*arrays), *numbers)
            case "decode":
                device.decode(PackedDecodeRows(*arrays), *numbers)
            case "copy":
                source_part, target_part = numbers
                device.copy(source_part, arrays[0], target_part, arrays[1])
            case "read":
                key, part, dead_keys = numbers
                for old in dead_keys:
                    del self._kept[old]
                self._kept[key] = device.read(part, arrays[0])
            case "write":
                key, part = numbers
                device.write(self._kept[key], part, arrays[0])
            case name:
                raise ValueError(f"the driver asks for {name!r}, which this version does not know")


class _KeptByAll:
    """What pages held, in pieces: the driver's here, each worker's with itself under the same key."""

    def __init__(self, key: int, own: Kept):
        self.key, self.own = key, own


class _DriverCalls:
    """`DeviceCalls` of a driver."""

    def __init__(self, device: Device, driver: GroupDriver):
        self._device, self._driver = device, driver
        self._keys = itertools.count()
        self._dropped: list[int] = []  # kept no more; the workers are told with the next `read`

    def encode(self, vision: VisionInputs, rows_M: np.ndarray) -> None:
        self._driver.broadcast(Message("encode", [], [*vision, rows_M]))
        self._device.encode(vision, rows_M)

    def extend(self, batch: ExtendRows, view_length: int) -> np.ndarray | None:
        self._driver.broadcast(Message("extend", [view_length], batch))
        return self._device.extend(batch, view_length)

    def decode(self, batch: PackedDecodeRows, view_length: int) -> Decoded:
        self._driver.broadcast(Message("decode", [view_length], [each for each in batch if each is not None]))
        return self._device.decode(batch, view_length)

    def copy(self, source_part: int, sources_N: np.ndarray, target_part: int, targets_N: np.ndarray) -> None:
        self._driver.broadcast(Message("copy", [source_part, target_part], [sources_N, targets_N]))
        self._device.copy(source_part, sources_N, target_part, targets_N)

    def read(self, part: int, pages_P: np.ndarray) -> Kept:
        key, dead_keys = next(self._keys), self._dropped
        self._dropped = []
        self._driver.broadcast(Message("read", [key, part, dead_keys], [pages_P]))
        caches = _KeptByAll(key, self._device.read(part, pages_P))
        weakref.finalize(caches, self._drop, key)
        return caches

    def write(self, kept: Kept, part: int, pages_P: np.ndarray) -> None:
        self._driver.broadcast(Message("write", [kept.key, part], [pages_P]))
        self._device.write(kept.own, part, pages_P)

    def _drop(self, key: int) -> None:
        self._dropped.append(key)


def _send(peer: Peer, pieces: Sequence[Any]) -> None:
    try:
        for piece in pieces:
            peer.connection.sendall(piece)
    except OSError as error:
        raise ConnectionError(f"process {peer.number}, which shares a rollout replica, is gone: {error}") from error


def _part(peer: Peer, why: str) -> None:
    with contextlib.suppress(OSError):  # it may be gone already
        _send(peer, (Message(_FAILED, [why]) if why else Message(_BYE)).encoded())
        peer.connection.shutdown(socket.SHUT_WR)  # the thread that reads closes it


def _last_words(peer: Peer, take: Callable[[Any], None] | None = None) -> str:
    """Reads until the other side parts, and tells why it did; empty if it had done its work."""
    try:
        while (message := receive(peer.connection)).name not in (_FAILED, _BYE):
            if take is not None:
                take(message)
    except (OSError, ValueError) as error:  # or it sends what is not a message
        return f"process {peer.number}, which shares a rollout replica with this one, is gone ({error})"
    finally:
        peer.connection.close()
    if message.name == _BYE:
        return ""
    why = message.values[0] if message.values else "it does not say why"
    return f"process {peer.number}, which shares a rollout replica with this one, failed: {why}"
