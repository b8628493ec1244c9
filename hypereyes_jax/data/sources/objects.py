"""Rows that a program makes: `module:object` or `file.py:object` names a sequence of rows, or a function of none."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from hypereyes_jax.configs.objects import NamedObject, in_words, load_object
from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.data.sources.locate import is_object
from hypereyes_jax.data.sources.types import BadRow, Row
from hypereyes_jax.env.types import Question
from hypereyes_jax.errors import UserError


class ObjectRows:
    """Rows of a sequence in memory, or of one that makes them when asked: mappings, questions or demonstrations."""

    format, unit = "Python object", "row"

    def __init__(self, rows: Any, name: str = ""):
        """`name` is what messages call the rows. Raises UserError for what is no sequence of rows."""
        self._name = name or f"the {type(rows).__name__}"
        self._rows: Sequence[Any] = _as_sequence(rows, self._name)

    def __len__(self) -> int:
        return len(self._rows)

    def number(self, index: int) -> int:
        return index + 1

    def read(self, index: int) -> Row:
        try:
            row = self._rows[index]
        except UserError:
            raise
        except Exception as error:  # the user's own code
            why = f"it could not make row {index + 1}: {in_words(error)}"
            raise UserError(f"{self._name} has {len(self)} rows, and {why}. Mend that code.") from error
        if isinstance(row, Question):
            return {
                "id": row.id,
                "text": row.text,
                "answers": list(row.answers),
                "kind": row.kind,
                "meta": row.meta,
                "images": list(row.images),
                "captions": list(row.captions),
            }
        if isinstance(row, Example):
            observations = [[p if isinstance(p, str) else {"image": p} for p in parts] for parts in row.observations]
            return {"id": row.id, "system": row.system, "observations": observations, "turns": list(row.turns)}
        if not isinstance(row, Mapping):
            raise BadRow("no row", f"it must be a mapping, a Question or an Example, not a {type(row).__name__}")
        for name in row:
            if not isinstance(name, str):
                raise BadRow("no names", f"the names of its columns must be strings, not {name!r}")
        return {name: _plain(value) for name, value in row.items()}

    def scan(self) -> Iterator[tuple[int, Row | BadRow]]:
        for index in range(len(self)):
            try:
                yield index, self.read(index)
            except BadRow as error:
                yield index, error

    def close(self) -> None:
        pass


def _plain(value: Any) -> Any:
    """The value without NumPy's numbers, and its lists as lists, as rows of a pandas table hold them."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return [_plain(part) for part in value]
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return {name: _plain(part) for name, part in value.items()} if isinstance(value, Mapping) else value


def object_rows(source: str) -> ObjectRows:
    """Raises UserError for what cannot be loaded or is not a sequence."""
    try:
        value = load_object(source, "source of rows").value
    except UserError as error:
        if source.rpartition(":")[0].endswith(".py"):
            raise
        raise UserError(f"{source} names no file here, and as an object: {error}") from error
    if callable(value) and not isinstance(value, Sequence):
        try:
            inspect.signature(value).bind()
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{source} can't be called without arguments ({error}). Give a function that needs none, or a sequence "
                "of rows."
            ) from None
        try:
            value = value()
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{source} could not make its rows: {in_words(error)}") from error
    return ObjectRows(value, source)


class _TableRows(Sequence[Any]):
    """Rows of a pandas or pyarrow table in memory, as mappings."""

    def __init__(self, table: Any):
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if hasattr(self._table, "iloc"):
            return self._table.iloc[index].to_dict()
        return self._table.slice(index, 1).to_pylist()[0]


def _as_sequence(value: Any, name: str) -> Sequence[Any]:
    """The rows of a table or a sequence. Raises UserError for anything else."""
    if hasattr(value, "to_arrow") and not hasattr(value, "iloc"):  # a table of polars
        value = value.to_arrow()
    if hasattr(value, "iloc") or (hasattr(value, "to_pylist") and hasattr(value, "schema")):
        return _TableRows(value)
    if isinstance(value, str | bytes | Mapping) or not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        splits = ""
        if isinstance(value, Mapping):
            splits = f" If these are splits, give one of them: {', '.join(map(repr, value))[:200]}."
        raise UserError(
            f"{name} is a {type(value).__name__}, where a sequence of rows is needed (len and [index]).{splits}"
        )
    return value  # type: ignore[no-any-return]


def source_objects(source: str) -> list[tuple[str, NamedObject]]:
    """("data source", the object and where it came from) of a source that names one; of any other, nothing."""
    return [("data source", load_object(source, "source of rows"))] if is_object(source) else []
