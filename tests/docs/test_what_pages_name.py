"""What the pages name exists: commands and their options, modules, files, and the places that links lead to."""

import contextlib
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

import hypereyes_jax
from hypereyes_jax.cli.completion import command_words
from hypereyes_jax.cli.launch import SCRIPTS
from hypereyes_jax.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PACKAGE = Path(hypereyes_jax.__file__).parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_ALL = {"--dry-run", "--print-config", "--config", "--help"}
OPTION = r"(?<![\w-])--[a-z][\w.-]*\w"
ROOMS = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
FOLDERS = "docs|tests|tools|benchmarks|examples|hypereyes_jax"
HERE = "https://github.com/hypereyes-jax/hypereyes-jax/blob/main/"


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request):
    return request.param


@cache
def options(command, part=""):
    """The options of a command, and of what it is divided into (`data check`), or of one such part alone."""
    words = command_words(command)
    return OF_ALL.union(words.parts[part] if part else words.options, *(words.parts.values() if not part else ()))


def without_blocks(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def test_a_command_takes_the_options_that_a_page_gives_it(page):
    for line in page.read_text().replace("\\\n", " ").splitlines():
        for words in re.findall(r"hypereyes ([a-z][^`|#]*)", line):
            command, _, rest = words.partition(" ")
            where = rest.split(" ")[0]
            if command == "launch" and where in SCRIPTS:
                before, _, after = rest.partition(" -- ")
                assert set(re.findall(OPTION, before)) <= options("launch", where), line
                command, _, rest = after.partition(" ")
            if command in COMMANDS and command != "launch":
                assert set(re.findall(OPTION, rest)) <= options(command), line


def test_a_group_of_options_has_the_option_that_a_page_names(page):
    known = set().union(*(options(command) for command in COMMANDS))
    for option in re.findall(rf"`({OPTION}(?:\.\*)?)", page.read_text()):
        if "." in option:
            name = option.removesuffix(".*")
            assert any(each == name or each.startswith(f"{name}.") for each in known), option


def test_a_module_that_a_page_names_exists(page):
    for name in re.findall(r"`([a-z_]+(?:\.\w+)+)[(`]", without_blocks(page.read_text())):
        first, *parts = name.removeprefix("hypereyes_jax.").split(".")
        if first in ROOMS and not name.endswith((".py", ".json", ".jsonl", ".html", ".yaml", ".parquet")):
            thing = importlib.import_module(f"hypereyes_jax.{first}")
            for part in parts:
                with contextlib.suppress(ImportError, AttributeError):
                    importlib.import_module(f"{thing.__name__}.{part}")
                assert hasattr(thing, part) or part in getattr(thing, "__annotations__", ()), name
                thing = getattr(thing, part, None)


def test_a_file_that_a_page_names_exists(page):
    text = page.read_text()
    for name in re.findall(rf"(?<![\w/:.-])((?:{FOLDERS})/[\w./-]*\w)", text):
        assert (ROOT / name).exists() or name == "benchmarks/NAME.py", name
    files = {path.name for folder in FOLDERS.split("|") for path in (ROOT / folder).rglob("*.py")}
    examples = {"rewards.py", "tools.py", "metrics.py", "losses.py", "prompts.py", "mine.py", "my_search.py"}
    assert set(re.findall(r"`([a-z_]+\.py)`", text)) <= files | examples


def test_a_link_leads_to_a_heading_that_there_is(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(page.read_text())):
        name, _, heading = link.partition("#")
        if link.startswith(HERE):
            target = ROOT / name.removeprefix(HERE)
        elif link.startswith("http"):
            continue
        else:
            target = page.parent / name if name else page
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, link
