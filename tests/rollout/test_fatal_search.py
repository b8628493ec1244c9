"""An account without credit ends the run, where an outage only masks a rollout."""

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
