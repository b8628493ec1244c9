"""Samples of a step go to the process that packs them, over TCP: see `learner.balance`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.links.messages import receive
from hypereyes_jax.launch.links.peers import PATIENCE, Address, Peer, PeerServer, call
from hypereyes_jax.launch.links.samples import from_message, to_message
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.learner.balance import Owners, moves
from hypereyes_jax.learner.packing import TrainingSample

_PATIENCE = 60.0  # seconds for the ring at the start
_STEP_PATIENCE = PATIENCE  # for the others' calls in a step, which all reach together


class SampleExchange:
    """This process's place among those that send each other samples. All processes make one, and call it together.

    Raises UserError, in all processes, if one can't reach the next: then every step would end so.
    """

    def __init__(self, processes: Processes):
        self.moved = 0  # samples of all processes, in the latest step
        self._own, self._count = processes.index, processes.count
        self._server = PeerServer()
        self._addresses: list[Address] = processes.gather(self._server.address)
        reason = processes.first_reason(self._try_ring())
        if reason:
            self._server.close()
            raise UserError(
                f"processes can't send each other samples: {reason}. Open the ports between the hosts, or let each "
                "process pack its own: --sizes.no-balance."
            )

    def __enter__(self) -> SampleExchange:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    def __call__(self, samples: Sequence[TrainingSample], owners: Owners) -> list[TrainingSample]:
        """The samples that this process packs: of its own those that stay, then the others' in their order.

        Args:
          samples: this process's own.
          owners: of each process's samples the process that packs it, alike in all processes.

        Raises UserError if another process is gone.
        """
        self.moved = moves(owners)
        parts: dict[int, list[TrainingSample]] = {}
        for sample, owner in zip(samples, owners[self._own], strict=True):
            parts.setdefault(owner, []).append(sample)
        own_part = parts.pop(self._own, [])
        senders = [process for process, own in enumerate(owners) if process != self._own and self._own in own]
        try:
            with ThreadPoolExecutor(max(1, len(parts) + len(senders))) as pool:
                sending = [pool.submit(self._send, number, part) for number, part in parts.items()]
                received = list(pool.map(_receive, self._server.answer(senders, _STEP_PATIENCE)))
                for each in sending:
                    each.result()
        except OSError as error:
            raise UserError(f"another process, with which this one exchanges samples, is gone: {error}") from error
        return [*own_part, *(sample for part in received for sample in part)]

    def _send(self, number: int, samples: Sequence[TrainingSample]) -> None:
        with self._call(number).connection as connection:
            for piece in to_message(samples).encoded():
                connection.sendall(piece)

    def _call(self, number: int) -> Peer:
        peer = call(number, self._addresses[number], self._own)
        # The host that answered is the first to be tried the next time.
        hosts, answering_host = self._addresses[number][0], peer.connection.getpeername()[0]
        hosts.sort(key=lambda host: host != answering_host)
        return peer

    def _try_ring(self) -> str:
        """Calls the next process and answers the one before; why it failed, or nothing."""
        following, before = ((self._own + step) % self._count for step in (1, -1))
        try:
            with ThreadPoolExecutor(1) as pool:
                calling = pool.submit(self._call, following)
                (peer,) = self._server.answer([before], _PATIENCE)
                peer.connection.close()
                calling.result().connection.close()
        except ConnectionError as error:
            return str(error)
        return ""


def open_exchange(processes: Processes, wanted: bool) -> contextlib.AbstractContextManager[SampleExchange | None]:
    """The exchange of a run whose processes pack each other's samples; None for a process alone."""
    return SampleExchange(processes) if wanted and processes.count > 1 else contextlib.nullcontext()


def _receive(peer: Peer) -> list[TrainingSample]:
    with peer.connection as connection:
        try:
            message = receive(connection)
        except ValueError as error:
            raise ConnectionError(f"process {peer.number} sent something that is not a message: {error}") from error
    return from_message(message)
