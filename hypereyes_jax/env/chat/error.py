"""The failure of an endpoint of chats."""

from __future__ import annotations


class ChatError(Exception):
    """The endpoint gave no usable reply; the message holds no key.

    transient: trying again may help. fatal: no later request can work either (the key is refused). tokens: (read,
    written) by the replies before it, where an episode failed in the middle.
    """

    def __init__(self, message: str, *, transient: bool, fatal: bool = False, retry_after: float | None = None):
        super().__init__(message)
        self.transient = transient
        self.fatal = fatal
        self.retry_after = retry_after
        self.tokens = (0, 0)

    def saying(self, message: str) -> ChatError:
        """The same failure in other words."""
        return ChatError(message, transient=self.transient, fatal=self.fatal, retry_after=self.retry_after)
