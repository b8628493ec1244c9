"""Search services by a mapping: what is sent, what is read, and what is refused."""

import base64
import io
import json

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from hypereyes_jax.env.search.backends.mapping import MappedBackend, _at, _mapping, read_mapping, shipped_mappings
from hypereyes_jax.env.types import FatalSearchError, SearchError, SearchHit
from hypereyes_jax.errors import UserError

KEYS = {"SERPER_API_KEY": "k1", "TAVILY_API_KEY": "k2", "BRAVE_API_KEY": "k3"}
PICTURE = Image.new("RGB", (32, 24), "red")
# Nine lists of nine times the one before: 400 bytes that are 400 million values.
BOMB = "[" + ", ".join(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(10)) + "]"


class Host:
    async def put(self, image):
        return "https://images.example/1.jpg"

    async def aclose(self):
        pass


class Service:
    """Keeps what it was asked, and answers with what it was given."""

    def __init__(self, reply, status=200):
        self.reply, self.status, self.requests = reply, status, []

    async def handle(self, request):
        body = await request.json() if request.can_read_body else None
        self.requests.append((request.method, request.path, dict(request.query), body, dict(request.headers)))
        return web.json_response(self.reply, status=self.status)


async def asked(tmp_path, name, service, ask, host=None):
    """A shipped mapping, pointed at a server of this machine."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", service.handle)
    async with TestServer(app) as server:
        mapping = read_mapping(name)
        from dataclasses import replace
        from urllib.parse import urlsplit

        def local(call):
            return None if call is None else replace(call, url=str(server.make_url(urlsplit(call.url).path)))

        mapping = replace(mapping, text=local(mapping.text), image=local(mapping.image))
        backend = MappedBackend(mapping, host, environment=KEYS)
        try:
            return await ask(backend)
        finally:
            await backend.aclose()


async def test_serper_is_asked_and_read(tmp_path):
    service = Service({"organic": [{"title": "Chad", "snippet": "A country", "link": "https://a"}, {"title": 5}]})
    hits = await asked(tmp_path, "serper", service, lambda backend: backend.text_search("what {k} is", 3))
    assert hits == [SearchHit("Chad", "A country", 0.8, "https://a"), SearchHit("", "", 0.8, "")]
    method, path, _, body, headers = service.requests[0]
    assert (method, path, body) == ("POST", "/search", {"q": "what {k} is", "num": 3})  # a query is only text
    assert headers["X-API-KEY"] == "k1"


async def test_serper_searches_images_by_their_url(tmp_path):
    service = Service({"organic": [{"title": "Chad", "source": "Wiki", "link": "https://a"}]})
    hits = await asked(tmp_path, "serper", service, lambda backend: backend.image_search(PICTURE, 3), Host())
    assert hits == [SearchHit("Chad", "Wiki", 0.8, "https://a")]
    assert service.requests[0][3] == {"url": "https://images.example/1.jpg"}


async def test_an_image_without_a_host_ends_the_run(tmp_path):
    with pytest.raises(FatalSearchError, match="image host"):
        await asked(tmp_path, "serper", Service({}), lambda backend: backend.image_search(PICTURE, 3))


async def test_tavily_is_asked_and_read_with_scores(tmp_path):
    service = Service({"results": [{"title": "A", "content": "B", "url": "https://a", "score": 0.25}]})
    hits = await asked(tmp_path, "tavily", service, lambda backend: backend.text_search("q", 2))
    assert hits == [SearchHit("A", "B", 0.25, "https://a")]
    assert service.requests[0][3] == {"query": "q", "max_results": 2}
    assert service.requests[0][4]["Authorization"] == "Bearer k2"


@pytest.mark.parametrize("score", ["9" * 400, "-" + "9" * 400, "Infinity", "NaN", '"0.25"', "true", "[1]", "null"])
async def test_a_score_that_is_no_finite_number_is_a_missing_one(tmp_path, score):
    service = Service({"results": [{"title": "A", "score": json.loads(score)}]})
    hits = await asked(tmp_path, "tavily", service, lambda backend: backend.text_search("q", 3))
    assert hits == [SearchHit("A", "", 0.8, "")]


async def test_a_path_with_an_index_that_is_none_leads_nowhere():
    assert [_at([1, 2], path) for path in ("1", "2", "\u00b2", "9" * 5000, "-1")] == [2, None, None, None, None]


async def test_brave_is_asked_and_read(tmp_path):
    rows = [{"title": str(n), "description": "d", "url": "https://a"} for n in range(5)]
    service = Service({"web": {"results": rows}})
    hits = await asked(tmp_path, "brave", service, lambda backend: backend.text_search("a b&c", 3))
    assert [hit.title for hit in hits] == ["0", "1", "2"]
    assert service.requests[0][:3] == ("GET", "/res/v1/web/search", {"q": "a b&c", "count": "3"})
    assert service.requests[0][4]["X-Subscription-Token"] == "k3"


@pytest.mark.parametrize(
    "reply",
    [{}, {"web": None}, {"web": {"results": []}}, {"web": None, "message": "No results found"},
     {"error": "Google didn't return any results."}, {"web": {"results": []}, "message": "ok"}],
)  # fmt: skip
async def test_nothing_found_is_an_empty_list(tmp_path, reply):
    assert await asked(tmp_path, "brave", Service(reply), lambda backend: backend.text_search("q", 3)) == []


async def test_a_reply_of_another_shape_is_a_failure_and_not_an_empty_result(tmp_path):
    with pytest.raises(SearchError, match="not a list"):
        await asked(tmp_path, "brave", Service({"web": {"results": "x"}}), lambda backend: backend.text_search("q", 3))


@pytest.mark.parametrize(
    "reply",
    [None, [], "x", {"error": "Internal failure"}, {"message": "Endpoint request timed out"}, {"organic": ["a"]},
     {"organic": [{"name": "of another service"}]}],
)  # fmt: skip
async def test_absence_of_results_is_no_empty_result(tmp_path, reply):
    with pytest.raises(SearchError, match="organic") as failed:
        await asked(tmp_path, "serper", Service(reply), lambda backend: backend.text_search("q", 3))
    assert failed.value.transient
    assert not isinstance(failed.value, FatalSearchError)


@pytest.mark.parametrize(
    ("reply", "fatal"),
    [
        ({"organic": [], "error": "The index is being rebuilt."}, False),
        ({"organic": [], "errors": [{"message": "The index is being rebuilt."}]}, False),
        ({"organic": [], "message": "Not enough credits until The index is being rebuilt"}, True),
    ],
)
async def test_an_error_beside_no_results_is_no_empty_result(tmp_path, reply, fatal):
    with pytest.raises(SearchError, match="The index is being rebuilt") as failed:
        await asked(tmp_path, "serper", Service(reply), lambda backend: backend.text_search("q", 3))
    assert isinstance(failed.value, FatalSearchError) is fatal


@pytest.mark.parametrize("status", [202, 204, 206])
async def test_a_success_without_the_whole_result_is_a_failure(tmp_path, status):
    with pytest.raises(SearchError, match=f"HTTP {status}"):
        await asked(tmp_path, "serper", Service({}, status), lambda backend: backend.text_search("q", 3))


@pytest.mark.parametrize(
    ("name", "status", "reply"),
    [
        ("serper", 400, {"message": "Not enough credits", "statusCode": 400}),
        ("tavily", 432, {"detail": {"error": "This request exceeds your plan's set usage limit."}}),
        ("tavily", 433, {"detail": {"error": "This request exceeds the pay-as-you-go limit."}}),
        ("brave", 429, {"error": {"detail": "Request quota limit exceeded for plan.", "code": "QUOTA_LIMITED"}}),
        ("brave", 422, {"error": {"detail": "The token is invalid.", "code": "SUBSCRIPTION_TOKEN_INVALID"}}),
        ("serper", 405, {"detail": "Method Not Allowed"}),
        ("serper", 301, {"message": "Moved"}),
        ("serper", 200, {"error": {"code": "insufficient_quota", "message": "no more"}}),
    ],
)
async def test_what_can_never_work_ends_the_run_in_the_words_of_each_service(tmp_path, name, status, reply):
    with pytest.raises(FatalSearchError, match=r"limit|credits|invalid|Not Allowed|Moved|no more"):
        await asked(tmp_path, name, Service(reply, status), lambda backend: backend.text_search("q", 3))


async def test_what_a_service_only_throttles_or_refuses_ends_nothing(tmp_path):
    for status, reply in (
        (429, {"error": {"detail": "Request rate limit exceeded for plan.", "code": "RATE_LIMITED"}}),
        (422, {"error": {"detail": "Unable to validate", "code": "VALIDATION"}, "query": "insufficient credit"}),
    ):
        with pytest.raises(SearchError) as failed:
            await asked(tmp_path, "brave", Service(reply, status), lambda backend: backend.text_search("q", 3))
        assert not isinstance(failed.value, FatalSearchError)


async def test_a_service_that_refuses_every_first_request_ends_the_run(tmp_path):
    async def ask(backend):
        refusals = []
        while not (refusals and isinstance(refusals[-1], FatalSearchError)):
            with pytest.raises(SearchError) as failed:
                await backend.text_search("q", 3)
            refusals.append(failed.value)
        return refusals

    *refusals, last = await asked(tmp_path, "serper", Service({"message": "no such country"}, 400), ask)
    assert len(refusals) == 63
    assert all(refusal.refused for refusal in refusals)
    assert "no such country" in str(last)


async def test_an_unsupported_kind_is_refused_to_who_asked(tmp_path):
    with pytest.raises(SearchError, match="has no image search") as refused:
        await asked(tmp_path, "tavily", Service({}), lambda backend: backend.image_search(PICTURE, 3))
    assert refused.value.refused


async def test_a_file_may_send_images_as_base64_and_read_any_depth(tmp_path):
    mapping = {
        "image": {
            "url": "http://127.0.0.1:1/look",
            "body": {"images": [{"data": "{image_base64}"}], "note": "top {k}"},
            "hits": "data.0.found",
            "hit": {"title": "meta.name", "score": "s"},
        }
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(mapping))
    service = Service({"data": [{"found": [{"meta": {"name": "red"}, "s": float("1e3")}, {"s": True}]}]})
    hits = await asked(tmp_path, str(tmp_path / "own.yaml"), service, lambda backend: backend.image_search(PICTURE, 2))
    assert [(hit.title, hit.score) for hit in hits] == [("red", 1000.0), ("", 0.8)]
    body = service.requests[0][3]
    assert body["note"] == "top 2"
    assert Image.open(io.BytesIO(base64.b64decode(body["images"][0]["data"]))).size == (32, 24)


def test_a_changed_mapping_is_another_service_to_the_store(tmp_path):
    """Else what the old one did not find, since its path was wrong, would be found nowhere for ever."""
    engines = []
    for number, hits in enumerate(("a.b", "a.c", "a.b")):
        path = tmp_path / str(number) / "own.yaml"
        path.parent.mkdir()
        call = f"{{url: 'http://x/{{query}}', hits: {hits}, hit: {{title: t}}}}"
        path.write_text(f"# mapping {number}\nheaders: {{A: '{number}'}}\ntext: {call}\n")
        engines.append(MappedBackend(read_mapping(str(path))).engine)
    assert engines[0] == engines[2] != engines[1]
    assert engines[0].startswith("mapping:own:")
    assert MappedBackend(read_mapping("serper"), environment=KEYS).engine == "mapping:serper"


async def test_place_holders_of_a_url_are_filled_in_and_parameters_are_as_services_read_them():
    service = Service({"a": []})
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", service.handle)
    async with TestServer(app) as server:
        call = {"url": f"{server.make_url('/')}find/{{query}}?n={{k}}", "hits": "a", "hit": {}}
        call |= {"params": {"safe": True, "page": 2, "site": None}}
        document = {"text": call, "headers": {"A": "Bearer ${TOKEN}", "B": "key=$TOKEN"}}
        mapping = _mapping(document, "a test", "own")
        backend = MappedBackend(mapping, environment={"TOKEN": "t"})
        await backend.text_search("a/b & c", 3)
        await backend.aclose()
    _, path, query, _, headers = service.requests[0]
    assert (path, query) == ("/find/a/b & c", {"n": "3", "safe": "true", "page": "2"})
    assert (headers["A"], headers["B"]) == ("Bearer t", "key=t")


async def test_a_path_at_which_no_result_ever_stands_ends_the_run_and_names_where_there_are_some(tmp_path):
    """With `organics` for `organic`, each search would seem to find nothing."""
    found = {"data": {"organics": [{"title": "Chad"}]}, "credits": 1, "tags": []}
    service = Service(found)

    async def ask(backend):
        empty = [await backend.text_search("a", 3) for _ in range(4)]
        with pytest.raises(FatalSearchError, match=r"nothing at organic, .* lists at data\.organics: mend its `hits`"):
            await backend.text_search("a", 3)
        return empty

    assert await asked(tmp_path, "serper", service, ask) == [[]] * 4

    async def ask_the_right_one(backend):
        service.reply = {"organic": [{"title": "Chad"}]}
        first = await backend.text_search("a", 3)
        service.reply = {"peopleAlsoAsk": [{"question": "b"}]}  # of a query that finds nothing
        return [len(first), *[await backend.text_search("a", 3) for _ in range(8)]]

    assert await asked(tmp_path, "serper", service, ask_the_right_one) == [1, *[[]] * 8]


def test_the_shipped_services_are_listed_and_need_their_keys():
    assert shipped_mappings() == ["brave", "serper", "tavily"]
    for name in shipped_mappings():
        with pytest.raises(UserError, match=f"{name.upper()}_API_KEY"):
            MappedBackend(read_mapping(name), environment={})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[1]", "holds `text`"),
        ("other: 1", "holds `text`"),
        ("{a: [}", "not YAML"),
        ("text: {url: x, hits: a, hit: {}}", "http"),
        ("text: {hits: a, hit: {}}", "needs url"),
        ("text: {url: http://x, hits: a, hit: {name: b}}", "paths of"),
        ("text: {url: http://x, hits: a, hit: {title: 5}}", "must be strings"),
        ("text: {url: http://x, hits: a, hit: {}, method: DELETE}", "GET or POST"),
        ("text: {url: http://x, hits: a, hit: {}}\nheaders: {A: 5}", "headers"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("x" * 70000, "holds `text`"),
        (
            "text: {url: http://x, hits: a, hit: {}, params: {q: query}}",
            r"must have \{query\} in its url, params or body",
        ),
        ("image: {url: http://x, hits: a, hit: {}, body: ['{query}']}", r"must have \{image_base64\} or \{image_url\}"),
        (
            "text: {url: 'http://x?q={query}&n={n}', hits: a, hit: {}}",
            r"place-holder \{n\}; there are \{query\}, \{k\}",
        ),
        ("text: {url: http://x, hits: a, hit: {}, params: {q: '{query}', n: '{num}'}}", r"place-holder \{num\}"),
        ("text: {url: http://x, hits: a, hit: {}, params: {q: '{query}', key: $KEY}}", "keys belong in headers"),
        ("text: {url: http://x, hits: a, hit: {}, hits: b}", "hits is given twice"),
        ("text: {url: http://x, hits: a, hit: {}, body: [.nan]}", "`text.body` is nothing that JSON knows"),
        ("text: {url: http://x, hits: a, hit: {}, body: &a [*a]}", "`text.body` holds itself"),
        ("text: {url: http://x, hits: a, hit: {}, params: &a {x: *a}}", "`text.params` holds itself"),
        (f"text: {{url: http://x, hits: a, hit: {{}}, body: {BOMB}}}", "more than 10,000 values"),
        ("text: {url: 'http://[', hits: a, hit: {}}", "not a valid URL"),
        ("text: {url: http://x, hits: a, hit: {}}\nheaders: {'A b': c}", "'A b' is not a valid name of a header"),
    ],
)
def test_what_is_no_mapping_is_told(tmp_path, text, why):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UserError, match=why):
        read_mapping(str(tmp_path / "own.yaml"))


def test_a_mapping_that_is_not_there_names_those_that_are():
    with pytest.raises(UserError, match="brave, serper, tavily"):
        read_mapping("google")
