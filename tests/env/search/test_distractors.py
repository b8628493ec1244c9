from PIL import Image

from hypereyes_jax.env.search.config import StoreMode
from hypereyes_jax.env.search.distractors import DistractedBackend, world_distractors
from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.env.world import World, WorldBackend


def recorded(backend):
    return RecordedBackend(backend, None, StoreMode.LIVE, engine="test")


async def test_the_right_result_stands_among_so_many_others_in_an_order_by_the_seed():
    world = World.load()
    pages = world_distractors(world)
    places = set()
    for seed in range(12):
        backend = DistractedBackend(recorded(WorldBackend(world)), pages, 4, seed)
        hits = await backend.text_search("capital of Niger", 10)
        right = [place for place, hit in enumerate(hits) if "Niamey" in hit.content]
        assert len(hits) == 5
        assert len({hit.title for hit in hits}) == 5
        assert len({hit.score for hit in hits}) == 1  # no threshold or order by score finds the right one
        places.add(right[0])
        again = await DistractedBackend(recorded(WorldBackend(world)), pages, 4, seed).text_search(
            "capital of Niger", 10
        )
        assert again == hits
    assert len(places) > 2
    flag = await DistractedBackend(recorded(WorldBackend(world)), pages, 2, 0).image_search(world.flag("ne"), 3)
    assert sum(hit.title == "Niger" for hit in flag) == 1
    assert len(flag) == 3


async def test_a_search_that_finds_nothing_is_not_given_distractors():
    class Empty:
        async def text_search(self, query, k):
            return []

        async def image_search(self, image, k):
            return []

    backend = DistractedBackend(recorded(Empty()), world_distractors(World.load()), 3, 0)
    assert await backend.image_search(Image.new("RGB", (8, 8)), 3) == []
