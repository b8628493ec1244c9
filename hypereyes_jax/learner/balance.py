"""Which process packs which sample of a step, so that all processes together compute the fewest positions.

A step is as long as its fullest process makes it. Each has the trajectories that it played, or read, and these are
longer in one process than in another. So some samples are packed by another process, where that makes the step shorter.
Pure functions of the samples' lengths: every process makes the same plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from hypereyes_jax.learner.packing import fewest_positions, first_fit_decreasing, micro_batches

Owners = list[list[int]]  # of each process's samples, the process that packs it


class Balance(NamedTuple):
    """The plan of one step."""

    row_length: int  # tokens
    micro_batches: int  # of the process that needs most
    owners: Owners


def moves(owners: Owners) -> int:
    """The samples that are packed by another process than the one that has them."""
    return sum(owner != process for process, own in enumerate(owners) for owner in own)


def stay(lengths: Sequence[Sequence[int]], choices: Sequence[int], rows: int) -> Balance:
    """The plan of processes that pack their own samples: arguments and errors are those of `balance`."""
    fitting = _fitting(lengths, choices)
    needs = [micro_batches(own, fitting, rows) for own in lengths]
    length = fewest_positions(needs)
    owners = [[process] * len(own) for process, own in enumerate(lengths)]
    return Balance(length, max(each[length] for each in needs), owners)


def balance(lengths: Sequence[Sequence[int]], choices: Sequence[int], rows: int) -> Balance:
    """The row length and the processes that pack, with which a step computes the fewest positions.

    Nothing moves unless that makes the step shorter. Every process keeps at least one sample.

    Args:
      lengths: tokens of each process's samples; every process has at least one.
      choices: row lengths to choose from.
      rows: of a micro-batch, in each process.

    Raises ValueError if a sample is longer than the longest of the rows.
    """
    best = stay(lengths, choices, rows)
    fitting = _fitting(lengths, choices)
    everyone = [each for own in lengths for each in own]
    step_rows = rows * len(lengths)
    least = {length: -(-len(first_fit_decreasing(everyone, length)) // step_rows) for length in fitting}
    for length in sorted(fitting, key=lambda length: (least[length] * length, length)):
        if least[length] * length >= best.micro_batches * best.row_length:
            break
        most = least[length] * rows
        tries = (_with_few_moves(lengths, length, most, kept) for kept in range(most, 0, -1))
        owners = next((each for each in tries if each is not None), None) or _with_bins_of_all(lengths, length, most)
        if owners is not None:
            return Balance(length, least[length], owners)
    return best


def _fitting(lengths: Sequence[Sequence[int]], choices: Sequence[int]) -> list[int]:
    longest = max(map(max, lengths))
    fitting = sorted(length for length in choices if length >= longest)
    if not fitting:
        raise ValueError(f"a sample of this step has {longest} tokens, more than the longest of the rows {choices}")
    return fitting


def _with_few_moves(lengths: Sequence[Sequence[int]], length: int, most: int, kept: int) -> Owners | None:
    """Each process keeps its `kept` fullest rows; the other samples go where they fit best, in `most` rows by each."""
    owners = [[process] * len(own) for process, own in enumerate(lengths)]
    room: list[list[int]] = []  # (free tokens, process) of each row
    left: list[tuple[int, int, int]] = []  # (tokens, process, sample)
    for process, own in enumerate(lengths):
        bins = sorted(first_fit_decreasing(own, length), key=lambda members: -sum(own[i] for i in members))
        room += [[length - sum(own[i] for i in members), process] for members in bins[:kept]]
        room += [[length, process] for _ in range(most - len(bins[:kept]))]
        left += [(own[i], process, i) for members in bins[kept:] for i in members]
    for tokens, process, sample in sorted(left, key=lambda each: -each[0]):
        fitting = [row for row in room if row[0] >= tokens]
        if not fitting:
            return None
        row = min(fitting, key=lambda row: (row[0], row[1] != process))
        owners[process][sample] = row[1]
        row[0] -= tokens
    return owners if _fits(lengths, owners, length, most) else None


def _with_bins_of_all(lengths: Sequence[Sequence[int]], length: int, most: int) -> Owners | None:
    """Rows of all processes' samples, each packed by a process that has much of it, at most `most` by each."""
    places = [(process, sample) for process, own in enumerate(lengths) for sample in range(len(own))]
    flat = [lengths[process][sample] for process, sample in places]
    bins = first_fit_decreasing(flat, length)
    kept = np.zeros((len(bins), len(lengths)))  # tokens that need not move
    for number, members in enumerate(bins):
        for member in members:
            kept[number, places[member][0]] += flat[member]
    numbers, columns = linear_sum_assignment(np.repeat(kept, most, axis=1), maximize=True)
    owners = [[process] * len(own) for process, own in enumerate(lengths)]
    for number, column in zip(numbers, columns, strict=True):
        for member in bins[number]:
            process, sample = places[member]
            owners[process][sample] = int(column) // most
    return owners if _fits(lengths, owners, length, most) else None


def _fits(lengths: Sequence[Sequence[int]], owners: Owners, length: int, most: int) -> bool:
    """Whether each process gets at least one sample, and at most `most` rows as `pack` fills them."""
    shares: list[list[int]] = [[] for _ in lengths]
    for own, owners_of_own in zip(lengths, owners, strict=True):
        for tokens, owner in zip(own, owners_of_own, strict=True):
            shares[owner].append(tokens)
    return all(share and len(first_fit_decreasing(share, length)) <= most for share in shares)
