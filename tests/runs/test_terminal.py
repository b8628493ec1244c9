import ast
import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

import hypereyes_jax
from hypereyes_jax.runs.terminal import Terminal, escaping_stdout, visible

PACKAGE = Path(hypereyes_jax.__file__).parent
HOSTILE = "\x1b[31m[red]\x1b]52;c;YQ==\x07[/no]\u202e\r\x9b2J"
STEERING = ("\x1b", "\x07", "\u202e", "\r", "\x9b")


def test_nothing_steers_the_terminal():
    assert visible("a\x1b[31mb\rc\x07") == "a\\x1b[31mb\\rc\\x07"
    assert visible("\u202eabc\ud83d") == "\\u202eabc\\ud83d"
    assert visible("two\nlines\té 旗") == "two\nlines\té 旗"
    assert visible("1\u00a0000\u3000km") == "1\u00a0000\u3000km"  # spaces of other kinds
    assert visible(visible(HOSTILE)) == visible(HOSTILE)


def test_what_is_printed_in_a_command_is_escaped(capsys):
    with escaping_stdout():
        print(HOSTILE)
        sys.stdout.write(HOSTILE)
    said = capsys.readouterr().out
    assert not [char for char in STEERING if char in said]
    assert said.count("[red]") == 2


@pytest.mark.parametrize("coloured", [False, True])
def test_a_console_shows_text_as_it_is_and_its_own_styles(monkeypatch, coloured):
    screen = io.StringIO()
    screen.isatty = lambda: coloured
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with escaping_stdout():
        terminal = Terminal()
        terminal.print(HOSTILE, style="red", soft_wrap=True)
        table = Table(HOSTILE)
        table.add_row(HOSTILE)
        terminal.print(table)
    said = screen.getvalue()
    assert "\\x1b[31m[red]" in said
    assert "[/no]" in said  # markup is text
    assert not [char for char in STEERING[1:] if char in said]
    assert ("\x1b[31m\\x1b[31m[red]" in said) is coloured


def test_a_console_of_another_library_still_has_its_colours(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    with escaping_stdout():
        Console(force_terminal=True, color_system="standard").print("x", style="red")
    assert screen.getvalue() == "\x1b[31mx\x1b[0m\n"


def test_every_console_of_the_package_is_one_that_escapes():
    allowed = {"runs/terminal.py", "cli/main.py"}  # the latter prints its own help alone
    for path in PACKAGE.rglob("*.py"):
        imported = [
            node.lineno
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module == "rich.console"
        ]
        assert not imported or str(path.relative_to(PACKAGE)) in allowed, (path, imported)


def test_what_is_printed_to_standard_error_is_escaped():
    """The stream does not catch it, as libraries draw their bars there. Launchers print numbers and words of ours."""
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "launch":
            continue
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and getattr(call.func, "id", "") == "print"):
                continue
            if any(key.arg == "file" and ast.unparse(key.value) == "sys.stderr" for key in call.keywords):
                shown = [ast.unparse(n.value) for n in ast.walk(call.args[0]) if isinstance(n, ast.FormattedValue)]
                whole = ast.unparse(call.args[0]).startswith("visible(")
                assert whole or all(value.startswith("visible(") for value in shown), (path, shown)


SHOWN = """
import sys
from hypereyes_jax.runs.progress import Stages
with Stages() as stages, stages.stage("SFT", 2) as stage:
    stage.advance()
    print("loss 0.31 of [bold]run[/bold] 'a' at http://x")
"""


def shown_on_a_terminal(**environment):
    """What a program prints while a bar is shown: (to a pipe, to the terminal that standard error is)."""
    master, slave = os.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-c", SHOWN],
        stdout=subprocess.PIPE,
        stderr=slave,
        env=clean | {"TERM": "xterm-256color"} | environment,
    ) as program:
        os.close(slave)
        seen = b""
        with contextlib.suppress(OSError):  # how a terminal's end is told
            while piece := os.read(master, 65536):
                seen += piece
        printed = program.stdout.read()
    os.close(master)
    return printed, seen


def test_what_is_printed_to_a_file_while_a_bar_is_shown_is_plain():
    printed, seen = shown_on_a_terminal()
    assert printed == b"loss 0.31 of [bold]run[/bold] 'a' at http://x\n"
    assert b"loss 0.31" not in seen
    assert re.search(rb"\x1b\[[0-9;]+m", seen)  # the bar has its colours


def test_no_color_leaves_no_style_at_all():
    _, seen = shown_on_a_terminal(NO_COLOR="1")
    assert b"SFT" in seen
    assert not re.search(rb"\x1b\[[0-9;]*m", seen)
