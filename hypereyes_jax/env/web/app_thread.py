"""An aiohttp application served by a thread of its own, for clients that block or bring their own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from aiohttp import web


@contextlib.contextmanager
def serving_app(app: web.Application, port: int = 0) -> Iterator[str]:
    """Serves on loopback until the block ends; yields the address, like "http://127.0.0.1:PORT".

    Args:
      port: the port to take if it is free; else, and with 0, any free one.

    Raises OSError if there is no free port.
    """
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    loop.set_exception_handler(report_failure)
    listening: Future[int] = Future()

    async def serve() -> None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            listening.set_result(await _listen(runner, port))
            await stop.wait()
        finally:
            await runner.cleanup()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except OSError as error:
            listening.set_exception(error)
        finally:
            listening.cancel()  # nothing where it is known; a caller does not wait for what will never listen
            loop.close()

    thread = threading.Thread(target=run, name="app-server", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.result()}"
    finally:
        with contextlib.suppress(RuntimeError):  # it never listened, and the loop is closed
            loop.call_soon_threadsafe(stop.set)
        thread.join()


def report_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tells all but that a client waits for a free file: asyncio tries again, and a command that has none says so."""
    error = context.get("exception")
    if not (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):
        loop.default_exception_handler(context)


async def _listen(runner: web.AppRunner, port: int) -> int:
    """The port on which the application is served from now on."""
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
    except OSError:  # somebody else's
        if port == 0:
            raise
        await web.TCPSite(runner, "127.0.0.1", 0).start()
    number: int = runner.addresses[0][1]
    return number
