"""The tools that come with the project: zoom, visit, video_search; and a user's own by name."""

import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from hypereyes_jax.env import Episode, EpisodeConfig, Question, StopReason
from hypereyes_jax.env.media.images import encode_image
from hypereyes_jax.env.search.backends import SerpApiBackend, SerpApiConfig
from hypereyes_jax.env.tools.video_search import VideoSearch
from hypereyes_jax.env.tools.visit import Visit, readable_text
from hypereyes_jax.env.types import SearchError
from hypereyes_jax.env.web.urls import UrlGuard
from hypereyes_jax.errors import UserError

FLAGS = Image.new("RGB", (400, 200), "red")
FLAGS.paste("blue", (200, 0, 400, 200))
QUESTION = Question("q", "?", (FLAGS,), ("a",))
LOCAL = UrlGuard(allow_private=True, ports=None)
PAGE = (
    "<html><head><title>Chad</title></head><body><nav>Home | About</nav><article><h1>Chad</h1><p>"
    + "Chad is a country in Africa. Its capital is N'Djamena. " * 20
    + "</p></article><script>alert(1)</script></body></html>"
)


class Wallet:
    """A search service that keeps the account, and is never asked."""

    def __init__(self):
        self.dollars = 0.0

    async def charge(self, dollars):
        self.dollars += dollars
        return "payment"

    async def refund(self, payment, dollars):
        self.dollars -= dollars


def call(name, **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


@pytest.fixture
async def site():
    async def page(request):
        return web.Response(text=PAGE, content_type="text/html")

    async def long(request):
        return web.Response(text="word " * 10_000)

    async def picture(request):
        return web.Response(body=encode_image(FLAGS), content_type="image/jpeg")

    async def search(request):
        assert request.query["engine"] == "google_videos"
        if request.query["q"] == "down":
            return web.json_response({}, status=503)
        row = {
            "title": "A film",
            "link": "https://v",
            "channel": "Channel",
            "duration": "3:21",
            "thumbnail": f"{base}/picture",
        }
        return web.json_response({"search_metadata": {"status": "Success"}, "video_results": [row] * 5})

    app = web.Application()
    for name, handler in (("page", page), ("long", long), ("picture", picture), ("search.json", search)):
        app.router.add_get(f"/{name}", handler)
    server = TestServer(app)
    await server.start_server()
    base = str(server.make_url("")).rstrip("/")
    yield base
    await server.close()


async def test_zoom_shows_regions_enlarged_and_counts_as_no_search(library):
    episode = Episode(QUESTION, library, EpisodeConfig(tools=("zoom",)))
    assert "zoom" in episode.system
    first, second, text = await episode.step(call("zoom", image_id="img_0", area=[[0, 0, 0.5, 1], [0.5, 0, 0.6, 0.2]]))
    assert first.size == (800, 800)  # four times, which is under 1,000 pixels
    assert second.getpixel((5, 5)) == (0, 0, 255)
    assert "2 regions of img_0" in text
    await episode.step(call("image_search", image_id="img_1"))  # what was shown can be searched
    episode.end(StopReason.CONTEXT_LIMIT)
    assert (episode.result().rounds, episode.result().invocations) == (1, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"image_id": "img_0"},
        {"image_id": "img_9", "area": [[0, 0, 1, 1]]},
        {"image_id": "img_0", "area": [[1, 1, 0, 0]]},
    ],
)
async def test_zoom_tells_what_is_wrong(library, arguments):
    (text,) = await Episode(QUESTION, library, EpisodeConfig(tools=("zoom",))).step(call("zoom", **arguments))
    assert len(text.splitlines()) == 5


async def test_visit_reads_the_text_of_a_page(library, site):
    episode = Episode(QUESTION, library, None, [Visit(guard=LOCAL)])
    (text,) = await episode.step(call("visit", url=f"{site}/page"))
    assert "Chad is a country in Africa." in text
    assert "alert" not in text
    assert "Home | About" not in text
    (text,) = await episode.step(call("visit", url=f"{site}/gone"))
    assert "the page can't be read" in text
    assert "HTTP 404" in text
    episode.end(StopReason.CONTEXT_LIMIT)
    assert (episode.result().rounds, episode.result().invocations) == (1, 1)


async def test_visit_shows_so_many_characters_and_says_so(library, site):
    episode = Episode(QUESTION, library, None, [Visit(guard=LOCAL, characters=500)])
    (text,) = await episode.step(call("visit", url=f"{site}/long"))
    assert len(text) < 900
    assert "more characters were left out" in text


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "file:///etc/passwd", "http://①②⑦.0.0.1/", "", 3])
async def test_visit_goes_through_the_url_guard(library, url):
    (text,) = await Episode(QUESTION, library, EpisodeConfig(tools=("visit",))).step(call("visit", url=url))
    assert "can't be read" in text or "must be the address" in text


def test_what_is_no_page_has_no_text():
    assert readable_text(encode_image(FLAGS)) == ""
    assert readable_text(b"<html><body></body></html>") == ""
    assert readable_text(b"plain words") == "plain words"


async def test_video_search_shows_videos_and_their_pictures(library, site):
    tool = VideoSearch(SerpApiBackend(SerpApiConfig("key", url=f"{site}/search.json")), guard=LOCAL)
    episode = Episode(QUESTION, library, None, [tool])
    *pictures, text = await episode.step(call("video_search", input=["a", "b"]))
    assert [picture.size for picture in pictures] == [(400, 200)] * 2
    assert text.count("(0.80) A film: Channel 3:21") == 6
    assert "[a]" in text
    *_, text = await episode.step(call("video_search", input=["down", "b"]))
    assert "search failed (http_503)" in text
    episode.end(StopReason.CONTEXT_LIMIT)
    assert (episode.result().rounds, episode.result().invocations) == (2, 4)
    await tool.backend.aclose()


async def test_an_outage_of_video_search_masks_the_rollout_and_every_query_that_was_sent_counts(library, site):
    tool = VideoSearch(SerpApiBackend(SerpApiConfig("key", url=f"{site}/search.json")), price=0.01)
    account = Wallet()
    episode = Episode(QUESTION, account, None, [tool])
    assert await episode.step(call("video_search", input=["down", "down", " "])) is None
    result = episode.result()
    assert (result.stop, result.rounds, result.invocations) == (StopReason.INFRASTRUCTURE, 1, 2)
    assert account.dollars == 0
    await tool.backend.aclose()


async def test_a_video_search_that_could_not_be_sent_is_none(library):
    """A proxy or a firewall that lets nothing through: the query never left, so it is neither a round nor a search."""

    class Unsent(SerpApiBackend):
        async def video_search(self, query, k):
            raise SearchError("not sent", transient=False, refused=True, kind="unsent", sent=query == "sent")

    for queries, counts in ((["a"], (0, 0)), (["a", "b"], (0, 0)), (["a", "sent"], (1, 1))):
        tool = VideoSearch(Unsent(SerpApiConfig("key")))
        episode = Episode(QUESTION, library, None, [tool])
        *_, text = await episode.step(call("video_search", input=queries))
        assert "refused: not sent" in text
        episode.end(StopReason.CONTEXT_LIMIT)
        assert (episode.result().rounds, episode.result().invocations) == counts
        await tool.backend.aclose()


async def test_video_search_needs_its_key(library, monkeypatch):
    monkeypatch.delenv("SERPAPI_API_KEY", raising=False)
    with pytest.raises(UserError, match="SERPAPI_API_KEY"):
        Episode(QUESTION, library, EpisodeConfig(tools=("video_search",)))


async def test_a_tool_of_a_users_own_by_name(library, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from hypereyes_jax.env.tools.types import ToolReply\n"
        "class Shop:\n"
        "    name, description, is_search, price = 'shop', 'prices.', True, 0.01\n"
        "    parameters = {'type': 'object', 'properties': {}}\n"
        "    async def call(self, arguments, episode):\n"
        "        return ToolReply(('Tea costs 3.',))\n"
        "nothing = 3\n"
    )
    episode = Episode(QUESTION, library, EpisodeConfig(tools=(f"{tmp_path}/mine.py:Shop",)))
    (text,) = await episode.step(call("shop"))
    assert "Tea costs 3." in text
    for name, words in ((f"{tmp_path}/mine.py:nothing", "not a tool"), ("fly", "zoom, visit, video_search")):
        with pytest.raises(UserError, match=words):
            Episode(QUESTION, library, EpisodeConfig(tools=(name,)))
