"""Checks a wheel and an sdist before anybody installs them: contents, metadata, one version, links that work on PyPI.

    python -m build --outdir dist
    python tools/check_distributions.py dist

Prints what is wrong, a line each, and exits with 1.
"""

from __future__ import annotations

import email
import re
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "hypereyes_jax/py.typed",
    "hypereyes_jax/__init__.pyi",
    "hypereyes_jax/assets/base/model.safetensors",
    "hypereyes_jax/assets/teacher/model.safetensors",
    "hypereyes_jax/env/world/factbook.json.gz",
    "hypereyes_jax/env/world/flags/fr.png",
    "hypereyes_jax/eval/templates/report.html.jinja",
    "hypereyes_jax/launch/pods/slurm.sh",
)
LARGEST = 15_000_000  # bytes; a wheel that grows past it holds what should be elsewhere


def package_files() -> set[str]:
    """Every file below hypereyes_jax/ that git knows of, or would add."""
    files = (ROOT / "hypereyes_jax").rglob("*")
    return {str(file.relative_to(ROOT)) for file in files if file.is_file() and "__pycache__" not in file.parts}


def faults_of_wheel(wheel: Path) -> list[str]:
    """What is wrong with a wheel, a sentence each."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(info))
        own = {name for name in names if not name.startswith(info.rpartition("/")[0])}
    faults = [f"{wheel.name} lacks {name}" for name in NEEDED if name not in names]
    faults += [f"{wheel.name} holds {name}, which is not the package's" for name in sorted(own - package_files())]
    faults += [f"{wheel.name} lacks {name}" for name in sorted(package_files() - own)]
    if wheel.stat().st_size > LARGEST:
        faults.append(f"{wheel.name} has {wheel.stat().st_size} bytes, more than {LARGEST}")
    return faults + faults_of_metadata(metadata)


def faults_of_metadata(metadata: email.message.Message) -> list[str]:
    """What is wrong with the name card that PyPI shows."""
    faults = []
    version = re.search(r'__version__ = "(.*)"', (ROOT / "hypereyes_jax" / "__init__.py").read_text())
    if version is None or metadata["Version"] != version[1]:
        faults.append(f"the version is {metadata['Version']}, not that of hypereyes_jax/__init__.py")
    classifiers = set(metadata.get_all("Classifier", []))
    for minor in range(11, 15):
        if f"Programming Language :: Python :: 3.{minor}" not in classifiers:
            faults.append(f"no classifier says Python 3.{minor}")
    urls = {line.partition(", ")[0] for line in metadata.get_all("Project-URL", [])}
    faults += [f"no URL is named {name}" for name in ("Repository", "Issues", "Changelog", "Paper") if name not in urls]
    for need in metadata.get_all("Requires-Dist", []):
        if re.search(r"==|<(?!=)|~=", need.partition(";")[0]):
            faults.append(f"{need!r} has an upper bound or a pin")
    readme = metadata.get_payload()
    assert isinstance(readme, str)
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", readme, flags=re.S))
    faults += [
        f"the README's link {link} works in a checkout only" for link in links if not link.startswith("https://")
    ]
    return faults


def faults_of_sdist(sdist: Path) -> list[str]:
    """An sdist builds the same wheel only if it has every file of the package."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    return [f"{sdist.name} lacks {name}" for name in sorted({*package_files(), "LICENSE", "NOTICE"} - names)]


def main() -> None:
    folder = Path(sys.argv[1])
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        sys.exit(f"{folder} must hold one wheel and one sdist, and holds {len(wheels)} and {len(sdists)}")
    faults = [*faults_of_wheel(wheels[0]), *faults_of_sdist(sdists[0])]
    print("\n".join(faults) or f"{wheels[0].name} and {sdists[0].name}: nothing is missing and nothing is extra")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
