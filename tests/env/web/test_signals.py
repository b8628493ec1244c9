import asyncio
import os
import signal
import sys

import pytest

from hypereyes_jax.env.web.signals import ends_by_signal, run_until_signal


class _InterruptedDestructor:
    """While it is destroyed a signal comes, whose handler's error Python drops."""

    def __init__(self, number):
        self._number = number

    def __del__(self):
        os.kill(os.getpid(), self._number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_block(number):
    with ends_by_signal():
        os.kill(os.getpid(), number)
        raise AssertionError("it goes on")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_a_destructor_runs_is_not_lost(number, monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    with ends_by_signal() as came:
        assert not came()
        _InterruptedDestructor(number)
        assert came()
        run_until_signal(asyncio.sleep(3600), came)  # or the test takes an hour
    assert reported == []
