"""Connects the processes that share a rollout replica: every worker with its driver, over TCP."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import struct
import time
from collections.abc import Callable

from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.launch.replica_group.calls import GroupDriver, GroupWorker, Peer

_PATIENCE = 300.0  # seconds for all of a replica group to connect; they have met already, at the run's start
_TRY = 10.0  # seconds for one address, or for a caller to say who it is
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
    with socket.create_server(("", 0), backlog=len(workers)) as listening:
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
    connections: dict[int, socket.socket] = {}
    until = time.monotonic() + _PATIENCE
    while missing := [number for number in workers if number not in connections]:
        listening.settimeout(max(0.1, until - time.monotonic()))
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            raise UserError(
                f"of the processes that share a rollout replica, {missing} did not call within {_PATIENCE:.0f} s"
            ) from None
        number = _caller(connection, word)
        if number in missing:
            connection.settimeout(None)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # calls are small, and waited for
            connection.sendall(b"!")
            connections[number] = connection
        else:
            connection.close()
    return [Peer(number, connections[number]) for number in workers]


def _caller(connection: socket.socket, word: bytes) -> int | None:
    """The number of a process that knows the word."""
    connection.settimeout(_TRY)
    hello = b""
    with contextlib.suppress(OSError):
        while len(hello) < _HELLO.size and (more := connection.recv(_HELLO.size - len(hello))):
            hello += more
    if len(hello) < _HELLO.size:
        return None
    theirs, number = _HELLO.unpack(hello)
    return number if hmac.compare_digest(theirs, word) else None


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
