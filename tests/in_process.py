"""Runs here what `hypereyes_jax.apart` runs in another process: for tests of what it gives, not of its limits."""

import json
import runpy

from hypereyes_jax.apart import ApartError


def run_here(file, function, asked, **_):
    """As `run_apart`, without limits."""
    try:
        return json.loads(json.dumps(runpy.run_path(str(file))[function](json.loads(json.dumps(asked)))))
    except Exception as error:
        raise ApartError(str(error)) from error
