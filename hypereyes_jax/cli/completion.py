"""Print a completion script for a shell: commands first, then a command's second word or its options.

    hypereyes completion bash >> ~/.bashrc
    hypereyes completion zsh >> ~/.zshrc
    hypereyes completion fish > ~/.config/fish/completions/hypereyes.fish

A new shell then completes commands, second words such as `check` of `data`, and options.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import tyro


@dataclass(frozen=True)
class CompletionConfig:
    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """The shell that reads the script."""


@dataclass(frozen=True)
class CommandWords:
    """What may stand behind a command."""

    options: Sequence[str]
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)  # its second words, and the options of each


def run(config: CompletionConfig) -> None:
    """Print the script. It holds every option, so pressing tab starts no Python."""
    from hypereyes_jax.cli.main import COMMANDS

    print(script(config.shell, {name: command_words(name) for name in COMMANDS}), end="")


def command_words(name: str) -> CommandWords:
    """The second words and the long options of a command, read off its help."""
    output = _help(name)
    usage = output.partition("\n\n")[0]
    # tyro before 1.0.16 names what stands beside the options in their box alone
    box = re.search(r"╭─ positional arguments .*?╰", output, re.DOTALL)
    places = re.sub(r"[\s│]+", "", usage + (box[0] if box else ""))
    choice = re.search(r"\{(\w[\w-]*(?:,[\w-]+)+)\}", places)
    parts = choice[1].split(",") if choice else []
    return CommandWords(_options(output), {part: _options(_help(name, part)) for part in parts})


def _help(*words: str) -> str:
    from hypereyes_jax.cli.main import main

    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())


def _options(output: str) -> list[str]:
    return sorted({"--help", *re.findall(r"(?<![\w-])--[a-z][\w.-]*[\w]", output)})


def script(shell: str, commands: Mapping[str, CommandWords]) -> str:
    """The script that completes commands and, after a command, its second word or its options, else file names."""
    return _fish(commands) if shell == "fish" else _bash(commands, zsh=shell == "zsh")


def _own_options(words: CommandWords) -> list[tuple[str, Sequence[str]]]:
    """Second words that have other options than the command alone, with those."""
    return [(part, options) for part, options in words.parts.items() if options != words.options]


def _fish(commands: Mapping[str, CommandWords]) -> str:
    lines = [f"complete -c hypereyes -f -n 'not {_seen(*commands)}' -a '{' '.join(['help', *commands])}'"]
    for name, words in commands.items():
        own = _own_options(words)
        if words.parts:
            none_yet = f"{_seen(name)}; and not {_seen(*words.parts)}"
            lines.append(f"complete -c hypereyes -f -n '{none_yet}' -a '{' '.join(words.parts)}'")
        places = [(f"{_seen(name)}; and {_seen(part)}", options) for part, options in own]
        for place, options in places or [(_seen(name), words.options)]:
            lines += [f"complete -c hypereyes -n '{place}' -l '{option[2:]}'" for option in options]
    return "\n".join(lines) + "\n"


def _seen(*words: str) -> str:
    return f"__fish_seen_subcommand_from {' '.join(words)}"


def _bash(commands: Mapping[str, CommandWords], zsh: bool) -> str:
    cases = "\n".join(
        f'    {name}) parts="{" ".join(words.parts)}" options="{" ".join(words.options)}" ;;'
        for name, words in commands.items()
    )
    of_parts = "\n".join(
        f'    "{name} {part}") options="{" ".join(options)}" ;;'
        for name, words in commands.items()
        for part, options in _own_options(words)
    )
    body = f"""_hypereyes() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" options="" parts=""
  if [ "$COMP_CWORD" -eq 1 ] || {{ [ "$COMP_CWORD" -eq 2 ] && [ "${{COMP_WORDS[1]}}" = help ]; }}; then
    mapfile -t COMPREPLY < <(compgen -W "help {" ".join(commands)}" -- "$word")
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{of_parts}
    *) ;;
  esac
  if [ "${{word#-}}" != "$word" ]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
  elif [ "$COMP_CWORD" -eq 2 ] && [ -n "$parts" ]; then
    mapfile -t COMPREPLY < <(compgen -W "$parts" -- "$word")
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
  fi
}}
complete -o filenames -F _hypereyes hypereyes
"""
    if zsh:
        body = body.replace("mapfile -t COMPREPLY < <(", "COMPREPLY=($(").replace('-- "$word")', '-- "$word"))')
        return "autoload -Uz bashcompinit && bashcompinit\n" + body
    return body
