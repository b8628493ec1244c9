"""Which experts the tokens of a rollout were sent to, as the engine computed them: what the learner can replay."""

from __future__ import annotations

import numpy as np


class RouteRecord:
    """The experts of a sequence's tokens from the first on, as they were first computed.

    Tokens that are read again after an eviction may be routed otherwise in few bits; what was sampled behind them saw
    the first routes, so those stay.
    """

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self.length = 0  # tokens from the first on

    def note(self, start: int, experts_TLC: np.ndarray) -> None:
        """Adds the experts of tokens from position `start` on.

        Args:
          experts_TLC: uint8 [tokens, layers, experts a token].

        Raises ValueError if they would leave a gap.
        """
        if start > self.length:
            raise ValueError(f"routes of position {start} on would leave a gap behind the {self.length} that are known")
        fresh = experts_TLC[self.length - start :]
        if len(fresh):
            self._parts.append(fresh.copy())  # a view would keep the whole call's array
            self.length += len(fresh)

    def beginning(self, count: int) -> RouteRecord:
        """The record of the first `count` tokens, or of as many as are known."""
        part = RouteRecord()
        for each in self._parts:
            if part.length < count:
                piece = each[: count - part.length]
                part._parts.append(piece)
                part.length += len(piece)
        return part

    def array(self) -> np.ndarray | None:
        """uint8 [tokens, layers, experts a token]; None if there are none."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0] if self._parts else None
