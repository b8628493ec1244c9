"""`hypereyes rl` in two processes that share a search store in PostgreSQL: over both, each search is sent once."""

import asyncio
import json
import threading
from collections import Counter
from dataclasses import replace

import pytest
from aiohttp import web

from hypereyes_jax.cli.eval import world_questions
from hypereyes_jax.data.files import write_questions
from hypereyes_jax.env.search.store_tools import inspect_store
from hypereyes_jax.env.world import World
from tests.launch.small_model import BASE
from tests.launch.test_commands_of_pods import steps, together
from tests.postgres_server import PASSWORD, running


class Service:
    """A search server on loopback that counts what it is asked, and takes long enough to be asked twice at once."""

    def __init__(self):
        self.asked, self.url = Counter(), ""
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        threading.Thread(target=self._run, daemon=True).start()
        assert self._ready.wait(30)

    def _run(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._loop.run_forever()

    async def _start(self):
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/{path:.*}", self._reply)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()

    async def _reply(self, request):
        body = await request.json()
        queries = body.pop("queries", [""])
        for query in queries:
            self.asked[request.path, json.dumps(body, sort_keys=True), json.dumps(query)] += 1
        await asyncio.sleep(0.3)
        page = {"document": {"contents": "Chad\nA country."}, "score": 0.9}
        return web.json_response({"result": [[page] for _ in queries]})


@pytest.mark.slow
def test_two_processes_send_each_search_once_and_a_run_that_goes_on_sends_it_no_more(tmp_path, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    service = Service()
    (question,) = world_questions(World.load(), "seen", 1, 5)
    # The same picture under four names: rollouts of both processes look for the same things.
    write_questions(tmp_path / "questions.jsonl", [replace(question, id=f"{question.id}-{n}") for n in range(4)])
    with running() as server:
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
