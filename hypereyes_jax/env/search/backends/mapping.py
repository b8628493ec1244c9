"""Any HTTP search service by a small mapping: what is sent, and where the results stand in the reply."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from PIL import Image

from hypereyes_jax.configs.objects import NamedObject, load_object
from hypereyes_jax.configs.yaml_text import YamlLoader
from hypereyes_jax.env.media.images import encode_image
from hypereyes_jax.env.search.backends.image_host import ImageHost
from hypereyes_jax.env.types import MISSING_SCORE, FatalSearchError, SearchError, SearchHit
from hypereyes_jax.env.web.http import Address, HttpLimits, JsonHttp, check_status, unusable
from hypereyes_jax.env.web.service_words import failed_beside_nothing, found_nothing, service_words
from hypereyes_jax.env.web.untrusted import one_line
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import refuse_irregular

_SHIPPED = Path(__file__).parent / "mappings"
_CALL_FIELDS = {"method", "url", "params", "body", "hits", "hit"}
_HIT_FIELDS = {"title", "content", "url", "score"}
_REPLIES_ELSEWHERE = 5  # at the beginning of a run, after which a mapping's path is held to be wrong
_LARGEST = 1 << 16  # bytes of a mapping
_MOST_VALUES = 10_000  # of a body, which a few lines of YAML can make of any size by naming their parts again
_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_INDEX = re.compile(r"[0-9]{1,9}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110


@dataclass(frozen=True)
class MappedCall:
    """One kind of search: the request, with {query}, {k}, {image_url} and {image_base64} to be filled in."""

    method: str
    url: str
    hits: str  # dotted path of the list of results in the reply, such as web.results
    hit: Mapping[str, str]  # title, content, url, score -> dotted path in one result
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True)
class SearchMapping:
    """A service. `headers` may name environment variables: `X-API-KEY: $SERPER_API_KEY`."""

    name: str
    headers: Mapping[str, str]
    text: MappedCall | None
    image: MappedCall | None


def shipped_mappings() -> list[str]:
    """Names of the services whose mapping comes with the package."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def read_mapping(name: str) -> SearchMapping:
    """A mapping of the package by its name, a YAML file's, or a dict of a user's own by `module:object`.

    Raises:
      UserError: there is none, or it is not one; names what is wrong.
    """
    if ":" in name:
        own = load_object(name, "search mapping")
        return _mapping(own.value, name, f"{name}:{own.sha256[:12]}")
    path = _path(name)
    refuse_irregular(path)
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        document: Any = yaml.load(text, YamlLoader) if len(text) <= _LARGEST else None
    except OSError as error:
        names = ", ".join(shipped_mappings())
        raise UserError(
            f"there is no search mapping {name} ({error.strerror}). Known: {names}, or give a file or module:object."
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a ValueError for a date of a thirteenth month
        raise UserError(f"{path} is not YAML: {one_line(str(error), 200)}") from None
    mapping = _mapping(document, str(path), path.stem)
    if name in shipped_mappings():
        return mapping
    # Another request, or another place of the results, is another service: what was recorded of one is not the other's.
    calls = json.dumps([document.get("text"), document.get("image")], default=str)
    return replace(mapping, name=f"{path.stem}:{hashlib.sha256(calls.encode()).hexdigest()[:12]}")


def mapping_object(name: str) -> NamedObject | None:
    """Where a user's own mapping came from, for a run's record; None for one of the package.

    Raises UserError as `read_mapping`.
    """
    read_mapping(name)
    if ":" in name:
        return load_object(name, "search mapping")
    if name in shipped_mappings():
        return None
    return NamedObject.of_file(name, _path(name), _path(name).read_text(encoding="utf-8"))


def _path(name: str) -> Path:
    return _SHIPPED / f"{name}.yaml" if name in shipped_mappings() else Path(name)


def _mapping(document: Any, where: str, name: str) -> SearchMapping:
    """A mapping that was read at `where`, checked. Raises UserError."""
    if (
        not isinstance(document, dict)
        or not set(document) <= {"headers", "text", "image"}
        or not {"text", "image"} & set(document)
    ):
        raise UserError(f"{where}: a search mapping holds `text` and/or `image`, and `headers`, and nothing else")
    headers = document.get("headers") or {}
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise UserError(f"{where}: headers must be names with texts")
    for header in headers:
        if not isinstance(header, str) or not _HEADER.fullmatch(header):
            raise UserError(f"{where}: {header!r:.100} is not a valid name of a header")
    return SearchMapping(
        name, headers, _call(document.get("text"), where, "text"), _call(document.get("image"), where, "image")
    )


class MappedBackend:
    """Searches as a mapping says.

    Args:
      image_host: gives crops a URL, for a mapping whose image search asks for {image_url}.
      environment: where keys are read from.

    Raises:
      UserError: a key is not in the environment.
    """

    def __init__(
        self,
        mapping: SearchMapping,
        image_host: ImageHost | None = None,
        limits: HttpLimits | None = None,
        environment: Mapping[str, str] = os.environ,
    ):
        self._mapping, self._host = mapping, image_host
        headers = {name: _from_environment(value, mapping.name, environment) for name, value in mapping.headers.items()}
        self._http = JsonHttp(limits, headers)
        self.engine = f"mapping:{mapping.name}"
        self._without: dict[str, int] = {}  # path -> replies so far that had results elsewhere; -1 once it was there

    async def text_search(self, query: str, k: int) -> list[SearchHit]:
        return await self._search(self._mapping.text, "text search", {"query": query, "k": k})

    async def image_search(self, image: Image.Image, k: int) -> list[SearchHit]:
        call = self._mapping.image
        values: dict[str, Any] = {"k": k}
        request = "" if call is None else json.dumps([call.url, dict(call.params), call.body])
        if "{image_url}" in request:
            if self._host is None:
                message = f"image search by {self._mapping.name} needs an image host that gives crops a public URL"
                raise FatalSearchError(message, kind="no_image_host")
            values["image_url"] = await self._host.put(image)
        if "{image_base64}" in request:
            values["image_base64"] = _base64(image)
        return await self._search(call, "image search", values)

    async def aclose(self) -> None:
        await self._http.aclose()
        if self._host is not None:
            await self._host.aclose()

    async def _search(self, call: MappedCall | None, kind: str, values: Mapping[str, Any]) -> list[SearchHit]:
        if call is None:
            message = f"the search service {self._mapping.name} has no {kind}"
            raise SearchError(message, transient=False, refused=True, kind="unsupported", sent=False)
        params = {name: _in_query(_filled(value, values)) for name, value in call.params.items() if value is not None}
        body = None if call.body is None else _filled(call.body, values)
        url = _filled(call.url, {name: quote(str(value), safe="") for name, value in values.items()})
        reply = await self._http.request(call.method, url, params=params, body=body)
        where = Address.of(call.url).where
        data = check_status(reply, where)
        rows = _at(data, call.hits)
        if rows is None:  # services leave the list out where they found nothing
            indexed = isinstance(data, list) and call.hits.split(".")[0].isdigit()
            if not (isinstance(data, dict) or indexed) or (service_words(data) and not found_nothing(data)):
                raise unusable(data, where, f"sent a reply without {call.hits}")
            self._refuse_another_place(call, data, where)
            return []
        self._without[call.hits] = -1
        if not isinstance(rows, list):
            raise unusable(data, where, f"sent a reply in which {call.hits} is not a list")
        if not rows and failed_beside_nothing(data):
            raise unusable(data, where, "failed to search")
        hits = [_hit(row, call.hit) for row in rows if isinstance(row, dict)]
        if rows and not any(hit.title or hit.content or hit.url for hit in hits):
            raise unusable(data, where, f"sent {call.hits} that hold none of what the mapping names")
        return hits[: values["k"]]

    def _refuse_another_place(self, call: MappedCall, data: Any, where: str) -> None:
        """Raises FatalSearchError where the first replies have results, and none of them where the mapping says: with
        a wrong path each search would seem to find nothing."""
        count = self._without.get(call.hits, 0)
        places = _lists_of_objects(data) if count >= 0 else []
        if not places:
            return
        self._without[call.hits] = count + 1
        if count + 1 >= _REPLIES_ELSEWHERE:
            raise FatalSearchError(
                f"the first {count + 1} replies of {where} have nothing at {call.hits}, where the mapping "
                f"{self._mapping.name} looks for results, and lists at {', '.join(places)}: mend its `hits`",
                kind="mapping",
            )


def _lists_of_objects(value: Any, path: str = "", depth: int = 4) -> list[str]:
    """Where a reply has lists that could be results, at most five of them."""
    if isinstance(value, list):
        return [path] if value and all(isinstance(each, dict) for each in value) else []
    if not isinstance(value, dict) or not depth:
        return []
    inner = (_lists_of_objects(part, f"{path}.{name}".lstrip("."), depth - 1) for name, part in value.items())
    return [one_line(place, 60) for places in inner for place in places][:5]


def _hit(row: Mapping[str, Any], paths: Mapping[str, str]) -> SearchHit:
    score = _at(row, paths["score"]) if "score" in paths else None
    texts = {name: _at(row, paths[name]) if name in paths else None for name in ("title", "content", "url")}
    plain = {name: value if isinstance(value, str) else "" for name, value in texts.items()}
    return SearchHit(plain["title"], plain["content"], MISSING_SCORE if score is None else score, plain["url"])


def _at(value: Any, path: str) -> Any:
    """What stands at a dotted path; None where it leads nowhere. A number is an index of a list."""
    for part in path.split(".") if path else ():
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and _INDEX.fullmatch(part) and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    """A template with its placeholders filled in; one that is a placeholder alone keeps the value's type."""
    if isinstance(template, dict):
        return {name: _filled(value, values) for name, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, values) for value in template]
    if not isinstance(template, str):
        return template
    for name, value in values.items():
        if template == f"{{{name}}}":
            return value
    # One pass: a query that spells out a placeholder stays a query.
    pieces = [template]
    for name, value in values.items():
        mark = f"{{{name}}}"
        split: list[Any] = []
        for piece in pieces:
            if isinstance(piece, str):
                first, *rest = piece.split(mark)
                split.append(first)
                for part in rest:
                    split += [(str(value),), part]
            else:
                split.append(piece)
        pieces = split
    return "".join(piece if isinstance(piece, str) else piece[0] for piece in pieces)


def _call(given: Any, where: str, kind: str) -> MappedCall | None:
    if given is None:
        return None
    if not isinstance(given, dict) or not set(given) <= _CALL_FIELDS or not {"url", "hits", "hit"} <= set(given):
        raise UserError(f"{where}: `{kind}` needs url, hits and hit, and may have method, params and body")
    url, hits, hit = given["url"], given["hits"], given["hit"]
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise UserError(f"{where}: `{kind}.url` must be an http(s) URL")
    Address.of(url)
    for field_name in ("body", "params"):
        _check_size(given.get(field_name), f"{where}: `{kind}.{field_name}`")
    try:
        json.dumps(given.get("body"), allow_nan=False)
    except (TypeError, ValueError) as error:  # a date, bytes, a set, or a number that is none
        raise UserError(f"{where}: `{kind}.body` is nothing that JSON knows ({error}); put it in quotes") from None
    if not isinstance(hits, str) or not isinstance(hit, dict) or not set(hit) <= _HIT_FIELDS:
        raise UserError(
            f"{where}: `{kind}.hits` must be a path, and `{kind}.hit` paths of {', '.join(sorted(_HIT_FIELDS))}"
        )
    method = str(given.get("method", "POST" if given.get("body") is not None else "GET")).upper()
    if method not in ("GET", "POST"):
        raise UserError(f"{where}: `{kind}.method` must be GET or POST")
    params = given.get("params") or {}
    if not isinstance(params, dict) or not all(isinstance(value, str) for value in (*params, *hit.values())):
        raise UserError(f"{where}: names of `{kind}.params` and paths of `{kind}.hit` must be strings")
    _check_places([url, params, given.get("body")], where, kind)
    return MappedCall(method, url, hits, hit, params, given.get("body"))


def _check_places(request: Any, where: str, kind: str) -> None:
    """Raises UserError for a request that says nothing of what is searched, or whose place-holders stay as they are."""
    texts: list[str] = []
    left = [request]
    while left:
        each = left.pop()
        left += each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        texts += [each] if isinstance(each, str) else []
    names = {name for text in texts for name in _PLACE.findall(text)}
    searches = {"text": {"query"}, "image": {"image_url", "image_base64"}}[kind]
    if not names & searches:
        places = " or ".join(f"{{{name}}}" for name in sorted(searches))
        raise UserError(f"{where}: `{kind}` must have {places} in its url, params or body, where the search belongs")
    whole = {text[1:-1] for text in texts if _PLACE.fullmatch(text)}
    unknown = sorted((whole | set(_PLACE.findall(request[0]))) - searches - {"k"})
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in (*sorted(searches), "k"))
        raise UserError(f"{where}: `{kind}` has the place-holder {{{unknown[0]}}}; there are {known}")
    if any(text.startswith("$") for text in texts):
        raise UserError(
            f"{where}: `{kind}` has an environment variable in its url, params or body, which are recorded: keys "
            "belong in headers"
        )


def _in_query(value: Any) -> str:
    """A parameter as services read it: JSON's true and false."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_size(value: Any, where: str) -> None:
    """Raises UserError for what is too large, or holds itself."""
    left, count = [value], 0
    while left:
        each = left.pop()
        left += each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        count += 1
        if count > _MOST_VALUES:
            raise UserError(f"{where} holds itself, or more than {_MOST_VALUES:,} values")


def _from_environment(value: str, name: str, environment: Mapping[str, str]) -> str:
    """A header with its environment variables in place of `$NAME` and `${NAME}`."""

    def key(match: re.Match[str]) -> str:
        variable = match[1] or match[2]
        if not environment.get(variable):
            raise UserError(f"the search service {name} needs a key: set the environment variable {variable}")
        return environment[variable]

    return _VARIABLE.sub(key, value)


def _base64(image: Image.Image) -> str:
    return base64.b64encode(encode_image(image)).decode()
