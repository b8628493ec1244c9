"""Compiled programs kept on disk, so that the next run of the same shapes does not compile them again."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import platform
import sys
import zlib
from collections.abc import MutableMapping
from pathlib import Path

from hypereyes_jax.runs.terminal import visible

_OWN = "JAX_COMPILATION_CACHE_DIR"  # jax's own setting; a user who has made it is left alone
_LARGEST = 8 << 30  # bytes kept; beyond it the programs used least recently go
_SHORTEST = 0.5  # seconds; what compiles faster is not worth a file
_STAMP = ".checked"  # older entries than this file are known to be whole
_ZSTANDARD = b"\x28\xb5\x2f\xfd"


def default_folder() -> Path:
    """Where programs are kept unless told otherwise: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "hypereyes-jax" / "programs"


def use_compile_cache(folder: Path, environment: MutableMapping[str, str] = os.environ) -> Path | None:
    """Has jax keep compiled programs in a folder of this kind of machine, and read them from there.

    Call it before jax is imported. jax names a program by its code, the compiler's version, flags and devices. A CPU
    program also depends on the processor, which jax does not look at: a home shared by different hosts would give one
    the other's machine code. So each kind of processor has a folder of its own.

    A program whose file a killed process left half-written is removed; so are the oldest ones when all together are
    larger than 8 GiB.

    Args:
      folder: of all machines.
      environment: where jax reads its settings.

    Returns:
      The folder in use; None where the user has set jax's own cache, or the folder can't be written (a run then
      compiles as if there were none).
    """
    if environment.get(_OWN):
        return None
    own = folder / f"{platform.machine()}-{_processor()}"
    try:
        own.mkdir(parents=True, exist_ok=True)
        _tidy(own)
    except OSError as error:
        print(visible(f"compiled programs are not kept: {error.strerror}: {own}"), file=sys.stderr)
        return None
    environment[_OWN] = str(own)
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(_SHORTEST))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
    return own


def _processor() -> str:
    """Names what machine code may use here: the processor's features."""
    features = platform.processor()
    with contextlib.suppress(OSError):  # not Linux
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        prefixes = ("model name", "flags", "Features", "CPU part")
        features = "\n".join(sorted({line for line in lines if line.startswith(prefixes)}))
    return hashlib.sha256(features.encode()).hexdigest()[:12]


def _tidy(folder: Path) -> None:
    """Removes entries that are broken, then the oldest until the rest is small enough."""
    stamp = folder / _STAMP
    since = stamp.stat().st_mtime_ns if stamp.exists() else 0
    files: list[tuple[int, int, Path]] = []
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        with contextlib.suppress(FileNotFoundError):  # another process tidies, too
            stat = path.stat()
            if stat.st_mtime_ns >= since and not _is_whole(path):
                path.unlink()
            else:
                files.append((max(stat.st_atime_ns, stat.st_mtime_ns), stat.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= _LARGEST:
            break
        path.unlink(missing_ok=True)
        total -= size
    stamp.touch()


def _is_whole(path: Path) -> bool:
    """Whether an entry can be decompressed; jax writes it in place, so a killed process leaves a part of it."""
    data = path.read_bytes()
    if not data.startswith(_ZSTANDARD):
        reader = zlib.decompressobj()
        try:
            reader.decompress(data)
        except zlib.error:
            return False
        return reader.eof
    if importlib.util.find_spec("zstandard") is not None:
        zstandard = importlib.import_module("zstandard")
        try:
            zstandard.ZstdDecompressor().decompress(data)
        except zstandard.ZstdError:
            return False
    return True
