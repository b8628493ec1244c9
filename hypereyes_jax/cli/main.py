"""The `hypereyes` command.

Each command is one module in this folder: a frozen dataclass of settings, and `run(config)`. A module is imported only
when its command is named, and imports heavy things (jax above all) inside `run`, so that help answers at once.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypereyes_jax import __version__
from hypereyes_jax.cli.bucket import local_out, refuse_urls
from hypereyes_jax.cli.config_file import config_text, defaults, printable, take_option
from hypereyes_jax.cli.dry_run import dry_run
from hypereyes_jax.cli.help_text import join_help_lines
from hypereyes_jax.cli.inputs import refuse_empty_paths
from hypereyes_jax.cli.streams import prepare_streams, printing_failure
from hypereyes_jax.configs.numbers import check_numbers
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import CURES
from hypereyes_jax.runs.compile_cache import default_folder, use_compile_cache
from hypereyes_jax.runs.memory import keep_freed
from hypereyes_jax.runs.stop import STOPPED, RunStopped
from hypereyes_jax.runs.terminal import color_system, escaping_stdout, visible

_PATIENCE = 20.0  # seconds that a command which failed may take to end


@dataclass(frozen=True)
class Command:
    module: str  # in hypereyes_jax.cli
    config: str  # name of its settings' dataclass
    summary: str  # one line for `hypereyes --help`


COMMANDS = {
    "quickstart": Command(
        "quickstart", "QuickstartConfig", "run the whole method on this machine, with a report at the end"
    ),
    "synth": Command("synth", "SynthConfig", "make questions and demonstrations of the miniature world"),
    "synth-photos": Command("synth_photos", "SynthPhotosConfig", "make questions over mosaics of real photos"),
    "synth-wikidata": Command(
        "synth_wikidata", "SynthWikidataConfig", "make questions with several constraints from Wikidata"
    ),
    "data": Command("data", "DataConfig", "check, show or convert other people's questions and demonstrations"),
    "sft": Command("sft", "SftConfig", "run supervised fine-tuning on demonstrations"),
    "rl": Command("rl", "RlConfig", "run GRPO with TRACE and on-policy distillation"),
    "plan": Command("plan", "PlanConfig", "compile a recipe for hardware that you don't have: does it fit?"),
    "export": Command("export", "ExportConfig", "write a model with its adapters merged, for other programs"),
    "push": Command("push", "PushConfig", "push a run's model to the Hugging Face hub, with a model card"),
    "make-teacher": Command("make_teacher", "MakeTeacherConfig", "make the miniature's distillation teacher"),
    "pretrain-world": Command("pretrain_world", "PretrainConfig", "make the miniature world's base model from nothing"),
    "eval": Command("eval", "EvalConfig", "measure accuracy, rounds and cost of a checkpoint or a served model"),
    "reproduce": Command(
        "reproduce", "ReproduceConfig", "print the paper as ten commands, or try them at a small size"
    ),
    "study": Command("study", "StudyConfig", "run an analysis of the paper: ablations, budgets, seeds, paradigms, ..."),
    "ask": Command("ask", "AskConfig", "answer a question about any number of images, with any model and search"),
    "collect": Command(
        "collect", "CollectSettings", "sample any model on your questions, and make demonstrations and RL questions"
    ),
    "curate": Command(
        "curate", "CurateConfig", "run the paper's curation from one file: pools become an SFT set and an RL set"
    ),
    "serve": Command("serve", "ServeConfig", "serve a checkpoint, or the agent, behind an OpenAI-compatible API"),
    "mcp": Command("mcp", "McpConfig", "offer the search tools as an MCP server"),
    "serve-world": Command("serve_world", "ServeWorldConfig", "serve the miniature world's searches over HTTP"),
    "search-store": Command(
        "search_store", "SearchStoreConfig", "inspect, export, import, prune or merge recorded searches"
    ),
    "launch": Command("launch", "", "run a command on Slurm, Cloud TPU, GKE or any cloud, and restart it when it dies"),
    "report": Command("report", "ReportConfig", "make report.html of a run or of a trajectory file"),
    "completion": Command("completion", "CompletionConfig", "print a completion script for bash, zsh or fish"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns the exit code: 0 done, 2 a mistake the user can put right, 75 stopped in good order before its end, 130
    interrupted.
    """
    if arguments is not None:
        return _main(list(arguments))
    prepare_streams()  # this is the process's own command
    try:
        code = _main(sys.argv[1:])
    except SystemExit as end:  # of tyro, after a command's help or a mistyped option
        if not isinstance(end.code, int | None):
            raise
        code = end.code or 0
    except BaseException:
        _end_within(_PATIENCE, 1)
        raise
    why = printing_failure()
    if why is not None:
        code = code or _fail(f"what was printed is not complete: {why}")
    if code:
        _end_within(_PATIENCE, code)
    return code


def _end_within(seconds: float, code: int) -> None:
    """Ends the process after so many seconds if it has not ended by itself.

    All has been said and saved by then. But Python waits for threads, and after a checkpoint that failed, those of
    Orbax may wait for each other for five minutes.
    """

    def end() -> None:
        time.sleep(seconds)
        os._exit(code)

    threading.Thread(target=end, daemon=True).start()


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        with _reader_may_leave():
            _print_help()
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    if words[0] == "help":  # `help`, or `help COMMAND`
        return _main([*words[1:2], "--help"])
    cache: Path | None = default_folder()
    if words[0] == "--compile-cache":
        if len(words) < 3:
            return _fail("--compile-cache needs a directory (or off), and a command: --compile-cache DIR COMMAND ...")
        cache, words = (None if words[1] == "off" else Path(words[1])), words[2:]
    name, *rest = words
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        return _fail(f"there is no command `{name}`.{hint} Commands: {', '.join(COMMANDS)}.")
    try:
        return _run(name, rest, cache)
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to continue", file=sys.stderr)
        code = 130
    except RunStopped as stop:
        print(f"hypereyes: {visible(str(stop))}", file=sys.stderr)
        code = STOPPED
    except Exception as error:
        mistake = _mistake(error, name)
        if mistake is not None:
            code = _fail(mistake)
        elif _one_of_several():
            traceback.print_exc()
            code = 1
        else:
            raise
    if _one_of_several():
        from hypereyes_jax.launch.initialize import leave

        leave(code)
    return code


def _one_of_several() -> bool:
    """Whether this process is one of several of a run, for which it must have imported jax."""
    if "jax" not in sys.modules:
        return False
    from hypereyes_jax.launch.initialize import joined

    return joined()


def _mistake(error: BaseException, command: str) -> str | None:
    """What the user can put right, in a sentence; None for a defect of the program."""
    match error:
        case UserError():
            return str(error)
        case ExceptionGroup():  # of tasks that ran together
            mistakes, defects = error.split(UserError)
            return None if mistakes is None or defects is not None else _mistake(mistakes.exceptions[0], command)
        case OSError() if error.errno in CURES:  # a disk that fills, a directory that turns read-only
            where = visible(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else "a file"
            return f"can't use {where}: {CURES[error.errno]}; then run the same command again."
        case ModuleNotFoundError():
            package = (error.name or "").partition(".")[0]
            if not package or importlib.util.find_spec(package) is not None:
                return None  # a module missing from a package that is there
            return (
                f"the package {package} is missing, which `hypereyes {command}` needs. Install this project again, "
                "with all that it needs: pip install -e . in a checkout, pip install hypereyes-jax elsewhere."
            )
    return None


def _run(name: str, words: Sequence[str], cache: Path | None) -> int:
    import tyro

    command = COMMANDS[name]
    module = importlib.import_module(f"hypereyes_jax.cli.{command.module}")
    if hasattr(module, "run_words"):  # its words are another program's
        return int(module.run_words(words))
    settings = getattr(module, command.config)
    is_dry_run, prints_config = "--dry-run" in words, "--print-config" in words
    words, file = take_option([word for word in words if word not in ("--dry-run", "--print-config")], "config")
    if hasattr(settings, "with_recipe"):
        words = settings.with_recipe(words)
    # A recipe is named first, and decides what the other settings are by default.
    recipe = words[0] if words and not words[0].startswith("-") and hasattr(settings, "of") else None
    if "-h" in words or "--help" in words:
        join_help_lines(settings)
    with _reader_may_leave():
        default = tyro.MISSING_NONPROP
        if recipe is not None or file is not None or prints_config:
            default = defaults(settings, name, recipe, file)
        if prints_config:
            default = printable(default)
        config = tyro.cli(
            settings, prog=f"hypereyes {name}", description=module.__doc__, args=list(words), default=default
        )
    if prints_config:
        print(config_text(name, config), end="")
        return 0
    refuse_urls(config, name)
    refuse_empty_paths(config, words)
    check_numbers(config, options=True)
    if is_dry_run:
        with escaping_stdout():
            return dry_run(config, getattr(module, "check", None))
    keep_freed()
    # A program for absent devices can't be read back: jax would warn, and compile it again. A plan keeps its figures.
    if cache is not None and name != "plan":
        use_compile_cache(cache)
    run: Callable[[Any], int | None] = module.run
    with escaping_stdout(), local_out(config) as config:
        return run(config) or 0


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Lets a reader such as `head` leave early, which is no error. Not for runs, whose pipes may be sockets."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's own flush complains
        raise SystemExit(0) from None


def _fail(message: str) -> int:
    print(f"hypereyes: {visible(message)}", file=sys.stderr)
    return 2


def _print_help() -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(color_system=color_system())
    console.print("[bold]hypereyes[/bold]: train multimodal agents that search wider instead of longer\n")
    table = Table.grid(padding=(0, 3))
    for name, command in COMMANDS.items():
        table.add_row(f"  [cyan]{name}[/cyan]", command.summary)
    console.print(table)
    console.print("\nFor every command:\n")
    options = Table.grid(padding=(0, 3))
    for words, does in (
        ("hypereyes help COMMAND", "lists its options"),
        ("--dry-run", "prints its settings and checks its inputs"),
        ("--print-config", "prints its settings as YAML"),
        ("--config FILE", "reads its settings from such a file, or from a run's config.json"),
        (
            "hypereyes --compile-cache DIR COMMAND",
            "keeps compiled programs in DIR (off: nowhere), not in the user's cache",
        ),
    ):
        options.add_row(f"  [dim]{words}[/dim]", does)
    console.print(options)
    console.print("\n[dim]hypereyes --version[/dim] prints the version.")
