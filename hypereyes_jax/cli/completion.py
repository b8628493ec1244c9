"""Print a completion script for a shell: commands first, then each command's options.

    hypereyes completion bash >> ~/.bashrc
    hypereyes completion zsh >> ~/.zshrc
    hypereyes completion fish > ~/.config/fish/completions/hypereyes.fish

A new shell then completes commands and options.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import tyro


@dataclass(frozen=True)
class CompletionConfig:
    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """The shell that reads the script."""


def run(config: CompletionConfig) -> None:
    """Print the script. It holds every option, so pressing tab starts no Python."""
    from hypereyes_jax.cli.main import COMMANDS

    options = {name: command_options(name) for name in COMMANDS}
    print(script(config.shell, options), end="")


def command_options(name: str) -> list[str]:
    """The long options of a command, read off its help."""
    from hypereyes_jax.cli.main import main

    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main([name, "--help"])
    options = re.findall(r"(?<![\w-])--[a-z][\w.-]*[\w]", re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue()))
    return sorted({"--help", *options})


def script(shell: str, options: Mapping[str, Sequence[str]]) -> str:
    """The script that completes commands and, after a command, its options, else file names."""
    if shell == "fish":
        none_yet = "not __fish_seen_subcommand_from " + " ".join(options)
        lines = [f"complete -c hypereyes -f -n '{none_yet}' -a '{' '.join(['help', *options])}'"]
        for name, long in options.items():
            for option in long:
                lines.append(f"complete -c hypereyes -n '__fish_seen_subcommand_from {name}' -l '{option[2:]}'")
        return "\n".join(lines) + "\n"
    cases = "\n".join(f'    {name}) options="{" ".join(long)}" ;;' for name, long in options.items())
    body = f"""_hypereyes() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" options=""
  if [ "$COMP_CWORD" -eq 1 ] || {{ [ "$COMP_CWORD" -eq 2 ] && [ "${{COMP_WORDS[1]}}" = help ]; }}; then
    mapfile -t COMPREPLY < <(compgen -W "help {" ".join(options)}" -- "$word")
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  if [ "${{word#-}}" != "$word" ]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
  fi
}}
complete -o filenames -F _hypereyes hypereyes
"""
    if shell == "zsh":
        body = body.replace("mapfile -t COMPREPLY < <(", "COMPREPLY=($(").replace('-- "$word")', '-- "$word"))')
        return "autoload -Uz bashcompinit && bashcompinit\n" + body
    return body
