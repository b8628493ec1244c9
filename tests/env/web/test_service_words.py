import pytest

from hypereyes_jax.env.web.service_words import (
    failed_beside_nothing,
    found_nothing,
    lacks_credit,
    wait_in_words,
    wrong_key,
)

GEMINI = "You exceeded your current quota, please check your plan and billing details."
MINUTE = [{"error": {"code": 429, "message": f"{GEMINI}\n* Quota exceeded, limit: 10\nPlease retry in 34.07s."}}]


@pytest.mark.parametrize(
    "data",
    [
        {"error": {"message": "Your account org-1 is suspended", "type": "exceeded_current_quota_error"}},
        {"error": {"code": "1113", "message": "Your account is in arrears, please recharge and try again."}},
        {"error": {"code": "1113", "message": "您的账户已欠费，请充值后重试。"}},
        {"code": 30001, "message": "Sorry, your account balance is insufficient"},
        {"error": {"code": "AccountOverdueError", "message": "The request failed."}},
        {"error": "Your team has either used all available credits or reached its monthly spending limit."},
        {"code": "AllocationQuota.FreeTierOnly", "message": "The free tier of the model has been exhausted."},
        {"error": {"message": "Account x is suspended, possibly due to failure to pay past invoices."}},
        {"error": {"message": GEMINI, "type": "insufficient_quota"}},
        {"error": {"message": GEMINI}},
    ],
)
def test_an_account_that_waiting_will_not_fill_is_known_by_the_words_of_each_service(data):
    assert lacks_credit(data)


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        (MINUTE, 34.07),
        ([{"error": {"message": GEMINI, "details": [{}, {"@type": "RetryInfo", "retryDelay": "34s"}]}}], 34.0),
        ({"error": {"message": "Rate limit reached. Please try again in 1.2s. Visit https://x."}}, 1.2),
        ({"error": {"message": "Please try again in 20ms."}}, 0.02),
        ({"error": {"message": "Please try again in 6m0s."}}, 360.0),
        ({"error": {"message": "Please try again in 1h2m3s."}}, 3723.0),
        ({"error": {"code": "429", "message": "Please retry after 6 seconds."}}, 6.0),
        ({"error": "Model m is currently loading", "estimated_time": 20.5}, 20.5),
        ({"message": "You are being rate limited.", "retry_after": 0.5}, 0.5),
        ({"error": {"message": "Please try again in a moment."}}, None),
        ({"error": {"message": "try again in 99999h"}}, None),
        ({"error": {"message": "Too many requests"}, "retry_after": None}, None),
        ({"retryDelay": "soon"}, None),
        (None, None),
    ],
)
def test_the_time_to_come_back_is_read_out_of_a_failed_reply(data, seconds):
    assert wait_in_words(data) == seconds


def test_a_quota_that_comes_back_is_no_empty_account():
    assert not lacks_credit(MINUTE)


@pytest.mark.parametrize(
    "data",
    [
        {"results": [], "message": "Not enough credits"},
        {"results": [], "errors": [{"message": "upstream timed out"}]},
        {"results": [], "detail": {"error": "internal"}},
        {"results": [], "msg": "Invalid API key"},
    ],
)
def test_a_failure_beside_an_empty_list_is_no_empty_result(data):
    assert failed_beside_nothing(data)


@pytest.mark.parametrize(
    "data",
    [
        {"results": []},
        {"results": [], "error": "No results found."},
        {"results": [], "error": "Google hasn't returned any results for this query."},
        {"results": [], "message": "ok"},
        {"results": [], "errors": []},
        [],
    ],
)
def test_nothing_found_is_no_failure(data):
    assert not failed_beside_nothing(data)


def test_words_that_nothing_was_found_are_told_from_a_failure():
    assert found_nothing({"message": "No matching documents"})
    assert not found_nothing({"message": "No results: you have run out of searches"})
    assert not found_nothing({"message": "the index is down"})


@pytest.mark.parametrize(
    "words",
    [
        "Your searches for the month are exhausted.", "Budget has been exceeded! Current cost: 10.1, Max budget: 10.0",
        "ExceededBudget: User=x over budget.", "Free plan limit reached: 100 searches.", "Daily quota exceeded",
        "Rate limit exceeded: free-models-per-day", "Credit limit reached", "You have used up your free credits",
        "0 credits remaining", "Please top up your account", "Payment method declined", "Your trial period is over",
        "Your account has been blocked", "Your plan does not include this endpoint",
    ],
)  # fmt: skip
def test_an_empty_account_is_known_in_words_of_any_service(words):
    assert lacks_credit({"error": {"message": words}})


@pytest.mark.parametrize(
    "words",
    [
        "Rate limit reached on requests per day (RPD): Limit 10000. Please try again in 8.64s.",
        "You reached free usage limit (reset hourly).", "quota exceeded", "10 credits used", "$0.50 credits",
        "Resource has been exhausted (e.g. check quota).", "Concurrency limit reached for your plan",
    ],
)  # fmt: skip
def test_a_limit_that_passes_is_no_empty_account(words):
    assert not lacks_credit({"error": {"message": words}})


@pytest.mark.parametrize(
    "words",
    [
        "Unknown API key", "api_key is required", "Missing API key", "You must provide an API key", "wrong api key",
        "The API key doesn't exist", "API key not found", "API key is currently disabled",
        "Missing Authentication Token",
        "The security token included in the request is expired", "Your IP is not whitelisted",
        "Your API key was reported as leaked.", "login fail: Please carry the API secret key",
    ],
)  # fmt: skip
def test_a_wrong_key_is_known_in_words_of_any_service(words):
    assert wrong_key({"error": {"message": words}})


@pytest.mark.parametrize("words", ["The key 'q' is missing", "no results", "an unknown error", "token limit reached"])
def test_other_failures_are_no_wrong_key(words):
    assert not wrong_key({"error": {"message": words}})
