"""What a training has logged so far, read while it may still be writing."""

import json
from pathlib import Path
from typing import Any


def logged_rows(out: Path, phase: str = "") -> list[dict[str, Any]]:
    """The rows of a run's metrics, of one phase if it is named; a last line that is half written is left out."""
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in rows if not phase or row["phase"] == phase]


def logged_steps(out: Path, phase: str = "") -> list[int]:
    return [row["step"] for row in logged_rows(out, phase)]
