"""The `hypereyes` command.

Each command is one module in this folder: a frozen dataclass of settings, and `run(config)`. A module is imported only
when its command is named, and imports heavy things (jax above all) inside `run`, so that help answers at once.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.memory import keep_freed


@dataclass(frozen=True)
class Command:
    module: str  # in hypereyes_jax.launch
    config: str  # name of its settings' dataclass
    summary: str  # one line for `hypereyes --help`


COMMANDS = {
    "quickstart": Command("quickstart", "QuickstartConfig", "the whole method on a laptop, with a report at the end"),
    "synth": Command("synth", "SynthConfig", "questions and demonstrations of the miniature world"),
    "sft": Command("sft", "SftConfig", "supervised fine-tuning on demonstrations"),
    "rl": Command("rl", "RlConfig", "GRPO with TRACE and on-policy distillation"),
    "plan": Command("plan", "PlanConfig", "does a recipe fit a cluster, before renting it"),
    "export": Command("export", "ExportConfig", "write a model, adapters merged, for other programs"),
    "make-teacher": Command("make_teacher", "MakeTeacherConfig", "make the miniature's distillation teacher"),
    "pretrain-world": Command("pretrain_world", "PretrainConfig", "make the miniature world's base model from nothing"),
    "eval": Command("eval", "EvalConfig", "accuracy, rounds and cost of a checkpoint on the miniature world"),
    "ask": Command("ask", "AskConfig", "ask a question about an image, with any search service and any model"),
    "serve-world": Command("serve_world", "ServeWorldConfig", "serve the miniature world's searches over HTTP"),
    "search-store": Command("search_store", "SearchStoreConfig", "inspect, export, prune or merge recorded searches"),
    "report": Command("report", "ReportConfig", "write report.html from a run's directory or a trajectory file"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 2 a mistake the user can put right, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        with _reader_may_leave():
            _print_help()
        return 0 if words else 2
    if words[0] == "--version":
        print(importlib.metadata.version("hypereyes-jax"))
        return 0
    name, *rest = words
    if name not in COMMANDS:
        return _fail(f"there is no command `{name}`. Commands: {', '.join(COMMANDS)}.")
    try:
        return _run(name, rest)
    except UserError as error:
        return _fail(str(error))
    except ExceptionGroup as group:  # of tasks that ran together
        mistakes, defects = group.split(UserError)
        if mistakes is None or defects is not None:
            raise
        return _fail(str(_first(mistakes)))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or importlib.util.find_spec(package) is not None:
            raise  # a module missing from a package that is there is a defect
        return _fail(
            f"the package {package} is missing, which `hypereyes {name}` needs. Install all that this project needs: "
            "pip install -e . in the directory of its pyproject.toml."
        )
    except KeyboardInterrupt:
        print("\ninterrupted; the same command again continues where it can", file=sys.stderr)
        return 130


def _first(group: BaseException) -> BaseException:
    return _first(group.exceptions[0]) if isinstance(group, BaseExceptionGroup) else group


def _run(name: str, words: Sequence[str]) -> int:
    import tyro

    command = COMMANDS[name]
    module = importlib.import_module(f"hypereyes_jax.launch.{command.module}")
    settings = getattr(module, command.config)
    # A recipe is named first, and decides what the other settings are by default.
    named = words[0] if words and not words[0].startswith("-") and hasattr(settings, "of") else None
    with _reader_may_leave():
        default = tyro.MISSING_NONPROP if named is None else settings.of(named)
        config = tyro.cli(
            settings, prog=f"hypereyes {name}", description=module.__doc__, args=list(words), default=default
        )
    keep_freed()
    run: Callable[[Any], int | None] = module.run
    return run(config) or 0


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
    """For help piped into `head`: the reader's leaving early is no error. Not for a run, where a pipe is a socket's."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's own flush complains
        raise SystemExit(0) from None


def _fail(message: str) -> int:
    print(f"hypereyes: {message}", file=sys.stderr)
    return 2


def _print_help() -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print("[bold]hypereyes[/bold]: train multimodal agents that search wider instead of longer\n")
    table = Table.grid(padding=(0, 3))
    for name, command in COMMANDS.items():
        table.add_row(f"  [cyan]{name}[/cyan]", command.summary)
    console.print(table)
    console.print(
        "\n[dim]hypereyes COMMAND --help[/dim] tells a command's settings; [dim]hypereyes --version[/dim] the version."
    )
