"""A loop in a thread: for several threads at once, for callers whose own loop runs, and until it is closed."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hypereyes_jax.env.web.loop_thread import LoopThread


@pytest.fixture
def loop():
    made = LoopThread()
    yield made
    made.close()


def test_threads_share_one_loop(loop):
    meeting = asyncio.Barrier(4)

    async def meet():
        await asyncio.wait_for(meeting.wait(), 5)
        return asyncio.get_running_loop()

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(lambda _: loop.run(meet()), range(4)))) == 1


async def test_a_caller_may_have_a_running_loop(loop):
    async def where():
        return threading.get_ident()

    assert loop.run(where()) != threading.get_ident()


def test_what_work_raises_is_raised(loop):
    async def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        loop.run(fail())


def test_after_close_nothing_runs(loop):
    loop.close()
    loop.close()

    async def nothing():
        pass

    with pytest.raises(RuntimeError, match="closed"):
        loop.run(nothing())
    assert not any(thread.name == "event-loop" and thread.is_alive() for thread in [loop._thread])
