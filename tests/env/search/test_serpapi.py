"""The SerpApi client against the world server's SerpApi shapes, and crops on real image hosts."""

import json
import logging
import traceback
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from hypereyes_jax.env import FatalSearchError, SearchError
from hypereyes_jax.env.media.images import decode_image
from hypereyes_jax.env.search.backends import (
    LocalImageHost,
    S3Config,
    S3ImageHost,
    SerpApiBackend,
    SerpApiConfig,
    image_host,
)
from hypereyes_jax.env.search.config import CallPolicy
from hypereyes_jax.env.search.faults import FaultPlan
from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.env.search.resilience import ResilientBackend
from hypereyes_jax.env.search.serve import SearchServerConfig, serving
from hypereyes_jax.env.search.store import SearchStore
from hypereyes_jax.env.web.http import HttpLimits

KEY = "s3cr3t-k3y-0123456789"
GREEN = Image.new("RGB", (300, 200), "green")


def client(url, **settings):
    return SerpApiBackend(
        SerpApiConfig(KEY, url=f"{url}/search.json", **settings), LocalImageHost(), HttpLimits(total=2)
    )


async def test_text_search(library):
    async with serving(library, SearchServerConfig(api_key=KEY)) as server:
        backend = client(server.url)
        hits = await backend.text_search("everything", 2)
        assert [(hit.title, hit.score) for hit in hits] == [("Chad", 0.8), ("Niger", 0.8)]
        assert await backend.text_search("nothing", 3) == []
        await backend.aclose()


@pytest.mark.parametrize("engine", ["google_lens", "google_reverse_image"])
async def test_image_search_by_a_hosted_url(library, engine):
    async with serving(library, SearchServerConfig(api_key=KEY)) as server:
        backend = client(server.url, image_engine=engine)
        (hit,) = await backend.image_search(GREEN, 3)
        assert hit.title == "Niger"
        await backend.aclose()


async def test_a_wrong_key_ends_the_run(library):
    async with serving(library, SearchServerConfig(api_key="another")) as server:
        backend = client(server.url)
        with pytest.raises(FatalSearchError) as error:
            await backend.text_search("chad", 1)
        assert error.value.kind == "auth"
        await backend.aclose()


@pytest.mark.parametrize(
    ("fault", "kind", "fatal", "attempts"),
    [
        ("throttled_429", "throttled", False, 3),
        ("no_credit_429", "no_credit", True, 1),
        ("bad_request_400", "http_400", False, 1),
    ],
)
async def test_both_kinds_of_429(library, fault, kind, fatal, attempts):
    async with serving(library, SearchServerConfig(faults=FaultPlan({fault: 1.0}))) as server:
        backend = ResilientBackend(client(server.url), CallPolicy(backoff=(0, 0)))
        with pytest.raises(SearchError) as error:
            await backend.text_search("chad", 1)
        assert (error.value.kind, isinstance(error.value, FatalSearchError)) == (kind, fatal)
        assert server.served == {fault: attempts}
        await backend.aclose()


async def canned(body):
    """A server with one reply."""

    async def reply(request):
        return web.json_response(body)

    app = web.Application()
    app.router.add_get("/search.json", reply)
    server = TestServer(app)
    await server.start_server()
    return server


SUCCESS = {"search_metadata": {"status": "Success"}}


async def test_every_part_of_a_text_reply_is_read():
    server = await canned(
        SUCCESS
        | {
            "answer_box": {"title": "Chad", "answer": "19.1 million", "snippet": "in 2024", "link": "https://a"},
            "knowledge_graph": {"title": "Chad", "type": "Country", "description": "In Africa."},
            "organic_results": [
                {"position": 1, "title": "T", "link": "https://b", "snippet": "S", "date": "1 May"},
                "odd",
            ],
        }
    )
    backend = client(str(server.make_url("")).rstrip("/"))
    hits = await backend.text_search("q", 10)
    assert [(h.title, h.content, h.url) for h in hits] == [
        ("Chad", "19.1 million in 2024", "https://a"),
        ("Chad", "Country In Africa.", ""),
        ("T", "S 1 May", "https://b"),
    ]
    await backend.aclose()
    await server.close()


async def test_a_box_of_any_kind_is_read():
    box = {
        "type": "population_result",
        "place": "Chad",
        "population": "19.1 million",
        "year": "(2024)",
        "link": "https://a",
    }
    server = await canned(SUCCESS | {"answer_box": box})
    backend = client(str(server.make_url("")).rstrip("/"))
    (hit,) = await backend.text_search("q", 10)
    assert hit.content == "place: Chad, population: 19.1 million, year: (2024)"
    await backend.aclose()
    await server.close()


async def test_lens_matches_exact_ones_first():
    server = await canned(
        SUCCESS
        | {
            "visual_matches": [{"title": "V", "link": "https://v", "source": "shop", "price": {"value": "$5"}}],
            "exact_matches": [{"title": "E", "link": "https://e", "source": "site"}],
        }
    )
    backend = client(str(server.make_url("")).rstrip("/"), image_engine="google_lens")
    hits = await backend.image_search(GREEN, 3)
    assert [(h.title, h.content) for h in hits] == [("E", "site"), ("V", "shop $5")]
    await backend.aclose()
    await server.close()


@pytest.mark.parametrize("status", ["Error", "Processing"])
async def test_an_unfinished_search_is_no_empty_result(status):
    server = await canned({"search_metadata": {"status": status}, "error": "something broke"})
    backend = client(str(server.make_url("")).rstrip("/"))
    with pytest.raises(SearchError) as error:
        await backend.text_search("q", 3)
    assert (error.value.kind, error.value.transient) == ("unfinished", True)
    await backend.aclose()
    await server.close()


@pytest.mark.parametrize(
    ("reply", "fatal"),
    [
        ({"error": "Your account has run out of searches."}, True),
        ({"error": "Invalid API key. Yours is at serpapi.com."}, True),
        (SUCCESS | {"error": "Google Lens couldn't fetch the image."}, False),
        (SUCCESS | {"organic_results": "x"}, False),
        (SUCCESS | {"organic_results": ["x"]}, False),
    ],
)
async def test_a_failure_under_http_200_is_no_empty_result(reply, fatal):
    server = await canned(reply)
    backend = client(str(server.make_url("")).rstrip("/"))
    with pytest.raises(SearchError) as error:
        await backend.text_search("q", 3)
    assert isinstance(error.value, FatalSearchError) is fatal
    assert reply.get("error", "organic_results") in str(error.value)
    await backend.aclose()
    await server.close()


async def test_image_search_without_a_host_says_what_is_missing():
    backend = SerpApiBackend(SerpApiConfig(KEY))
    with pytest.raises(FatalSearchError, match="ImageHost"):
        await backend.image_search(GREEN, 3)


@pytest.mark.parametrize(
    "fault", ["error_500", "bad_key_401", "malformed_json", "hang", "cut_connection", "bad_request_400"]
)
async def test_the_key_reaches_no_error_log_or_store(library, fault, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    shown = []
    async with serving(library, SearchServerConfig(faults=FaultPlan({fault: 0.5}, seed=3))) as server:
        store = SearchStore(tmp_path / "store.sqlite")
        config = SerpApiConfig(KEY, url=f"{server.url}/search.json")
        backend = RecordedBackend(SerpApiBackend(config, None, HttpLimits(total=0.1)), store)
        for i in range(6):
            try:
                await backend.text_search(f"chad {i}", 1)
            except SearchError:
                shown.append(traceback.format_exc())
        await backend.aclose()
        store.close()
    dead = SerpApiBackend(SerpApiConfig(KEY, url="http://127.0.0.1:9/search.json"))
    try:
        await dead.text_search("chad", 1)
    except SearchError:
        shown.append(traceback.format_exc())
    await dead.aclose()
    assert len(shown) > 1
    shown += [repr(config), caplog.text, *(path.read_bytes().decode("latin-1") for path in tmp_path.iterdir())]
    assert not any(KEY in text for text in shown)


async def fetch(url):
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.read()


async def test_the_local_host_serves_what_it_was_given_under_a_stable_name():
    host = LocalImageHost(keep=2)
    url = await host.put(GREEN)
    assert await host.put(GREEN.copy()) == url
    status, data = await fetch(url)
    assert status == 200
    assert decode_image(data).size == GREEN.size
    for colour in ("red", "blue"):
        await host.put(Image.new("RGB", (5, 5), colour))
    assert (await fetch(url))[0] == 404
    await host.aclose()


@pytest.fixture(scope="module")
def s3_endpoint():
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.mark.parametrize("public", [True, False])
async def test_the_s3_host_against_an_s3_compatible_server(s3_endpoint, public):
    async with aiohttp.ClientSession() as session:
        headers = {"x-amz-acl": "public-read"}
        await (await session.put(f"{s3_endpoint}/crops-bucket", headers=headers)).read()
    config = S3Config(
        "crops-bucket", "id", KEY, endpoint=s3_endpoint, public_url=f"{s3_endpoint}/crops-bucket" if public else None
    )
    host = S3ImageHost(config)
    url = await host.put(GREEN)
    assert KEY not in url
    assert KEY not in repr(config)
    if not public:
        status, data = await fetch(url)
        assert status == 200
        assert decode_image(data).size == GREEN.size
    else:
        assert url == await host.put(GREEN)
        assert url.startswith(f"{s3_endpoint}/crops-bucket/crops/")
    await host.aclose()


async def test_a_bucket_that_can_not_be_used_ends_the_run_in_the_services_words(s3_endpoint):
    host = S3ImageHost(S3Config("no-such-bucket", "id", KEY, endpoint=s3_endpoint))
    with pytest.raises(
        FatalSearchError, match=r"in the bucket no-such-bucket \(NoSuchBucket: .*does not exist"
    ) as error:
        await host.put(GREEN)
    assert KEY not in json.dumps(str(error.value))
    await host.aclose()


async def test_a_bucket_that_has_worked_and_fails_later_is_an_outage(s3_endpoint):
    async with aiohttp.ClientSession() as session:
        await (await session.put(f"{s3_endpoint}/short-lived")).read()
        host = S3ImageHost(S3Config("short-lived", "id", KEY, endpoint=s3_endpoint))
        await host.put(GREEN)
        await (await session.post(f"{s3_endpoint}/moto-api/reset")).read()
    with pytest.raises(SearchError, match="NoSuchBucket") as error:
        await host.put(Image.new("RGB", (5, 5), "red"))
    assert (error.value.kind, error.value.transient) == ("image_host", True)
    await host.aclose()


async def test_the_s3_host_knows_a_bounded_number_of_images_and_stores_those_again_that_may_be_gone(monkeypatch):
    stored: list[str] = []

    class Client:
        async def put_object(self, **arguments):
            stored.append(arguments["Key"])

    now = [1000.0]
    monkeypatch.setattr(image_host, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(image_host, "_MOST_NAMES", 2)
    host = S3ImageHost(S3Config("bucket", "id", KEY, public_url="http://public"))
    host._client = Client()
    red, green, blue = (Image.new("RGB", (5, 5), color) for color in ("red", "green", "blue"))
    for image in (red, red, green, red):
        await host.put(image)
    assert len(stored) == 2
    await host.put(blue)  # the third: red, stored first, is no longer known
    await host.put(green)
    assert len(stored) == 3
    await host.put(red)
    assert len(stored) == 4
    now[0] += 3601  # a bucket may drop what is old
    for image in (blue, red):
        await host.put(image)
    assert len(stored) == 6


async def test_an_s3_host_that_is_down_is_an_outage(monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # as botocore tries by itself, with waits of seconds between
    host = S3ImageHost(S3Config("bucket", "id", KEY, endpoint="http://127.0.0.1:9"))
    with pytest.raises(SearchError, match="EndpointConnectionError") as error:
        await host.put(GREEN)
    assert (error.value.kind, error.value.transient) == ("image_host", True)
    assert KEY not in json.dumps(str(error.value))
    await host.aclose()


async def test_a_server_open_to_the_network_fetches_no_private_address(library):
    async with serving(library, SearchServerConfig(host="0.0.0.0")) as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        async with aiohttp.ClientSession() as session:
            params = {"engine": "google_lens", "url": "http://127.0.0.1/secret.png"}
            async with session.get(f"{url}/search", params=params) as response:
                assert response.status == 400
                assert "not a public address" in (await response.json())["error"]
