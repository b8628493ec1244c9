import asyncio
import errno
import socket
import urllib.error
import urllib.request

import pytest
from aiohttp import web

from hypereyes_jax.env.web.app_thread import report_failure, serving_app


def application():
    async def hello(request):
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    return app


def test_an_application_answers_a_blocking_client_until_the_block_ends():
    with serving_app(application()) as url, urllib.request.urlopen(url, timeout=10) as reply:
        assert reply.read() == b"hello"
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=10)


def test_a_free_port_is_taken_and_one_in_use_left_to_its_owner():
    with serving_app(application()) as first:
        port = int(first.rpartition(":")[2])
        with serving_app(application(), port) as second:
            assert second != first
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    with serving_app(application(), free) as url:
        assert url == f"http://127.0.0.1:{free}"


def test_an_application_that_can_not_start_is_no_wait_without_end():
    async def broken(app):
        raise OSError("no database")

    app = application()
    app.on_startup.append(broken)
    with pytest.raises(OSError, match="no database"), serving_app(app):
        pass


def test_a_client_that_waits_for_a_free_file_is_no_traceback(caplog):
    loop = asyncio.new_event_loop()
    for number, told in ((errno.EMFILE, 0), (errno.ENFILE, 0), (errno.EBADF, 1)):
        caplog.clear()
        report_failure(loop, {"message": "accept", "exception": OSError(number, "x")})
        assert len(caplog.records) == told
    loop.close()
