"""The error that is meant for the person at the keyboard."""

from __future__ import annotations

from hypereyes_jax.logins import without_login


class UserError(Exception):
    """Something the user can put right: a missing file, a full disk, a busy port, a bad setting.

    The message names what was wrong and the cure. The command line prints it without a traceback and exits with code 2;
    every other exception is a defect of this project and keeps its traceback. Logins in URLs are left out of it.
    """

    def __init__(self, *words: object):
        super().__init__(*(without_login(word) if isinstance(word, str) else word for word in words))


class SettingError(UserError, ValueError):
    """A setting that can't be meant, refused by the dataclass that holds it, whoever makes one."""
