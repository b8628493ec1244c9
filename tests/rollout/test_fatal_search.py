"""What ends the run, where an outage only masks a rollout: an account without credit, and a defect."""

import pytest

from hypereyes_jax.env import FatalSearchError
from hypereyes_jax.rollout import run_episodes
from tests.rollout.paced import SAMPLING, PacedEpisode, question


class Broke(PacedEpisode):
    async def step(self, text, truncated=False):
        raise FatalSearchError("the account has run out of searches", kind="no_credit")


async def test_an_exhausted_account_ends_the_run_with_its_own_message(make_engine, chat):
    episodes = [PacedEpisode(question(1), seconds=0.2), Broke(question(2)), Broke(question(3))]
    with pytest.raises(FatalSearchError, match="run out of searches"):
        await run_episodes(make_engine(), episodes, chat, SAMPLING, [1, 2, 3])


class Crashing(PacedEpisode):
    async def step(self, text, truncated=False):
        raise KeyError("a bug of the backend")


async def test_a_defect_of_a_backend_ends_the_run_with_its_own_type_and_traceback(make_engine, chat):
    episodes = [PacedEpisode(question(1), seconds=0.2), Crashing(question(2))]
    engine = make_engine()
    with pytest.raises(KeyError, match="a bug of the backend") as raised:
        await run_episodes(engine, episodes, chat, SAMPLING, [1, 2])
    assert raised.traceback[-1].path.name == "test_fatal_search.py"
    assert raised.traceback[-1].name == "step"
    assert engine.free_slots == engine.settings.slots
