"""Resolves this project's wheel together with the packages that its users also have. Nothing is installed.

    python tools/resolve_peers.py dist/hypereyes_jax-*.whl            # needs uv and a package index
    python tools/resolve_peers.py dist/hypereyes_jax-*.whl tunix vllm

Each peer's newest release must resolve beside the wheel on one of the Pythons: a bound of ours that clashes with a
peer is found here. A peer that resolves on no Python even alone is reported and not counted.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

PEERS = {
    "tunix": "google-tunix",
    "tinker-cookbook": "tinker-cookbook",
    "ms-swift": "ms-swift",
    "verl": "verl",
    "sglang": "sglang",
    "vllm": "vllm",
    "skyrl": "skyrl",
    "maxtext": "maxtext",
    "trl": "trl",
    "verifiers": "verifiers",
    "peft": "peft",
}
PYTHONS = ("3.12", "3.11", "3.13")
SECONDS = 300  # for one resolution; metadata of a large source distribution can take minutes


def resolve(python: str, *requirements: str) -> tuple[str, str]:
    """(resolved, "") or ("", uv's last words)."""
    with tempfile.TemporaryDirectory() as folder:
        needs = Path(folder) / "needs.txt"
        needs.write_text("\n".join(requirements) + "\n")
        command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", python]
        # A pre-release that a peer asks for (its own nightly dependencies) is allowed; ours are not affected.
        command += ["--python-platform", "x86_64-manylinux_2_28", "--prerelease", "if-necessary-or-explicit"]
        command.append(str(needs))
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return "", f"no answer in {SECONDS} s"
    return (done.stdout, "") if done.returncode == 0 else ("", done.stderr.strip())


def newest_of(peer: str, resolved: str) -> str:
    found = re.search(rf"^{re.escape(peer)}(?:\[.*\])?==(\S+)", resolved, re.M)
    return found[1] if found else "?"


def check(peer: str, wheel: str) -> tuple[bool | None, str]:
    """(whether it resolves, what was seen); None where the peer resolves on no Python even alone."""
    words, alone = "", {}
    for python in PYTHONS:
        both, trouble = resolve(python, wheel, peer)
        single, _ = resolve(python, peer)
        if not single:
            words = words or f"alone on Python {python}: {trouble[-300:]}"
            continue
        alone[python] = newest_of(peer, single)
        if both and newest_of(peer, both) == alone[python]:
            return True, f"{alone[python]} on Python {python}"
        words = f"on Python {python}: {trouble or f'only {newest_of(peer, both)} instead of {alone[python]}'}"
    return (False if alone else None), words


def main() -> None:
    wheel, *chosen = sys.argv[1:]
    at = f"hypereyes-jax @ file://{Path(wheel).resolve()}"
    failed = False
    for name in chosen or PEERS:
        works, seen = check(PEERS[name], at)
        failed |= works is False
        print(f"{name}: {'resolves' if works else 'NOT counted' if works is None else 'CLASHES'}: {seen}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
