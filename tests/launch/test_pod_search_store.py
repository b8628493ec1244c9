"""`hypereyes rl` in two processes that share a search store in PostgreSQL: over both, each search is sent once."""

from dataclasses import replace

import pytest

from hypereyes_jax.data.files import write_questions
from hypereyes_jax.env.search.store_tools import inspect_store
from hypereyes_jax.env.world import World
from hypereyes_jax.eval.split import world_questions
from tests.launch.small_model import BASE
from tests.launch.test_commands_of_pods import steps, together
from tests.postgres_server import PASSWORD, running
from tests.search_server import search_server


@pytest.mark.slow
def test_two_processes_send_each_search_once_and_a_run_that_goes_on_sends_it_no_more(tmp_path, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    (question,) = world_questions(World.load(), "seen", 1, 5)
    # The same picture under four names: rollouts of both processes look for the same things.
    write_questions(tmp_path / "questions.jsonl", [replace(question, id=f"{question.id}-{n}") for n in range(4)])
    with running() as server, search_server(seconds=0.3) as service:  # long enough to be asked twice at once
        rl = [
            *f"rl --checkpoint {BASE} --select no --settings.prompts 4 --settings.group 4".split(),
            *f"--questions {tmp_path / 'questions.jsonl'} --out {tmp_path / 'rl'} --sizes.context 512".split(),
            *f"--search.service serve-world --search.url {service.url} --search.store {server.url}".split(),
            *"--settings.opd-coef 0 --settings.checkpoint-every 1".split(),
        ]
        for count in (1, 2):
            together(*rl, "--settings.steps", count, devices=1)
        (group,) = inspect_store(server.url)["groups"]
    assert [row["step"] for row in steps(tmp_path / "rl")] == [0, 1]
    made = sum(16 * row["rl/invocations"] for row in steps(tmp_path / "rl"))
    assert set(service.asked.values()) == {1}, (made, service.asked)
    assert group["searches"] == len(service.asked) < 0.7 * made, (made, group)
