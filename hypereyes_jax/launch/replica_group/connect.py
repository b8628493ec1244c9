"""Connects the processes that share a rollout replica: every worker with its driver."""

from __future__ import annotations

from collections.abc import Callable

from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.links.peers import PeerServer, call
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.launch.replica_group.calls import GroupDriver, GroupWorker


def connect(processes: Processes, lost: Callable[[str], None]) -> GroupDriver | GroupWorker | None:
    """This process's end of its replica group's connections; None if it is alone. All processes call it.

    The driver listens, and tells where to the others through the processes' own exchange.

    Args:
      lost: see `calls.GroupDriver`.

    Raises UserError if they can't reach each other.
    """
    if len(processes.replicas.groups) == processes.count:
        return None
    driver, *workers = processes.replicas.own
    try:
        if not processes.replicas.drives:
            address = processes.gather(None)[driver]
            return GroupWorker(call(driver, address, processes.index), lost)
        with PeerServer() as server:
            processes.gather(server.address)
            return GroupDriver(server.answer(workers), lost)
    except ConnectionError as error:
        raise UserError(
            f"the processes of a rollout replica can't connect: {error}. Open the ports between the hosts, or use "
            "replicas of one host: --sizes.replica-devices."
        ) from error
