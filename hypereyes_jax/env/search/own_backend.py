"""A user's own search backend: whether it is one, and whether what it returns are hits."""

from __future__ import annotations

import inspect
from typing import Any

from hypereyes_jax.configs.objects import NamedObject, instance, load_object, refuse_sync
from hypereyes_jax.env.types import SearchBackend, SearchHit
from hypereyes_jax.errors import UserError


def own_backend(name: str) -> SearchBackend:
    """A user's backend, by `module:object`. What it raises beside SearchError ends the run: it is a defect of it.

    Raises UserError as `check_named_backend`, and for a class that can't be made without arguments.
    """
    backend: SearchBackend = instance(_source(name))
    check_backend(backend, name)
    return backend


def check_named_backend(name: str) -> None:
    """Raises UserError where there is none of this name, or it is not a backend. Of a class, none is made."""
    check_backend(_source(name).value, name)


def _source(name: str) -> NamedObject:
    if not name:
        raise UserError("--search.service object needs --search.backend module:object.")
    return load_object(name, "search backend")


def backend_engine(name: str, backend: SearchBackend) -> str:
    """What names the service in a store: its own word, else its place and source, as another version of it may answer
    differently."""
    engine = getattr(backend, "engine", None)
    return engine if isinstance(engine, str) else f"{name}:{load_object(name, 'search backend').sha256[:12]}"


def check_backend(backend: Any, name: str) -> None:
    """Raises UserError for an object, or a class, that lacks one of the two searches, or whose searches can't be
    awaited or called with what is searched and k."""
    for method, searched in (("text_search", "query"), ("image_search", "image")):
        function = getattr(backend, method, None)
        if not callable(function):
            raise UserError(
                f"{name} is not a search backend: it needs async text_search(query, k) and image_search(image, k)"
            )
        refuse_sync(function, f"{method} of {name}")
        of_class = inspect.isclass(backend) and inspect.isfunction(inspect.getattr_static(backend, method))
        try:
            inspect.signature(function).bind(*((None,) if of_class else ()), searched, 1)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{name} is not a search backend: its {method} must take ({searched}, k), in this order ({error})"
            ) from None


def checked_hits(reply: object, backend: object, method: str) -> list[SearchHit]:
    """The hits of a reply. Raises TypeError, which names the backend's method, for what is no list of `SearchHit`."""
    if isinstance(reply, list | tuple):
        other = next((hit for hit in reply if not isinstance(hit, SearchHit)), None)
        if other is None and None not in reply:
            return list(reply)
        what = f"a {type(reply).__name__} with a {type(other).__name__} in it"
    else:
        what = f"a {type(reply).__name__}"
    raise TypeError(
        f"{method} of {type(backend).__name__} returned {what}, where a list of SearchHit is needed: "
        "return [SearchHit(title, content, score, url)]"
    )
