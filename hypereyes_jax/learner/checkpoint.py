"""Checkpoints of a training run: written in the background, whole or absent, verified when read, kept by policy.

A checkpoint holds the weights that train, the optimiser, the step, the RNG, and one JSON-able cursor: the place in the
data, TRACE references, the rollout's place, whatever the loop needs to go on as if nothing had happened. Frozen weights
are not written; a checksum makes sure that a resumed run has the same ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import CURES, json_digest, writing
from hypereyes_jax.learner.background_errors import print_once
from hypereyes_jax.learner.state import TrainState

# What Orbax and TensorStore raise on files that are missing, cut short or altered, beside a bare `Exception`.
_UNREADABLE = (ValueError, KeyError, TypeError, OSError)
# TensorStore's words for a storage that could not be asked, at the beginning of its errors.
_REFUSED = "UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|ABORTED"
# What the system says of a file that is not there, as a part of a checkpoint that is not whole.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


class CheckpointDamaged(UserError):
    """A checkpoint that can't be read back as it was written."""


@dataclasses.dataclass(frozen=True)
class KeepPolicy:
    """Which checkpoints are kept."""

    latest: int = 8  # the paper keeps 8
    every: int | None = None  # steps that are multiples of this are never deleted


class CheckpointSchedule:
    """When to write a checkpoint: every so many steps, after so much time, and after the last step.

    A long step makes "every 20 steps" hours; a short one makes "every 10 minutes" many steps. Whichever comes first
    counts, so that a crash never costs much.
    """

    def __init__(self, every: int, minutes: float, last: int, clock: Callable[[], float] = time.monotonic):
        """
        Args:
          every: steps; multiples of it are written.
          minutes: since the last one, or since the start; 0 = by steps only.
          last: number of steps of the run.
        """
        if every < 1 or not minutes >= 0:
            raise UserError("--settings.checkpoint-every must be at least 1, --settings.checkpoint-minutes at least 0")
        self._every, self._seconds, self._last, self._clock = every, 60 * minutes, last, clock
        self._written_at = clock()

    def is_due(self, steps: int) -> bool:
        """Whether to write one now, after `steps` steps in all."""
        late = self._seconds > 0 and self._clock() - self._written_at >= self._seconds
        return steps % self._every == 0 or steps == self._last or late

    def written(self) -> None:
        """Count the time from now on."""
        self._written_at = self._clock()


@jax.jit
def checksums(tree: Any) -> Any:
    """A uint32 for each leaf that any single changed bit changes. Independent of how the leaf is sharded."""

    def one(x: jax.Array) -> jax.Array:
        bits = x if x.dtype == jnp.uint32 else jax.lax.bitcast_convert_type(x, f"uint{x.dtype.itemsize * 8}")
        index, stride = jnp.zeros(x.shape, jnp.uint32), 1
        for axis in reversed(range(x.ndim)):  # not a reshape: it would gather a sharded leaf
            index += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
            stride *= x.shape[axis]
        # Odd factors are invertible modulo 2^32: no flipped bit is lost, and swapped values are seen.
        return jnp.sum(bits.astype(jnp.uint32) * (2 * index + 1), dtype=jnp.uint32)

    return jax.tree.map(one, tree)


def _named_checksums(tree: Any) -> dict[str, int]:
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(checksums(tree)))
    return {jax.tree_util.keystr(path): int(value) for path, value in leaves}


def weights_digest(params: Any) -> str:
    """sha256, in hex, of the checksums of all weights: two models with one digest have the same weights."""
    return json_digest(_named_checksums(params))


class Checkpoints:
    """The checkpoints of one run. Close it (or use `with`) so that the last one is finished."""

    def __init__(self, directory: Path | str, keep: KeepPolicy = KeepPolicy(), run: str = ""):
        """
        Args:
          directory: a path, or as text a URL of gs:// (which needs gcsfs). Several processes share it.
          run: id of the run that they are of. One that carries another is refused; without an id, none is.

        Raises UserError if it can't be made or read, as CheckpointDamaged if its checkpoints can't be listed.
        """
        self.directory = directory if isinstance(directory, str) else directory.resolve()
        self._run = run
        self._gone_back_to: int | None = None
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep.latest,
            keep_period=keep.every,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        logging.getLogger("absl").setLevel(logging.WARNING)  # Orbax reports each save there
        print_once()
        try:
            with _saving(self.directory):
                self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=("state", "cursor"))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointDamaged(
                f"the checkpoints in {self.directory} can't be listed ({_first_line(error)}): a _CHECKPOINT_METADATA "
                "in one of them is damaged. Remove that file, which tells only when and by what it was "
                "written, and run the same command again."
            ) from error

    @property
    def steps(self) -> list[int]:
        """Finished checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, cursor: dict[str, Any]) -> None:
        """Write the state at `state.step`. Returns once the state is copied: it may be donated or changed at once.

        An error of the write before (a full disk) is raised here or by `close`.
        """
        arrays = _without_frozen(state)
        sums = {"saved": _named_checksums(arrays), "frozen": _named_checksums(state.frozen)}
        meta = {"cursor": cursor, "checksums": sums, "gone_back_to": self._gone_back_to, "run": self._run}
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), cursor=ocp.args.JsonSave(meta | {"digest": json_digest(meta)})
        )
        with _saving(self.directory):
            self._manager.save(int(state.step), args=arguments)

    def restore(self, like: TrainState, step: int | None = None) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint, or that of `step`; None when there is none at all.

        Going back to `step` removes the checkpoints after it. Asked for again, it is the newest made since: a command
        that goes back can be started again after a crash as any other.

        `like` gives shapes, dtypes, shardings (any mesh) and the frozen weights.

        Raises:
          CheckpointDamaged: it is incomplete or differs from what was written. Nothing older is used unless asked for.
          UserError: no checkpoint of that step, one of another run, another model, other frozen weights, or a storage
            that can't be read.
        """
        if step is None and not self.steps:
            return None
        number = self.steps[-1] if step is None else self._asked_for(step)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _without_frozen(like))
        meta = self._meta(number)
        sums, cursor = meta["checksums"], meta["cursor"]
        if self._run and meta.get("run", "") not in ("", self._run):
            raise UserError(
                f"{self.directory}/{number} was written by another run. Put this run's own checkpoints back, or choose "
                "another directory."
            )
        if _named_checksums(like.frozen) != sums["frozen"]:
            raise UserError(
                f"{self.directory}/{number} was trained on other frozen weights than those loaded now. "
                "Start from the same base model, or use another directory."
            )
        if set(sums["saved"]) != set(_paths(abstract)):
            different = sorted(set(sums["saved"]) ^ set(_paths(abstract)))
            raise UserError(
                f"{self.directory}/{number} holds another kind of model or optimiser: {different[0]} is in one "
                "and not in the other. Use the settings the run was started with, or another directory."
            )
        arrays = self._read(number, state=ocp.args.StandardRestore(abstract)).state
        now = _named_checksums(arrays)
        changed = [name for name, value in sums["saved"].items() if now[name] != value]
        if changed:
            raise self._damaged(number, f"the content of {changed[0]} changed after it was written")
        for later in [each for each in self.steps if each > number]:
            self._manager.delete(later)
        self._gone_back_to = step if step is not None else meta.get("gone_back_to")
        return TrainState(frozen=like.frozen, **arrays), cursor

    def _asked_for(self, step: int) -> int:
        """`step`, or the newest checkpoint if it was made after going back to that."""
        newest = self.steps[-1] if self.steps else None
        if newest is not None and newest != step:
            with contextlib.suppress(CheckpointDamaged):
                if self._meta(newest).get("gone_back_to") == step:
                    return newest
        if step not in self.steps:
            raise UserError(f"{self.directory} has no checkpoint of step {step}; it has {self.steps}.")
        return step

    def _meta(self, step: int) -> dict[str, Any]:
        meta = self._read(step, cursor=ocp.args.JsonRestore()).cursor
        if not isinstance(meta, dict) or meta.pop("digest", None) != json_digest(meta):
            raise self._damaged(step, "the content of cursor/metadata changed after it was written")
        return meta

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:
            if _storage_failed(error, self.directory):
                raise _unreachable(f"{self.directory}/{step}", error) from error
            if isinstance(error, _UNREADABLE) or type(error) is Exception:
                raise self._damaged(step, error) from error
            raise

    def _damaged(self, step: int, why: object) -> CheckpointDamaged:
        first_line = _first_line(why)
        before = [s for s in self.steps if s < step]
        place = f"{self.directory}/{step}"
        cure = "There is none before it: remove the directory to start over"
        if before:
            go_back = f"give `--resume-step {before[-1]}` to `hypereyes sft` or `rl`, or remove {place}"
            cure = f"To go on from the one before, {go_back}"
        return CheckpointDamaged(f"checkpoint {place} is damaged: {first_line}. {cure}.")

    def wait(self) -> None:
        """Waits until everything saved is on the disk."""
        with _saving(self.directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def read_trainable(directory: Path, step: int | None = None) -> tuple[int, dict[str, Any]]:
    """(step, the weights that trained) of a finished checkpoint, the newest by default: nested dicts of numpy arrays.

    Only these are read, not the optimiser, and nothing is written: a run may go on in the directory meanwhile.

    Raises:
      UserError: there is no such checkpoint, or the storage can't be read.
      CheckpointDamaged: it is incomplete, or differs from what was written.
    """
    steps = (
        sorted(int(path.name) for path in directory.glob("[0-9]*") if path.name.isdigit()) if directory.is_dir() else []
    )
    if not steps or (step is not None and step not in steps):
        request = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        raise UserError(f"{directory} does not hold {request}; it has those of steps {steps or 'none'}.")
    number = steps[-1] if step is None else step
    place = directory.resolve() / str(number)
    logging.getLogger("absl").setLevel(logging.WARNING)
    try:
        with ocp.PyTreeCheckpointer() as reader:
            metadata = reader.metadata(place / "state")
            tree = getattr(metadata, "item_metadata", metadata)
            tree = getattr(tree, "tree", tree)
            wanted_tree = {
                "trainable": jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree["trainable"])
            }
            how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted_tree)
            arguments = ocp.args.PyTreeRestore(item=wanted_tree, restore_args=how, partial_restore=True)
            arrays = reader.restore(place / "state", args=arguments)
        meta = json.loads((place / "cursor" / "metadata").read_text(encoding="utf-8"))
        sums = meta["checksums"]["saved"]
    except Exception as error:
        if _storage_failed(error, directory):
            raise _unreachable(str(place), error) from error
        if isinstance(error, _UNREADABLE) or type(error) is Exception:
            raise CheckpointDamaged(
                f"checkpoint {place} is damaged: {_first_line(error)}. Give the step of another."
            ) from error
        raise
    # a Lora was saved by its attributes, and is read as a dict
    expected = {re.sub(r"\.(\w+)", r"['\1']", name): value for name, value in sums.items()}
    for name, value in _named_checksums(arrays).items():
        if expected.get(name) != value:
            raise CheckpointDamaged(
                f"checkpoint {place} is damaged: the content of {name} changed after it was written. Give the step of "
                "another."
            )
    return number, arrays["trainable"]


@contextlib.contextmanager
def _saving(directory: Path | str) -> Iterator[None]:
    """Does what `writing` does, for TensorStore too, which reports a refusal in a ValueError of many lines.

    What a bucket's clients raise, each in its own way, is one UserError.
    """
    if isinstance(directory, str):
        try:
            yield
        except Exception as error:
            if not _of_a_bucket(error):
                raise
            raise UserError(
                f"{directory} can't be read or written ({_first_line(error)}). Check the address and your access to "
                "it; the same command continues from the last checkpoint."
            ) from error
        return
    with writing(directory):
        try:
            yield
        except ValueError as error:
            match = re.search(r"os_error_code='(\d+)'", str(error))
            code = int(match[1]) if match else errno.ENOSPC if "No space left on device" in str(error) else None
            if code not in CURES:
                raise
            raise OSError(code, os.strerror(code), str(directory)) from error


def _of_a_bucket(error: Exception) -> bool:
    """Whether an error is one that a bucket's clients raise, or TensorStore, whose are plain ones."""
    return _of_a_client(error) or isinstance(error, OSError | ValueError | RuntimeError | ImportError)


def _of_a_client(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in ("aiohttp", "gcsfs", "google", "requests")


def _storage_failed(error: Exception, directory: Path | str) -> bool:
    """Whether the place could not be asked (no answer, no permission), which says nothing about what lies there."""
    if match := re.search(r"os_error_code='(\d+)'", str(error)):
        return int(match[1]) not in _ABSENT
    if re.match(_REFUSED, str(error)):
        return True
    if isinstance(error, FileNotFoundError):
        return False
    if isinstance(directory, str):  # gcsfs raises OSError without a number
        return _of_a_client(error) or isinstance(error, OSError)
    return isinstance(error, OSError) and error.errno is not None and error.errno not in _ABSENT


def _unreachable(place: str, error: Exception) -> UserError:
    return UserError(
        f"checkpoint {place} can't be read ({_first_line(error)}). It may be whole: check the storage and your access "
        "to it, and run the same command again."
    )


def _first_line(why: object) -> str:
    return (str(why).strip() or type(why).__name__).split("\n")[0][:300].rstrip(".")


def _without_frozen(state: TrainState) -> dict[str, Any]:
    return {each.name: getattr(state, each.name) for each in dataclasses.fields(state) if each.name != "frozen"}


def _paths(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
