"""Every command of the documentation's blocks is one that its program takes, and every YAML block one that is read."""

import argparse
import importlib
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from hypereyes_jax.cli import main as cli
from hypereyes_jax.cli.completion import command_words
from hypereyes_jax.cli.launch import SCRIPTS
from hypereyes_jax.data.curation.types import read_curation
from hypereyes_jax.env.search.backends.mapping import read_mapping

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPENS = re.compile(r"^```(\{[\w-]+\}[^\n]*|\w*)\n(.*?)^```$", re.M | re.S)
SHELLS = ("", "bash", "sh", "console", "text")
RUNS_AND_CHECKS = ("rl", "sft", "eval")  # commands whose `check` needs no more than settings, but for the inputs
ASSIGNMENT = re.compile(r"[A-Z_]\w*=")
BETWEEN = {"&&", "||", "|", ";", "&"}


def blocks(page, languages):
    return [match[2] for match in OPENS.finditer(page.read_text(encoding="utf-8")) if match[1] in languages]


def commands(text):
    """The commands of a block as words, without comments, variables before them and what follows `>`."""
    for line in text.replace("\\\n", " ").splitlines():
        try:
            lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=";&|<>")
            lexer.whitespace_split = True
            words = list(lexer)
        except ValueError:  # a drawing, a message or code of another language
            continue
        command = []
        for word in [*words, ";"]:
            if word in BETWEEN:
                if command:
                    yield command
                command = []
            elif command or not ASSIGNMENT.match(word):
                command.append(word)


def before_redirection(words):
    return words[: words.index(">")] if ">" in words else words


OURS = [
    pytest.param(page, words, id=f"{page.relative_to(ROOT)}: {' '.join(words)[:60]}")
    for page in PAGES
    for text in blocks(page, SHELLS)
    for words in map(before_redirection, commands(text))
    if words[0] == "hypereyes"
]
PROGRAM = r"python ((?:benchmarks|tools)/[a-z_]+\.py[^`#%s]*)"
PROGRAMS = sorted(
    {
        " ".join(words.split())
        for page in PAGES
        for form in ("`" + PROGRAM % "" + "`", "^" + PROGRAM % "\n")  # within a sentence, and in a block
        for words in re.findall(form, page.read_text(encoding="utf-8"), re.M)
    }
)


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """Parses a command line to the settings that the command would be run with."""
    seen = []

    def parse(words):
        words = [word for word in words if word not in ("--dry-run", "...")]
        module = importlib.import_module(f"hypereyes_jax.cli.{cli.COMMANDS[words[0]].module}")
        monkeypatch.setattr(module, "run", seen.append)
        assert cli.main(["--compile-cache", "off", *words]) == 0
        return seen[-1] if seen else None

    monkeypatch.chdir(tmp_path)
    return parse


@pytest.mark.parametrize(("page", "words"), OURS)
def test_a_command_of_a_block_is_taken_by_its_parser(page, words, settings, monkeypatch):
    assert "..." not in words[:-1], "what is left out stands at the end"
    for number, text in enumerate(blocks(page, ("yaml",))):
        if text.startswith("recipe:"):
            Path("mine.yaml").write_text(text, encoding="utf-8")
        assert number < 10
    Path("runs/rl").mkdir(parents=True)
    config = {"checkpoint": "DIR", "questions": "QUESTIONS"}
    Path("runs/rl/config.json").write_text(json.dumps({"command": "rl", "config": config}), encoding="utf-8")
    command, *rest = words[1:]
    if command == "launch":
        where, *rest = rest
        assert where in SCRIPTS or where == "restart"
        place = rest.index("--")
        options = {word.partition("=")[0] for word in rest[:place] if word.startswith("--")}
        assert options <= set(command_words("launch").parts[where])
        command, *rest = rest[place + 1 :]
    assert command in cli.COMMANDS
    if {"--help", "--print-config"} & set(rest):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["hypereyes"])
            if "--help" in rest:
                with pytest.raises(SystemExit, match="0"):
                    cli.main([command, *rest])
            else:
                assert cli.main([command, *rest]) == 0
        return
    config = settings([command, *rest])
    if command in RUNS_AND_CHECKS and words[-1] != "...":
        module = importlib.import_module(f"hypereyes_jax.cli.{cli.COMMANDS[command].module}")
        monkeypatch.setattr(module, "refuse_missing_inputs", lambda config: None)  # DATA and DIR are the reader's
        module.check(config)


class _Parsed(Exception):
    """The parser has taken the words."""


@pytest.mark.parametrize("line", PROGRAMS)
def test_a_program_of_this_repository_takes_the_words_that_a_page_gives_it(line, monkeypatch):
    name, *words = line.replace("[", "").replace("]", "").split()
    path = ROOT / name
    assert path.exists()
    source = path.read_text(encoding="utf-8")
    if "ArgumentParser" not in source:
        assert not words or "sys.argv" in source, "it takes no words"
        return
    take = argparse.ArgumentParser.parse_args

    def parse(parser, args=None, namespace=None):
        take(parser, args, namespace)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"documented_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    with pytest.raises(_Parsed):
        module.main()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_other_programs_of_this_repository_and_their_jobs_exist(page):
    text = page.read_text(encoding="utf-8")
    jobs = re.search(r"some of: ([\w ]+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))[1].split()
    for words in re.findall(r"\.ci/run((?: [a-z]+)*)`", text):
        assert set(words.split()) <= set(jobs)
    script = (ROOT / "tools" / "gpu_check.sh").read_text(encoding="utf-8")
    for job in re.findall(r"tools/gpu_check\.sh ([a-z]+)", text):
        assert re.search(rf"^\s*{job}\)", script, re.M), job
    for block in blocks(page, SHELLS):
        for words in commands(block):
            if words[0] == "pytest":
                assert all((ROOT / word).exists() for word in words[1:] if word.startswith("tests/")), words
            if words[:2] == ["python", "-m"] and words[2].startswith("tests."):
                assert importlib.util.find_spec(words[2]) is not None, words


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, ("yaml", "yml"))], ids=lambda page: page.stem)
def test_a_yaml_block_is_read_by_what_reads_such_files(page, settings, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    for text in blocks(page, ("yaml", "yml")):
        Path("mine.yaml").write_text(text, encoding="utf-8")
        if text.startswith("pools:"):
            plan = read_curation(Path("mine.yaml"))
            assert plan.pools
        elif re.search(r"^(text|image):$", text, re.M):
            mapping = read_mapping("mine.yaml")
            assert mapping.text is not None
        else:
            config = settings(["rl", "--config", "mine.yaml", "--checkpoint", "DIR", "--questions", "QUESTIONS"])
            assert text.startswith("recipe:")
            assert config.recipe in text


def test_the_blocks_are_there():
    assert len(OURS) > 40
    assert len(PROGRAMS) > 15


def test_the_readme_sets_up_and_runs_the_tests_in_one_command_as_it_does_the_quickstart():
    blocks_of_readme = [text.strip() for text in blocks(PAGES[0], SHELLS)]
    assert "pip install -e . && hypereyes quickstart" in blocks_of_readme
    assert "pip install -e '.[test]' && pytest" in blocks_of_readme
    assert "\ntests() {\n  pytest\n}\n" in (ROOT / ".ci/run").read_text()  # CI runs what the README promises
