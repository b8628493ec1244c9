"""Analyses of the paper as lists of runs: what each part of the method is worth, by budget, seed, paradigm and depth.

    hypereyes study ablations                                  # the miniature, on this machine
    hypereyes study ablations --seeds 0 1 2 --minutes 40       # in sittings: the same command continues
    hypereyes study ablations --jobs 2                         # two steps at once, each on half of the cores
    hypereyes study ablations --list --recipe 30b ...          # the commands, to be run elsewhere

A run that two variants have in common is made once, also between studies of one directory. The study ends with a table,
charts, and sentences that say, with intervals, whether the paper's direction was seen. Every step is a command of its
own, so those of a large recipe can be run on a cluster: once their directories are there, only the table is left to do.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import Annotated

import tyro

from hypereyes_jax.cli.inputs import refuse_missing_checkpoint, refuse_missing_inputs
from hypereyes_jax.errors import UserError
from hypereyes_jax.study.types import StudyName, StudyOptions


@dataclass(frozen=True)
class StudyConfig:
    study: tyro.conf.Positional[StudyName]
    """Name of the study to run."""
    options: Annotated[StudyOptions, tyro.conf.arg(name="")] = field(default_factory=StudyOptions)
    minutes: float | None = None
    """Number of minutes after which no further step begins; without one, all are run. The same command continues."""
    jobs: int = 1
    """Number of steps of the miniature that run at once, each on its share of the cores. As many as there are cores
    finish first, since a small model gains little from a second core."""
    list: bool = False
    """Print the commands of the steps that are not done yet, and run nothing."""


def check(config: StudyConfig) -> None:
    """Raises UserError for settings that can't be meant."""
    if not config.options.seeds:
        raise UserError("--seeds needs at least one seed.")
    if len(set(config.options.seeds)) < len(config.options.seeds):
        raise UserError("--seeds names a seed twice: the same run would count as two.")
    if config.jobs > 1 and not config.options.miniature:
        raise UserError(
            "--jobs is for the miniature, on one machine. Run the commands that --list prints on your cluster."
        )


def refuse_missing_files(options: StudyOptions) -> None:
    """Raises UserError for a checkpoint or data that should be on this machine and are not: a step reads them hours
    later."""
    from hypereyes_jax.data.sources.locate import refuse_missing

    refuse_missing_inputs(options)
    for option, place in (("--policy", options.policy), ("--vanilla-teacher", options.vanilla_teacher)):
        if place:
            refuse_missing_checkpoint(option, place)
    for source in options.other_demonstrations.values():
        refuse_missing(source)


def run(config: StudyConfig) -> int:
    from hypereyes_jax.runs.terminal import Terminal
    from hypereyes_jax.study.execution import execute, shell_line
    from hypereyes_jax.study.registry import STUDIES
    from hypereyes_jax.study.render import to_terminal, write_outcome

    check(config)
    options = config.options
    study = STUDIES[config.study](options)
    if config.list:
        for step in study.open_steps():
            print(shell_line(step.words) if step.words else f"# {step.name}: made by `hypereyes study {study.name}`")
        return 0
    refuse_missing_files(options)
    print(f"{study.name}: {len(study.open_steps())} of {len(study.steps)} steps are left to do")
    logs = options.out / "logs"
    tell = partial(print, flush=True)
    complete = execute(study.open_steps(), logs, tell, config.minutes, jobs=config.jobs)
    if not complete:
        print(f"{len(study.open_steps())} steps are left; the same command continues")
        return 0
    outcome = study.summary()
    Terminal().print(to_terminal(outcome))
    for sentence in (*outcome.sentences, *(f"Not run: {each}" for each in outcome.missing)):
        print(sentence)
    command = shell_line(sys.argv[1:] if sys.argv[1:2] == ["study"] else ["study", config.study])
    paths = write_outcome(options.out / study.name, outcome, command, date.today().isoformat())
    print("wrote " + ", ".join(str(path) for path in paths))
    return 0
