import pytest

from hypereyes_jax.env.world import World
from hypereyes_jax.launch.searching import searching


@pytest.mark.parametrize("transport", ["http", "in-process"])
async def test_searches_are_answered_and_counted(transport):
    async with searching(World.load(), transport, 0.01) as backend:
        assert await backend.text_search("population of Chad", 3)
        numbers = backend.metrics.numbers()
    assert (numbers["search_sent"], numbers["search_success_rate"]) == (1.0, 1.0)
    assert numbers["search_latency_p50"] >= 0.009  # a histogram's bucket is within 2.5 %
