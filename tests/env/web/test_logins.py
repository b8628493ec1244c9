"""Logins in URLs stand in no message, log or record."""

import pytest

from hypereyes_jax.env.web.logins import without_login
from hypereyes_jax.runs.run_directory import settings_text, to_jsonable


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://me:word@host:8000/v1?q=a@b", "https://host:8000/v1?q=a@b"),
        ("postgresql://me:w@rd@host/db", "postgresql://host/db"),
        ("postgresql://host/db?user=me&password=word&sslmode=require", "postgresql://host/db?user=me&password=...&sslmode=require"),
        ("can't reach http://a:b@x/ or http://c@y", "can't reach http://x/ or http://y"),
        ("https://host/@name/page", "https://host/@name/page"),
        ("someone@example.org", "someone@example.org"),
    ],
)  # fmt: skip
def test_a_login_is_left_out_and_nothing_else(given, shown):
    assert without_login(given) == shown


def test_settings_are_printed_and_kept_without_logins():
    settings = {"judge": {"url": "https://me:word@host/v1"}, "urls": ("http://me@a/", "plain")}
    assert to_jsonable(settings) == {"judge": {"url": "https://host/v1"}, "urls": ["http://a/", "plain"]}
    assert "word" not in settings_text(settings)
