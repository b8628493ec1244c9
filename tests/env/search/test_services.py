from dataclasses import replace

import pytest
from PIL import Image

from hypereyes_jax.env import FatalSearchError, SearchError
from hypereyes_jax.env.search.config import CallPolicy, SearchConfig, SearchKeys, StoreMode
from hypereyes_jax.env.search.serve import serving
from hypereyes_jax.env.search.services import connected
from hypereyes_jax.env.types import SearchBackend, SearchHit
from hypereyes_jax.errors import UserError

KEY = "s3cr3t"


async def test_a_recorded_service_replays_without_its_server(library, tmp_path):
    settings = {"service": "serve-world", "store": tmp_path / "s.sqlite"}
    async with serving(library) as server:
        async with connected(SearchConfig(url=server.url, policy=CallPolicy(text_price=0.5), **settings)) as (
            backend,
            metrics,
        ):
            live = await backend.text_search("chad", 3)
            crop = await backend.image_search(Image.new("RGB", (9, 9), "red"), 3)
        assert metrics.summary()["cost"] == 0.5
    async with connected(SearchConfig(url=server.url, mode=StoreMode.REPLAY, **settings)) as (backend, metrics):
        assert await backend.text_search("chad", 3) == live
        assert await backend.image_search(Image.new("RGB", (9, 9), "red"), 3) == crop
        with pytest.raises(FatalSearchError, match="not recorded"):
            await backend.text_search("togo", 3)
    assert metrics.summary()["cache_hits"] == 2
    async with connected(SearchConfig(url=server.url, policy=CallPolicy(attempts=1), **settings)) as (backend, _):
        with pytest.raises(SearchError, match="could not be reached"):
            await backend.text_search("togo", 3)


class CutInsideAnEmoji(SearchBackend):
    """Its snippets end as those of services do that count UTF-16 units."""

    async def text_search(self, query, k):
        return [SearchHit(f"On {query}\ud83d", "\ude00 text \U0001f600", 1.0, "https://a.example/\udfff")]

    image_search = text_search


async def test_halves_of_surrogate_pairs_are_stored_and_replayed(tmp_path):
    async with serving(CutInsideAnEmoji()) as server:
        settings = SearchConfig(service="serve-world", url=server.url, store=tmp_path / "s.sqlite")
        async with connected(settings) as (backend, _):
            (live,) = await backend.text_search("chad", 3)
    assert (live.title, live.content, live.url) == ("On chad?", "? text \U0001f600", "https://a.example/?")
    async with connected(replace(settings, mode=StoreMode.REPLAY)) as (backend, _):
        assert await backend.text_search("chad", 3) == [live]


async def test_the_world_in_process_is_the_default():
    async with connected(SearchConfig()) as (backend, _):
        assert (await backend.text_search("population of Chad", 3))[0].title


@pytest.mark.parametrize(
    ("settings", "keys", "message"),
    [
        ({"service": "serpapi"}, SearchKeys(), "SERPAPI_API_KEY"),
        ({"service": "serpapi", "bucket": "b"}, SearchKeys(serpapi=KEY), "AWS_SECRET_ACCESS_KEY"),
        ({"service": "retriever"}, SearchKeys(), "needs --search.url"),
        ({"service": "serve-world"}, SearchKeys(), "needs --search.url"),
    ],
)
async def test_what_is_missing_is_said(settings, keys, message):
    with pytest.raises(UserError, match=message):
        async with connected(SearchConfig(**settings), keys):
            pass


async def test_serpapi_with_a_bucket_or_a_tunnel():
    keys = SearchKeys(serpapi=KEY, s3_access=KEY, s3_secret=KEY)
    assert KEY not in repr(keys)
    for settings in ({"bucket": "b"}, {"image_url": "https://tunnel.example/"}, {}):
        async with connected(SearchConfig(service="serpapi", **settings), keys):
            pass
