"""JSON values as the types they are meant to be: one reader for all that a run has written."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, Union

from hypereyes_jax.files import json_kind

T = TypeVar("T")
_WORDS = {str: "a string", bool: "true or false", int: "a whole number", float: "a number"}


class ShapeError(ValueError):
    """A value that is not what it is meant to be; says where it stands and what it is."""


def from_json(kind: type[T], value: Any, place: str = "") -> T:
    """`value` as `kind`: what `dataclasses.asdict` and JSON made of it, undone.

    Knows dataclasses (fields with defaults may be missing, others may not; unknown ones are refused), texts, paths,
    numbers, booleans, enums and literals, None, unions, lists, tuples and dictionaries with text keys. Numbers are
    finite.

    Args:
      place: where the value stands, for errors: "turns[3].box".

    Raises:
      ShapeError: it is something else.
    """
    return typing.cast(T, _read(kind, value, place))


def _read(kind: Any, value: Any, place: str) -> Any:
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, place)
    if isinstance(kind, type) and issubclass(kind, Enum):
        if not isinstance(value, str) or value not in {each.value for each in kind}:
            raise _error(place, f"one of {', '.join(str(each.value) for each in kind)}", value)
        return kind(value)
    if origin is typing.Literal:
        words = typing.get_args(kind)
        if value not in words:
            raise _error(place, f"one of {', '.join(map(str, words))}", value)
        return value
    if kind is Path:
        if not isinstance(value, str):
            raise _error(place, "a path", value)
        return Path(value)
    if origin in (Union, types.UnionType):
        return _union(typing.get_args(kind), value, place)
    if origin in (list, tuple):
        return _sequence(origin, typing.get_args(kind), value, place)
    if origin is dict or kind is dict:
        return _dictionary(typing.get_args(kind), value, place)
    if kind is type(None):
        if value is not None:
            raise _error(place, "null", value)
        return None
    return _plain(kind, value, place)


def _plain(kind: Any, value: Any, place: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and number and abs(value) <= sys.float_info.max:  # a whole number may be too large for a float
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise _error(place, _WORDS[kind], value)


def _union(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    for kind in others[:-1]:
        try:
            return _read(kind, value, place)
        except ShapeError:
            continue
    return _read(others[-1], value, place)  # whose error is the one to read


def _sequence(origin: Any, kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _error(place, "a list", value)
    if origin is tuple and kinds[-1:] != (Ellipsis,):
        if len(value) != len(kinds):
            raise ShapeError(f"{place or 'it'} must have {len(kinds)} values, not {len(value)}")
        return tuple(
            _read(kind, each, f"{place}[{n}]") for n, (kind, each) in enumerate(zip(kinds, value, strict=True))
        )
    return origin(_read(kinds[0], each, f"{place}[{n}]") for n, each in enumerate(value))


def _dictionary(kinds: tuple[Any, ...], value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _error(place, "an object", value)
    inner = kinds[1] if kinds else Any
    return {key: _read(inner, each, f"{place}.{key}".removeprefix(".")) for key, each in value.items()}


def _dataclass(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise _error(place, "an object", value)
    hints, fields = _hints(kind), {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(map(str, set(value) - set(fields)))
    if unknown:
        raise ShapeError(f"{place or 'it'} has the unknown field {unknown[0]!r}")
    values = {}
    for name, field in fields.items():
        where = f"{place}.{name}".removeprefix(".")
        if name in value:
            values[name] = _read(hints[name], value[name], where)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ShapeError(f"{where} is missing")
    return kind(**values)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _error(place: str, expected: str, value: Any) -> ShapeError:
    got = json_kind(value)
    if expected in ("a number", "a whole number"):
        if got == "a number":
            got = str(value)[:30]
        elif got == "a string":
            got = f"the text {value[:30]!r}"
    return ShapeError(f"{place or 'it'} must be {expected}, not {got}")
