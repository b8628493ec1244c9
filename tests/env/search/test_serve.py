"""The world server and its client, over real sockets."""

import asyncio
import socket
import time

import aiohttp
import pytest
from PIL import Image

from hypereyes_jax.env import SearchError
from hypereyes_jax.env.search.backends import HttpWorldBackend, RetrieverBackend
from hypereyes_jax.env.search.faults import FAULTS, FaultPlan
from hypereyes_jax.env.search.serve import SearchServerConfig, serving, serving_in_thread
from hypereyes_jax.env.types import FatalSearchError
from hypereyes_jax.env.web.http import HttpLimits
from hypereyes_jax.errors import UserError

GREEN = Image.new("RGB", (300, 200), "green")


async def test_text_and_image_search_over_http_equal_the_backend_in_process(library):
    async with serving(library) as server:
        backend = HttpWorldBackend(server.url)
        assert await backend.text_search("everything", 3) == await library.text_search("everything", 3)
        assert await backend.text_search("everything", 1) == await library.text_search("everything", 1)
        assert await backend.text_search("nothing", 3) == []
        assert await backend.image_search(GREEN, 3) == await library.image_search(GREEN, 3)
        await backend.aclose()


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
async def test_images_arrive_as_sent(library, image_format):
    async with serving(library) as server:
        backend = HttpWorldBackend(server.url, image_format=image_format)
        for colour, title in library.COLOURS.items():
            (hit,) = await backend.image_search(Image.new("RGBA", (40, 3000), colour), 1)
            assert hit.title == title
        await backend.aclose()


async def test_sixty_four_searches_are_in_flight_at_once(library):
    async with serving(library, SearchServerConfig(faults=FaultPlan(latency=0.2))) as server:
        backend = HttpWorldBackend(server.url)
        started = time.perf_counter()
        found = await asyncio.gather(*(backend.text_search("chad", 1) for _ in range(64)))
        assert time.perf_counter() - started < 2  # one after the other would take 13 s
        assert all(hits[0].title == "Chad" for hits in found)
        await backend.aclose()


def test_one_backend_serves_several_event_loops_in_turn(library):
    with serving_in_thread(library) as server:
        backend = HttpWorldBackend(server.url)

        async def search():
            try:
                return await backend.text_search("chad", 1)
            finally:
                await backend.aclose()

        assert asyncio.run(search()) == asyncio.run(search())


async def test_a_taken_port_is_a_clear_error(library):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port}.*another port"):
            async with serving(library, SearchServerConfig(port=port)):
                pass
        with pytest.raises(UserError, match="another port"), serving_in_thread(library, SearchServerConfig(port=port)):
            pass


async def ask(url, body):
    async with aiohttp.ClientSession() as session, session.post(url + "/retrieve", json=body) as response:
        return response.status, await response.json()


async def test_the_retriever_protocol_singular_and_plural_with_and_without_scores(library):
    async with serving(library) as server:
        status, plural = await ask(server.url, {"queries": ["chad", "togo"], "topk": 3, "return_scores": True})
        assert status == 200
        assert [row[0]["document"]["contents"].split("\n")[0] for row in plural["result"]] == ['"Chad"', '"Togo"']
        assert plural["result"][0][0]["score"] == 0.93
        _, bare = await ask(server.url, {"queries": ["chad"]})
        assert bare["result"][0][0]["contents"].startswith('"Chad"\n')
        _, singular = await ask(server.url, {"query": "chad", "topk": 3, "return_scores": True})
        assert singular["result"] == plural["result"][:1]
        _, default = await ask(server.url, {"query": "everything", "topk": 0})
        assert len(default["result"][0]) == 3
        for wrong in ({}, {"queries": [1]}, []):
            status, reply = await ask(server.url, wrong)
            assert status == 422
        made = library.calls
        for wrong in ({"queries": ["a"] * 1025}, {"query": "a " * 131_073}, {"queries": ["a" * 1000] * 263}):
            status, reply = await ask(server.url, wrong)
            assert (status, library.calls) == (413, made)
            assert "at most 1024 queries of 262,144 characters" in reply["error"]
            assert reply["error"]


@pytest.mark.parametrize(("form", "options"), [("plural", True), ("plural", False), ("singular", True)])
async def test_the_retriever_client_speaks_every_form(library, form, options):
    async with serving(library) as server:
        backend = RetrieverBackend(server.url + "/retrieve", form=form, send_options=options)
        (hit,) = await backend.text_search("chad", 1)
        assert (hit.title, hit.url) == ("Chad", "https://example.org/chad")
        assert hit.score == (0.93 if options else 0.8)
        with pytest.raises(SearchError, match="no image search") as error:
            await backend.image_search(GREEN, 1)
        assert error.value.refused
        await backend.aclose()


KINDS = {
    "error_500": ("http_500", True, False),
    "error_503": ("http_503", True, False),
    "throttled_429": ("throttled", True, False),
    "no_credit_429": ("no_credit", False, False),
    "bad_request_400": ("http_400", False, True),
    "bad_key_401": ("auth", False, False),
    "truncated_json": ("bad_reply", True, False),
    "malformed_json": ("bad_reply", True, False),
    "wrong_shape": ("bad_reply", True, False),
    "cut_connection": ("bad_reply", True, False),
    "hang": ("timeout", True, False),
    "drip": ("timeout", True, False),
}


def test_every_fault_is_tested():
    assert set(KINDS) == set(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_becomes_a_typed_error(library, fault):
    kind, transient, refused = KINDS[fault]
    async with serving(library, SearchServerConfig(faults=FaultPlan({fault: 1.0}))) as server:
        backend = HttpWorldBackend(server.url, limits=HttpLimits(total=0.3))
        with pytest.raises(SearchError) as error:
            await backend.text_search("chad", 1)
        assert (error.value.kind, error.value.transient, error.value.refused) == (kind, transient, refused)
        assert isinstance(error.value, FatalSearchError) == (fault in ("bad_key_401", "no_credit_429"))
        assert server.served == {fault: 1}
        await backend.aclose()


async def test_nobody_listening_is_a_connection_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    backend = HttpWorldBackend(f"http://127.0.0.1:{port}")
    with pytest.raises(SearchError) as error:
        await backend.text_search("chad", 1)
    assert (error.value.kind, error.value.transient) == ("connection", True)
    await backend.aclose()


async def test_faults_come_at_their_rates(library):
    plan = FaultPlan({"error_500": 0.2, "malformed_json": 0.1}, seed=1)
    async with serving(library, SearchServerConfig(faults=plan)) as server:
        backend = HttpWorldBackend(server.url)
        await asyncio.gather(*(backend.text_search("chad", 1) for _ in range(300)), return_exceptions=True)
        assert sum(server.served.values()) == 300
        assert server.served["error_500"] == pytest.approx(60, abs=20)  # 3 standard deviations
        assert server.served["malformed_json"] == pytest.approx(30, abs=16)
        await backend.aclose()


def test_a_fault_plan_is_checked():
    with pytest.raises(ValueError, match="unknown faults"):
        FaultPlan({"fire": 0.1})
    with pytest.raises(ValueError, match="at most 1"):
        FaultPlan({"hang": 0.9, "drip": 0.2})


@pytest.mark.parametrize(("count", "results"), [("1", 1), ("0", 3), ("9" * 5000, 3), ("-1", 3), ("٢", 2)])
async def test_a_number_of_results_in_serpapis_form_is_read_or_left_at_ten(library, count, results):
    async with serving(library) as server, aiohttp.ClientSession() as session:
        query = {"engine": "google", "q": "everything", "num": count}
        async with session.get(server.url + "/search.json", params=query) as response:
            assert len((await response.json())["organic_results"]) == results
