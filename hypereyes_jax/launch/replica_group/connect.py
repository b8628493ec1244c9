"""Connects the processes that share a rollout replica: every worker with its driver, over TCP."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import selectors
import socket
import struct
import time
from collections.abc import Callable

from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.launch.replica_group.calls import GroupDriver, GroupWorker, Peer

_PATIENCE = 300.0  # seconds for all of a replica group to connect; they have met already, at the run's start
_TRY = 10.0  # seconds for one address, or for a caller to say all of who it is
_MOST_CALLERS = 64  # that have not said who they are; the oldest makes room
_NOT_YET = -1
_HELLO = struct.Struct("!32sI")  # the driver's word, the caller's number


def connect(processes: Processes, lost: Callable[[str], None]) -> GroupDriver | GroupWorker | None:
    """This process's end of its replica group's connections; None if it is alone. All processes call it.

    The driver listens on a port of the system's choice, and tells it to the others through the processes' own exchange,
    with a random word that a caller must know.

    Args:
      lost: see `calls.GroupDriver`.

    Raises UserError if they can't reach each other.
    """
    if len(processes.replicas.groups) == processes.count:
        return None
    driver, *workers = processes.replicas.own
    if not processes.replicas.drives:
        addresses, port, word = processes.gather(None)[driver]
        return GroupWorker(_call(driver, addresses, port, word.encode(), processes.index), lost)
    with socket.create_server(("", 0), backlog=128) as listening:
        word = secrets.token_hex(16)
        processes.gather([_own_addresses(), listening.getsockname()[1], word])
        return GroupDriver(_answer(listening, word.encode(), workers), lost)


def _call(driver: int, addresses: list[str], port: int, word: bytes, own: int) -> Peer:
    for address in addresses:
        with contextlib.suppress(OSError):
            connection = socket.create_connection((address, port), timeout=_TRY)
            connection.sendall(_HELLO.pack(word, own))
            if connection.recv(1):  # it knows the word: this is the driver, and not another machine of that address
                connection.settimeout(None)
                return Peer(driver, connection)
            connection.close()
    raise UserError(
        f"process {own} can't reach process {driver}, with which it shares a rollout replica, at port {port} of "
        f"{', '.join(addresses)}. Open the ports between the hosts, or use replicas of one host: "
        "--sizes.replica-devices."
    )


def _answer(listening: socket.socket, word: bytes, workers: list[int]) -> list[Peer]:
    """The workers' connections. Callers are served side by side: one that says nothing keeps no other waiting."""
    connections: dict[int, socket.socket] = {}
    callers: dict[socket.socket, _Caller] = {}  # the oldest first
    until = time.monotonic() + _PATIENCE
    listening.setblocking(False)
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:

        def drop(connection: socket.socket) -> None:
            del callers[connection]
            selector.unregister(connection)

        @stack.callback
        def send_away() -> None:
            for connection in callers:
                connection.close()

        selector.register(listening, selectors.EVENT_READ)
        while missing := [number for number in workers if number not in connections]:
            now = time.monotonic()
            if now >= until:
                raise UserError(
                    f"of the processes that share a rollout replica, {missing} did not call within {_PATIENCE:.0f} s"
                )
            late = [connection for connection, caller in callers.items() if caller.until <= now]
            for connection in [*late, *list(callers)[: max(0, len(callers) - _MOST_CALLERS)]]:
                if connection in callers:
                    drop(connection)
                    connection.close()
            for key, _ in selector.select(min([until, *(caller.until for caller in callers.values())]) - now):
                if key.fileobj is listening:
                    with contextlib.suppress(OSError):  # it has left again
                        connection, _ = listening.accept()
                        connection.setblocking(False)
                        callers[connection] = _Caller(time.monotonic() + _TRY)
                        selector.register(connection, selectors.EVENT_READ)
                    continue
                connection = next(each for each in callers if each is key.fileobj)
                number = callers[connection].listen(connection, word)
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
    return [Peer(number, connections[number]) for number in workers]


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


def _own_addresses() -> list[str]:
    """This host's, likeliest first."""
    addresses = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: it asks which of our addresses leads to others (192.0.2.0/24 is for documentation, RFC 5737).
        probe.connect(("192.0.2.1", 9))
        addresses.append(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        addresses += socket.gethostbyname_ex(socket.gethostname())[2]
    return [*dict.fromkeys(addresses), "127.0.0.1"]
