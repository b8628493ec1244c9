"""A user's own object: `module:object` or `file.py:object` where a setting names one, in Python the object itself."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from hypereyes_jax.errors import UserError


@dataclass(frozen=True)
class NamedObject:
    """An object and where it came from, which is kept with a run."""

    value: Any
    name: str  # as it was asked for
    file: str  # "" for an object without a source file
    sha256: str  # of that file; "" without one

    @classmethod
    def of_file(cls, name: str, path: Path, text: str) -> NamedObject:
        """A text that a setting named by its file."""
        return cls(text, name, str(path), hashlib.sha256(text.encode()).hexdigest())

    @property
    def label(self) -> str:
        """The object's own name, without that of its module, file or surrounding function."""
        return self.name.rpartition(":")[2].rpartition("<locals>.")[2]

    def record(self) -> dict[str, str]:
        """What a run's record says of it."""
        return {"name": self.name, "file": self.file, "sha256": self.sha256}


def load_object(name: str, what: str) -> NamedObject:
    """Imports an object.

    Args:
      name: `package.module:object`, or `path/file.py:object`; the object may be an attribute of another (`a.b`).
      what: what it is needed for, in errors: "reward", "judge", ...

    Raises:
      UserError: the name is none, there is no such file, module or object, its file is no Python, imports what is not
        there, or ends the program. What else the module raises as it is imported is a defect of it, and comes through
        with its own traceback.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise UserError(f"{name!r} is not a valid {what}: name one as module:object, or as file.py:object")
    module = _file(Path(place), what) if place.endswith(".py") else _module(place, what)
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            close = get_close_matches(part, [name for name in dir(value) if not name.startswith("_")], n=1)
            hint = f". Did you mean {close[0]}?" if close else ""
            raise UserError(f"{place} has no {attribute}, which was named as the {what}{hint}")
        value = getattr(value, part)
    file = getattr(module, "__file__", None) or ""
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else ""
    return NamedObject(value, name, file, digest)


def named_object(given: Any, what: str) -> NamedObject:
    """A user's object with where it came from: a name is loaded, an object is taken as it is.

    What is known of an object given in Python is its qualified name, its source file, and the hash of its own source:
    a notebook's cells share no file. Without source (made by a C extension, typed at a prompt) there is no hash. Of a
    function with some arguments given, or wrapped by jax.jit, it is the function's, and the arguments count.

    Raises:
      UserError: as `load_object`.
    """
    if isinstance(given, NamedObject):
        return given
    if isinstance(given, str):
        return load_object(given, what)
    inner: Any = given
    arguments = ""
    while isinstance(inner, functools.partial):
        arguments = f"{inner.args!r} {inner.keywords!r} {arguments}"
        inner = inner.func
    inner = inspect.unwrap(inner) if callable(inner) else inner
    thing = inner if inspect.isclass(inner) or inspect.isroutine(inner) else type(inner)
    name = f"{getattr(thing, '__module__', '?')}:{getattr(thing, '__qualname__', repr(thing))}"
    try:
        file, source = inspect.getsourcefile(thing) or "", inspect.getsource(thing)
    except (OSError, TypeError):
        return NamedObject(given, name, "", "")
    return NamedObject(given, name, file, hashlib.sha256((source + arguments).encode()).hexdigest())


def labels(objects: Sequence[NamedObject]) -> list[str]:
    """The objects' own names; where several have the same, the later ones are numbered: f, f_2."""
    names: list[str] = []
    for each in objects:
        numbered = (f"{each.label}_{number}" for number in itertools.count(2))
        names.append(next(name for name in itertools.chain([each.label], numbered) if name not in names))
    return names


def instance(source: NamedObject) -> Any:
    """The object itself, or an instance of it if it is a class.

    Raises UserError for a class that can't be made without arguments.
    """
    value = source.value
    if not inspect.isclass(value):
        return value
    try:
        return value()
    except TypeError as error:
        raise UserError(
            f"{source.name} is a class that can't be made without arguments: {in_words(error)}. Name an object of it, "
            "or give its arguments defaults"
        ) from error


def in_words(error: BaseException) -> str:
    """An error in a line; where a user's own code raised it, with its kind and the line of their file."""
    ours = str(Path(__file__).parents[1])
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((ours, sys.prefix, sys.base_prefix, "<")):
            what = f"{type(error).__name__}: {_first_line(error)}"
            return f"{what} ({frame.filename}, line {frame.lineno})"
    return _first_line(error) or type(error).__name__


def _first_line(error: BaseException) -> str:
    """The first line of what an error says, behind which jax adds paragraphs of advice."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def refuse_coroutine(result: Any, name: str) -> None:
    """Raises TypeError for what an async function gives where the result itself is needed."""
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(f"{name} is async; write def, not async def")


def call_with_metrics(source: NamedObject, argument: Any) -> tuple[Any, Any]:
    """What a user's function gives, and the metrics that it may give beside it, else {}.

    Raises TypeError for an async function, and whatever the function raises.
    """
    result = source.value(argument)
    refuse_coroutine(result, source.name)
    return result if isinstance(result, tuple) and len(result) == 2 else (result, {})


def refuse_sync(function: Any, name: str) -> None:
    """Raises UserError for a function that gives no coroutine where one is awaited."""
    if inspect.isasyncgenfunction(inspect.unwrap(function)):
        raise UserError(f"{name} is an async generator: return the whole result, not yield")
    if inspect.isroutine(function) and not inspect.iscoroutinefunction(inspect.unwrap(function)):
        raise UserError(f"{name} is not async; write async def, not def")


def _module(name: str, what: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` has it: a user's own file lies where they are
    try:
        return importlib.import_module(name)
    except SyntaxError as error:
        raise UserError(_no_python(error, name, what)) from error
    except ModuleNotFoundError as error:
        if error.name is not None and not (name == error.name or name.startswith(f"{error.name}.")):
            raise UserError(_missing(error, name, what)) from error
        raise UserError(
            f"there is no module {name}, which was named as the {what}. Run the command where it lies, or name its "
            "file: path/file.py:object"
        ) from None
    except (ImportError, SystemExit) as error:
        raise UserError(_not_importable(error, name, what)) from error


def _file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise UserError(f"there is no file {path}, which was named as the {what}")
    module_name = f"hypereyes_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if module_name in sys.modules:  # two objects of one file share its module
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None  # a .py file has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # as `python path/file.py` has it: it may import the files beside it
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, SyntaxError):
            raise UserError(_no_python(error, str(path), what)) from error
        if isinstance(error, ModuleNotFoundError):
            raise UserError(_missing(error, str(path), what)) from error
        if isinstance(error, ImportError) and "relative import" in str(error):
            raise UserError(
                f"{path}, which was named as the {what}, is not a package and has no relative imports: write import "
                "name for a file beside it, or name the object as package.module:object"
            ) from error
        if isinstance(error, ImportError | SystemExit):
            raise UserError(_not_importable(error, str(path), what)) from error
        raise
    return module


def _no_python(error: SyntaxError, place: str, what: str) -> str:
    where = f"{error.filename}, line {error.lineno}"
    return f"{place}, which was named as the {what}, is not valid Python: {where}: {error.msg}"


def _not_importable(error: BaseException, place: str, what: str) -> str:
    """A sentence on a file that ended the program, as a script without a guard does, or imports what is not there."""
    why = in_words(error)
    if isinstance(error, SystemExit):
        why += ': what it does as a program belongs under if __name__ == "__main__":'
    return f"{place}, which was named as the {what}, can't be imported: {why}"


def _missing(error: ModuleNotFoundError, place: str, what: str) -> str:
    return (
        f"{place}, which was named as the {what}, imports {error.name}, which is not there: install it, or put it "
        "beside that file"
    )
