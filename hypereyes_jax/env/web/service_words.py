"""What services say of a failure, in words and codes: empty accounts, wrong keys, when to come back, nothing found."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from hypereyes_jax.env.web.retries import read_retry_after
from hypereyes_jax.env.web.untrusted import encodable, one_line

# What services say of an account that waiting will not fill. The first three are OpenAI's codes, the next SerpApi's;
# then DeepSeek, Anthropic, Serper, Exa, Alibaba, Tavily, Brave, Bing, Moonshot, Fireworks, Zhipu, Volcengine, xAI,
# SiliconFlow and SearchApi.
_NO_CREDIT = (
    "insufficient_quota", "billing_hard_limit", "billing_not_active", "run out of searches", "insufficient balance",
    "insufficient credit", "insufficient funds", "credit balance is too low", "not enough credit", "out of credit",
    "no_more_credits", "no credits left", "arrearage", "exceeds your plan",
    "quota_limited", "pay-as-you-go limit", "usage limit exceeded", "out of call volume quota",
    "exceeded_current_quota", "is suspended", "in arrears", "overdue balance", "accountoverdue", "spending limit",
    "balance is insufficient", "used all available credits", "freetieronly", "used all of the searches", "欠费",
    "余额不足",
)  # fmt: skip
# The same in other words, of whatever service.
_NO_CREDIT_SAID = re.compile(
    r"\bmonthly (?:\w+ ){0,3}(?:quota|limit)|(?:quota|limit|searche|request|querie)s? (?:for|of) (?:this|the) month"
    r"|queries per day|free-models-per-day|daily ?limit ?exceeded|quota exceeded for (?:the|this) day"
    r"|daily (?:\w+ ){0,2}(?:limit|quota) (?:has been |was |is )?(?:exceeded|reached)"
    r"|(?:account|organi[sz]ation|project) (?:has been |was |is )?(?:suspended|deactivated|disabled|terminated|deleted"
    r"|blocked|closed|banned)"
    r"|(?:trial|trial period|subscription|plan) (?:has |is )?(?:expired|ended|over\b)|not subscribed"
    r"|\bkey limit exceeded|\bplan limit (?:exceeded|reached)|credit limit (?:exceeded|reached)"
    r"|plan does not include|not allowed for subscription|budget has been exceeded|over budget|budget_exceeded"
    r"|used (?:up )?(?:all )?(?:of )?your (?:\w+ )?credits|(?<![\d.,])0 credits|have any credits|top up your"
    r"|payment (?:method )?(?:was |is |has )?(?:declined|failed|required)"
    r"|(?:credits?|balance|funds) (?:is |are |has been |have been )?(?:exhausted|depleted|used up)"
    r"|\bno (?:remaining |more )?credits?\b|insufficient (?:\w+ )?(?:balance|credits?|funds)"
    r"|spend(?:ing)? (?:limit|cap)|specified api usage limits"
    r"|billing_error|billing (?:problem|issue)|account_deactivated|unpurchased"
)
# OpenAI says so of an empty account, too, and Google of a minute's quota, with the time to come back.
_QUOTA = "exceeded your current quota"
# What they say of a key, under statuses that else refuse one request only: Google's, OpenAI's, Brave's.
_WRONG_KEY = (
    "api key not valid", "api_key_invalid", "invalid_api_key", "invalid api key", "incorrect api key",
    "subscription_token_invalid", "invalid subscription token",
)  # fmt: skip
_WRONG_KEY_SAID = re.compile(
    r"(?:api[ _-]?key|access token|credentials?) (?:has been |has |is |was |are )?(?:currently )?"
    r"(?:expired|revoked|invalid|disabled|required|missing|unknown|not found|not recogni[sz]ed)"
    r"|api[ _-]?key (?:does not|doesn['\u2019]t) exist|api[ _-]?key was reported as"
    r"|(?:invalid|expired|revoked|unknown|missing|wrong|\bno) "
    r"(?:api[ _-]?key|(?:access|auth|bearer) token|credentials?)"
    r"|provide (?:an|a valid|your) api[ _-]?key|missing authentication token|not authorized to perform"
    r"|security token included in the request is|\bip (?:address )?is not (?:whitelisted|allowed)|\blogin fail"
)
_UNAUTHORIZED = "unauthorized"  # which firewalls say, too
_THROTTLED = re.compile(r"rate ?limit|too many requests|throttl|slow ?down")
# The last ones are Baidu's and MiniMax's.
WORDS = (
    "error", "errors", "message", "detail", "msg", "error_message", "error_description", "title", "error_msg",
    "base_resp", "status_msg", "Message",
)  # fmt: skip
_CODES = ("code", "type", "status", "id", "tag", "reason", "details")
_WAITS = ("retryDelay", "retry_after", "retryAfter", "estimated_time")  # Google's, Cloudflare's, Hugging Face's
_COME_BACK = re.compile(
    r"\b(?:retry|try again|wait)(?: again)? (?:in|after|for) "
    r"(?:(\d{1,4}) ?h(?:rs?|ours?)?(?![a-z]))? ?(?:(\d{1,6}) ?m(?:ins?|inutes?)?(?![a-z]))? ?"
    r"(?:(\d{1,6}(?:\.\d{1,12})?) ?s\w*|(\d{1,9}) ?ms\b)?",
    re.IGNORECASE,
)
# "Google hasn't returned any results ..."
_NOTHING_FOUND = re.compile(
    r"\b(?:any|no) (?:\w+ )?(?:results?|matches|documents?|hits)\b|\bnothing (?:was )?found\b", re.IGNORECASE
)


def lacks_credit(data: Any) -> bool:
    """Whether a failed reply says that the account is empty, which no waiting cures."""
    text = _said(data)
    if any(word in text for word in _NO_CREDIT) or _NO_CREDIT_SAID.search(text):
        return True
    return _QUOTA in text and wait_in_words(data) is None


def wrong_key(data: Any) -> bool:
    """Whether a failed reply says that the key is wrong."""
    text = _said(data)
    return any(word in text for word in _WRONG_KEY) or _WRONG_KEY_SAID.search(text) is not None


def unauthorized(data: Any) -> bool:
    """Whether a failed reply says that the key is wrong, or no more than that the request may not be made."""
    return wrong_key(data) or _UNAUTHORIZED in _said(data)


def throttled(data: Any) -> bool:
    """Whether a failed reply says that there were too many requests."""
    return _THROTTLED.search(_said(data)) is not None


def says_of_account(data: Any) -> bool:
    """Whether a text or a reply has words of an empty account, a wrong key or too many requests."""
    return lacks_credit(data) or unauthorized(data) or throttled(data) or _QUOTA in _said(data)


def failed_beside_nothing(data: Any) -> bool:
    """Whether a reply that holds an empty list of results tells of a failure, and not that nothing was found."""
    if not isinstance(data, dict) or found_nothing(data):
        return False
    return any(data.get(name) for name in ("error", "errors", "detail")) or lacks_credit(data) or unauthorized(data)


def found_nothing(data: Any) -> bool:
    """Whether a reply says in words that nothing was found."""
    return _NOTHING_FOUND.search(service_words(data)) is not None and not lacks_credit(data)


def wait_in_words(data: Any) -> float | None:
    """Seconds after which the body of a failed reply says to come back; None where it does not."""
    for value in _waits(data, 5):
        if (seconds := read_retry_after(str(value).removesuffix("s"))) is not None:
            return seconds
    match = _COME_BACK.search(" ".join(_texts(data, 4)))
    if match is None or not any(match.groups()):
        return None
    hours, minutes, seconds, thousandths = (float(part or 0) for part in match.groups())
    return read_retry_after(str(3600 * hours + 60 * minutes + seconds + thousandths / 1000))


def _waits(data: Any, depth: int) -> Iterator[float | str]:
    if depth and isinstance(data, dict):
        for name, value in itertools.islice(data.items(), 64):
            if name in _WAITS and isinstance(value, int | float | str):
                yield value
            yield from _waits(value, depth - 1)
    elif depth and isinstance(data, list):
        for value in data[:16]:
            yield from _waits(value, depth - 1)


def _said(data: Any) -> str:
    return " ".join(_texts(data, 4)).lower()


def _texts(data: Any, depth: int) -> Iterator[str]:
    """What a failed reply says of its failure, bounded; not what it repeats of the request, which a model wrote."""
    if isinstance(data, str):
        yield data[:4000]
    elif depth and isinstance(data, dict):
        for value in (data[name] for name in (*WORDS, *_CODES) if name in data):
            yield from _texts(value, depth - 1)
    elif depth and isinstance(data, list):
        for value in data[:16]:
            yield from _texts(value, depth - 1)


def service_words(data: Any) -> str:
    """What a service says went wrong, as one short line: the fields that OpenAI's, SerpApi's and FastAPI's kin use."""
    for _ in range(4):
        if isinstance(data, list) and data:
            data = data[0]
        if not isinstance(data, dict):
            break
        data = next((data[name] for name in WORDS if data.get(name)), None)
    return one_line(encodable(data), 300) if isinstance(data, str) else ""
