import logging

import pytest

from hypereyes_jax.learner.background_errors import print_once


@pytest.mark.parametrize(
    ("logger", "file", "error", "logged"),
    [
        ("absl", "orbax/async_checkpointer.py", ValueError("Error writing: No space left on device"), False),
        ("absl", "orbax/future.py", OSError(28, "No space left on device"), False),
        ("absl", "orbax/metadata/checkpoint.py", ValueError("not raised to anybody"), True),
        ("absl", "orbax/async_checkpointer.py", None, True),
        ("asyncio", "asyncio/base_events.py", ValueError("OUT_OF_RANGE: Error writing 'key/0'"), False),
        ("asyncio", "asyncio/base_events.py", ValueError("of a task of ours"), True),
        ("asyncio", "asyncio/base_events.py", RuntimeError("Error writing"), True),
    ],
)
def test_only_errors_that_are_raised_elsewhere_are_not_logged(logger, file, error, logged):
    print_once()
    print_once()
    record = logging.LogRecord(
        logger, logging.ERROR, file, 1, "failed", (), (type(error), error, None) if error else None
    )
    assert bool(logging.getLogger(logger).filter(record)) is logged
    assert len(logging.getLogger(logger).filters) == len(set(logging.getLogger(logger).filters))
