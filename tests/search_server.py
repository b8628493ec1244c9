"""A search service on loopback, in the manner of `serve-world`, for commands that run in processes of their own."""

import asyncio
import contextlib
import json
from collections import Counter

from aiohttp import web

from hypereyes_jax.env.web.loop_thread import LoopThread


class SearchServer:
    """Finds the same page for every search. `asked` counts searches; while `down`, the answer is 503."""

    def __init__(self, seconds=0.0):
        self.down, self.url, self.asked, self.seconds = False, "", Counter(), seconds

    async def start(self):
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/{path:.*}", self._reply)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self):
        await self._runner.cleanup()

    async def _reply(self, request):
        body = await request.json()
        queries = body.pop("queries", [""])
        for query in queries:
            self.asked[request.path, json.dumps(body, sort_keys=True), json.dumps(query)] += 1
        if self.down:
            return web.json_response({"error": "out of order"}, status=503)
        await asyncio.sleep(self.seconds)
        page = {"document": {"contents": "Chad\nA country."}, "score": 0.9}
        return web.json_response({"result": [[page] for _ in queries]})


@contextlib.contextmanager
def search_server(seconds=0.0):
    """`seconds` is how long a search takes."""
    server, loop = SearchServer(seconds), LoopThread()
    loop.run(server.start())
    try:
        yield server
    finally:
        loop.run(server.stop())
        loop.close()
