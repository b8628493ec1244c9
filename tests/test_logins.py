"""Logins in URLs stand in no message, log or record."""

import fsspec
import pytest

from hypereyes_jax.cli.main import main
from hypereyes_jax.data import open_questions
from hypereyes_jax.errors import SettingError, UserError
from hypereyes_jax.logins import without_login
from hypereyes_jax.models.storage import StorageError
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


@pytest.mark.parametrize("kind", [UserError, SettingError, StorageError])
def test_mistakes_are_told_without_logins(kind):
    assert str(kind("https://me:word@host/v1 can't be read")) == "https://host/v1 can't be read"


def test_what_is_told_of_urls_of_data_and_checkpoints_holds_no_login(tmp_path, capsys):
    for words in (
        ["data", "check", "ftp://me:word@127.0.0.1:9/q.jsonl"],
        ["data", "check", "http://me:word@127.0.0.1:9/q.jsonl"],
        ["export", "--checkpoint", "http://me:word@127.0.0.1:9/m", "--out", str(tmp_path / "model")],
        ["eval", "none", "--out", "s3://me:word@bucket/run", "--splits", "seen"],
    ):
        assert main(words) == 2
        said = capsys.readouterr()
        assert said.err.startswith("hypereyes: ")
        assert len(said.err.splitlines()) == 1
        assert "word" not in said.out + said.err


def test_rows_of_a_remote_file_are_named_without_its_login(tmp_path):
    fsspec.filesystem("memory").pipe("/me:word@set/q.jsonl", b'{"question": "q?", "answer": "a"}\n{}\n')
    questions = open_questions("memory://me:word@set/q.jsonl", bad_rows="skip", cache=tmp_path)
    (error,) = questions.report.first_bad.values()
    assert "word" not in f"{error} {questions.place(0)} {questions.report.bad_in_words()}"


def test_settings_are_printed_and_kept_without_logins():
    settings = {"judge": {"url": "https://me:word@host/v1"}, "urls": ("http://me@a/", "plain")}
    assert to_jsonable(settings) == {"judge": {"url": "https://host/v1"}, "urls": ["http://a/", "plain"]}
    assert "word" not in settings_text(settings)
