"""Rollouts of training, kept to be looked at: whoever hacks the reward is seen here.

    rollouts/step-000012.jsonl.gz       trajectory records of sampled groups of step 12, one a line, images included

The files of a run stay below a bound: beyond it, steps between others are thinned out, so that what is left spreads
evenly over the run, its first and last step included.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.records import TrajectoryRecord, parse_record, record_line
from hypereyes_jax.files import parse_file_json, read_file, write_atomic, writing

ROLLOUTS = "rollouts"  # folder in a run's directory
TRAINING = "training"  # stage of their records
_NAME = re.compile(r"step-(\d{1,9})\.jsonl\.gz")
_MOST_BYTES = 2**28  # of one file's text


def write_rollouts(directory: Path, step: int, records: Sequence[TrajectoryRecord], most_bytes: int) -> None:
    """Keep the records of a step, and thin out others where all together exceed `most_bytes`.

    Raises:
      UserError: the file can't be written.
    """
    folder = directory / ROLLOUTS
    with writing(folder):
        folder.mkdir(exist_ok=True)
    text = "".join(map(record_line, records)).encode()
    # mtime=0: the same rollouts are the same file
    write_atomic(folder / f"step-{step:06d}.jsonl.gz", gzip.compress(text, compresslevel=6, mtime=0))
    _thin_out(folder, most_bytes)


def drop_rollouts(directory: Path, first_step: int) -> None:
    """Remove those of a step from `first_step` on, which a run that goes on from a checkpoint makes again."""
    for step, path in rollout_steps(directory):
        if step >= first_step:
            with writing(path):
                path.unlink(missing_ok=True)


def rollout_steps(directory: Path) -> list[tuple[int, Path]]:
    """Steps whose rollouts are kept, oldest first, with their files."""
    steps = []
    for path in (directory / ROLLOUTS).glob("step-*.jsonl.gz"):
        name = _NAME.fullmatch(path.name)
        if name is not None:
            steps.append((int(name[1]), path))
    return sorted(steps)


def read_rollouts(path: Path) -> Iterator[TrajectoryRecord]:
    """The records of one step's file.

    Raises:
      UserError: the file can't be read, is damaged, or unpacks to more than 256 MiB; names it.
    """
    data = read_file(path, _MOST_BYTES)
    unpacker = zlib.decompressobj(wbits=31)  # gzip's
    try:
        text = unpacker.decompress(data, _MOST_BYTES)
    except zlib.error as error:
        raise UserError(f"{path} is damaged ({error}). Remove it.") from None
    if not unpacker.eof:
        raise UserError(f"{path} is damaged (it is cut off, or unpacks to more than {_MOST_BYTES:,} bytes). Remove it.")
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            value = parse_file_json(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number} is damaged ({error}). Remove the file.") from None
        yield parse_record(value, path, number)


def sampled_steps(steps: Sequence[tuple[int, Path]], most: int) -> list[tuple[int, Path]]:
    """A sample of the steps, at most so many, spread evenly, first and last included."""
    if len(steps) <= most:
        return list(steps)
    if most < 2:
        return list(steps[-1:][:most])
    places = sorted({round(number * (len(steps) - 1) / (most - 1)) for number in range(most)})
    return [steps[place] for place in places]


def _thin_out(folder: Path, most_bytes: int) -> None:
    files = rollout_steps(folder.parent)
    with writing(folder):
        sizes = {path: path.stat().st_size for _, path in files}
        total = sum(sizes.values())
        while total > most_bytes and len(files) > 2:
            # The one whose neighbours are closest is missed least; of several the oldest.
            place = min(range(1, len(files) - 1), key=lambda n: files[n + 1][0] - files[n - 1][0])
            _, path = files.pop(place)
            path.unlink(missing_ok=True)
            total -= sizes[path]
