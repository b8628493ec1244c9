"""Run a hypereyes command on a cluster: on Slurm, a Cloud TPU slice, GKE, or any cloud through SkyPilot.

    hypereyes launch slurm --nodes 8 -- rl hypereyes_30b_rl --out /shared/rl ...
    hypereyes launch tpu --name my-v5p --zone us-east5-a -- rl ...
    hypereyes launch gke --cluster C --type v5p-128 -- rl ...
    hypereyes launch sky --nodes 8 --volume my-volume -- rl ...
    hypereyes launch restart --restarts 10 -- rl ...        # on this host, started again when it dies

What follows `--` is the command. On a cluster, `--dry-run` before it prints what would be run, and `hypereyes launch
slurm --help` lists the options of that script.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib import resources

from hypereyes_jax.errors import UserError

SCRIPTS = {"slurm": "slurm.sh", "tpu": "cloud_tpu.sh", "gke": "gke.sh", "sky": "sky.sh"}
_RESTART = "restart"
_RESTART_HELP = """
Run a hypereyes command on this host, and start it again when it ends early.

  hypereyes launch restart [--restarts 10] -- rl --out runs/rl ...

What follows `--` goes to `hypereyes` as it is. A crash starts the command again, --restarts times at most; a run that
saved and stopped (code 75: a time limit, a notice) is started again however often. What only its user can put right
(code 2) ends it at once. SIGTERM, SIGINT and SIGHUP are passed on to the command, and end this one, too.
""".strip()
_MAIN = "import sys; from hypereyes_jax.cli.main import main; sys.exit(main())"  # where the command is not on the PATH


def run_words(words: Sequence[str]) -> int:
    """Run a script with the words as they are. Returns its exit code."""
    if not words or words[0] in ("-h", "--help"):
        places = ",".join([*SCRIPTS, _RESTART])
        print(f"usage: hypereyes launch {{{places}}} [OPTIONS] -- COMMAND ...\n\n{__doc__.strip()}")
        return 0 if words else 2
    where, *rest = words
    if where == _RESTART:
        return _restart(rest)
    if where not in SCRIPTS:
        raise UserError(f"there is no launch script {where!r}. Known: {', '.join([*SCRIPTS, _RESTART])}.")
    with resources.as_file(resources.files("hypereyes_jax.launch") / "pods") as pods:
        script = pods / SCRIPTS[where]
        before = rest[: rest.index("--")] if "--" in rest else rest
        if "--help" in before or "-h" in before:
            lines = script.read_text(encoding="utf-8").splitlines()[1:]
            print("\n".join(line.removeprefix("#").removeprefix(" ") for line in _first_comment(lines)))
            return 0
        # What a dry run prints goes through this program's own stream, which knows what to say of a full disk.
        stdout = subprocess.PIPE if "--dry-run" in before else None
        try:
            done = subprocess.run(["bash", str(script), *rest], check=False, stdout=stdout)
            print((done.stdout or b"").decode(errors="replace"), end="")
            return done.returncode
        except FileNotFoundError:
            raise UserError("the launch scripts need bash, which is not installed here.") from None


def _restart(words: Sequence[str]) -> int:
    from hypereyes_jax.launch.restart import restart

    options, command = _split(words)
    if "--help" in options or "-h" in options:
        print(_RESTART_HELP)
        return 0
    match options:
        case []:
            restarts = 10
        case ["--restarts", number] if number.isdigit():
            restarts = int(number)
        case _:
            raise UserError("usage: hypereyes launch restart [--restarts 10] -- COMMAND ...")
    if not command:
        raise UserError("give the hypereyes command after --")
    return restart([sys.executable, "-c", _MAIN, *command], restarts)


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before and after the first `--`."""
    place = list(words).index("--") if "--" in words else len(words)
    return list(words[:place]), list(words[place + 1 :])


def _first_comment(lines: Sequence[str]) -> list[str]:
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return list(lines[:end])
