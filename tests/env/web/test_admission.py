"""Keys, Hosts and Origins at a server on loopback."""

import asyncio
import base64

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hypereyes_jax.env.search.backends import HttpWorldBackend
from hypereyes_jax.env.search.serve import SearchServerConfig, serving
from hypereyes_jax.env.types import FatalSearchError
from hypereyes_jax.env.web.admission import Admission
from hypereyes_jax.env.web.loopback import is_loopback

PATHS = [
    ("GET", "/health"),
    ("POST", "/retrieve"),
    ("POST", "/image_search"),
    ("GET", "/search"),
    ("GET", "/search.json"),
    ("GET", "/nothing"),
]


async def status(url, method, path, **headers):
    body = {"json": {"queries": ["chad"]}} if method == "POST" else {}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url + path, headers=headers, **body) as reply,
    ):
        return reply.status


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_a_key_guards_every_path(library, method, path):
    async with serving(library, SearchServerConfig(api_key="k-12345")) as server:
        assert await status(server.url, method, path) == 401
        assert await status(server.url, method, path, **{"X-API-Key": "k-1234"}) == 401
        for headers in (
            {"X-API-Key": "k-12345"},
            {"Authorization": "Bearer k-12345"},
            {"Authorization": "Basic " + base64.b64encode(b"me:k-12345").decode()},
        ):
            assert await status(server.url, method, path, **headers) not in (401, 403)


async def test_a_client_gives_the_key_in_its_url(library):
    async with serving(library, SearchServerConfig(api_key="k-12345")) as server:
        wrong, right = HttpWorldBackend(server.url), HttpWorldBackend(server.url.replace("//", "//me:k-12345@"))
        with pytest.raises(FatalSearchError, match="key"):
            await wrong.text_search("chad", 1)
        assert len(await right.text_search("chad", 1)) == 1
        await wrong.aclose()
        await right.aclose()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "①②⑦.evil", "[fe80::1]", ""]
)
async def test_a_name_made_to_resolve_to_this_machine_is_refused(library, host):
    async with serving(library) as server:
        assert await status(server.url, "GET", "/health", Host=host.encode("idna").decode() if host else "x") == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:99", "[::1]:8000", "LOCALHOST."])
async def test_own_names_are_answered(library, host):
    async with serving(library) as server:
        assert await status(server.url, "GET", "/health", Host=host) == 200


async def test_another_sites_page_is_refused_and_the_servers_own_is_not(library):
    async with serving(library) as server:
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://"):
            assert await status(server.url, "POST", "/retrieve", Origin=origin) == 403
        assert await status(server.url, "POST", "/retrieve", Origin=server.url) == 200


async def test_another_sites_picture_or_link_is_refused_and_programs_are_not(library):
    async with serving(library) as server:
        for site, wanted in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
            assert await status(server.url, "GET", "/health", **{"Sec-Fetch-Site": site}) == wanted
        own = {"Sec-Fetch-Site": "cross-site", "Origin": server.url}
        assert await status(server.url, "GET", "/health", **own) == 200


async def test_named_pages_read_replies_and_open_paths_need_no_key():
    admission = Admission("127.0.0.1", "k-12345", origins=("http://app.example",), open_paths=("/health",))
    app = web.Application(middlewares=[admission.middleware()])

    async def answer(request):
        return web.Response()

    for path in ("/health", "/ask"):
        app.router.add_get(path, answer)
    page = {"Origin": "http://app.example"}
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        assert await status(url, "GET", "/health") == 200
        assert await status(url, "GET", "/ask") == 401
        assert await status(url, "OPTIONS", "/ask", **page) == 204  # a browser asks so, without a key
        assert await status(url, "OPTIONS", "/ask") == 401
        assert await status(url, "OPTIONS", "/ask", Origin="http://evil.example") == 403
        async with aiohttp.ClientSession() as session, session.get(f"{url}/ask", headers=page) as reply:
            assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (401, "http://app.example")


def test_what_is_loopback():
    assert all(map(is_loopback, ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "example.org", ""]))


@pytest.mark.parametrize(
    "header",
    [
        b"Authorization: Basic \xc3\xa9",
        b"Authorization: Basic \xff",
        b"Authorization: Basic YQ",
        b"Authorization: Bearer \xff",
        b"X-API-Key: \xff",
    ],
)
async def test_keys_in_bytes_that_are_none_are_refused(library, header):
    assert await _status(library, SearchServerConfig(api_key="k-12345"), header, b"{}") == 401


async def test_a_body_that_can_not_be_unpacked_is_refused(library):
    assert await _status(library, SearchServerConfig(), b"Content-Encoding: gzip", b'{"queries": ["chad"]}') == 422


async def _status(library, config, header, body):
    """Of a request that no client library would send."""
    async with serving(library, config) as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = [b"POST /retrieve HTTP/1.1", f"Host: {host}".encode(), f"Content-Length: {len(body)}".encode(), header]
        writer.write(b"\r\n".join([*lines, b"", body]))
        status = int((await reader.readline()).split()[1])
        writer.close()
        return status
