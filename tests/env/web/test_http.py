"""What statuses mean with their history, logins and secrets, proxies, limits."""

import base64
import traceback

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hypereyes_jax.env import FatalSearchError, SearchError
from hypereyes_jax.env.search.backends import HttpWorldBackend, RetrieverBackend
from hypereyes_jax.env.search.recorded import RecordedBackend, StoreMode
from hypereyes_jax.env.search.store import SearchStore
from hypereyes_jax.env.search.store_tools import inspect_store
from hypereyes_jax.env.web.http import Address, HttpLimits, JsonHttp, Reply, check_status
from hypereyes_jax.env.web.retries import read_retry_after
from hypereyes_jax.env.web.service_words import service_words
from hypereyes_jax.errors import SettingError

GOOD = {"result": [[{"id": "1", "contents": "Chad\nCountry."}]]}


@pytest.fixture
async def serve():
    opened = []

    async def open_(*replies):
        waiting, requests = list(replies), []

        async def handle(request):
            requests.append(request)
            status, data = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            return web.json_response(data, status=status)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        server = TestServer(app)
        await server.start_server()
        opened.append(server.close)
        return str(server.make_url("/retrieve")), requests

    yield open_
    for close in opened:
        await close()


async def outcome(backend):
    try:
        await backend.text_search("q", 3)
    except SearchError as error:
        return error
    return None


async def test_a_firewall_that_refuses_one_query_of_many_refuses_that_search_only(serve):
    url, _ = await serve((200, GOOD), (403, {"message": "blocked by the firewall"}), (200, GOOD))
    backend = RetrieverBackend(url)
    assert await outcome(backend) is None
    refused = await outcome(backend)
    assert refused.refused
    assert not isinstance(refused, FatalSearchError)
    assert await outcome(backend) is None
    await backend.aclose()


@pytest.mark.parametrize("status", [405, 406, 418, 451])
async def test_other_statuses_of_firewalls_refuse_one_query_of_many_and_end_a_run_of_which_nothing_worked(
    serve, status
):
    url, _ = await serve((200, GOOD), (status, {"message": "blocked"}), (200, GOOD))
    backend = RetrieverBackend(url)
    assert await outcome(backend) is None
    refused = await outcome(backend)
    assert refused.refused
    assert await outcome(backend) is None
    await backend.aclose()
    url, _ = await serve((status, {"message": "blocked"}))
    backend = RetrieverBackend(url)
    assert isinstance(await outcome(backend), FatalSearchError)
    await backend.aclose()


@pytest.mark.parametrize("status", [403, 451])
async def test_a_key_that_is_taken_back_in_the_middle_of_a_run_ends_it(serve, status):
    refusals = [(status, {"message": "revoked"})] * 63
    url, _ = await serve((200, GOOD), *refusals, (200, GOOD), *refusals, (status, {"message": "revoked"}))
    backend = RetrieverBackend(url)
    outcomes = [await outcome(backend) for _ in range(129)]
    assert [error is None for error in outcomes] == [True, *[False] * 63, True, *[False] * 64]
    assert not any(isinstance(error, FatalSearchError) for error in outcomes[:-1])
    assert isinstance(outcomes[-1], FatalSearchError)
    assert f"each of the last 64 requests (HTTP {status}): revoked" in str(outcomes[-1])
    await backend.aclose()


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (403, {"message": "wrong project"}),
        (404, {"detail": "Not Found"}),
        (401, {"error": "wrong project"}),
        (402, {"message": "Not enough credits"}),
        (429, {"error": {"code": "insufficient_quota", "message": "quota"}}),
    ],
)
async def test_what_has_never_worked_and_cannot_ends_the_run(serve, status, data):
    url, requests = await serve((status, data))
    backend = RetrieverBackend(url)
    error = await outcome(backend)
    assert isinstance(error, FatalSearchError)
    assert service_words(data) in str(error)
    assert len(requests) == 1
    await backend.aclose()


@pytest.mark.parametrize(
    "data", [(402, {"message": "Not enough credits"}), (429, {"error": "You have run out of searches"})]
)
async def test_an_account_that_runs_dry_later_ends_the_run_too(serve, data):
    url, _ = await serve((200, GOOD), data)
    backend = RetrieverBackend(url)
    assert await outcome(backend) is None
    assert isinstance(await outcome(backend), FatalSearchError)
    await backend.aclose()


async def test_a_time_to_come_back_that_only_the_body_tells_is_heeded(serve):
    url, _ = await serve((429, {"error": {"message": "You exceeded your current quota. Please retry in 34.5s."}}))
    backend = RetrieverBackend(url)
    error = await outcome(backend)
    assert error.transient
    assert error.retry_after == 34.5
    await backend.aclose()


async def test_a_conflict_is_tried_again_and_ends_nothing(serve):
    url, _ = await serve((409, {"message": "another request holds the lock"}))
    backend = RetrieverBackend(url)
    error = await outcome(backend)
    assert error.transient
    assert not isinstance(error, FatalSearchError)
    await backend.aclose()


QUERY = "how to mend the error Insufficient_Quota"


@pytest.mark.parametrize("status", [400, 403, 429])
@pytest.mark.parametrize(
    "data", [{"error": f"can't search for '{QUERY}'"}, {"detail": [{"msg": f"bad value {QUERY.upper()}"}]}]
)
async def test_a_query_that_a_service_repeats_says_nothing_of_the_account(serve, status, data):
    url, _ = await serve((200, GOOD), (status, data))
    http = JsonHttp()
    for send in ({"body": {"queries": [QUERY]}}, {"params": {"q": QUERY}}):
        reply = await http.request("POST", url, **send)
        if reply.status != 200:
            with pytest.raises(SearchError) as raised:
                check_status(reply, "host")
            assert not isinstance(raised.value, FatalSearchError)
    reply = await http.request("POST", url, body={"queries": ["another query"]})
    with pytest.raises(FatalSearchError):
        check_status(reply, "host")
    await http.aclose()


async def test_an_error_beside_no_results_is_no_empty_result(serve):
    url, _ = await serve((200, {"result": [[]], "error": "the index is being rebuilt"}))
    backend = RetrieverBackend(url)
    error = await outcome(backend)
    assert "the index is being rebuilt" in str(error)
    assert error.transient
    await backend.aclose()


@pytest.mark.parametrize("kind", ["retriever", "world"])
async def test_a_login_in_a_url_goes_out_as_a_header_and_stands_nowhere(serve, kind, tmp_path):
    url, requests = await serve((200, GOOD), (500, {"error": "alice:s3cr3t-pass was here"}))
    given = url.replace("http://", "http://alice:s3cr3t-pass@")
    backend = RetrieverBackend(given) if kind == "retriever" else HttpWorldBackend(given.removesuffix("/retrieve"))
    store = SearchStore(tmp_path / "store.sqlite")
    recorded = RecordedBackend(backend, store, StoreMode.RECORD)
    await recorded.text_search("q", 3)
    sent = base64.b64decode(requests[0].headers["Authorization"].removeprefix("Basic ")).decode()
    assert sent == "alice:s3cr3t-pass"
    with pytest.raises(SearchError) as raised:
        await recorded.text_search("other", 3)
    told = "".join(traceback.format_exception(raised.value))
    await recorded.aclose()
    store.close()
    held = (tmp_path / "store.sqlite").read_bytes()
    for text in (told, backend.engine, str(inspect_store(tmp_path / "store.sqlite")), held.decode("latin-1")):
        assert "s3cr3t-pass" not in text
        assert "alice" not in text


def test_an_address_without_a_login_is_left_alone():
    assert Address.of("http://h:1/p?q=1") == Address("http://h:1/p?q=1", "h:1", {})
    assert (
        Address.of("http://us%40er:p%3Aw@h/p").headers["Authorization"]
        == "Basic " + base64.b64encode(b"us@er:p:w").decode()
    )


@pytest.mark.parametrize("url", ["http://[", "http://me:word@[::1/", "http://\u2100.example/"])
def test_what_is_no_url_is_a_mistake_in_the_settings(url):
    with pytest.raises(SettingError, match="not a valid URL") as raised:
        Address.of(url)
    assert "word" not in str(raised.value)


async def test_a_key_that_was_read_with_its_line_end_is_sent_without_it(serve):
    url, requests = await serve((200, GOOD))
    http = JsonHttp(headers={"Authorization": "Bearer k-123\n"})
    await http.request("POST", url, body={}, headers={"X-KEY": " k-456\r\n"})
    await http.aclose()
    assert requests[0].headers["Authorization"] == "Bearer k-123"
    assert requests[0].headers["X-KEY"] == "k-456"
    for value in ("s3cr\n3t", "s3cr\x003t", "s3cr\r\n3t: y"):
        with pytest.raises(SettingError, match="the header X-KEY holds a line break") as raised:
            JsonHttp(headers={"X-KEY": value})
        assert "s3cr" not in str(raised.value)


async def test_keys_are_struck_out_of_what_a_service_says(serve):
    url, _ = await serve((500, {"error": "key k-123456 of Bearer tok-98765 failed"}))
    http = JsonHttp(headers={"Authorization": "Bearer tok-98765"})
    reply = await http.request("GET", url, params={"api_key": "k-123456"})
    assert reply.words == "key *** of *** failed"
    await http.aclose()


async def test_proxies_are_those_of_the_environment(serve, monkeypatch):
    proxy, requests = await serve((200, GOOD))
    monkeypatch.setenv("http_proxy", proxy.removesuffix("/retrieve"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    backend = RetrieverBackend("http://search.invalid/retrieve")
    assert len(await backend.text_search("q", 3)) == 1
    assert requests[0].host == "search.invalid"
    await backend.aclose()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"error": {"message": "a\x1b[31mb"}}, "a\N{REPLACEMENT CHARACTER}[31mb"),
        ({"detail": [{"msg": "field required"}]}, "field required"),
        ({"error": {"error": {"error": {"error": {"error": "deep"}}}}}, ""),
        ([], ""),
        ("text", "text"),
        ({"error": 3}, ""),
        ({"message": "x" * 10_000}, "x" * 299 + "…"),
    ],
)
def test_words_of_a_service_are_one_short_harmless_line(data, words):
    assert service_words(data) == words


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("-1", None),
        ("nan", None),
        ("1e9", None),
        ("Thu, 31 Dec 2099 00:00:00 GMT", None),
        ("soon", None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_both_forms(header, seconds):
    from datetime import UTC, datetime

    assert read_retry_after(header, datetime(2015, 10, 21, 7, 28, tzinfo=UTC)) == seconds


async def test_what_is_told_beside_a_result_may_nest_deep(serve):
    deep = []
    for _ in range(700):
        deep = [deep]
    url, _ = await serve((200, {"error": {"message": "half of it", "trace": deep}}))
    http = JsonHttp()
    reply = await http.request("GET", url)
    assert service_words(reply.data) == "half of it"
    await http.aclose()


async def test_a_reply_that_never_ends_is_bounded(serve):
    url, _ = await serve((200, {"x": "y" * 10_000}))
    http = JsonHttp(HttpLimits(reply_bytes=1000))
    with pytest.raises(SearchError, match="more than 1,000 bytes"):
        await http.request("GET", url)
    await http.aclose()


@pytest.mark.parametrize(
    "url",
    ["http://a..b/", f"http://{'a' * 64}.org/", "http://xn--/", "http://h:99999/", "http://[::1", "h:8000/v1", "unix:///x",
     "ftp://h/", "http:///v1", "h", ""],
)  # fmt: skip
def test_what_no_client_connects_to_is_no_url(url):
    with pytest.raises(SettingError, match="is not a valid URL"):
        Address.of(url)


@pytest.mark.parametrize("proxy", ["h:3128", "http://h:port", "http://[::1", "http://h:99999", "http://a..b:1"])
async def test_a_proxy_that_is_no_url_ends_the_command_in_a_sentence(monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    client = JsonHttp()
    with pytest.raises(SettingError, match=r"^service\.invalid can.t be used .*HTTP_PROXY or HTTPS_PROXY"):
        await client.request("GET", "http://service.invalid/v1")
    await client.aclose()


async def test_a_value_error_of_who_reads_a_response_is_its_own(serve):
    (url, _), client = await serve((200, GOOD)), JsonHttp()
    with pytest.raises(ValueError, match=r"^my own$"):
        async with client.open("GET", url):
            raise ValueError("my own")
    await client.aclose()


@pytest.mark.parametrize(
    ("status", "data", "worked", "kind"),
    [
        (
            403,
            {"error": {"message": "Rate Limit Exceeded", "errors": [{"reason": "rateLimitExceeded"}]}},
            False,
            "throttled",
        ),
        (403, {"error": {"message": "User Rate Limit Exceeded"}}, True, "throttled"),
        (403, {"error": {"message": "region not allowed"}}, False, "auth"),
        (400, {"error": {"message": "API key expired. Please renew the API key."}}, True, "auth"),
        (407, {"error": "Proxy Authentication Required"}, True, "auth"),
        (403, {"error": {"message": "Key limit exceeded (total limit)"}}, True, "no_credit"),
        (429, {"message": "You have exceeded the MONTHLY quota for Requests on your current plan"}, True, "no_credit"),
        (429, {"message": "You have exceeded the rate limit per second for your plan"}, True, "throttled"),
        (403, {"error": {"message": "Your account has been deactivated"}}, True, "no_credit"),
        (429, {"error": {"message": "credits exhausted"}}, True, "no_credit"),
        (400, {"error": {"message": "Invalid token ids"}}, True, "http_400"),
        (423, {"detail": "locked"}, True, "http_423"),
    ],
)
def test_what_a_status_means_is_told_by_its_words(status, data, worked, kind):
    reply = Reply(status, data, words=service_words(data), worked=worked, failures=1)
    with pytest.raises(SearchError) as raised:
        check_status(reply, "host")
    assert raised.value.kind == kind
    assert isinstance(raised.value, FatalSearchError) == (kind in ("auth", "no_credit"))
    assert raised.value.transient == (kind in ("throttled", "http_423"))
