"""A user's own object: `module:object` or `file.py:object` where a setting names one, in Python the object itself."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
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
      UserError: the name is none, or there is no such file, module or object. What the module itself raises as it is
        imported is a defect of it, and comes through with its own traceback.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise UserError(f"{name!r} is not a valid {what}: name one as module:object, or as file.py:object")
    module = _file(Path(place), what) if place.endswith(".py") else _module(place, what)
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise UserError(f"{place} has no {attribute}, which was named as the {what}")
        value = getattr(value, part)
    file = getattr(module, "__file__", None) or ""
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else ""
    return NamedObject(value, name, file, digest)


def named_object(given: Any, what: str) -> NamedObject:
    """A user's object with where it came from: a name is loaded, an object is taken as it is.

    What is known of an object given in Python is its qualified name, its source file, and the hash of its own source:
    a notebook's cells share no file. Without source (made by a C extension, typed at a prompt) there is no hash.

    Raises:
      UserError: as `load_object`.
    """
    if isinstance(given, NamedObject):
        return given
    if isinstance(given, str):
        return load_object(given, what)
    thing = given if inspect.isclass(given) or inspect.isroutine(given) else type(given)
    name = f"{getattr(thing, '__module__', '?')}:{getattr(thing, '__qualname__', repr(thing))}"
    try:
        file, source = inspect.getsourcefile(thing) or "", inspect.getsource(thing)
    except (OSError, TypeError):
        return NamedObject(given, name, "", "")
    return NamedObject(given, name, file, hashlib.sha256(source.encode()).hexdigest())


def instance(source: NamedObject) -> Any:
    """The object itself, or an instance of it if it is a class."""
    value = source.value
    if inspect.isclass(value):
        return value()
    return value


def _module(name: str, what: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` has it: a user's own file lies where they are
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # a package that the module needs
        raise UserError(
            f"there is no module {name}, which was named as the {what}. Run the command where it lies, or name its "
            "file: path/file.py:object"
        ) from None


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
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
