"""`--dry-run`: print the settings that a command would run with, check what it would read, and stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from hypereyes_jax.cli.bucket import bucket_url
from hypereyes_jax.cli.inputs import CHECKPOINTS, SOURCES, refuse_missing_inputs, typed_names
from hypereyes_jax.errors import UserError
from hypereyes_jax.logins import without_login
from hypereyes_jax.runs.run_directory import settings_text

NOT_READ = frozenset({"out", "store", "data_cache", "notice_file"})  # made by the command, or while it runs


def dry_run(config: Any, check: Callable[[Any], None] | None = None) -> int:
    """Print the settings, presets and recipe filled in, then check the inputs. Nothing is written and no model loaded.

    Args:
      check: what the command itself refuses before it begins.

    Raises UserError for the first input that is missing or can't be read, and as `check`.
    """
    print(settings_text(config))
    refuse_missing_inputs(config, of_one_process=True)
    if check is not None:
        check(config)
    lines = [*_check_paths(config), *_check_contents(config)]
    print("\n".join(lines))
    print("dry run: nothing was run and nothing was written")
    return 0


def _check_paths(config: Any, prefix: str = "--") -> list[str]:
    """A line for each path that is read. Raises UserError for one that is not there."""
    lines = []
    options = typed_names(config, prefix)
    for field in fields(config):
        value = getattr(config, field.name)
        option = options[field.name]
        if is_dataclass(value):
            lines += _check_paths(value, f"{option}.")
        elif field.name not in NOT_READ:
            for path in value if isinstance(value, tuple) else (value,):
                if isinstance(path, Path) and bucket_url(path) is None:
                    if not path.exists():
                        raise UserError(f"{option} {path}: there is no such file or directory.")
                    lines.append(f"{option} {path}: exists")
    return lines


def _check_contents(config: Any) -> list[str]:
    """A line for each checkpoint and each source of data, opened as the command would. Raises UserError."""
    options = config.data.options() if hasattr(config, "data") and hasattr(config.data, "options") else None
    typed = typed_names(config)
    lines = []
    for name in CHECKPOINTS:
        place = getattr(config, name, None)
        if place is not None:
            line = f"{typed[name]} {without_login(str(place))}"
            lines.append(f"{line}: {_describe_checkpoint(str(place))}")
    for name in SOURCES:
        source = getattr(config, name, None)
        if isinstance(source, (str, Path)) and str(source):
            line = f"{typed[name]} {without_login(str(source))}"
            lines.append(f"{line}: {_count_rows(name, source, options)}")
    return lines


def _describe_checkpoint(place: str) -> str:
    from hypereyes_jax.models.pretrained import load_chat_format, with_tokenizer
    from hypereyes_jax.models.qwen3_vl.checkpoint import read_model_config
    from hypereyes_jax.models.storage import is_url, open_directory

    if not is_url(place) and not Path(place).exists():
        return "a model of the hub, which is downloaded when the command runs"
    directory = open_directory(place)
    _, config = read_model_config(directory)
    with_tokenizer(config, load_chat_format(directory), directory)
    return f"a model of {config.text.num_hidden_layers} layers, width {config.text.hidden_size}, with its tokenizer"


def _count_rows(name: str, source: str | Path, options: Any) -> str:
    from hypereyes_jax.data import open_examples, open_questions

    open_source = open_examples if name == "demonstrations" else open_questions
    values = {} if options is None else asdict(options)
    with open_source(source, values.pop("columns", None), **values) as rows:
        return f"{len(rows)} rows"
