import pytest


@pytest.fixture(autouse=True)
def retries_without_waits(monkeypatch):
    """Requests that fail are sent again as often as ever, but at once."""
    monkeypatch.setattr("hypereyes_jax.env.web.retries._wait", lambda policy, state: 0.0)
