"""Where downloads and rewritten files are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(folder: Path | None, part: str) -> Path:
    """`part` of the chosen folder; by default of hypereyes below $XDG_CACHE_HOME or ~/.cache. It need not exist."""
    if folder is not None:
        return folder / part
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hypereyes" / part
