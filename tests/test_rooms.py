"""How the rooms of the package may import each other, read from the source: nothing is executed."""

import ast
from functools import cache
from pathlib import Path

import pytest

import hypereyes_jax

PACKAGE = Path(hypereyes_jax.__file__).parent
# From the top down; a room imports itself and what stands after it.
ROOMS = (
    "__main__",
    "cli", "reproduce", "study", "plan", "train", "launch", "eval", "learner", "rollout", "rl", "miniature", "data",
    "models", "processing", "runs", "env", "configs", "files", "errors", "logins", "apart", "assets",
)  # fmt: skip
KERNEL_LANGUAGE = "jax.experimental.pallas"  # half a second to import, and only some accelerators' programs need it
WITHOUT_JAX = ("env", "processing", "configs", "runs", "data")
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node):
    """The modules that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    members = [f"{node.module}.{alias.name}" for alias in node.names]
    return sorted({member if member in MODULES else node.module for member in members})


MODULES = {name(path) for path in FILES}


def imports(node):
    return [each for each in ast.walk(node) if isinstance(each, ast.Import | ast.ImportFrom)]


def ours(statement):
    return any(
        module.split(".")[0] in ("hypereyes_jax", "jax") and not module.startswith(KERNEL_LANGUAGE)
        for module in imported(statement)
    )


def room(module):
    return module.split(".")[1]


def of(path):
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=of)
def test_a_room_imports_only_what_is_below_it(path):
    place = ROOMS.index(room(name(path)))
    for statement in imports(tree(path)):
        for module in imported(statement):
            if module.startswith("hypereyes_jax.") and room(module) in ROOMS:
                assert ROOMS.index(room(module)) >= place, f"line {statement.lineno}: {ast.unparse(statement)}"


# What carries bytes knows nothing of what they say: the clients of services are built on it.
BELOW_SERVICES = ("web", "types", "media")


@pytest.mark.parametrize("path", [path for path in FILES if name(path).startswith("hypereyes_jax.env.web.")], ids=of)
def test_transport_knows_no_service(path):
    for statement in imports(tree(path)):
        for module in imported(statement):
            if module.startswith("hypereyes_jax.env."):
                assert module.split(".")[2] in BELOW_SERVICES, f"line {statement.lineno}: {ast.unparse(statement)}"


@pytest.mark.parametrize("path", [path for path in FILES if room(name(path)) != "cli"], ids=of)
def test_our_rooms_and_jax_are_imported_at_the_top(path):
    for node in ast.walk(tree(path)):
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if function or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            hidden = [ast.unparse(statement) for statement in imports(node) if ours(statement)]
            assert not hidden, f"line {node.lineno}: {hidden}"


@pytest.mark.parametrize("path", [path for path in FILES if room(name(path)) in WITHOUT_JAX], ids=of)
def test_rooms_that_know_no_device_are_free_of_jax(path):
    packages = {module.split(".")[0] for statement in imports(tree(path)) for module in imported(statement)}
    assert not packages & {"jax", "flax", "optax", "orbax"}


def test_no_module_imports_itself_through_others():
    """Also not for types only."""
    arrows = {
        name(path): {module for statement in imports(tree(path)) for module in imported(statement)} & MODULES
        for path in FILES
    }
    done, open_ = set(), []

    def visit(module):
        if module in done:
            return
        assert module not in open_, f"a circle: {' -> '.join([*open_[open_.index(module) :], module])}"
        open_.append(module)
        for target in sorted(arrows[module] - {module}):
            visit(target)
        open_.pop()
        done.add(module)

    for module in sorted(MODULES):
        visit(module)
