import pytest

from hypereyes_jax.env import FatalSearchError
from hypereyes_jax.env.search.config import StoreMode, WorldSearch
from hypereyes_jax.env.search.world_service import searching
from hypereyes_jax.env.world import World


@pytest.mark.parametrize("transport", ["http", "in-process"])
async def test_searches_are_answered_and_counted(transport):
    async with searching(World.load(), WorldSearch(transport, 0.01)) as backend:
        assert await backend.text_search("population of Chad", 3)
        numbers = backend.metrics.numbers()
    assert (numbers["search_sent"], numbers["search_success_rate"]) == (1.0, 1.0)
    assert numbers["search_latency_p50"] >= 0.009  # a histogram's bucket is within 2.5 %


async def test_one_store_keeps_worlds_apart(tmp_path):
    """Training searches the seen part of the world, evaluation all of it: the same query, other answers."""
    world = World.load()
    seen = world.restrict(world.split()[0])
    store, found = tmp_path / "searches.sqlite", {}
    for name, which in (("all", world), ("seen", seen)):
        async with searching(which, WorldSearch("in-process", store=store)) as backend:
            found[name] = await backend.text_search("population of Chad", 10)
    assert found["all"] != found["seen"]
    for name, which in (("all", world), ("seen", seen)):
        async with searching(which, WorldSearch("in-process", store=store, mode=StoreMode.REPLAY)) as backend:
            assert await backend.text_search("population of Chad", 10) == found[name]
            assert backend.metrics.cache_hits == 1
            with pytest.raises(FatalSearchError, match="not recorded"):
                await backend.text_search("population of Niger", 10)
