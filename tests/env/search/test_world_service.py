from dataclasses import replace

import pytest

from hypereyes_jax.env import FatalSearchError
from hypereyes_jax.env.nature import Nature
from hypereyes_jax.env.search.config import SearchConfig, StoreMode
from hypereyes_jax.env.search.services import check_search, connected
from hypereyes_jax.env.search.world_service import engine_name
from hypereyes_jax.env.world import World
from hypereyes_jax.errors import UserError


@pytest.mark.parametrize("service", ["world", "nature"])
@pytest.mark.parametrize("transport", ["http", "in-process"])
async def test_searches_are_answered_and_counted(service, transport):
    query = {"world": "population of Chad", "nature": "gloss of octopus"}[service]
    async with connected(SearchConfig(service, transport, 0.01)) as (backend, metrics):
        assert await backend.text_search(query, 3)
        numbers = metrics.numbers()
    assert (numbers["search_sent"], numbers["search_success_rate"]) == (1.0, 1.0)
    assert numbers["search_latency_p50"] >= 0.009  # a histogram's bucket is within 2.5 %


async def test_one_store_keeps_worlds_apart(tmp_path):
    """Training searches the seen part of the world, evaluation all of it: the same query, other answers."""
    world = World.load()
    seen = world.restrict(world.split()[0])
    config, found = SearchConfig(store=tmp_path / "searches.sqlite"), {}
    for name, which in (("all", world), ("seen", seen)):
        async with connected(config, world=which) as (backend, _):
            found[name] = await backend.text_search("population of Chad", 10)
    assert found["all"] != found["seen"]
    for name, which in (("all", world), ("seen", seen)):
        async with connected(replace(config, mode=StoreMode.REPLAY), world=which) as (backend, metrics):
            assert await backend.text_search("population of Chad", 10) == found[name]
            assert metrics.cache_hits == 1
            with pytest.raises(FatalSearchError, match="not recorded"):
                await backend.text_search("population of Niger", 10)


def test_a_store_names_what_was_searched():
    names = {engine_name(world, way) for world in (World.load(), Nature.load()) for way in ("http", "in-process")}
    assert len(names) == 4
    assert {name.partition(":")[0] for name in names} == {"world", "nature"}


@pytest.mark.parametrize("store", [None, "gone.sqlite"])
async def test_a_strict_replay_of_nothing_is_refused(store, tmp_path):
    where = store and tmp_path / store
    for service in ("world", "retriever"):
        config = SearchConfig(
            service, url="http://h" if service == "retriever" else "", store=where, mode=StoreMode.REPLAY
        )
        with pytest.raises(UserError, match="a strict replay needs the store of a recorded run"):
            async with connected(config):
                pass


def test_settings_that_a_service_does_not_read_are_refused():
    check_search(SearchConfig("nature", "http", 0.5), SearchConfig())
    check_search(SearchConfig("retriever", "http", url="http://h"), SearchConfig(transport="http"))
    for config, message in (
        (SearchConfig(bucket="b"), "--search.bucket needs --search.service serpapi or mapping, but"),
        (SearchConfig("serpapi", "http"), "--search.transport applies to offline worlds only, but"),
        (SearchConfig("object", backend="a:B", image_engine="google_lens"), "--search.image-engine needs"),
        (SearchConfig(budget="b"), "--search.budget needs a store in PostgreSQL"),
    ):
        with pytest.raises(UserError, match=message):
            check_search(config, SearchConfig())
