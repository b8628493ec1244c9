"""Connections between the processes of a run, over TCP: one listens, the others call it and say who they are."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import selectors
import socket
import struct
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

PATIENCE = 300.0  # seconds for all callers to connect; they have met already, at the run's start
_TRY = 10.0  # seconds for one address, or for a caller to say all of who it is
_MOST_CALLERS = 64  # that have not said who they are; the oldest makes room
_NOT_YET = -1
_HELLO = struct.Struct("!32sI")  # the server's word, the caller's number

Address = list[Any]  # of a server, in JSON: hosts, port, and the random word that a caller must know


class Peer(NamedTuple):
    """Another process, connected."""

    number: int  # of the process
    connection: socket.socket


class PeerServer:
    """Waits for calls of other processes, at a port of the system's choice."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("", 0), backlog=128)
        self._word = secrets.token_hex(16)

    def __enter__(self) -> PeerServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the listening; connections stay."""
        self._socket.close()

    @property
    def address(self) -> Address:
        return [_own_hosts(), self._socket.getsockname()[1], self._word]

    def answer(self, callers: Sequence[int], patience: float = PATIENCE) -> list[Peer]:
        """The connections of these processes, in this order.

        Callers are served side by side: one that says nothing keeps no other waiting.

        Raises ConnectionError if one has not called after so many seconds.
        """
        connections: dict[int, socket.socket] = {}
        strangers: dict[socket.socket, _Caller] = {}  # the oldest first
        until = time.monotonic() + patience
        self._socket.setblocking(False)
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:

            def drop(connection: socket.socket) -> None:
                del strangers[connection]
                selector.unregister(connection)

            @stack.callback
            def send_away() -> None:
                for connection in strangers:
                    connection.close()

            selector.register(self._socket, selectors.EVENT_READ)
            while missing := [number for number in callers if number not in connections]:
                now = time.monotonic()
                if now >= until:
                    raise ConnectionError(f"processes {missing} did not call within {patience:.0f} s")
                late = [connection for connection, caller in strangers.items() if caller.until <= now]
                for connection in [*late, *list(strangers)[: max(0, len(strangers) - _MOST_CALLERS)]]:
                    if connection in strangers:
                        drop(connection)
                        connection.close()
                for key, _ in selector.select(min([until, *(each.until for each in strangers.values())]) - now):
                    if key.fileobj is self._socket:
                        with contextlib.suppress(OSError):  # it has left again
                            connection, _ = self._socket.accept()
                            connection.setblocking(False)
                            strangers[connection] = _Caller(time.monotonic() + _TRY)
                            selector.register(connection, selectors.EVENT_READ)
                        continue
                    connection = next(each for each in strangers if each is key.fileobj)
                    number = strangers[connection].listen(connection, self._word.encode())
                    if number is _NOT_YET:
                        continue
                    drop(connection)
                    if number not in missing or number in connections:
                        connection.close()
                        continue
                    connection.settimeout(None)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # calls are small, and waited for
                    connection.sendall(b"!")
                    connections[number] = connection
        return [Peer(number, connections[number]) for number in callers]


def call(number: int, address: Address, own: int) -> Peer:
    """The connection to process `number`, which listens there.

    Args:
      own: this process's number.

    Raises ConnectionError if it can't be reached.
    """
    hosts, port, word = address
    for host in hosts:
        with contextlib.suppress(OSError):
            connection = socket.create_connection((host, port), timeout=_TRY)
            connection.sendall(_HELLO.pack(word.encode(), own))
            if connection.recv(1):  # it knows the word: this is the server, and not another machine of that address
                connection.settimeout(None)
                return Peer(number, connection)
            connection.close()
    raise ConnectionError(f"process {own} can't reach process {number} at port {port} of {', '.join(hosts)}")


class _Caller:
    """What somebody who has called said so far.

    Args:
      until: when all of the hello must have come.
    """

    def __init__(self, until: float):
        self.until = until
        self._hello = b""

    def listen(self, connection: socket.socket, word: bytes) -> int | None:
        """The number of a process that knows the word; None for anybody else, `_NOT_YET` while it may be one."""
        try:
            more = connection.recv(_HELLO.size - len(self._hello))
        except BlockingIOError:
            return _NOT_YET
        except OSError:
            return None
        self._hello += more
        if not more:
            return None
        if len(self._hello) < _HELLO.size:
            return _NOT_YET
        theirs, number = _HELLO.unpack(self._hello)
        return int(number) if hmac.compare_digest(theirs, word) else None


def _own_hosts() -> list[str]:
    """This host's addresses, likeliest first."""
    hosts = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: it asks which of our addresses leads to others (192.0.2.0/24 is for documentation, RFC 5737).
        probe.connect(("192.0.2.1", 9))
        hosts.append(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        hosts += socket.gethostbyname_ex(socket.gethostname())[2]
    return [*dict.fromkeys(hosts), "127.0.0.1"]
