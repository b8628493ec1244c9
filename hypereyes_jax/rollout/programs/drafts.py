"""Prompt lookup: what a rollout will probably sample next, read from what has been written before.

A decode step of a large model takes as long for a few tokens a row as for one: it reads the same weights. So a step may
be fed guesses of the next tokens beside the last one. It draws a token behind each of them, with the random number that
this place has anyway, and throws away what stands behind the first wrong guess. Tokens and log-probs are those of plain
sampling, however good the guesses are.

Tool calls quote the question, answers quote results, and the samples of a group resemble each other. So the guess is
what followed the latest of the longest runs of tokens that match the last ones, in the rollout's own record and in what
the engine has sampled of late. Axis letters: R rows of a call, N known tokens, J drafts, T = J + 1 tokens of a step.

Prompt lookup decoding is due to Apoorv Saxena (2023); verification with the sampler's own random numbers keeps exactly
its tokens, where speculative sampling (Leviathan et al., arXiv 2211.17192) keeps their distribution.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Items

import jax
import jax.numpy as jnp
import numpy as np

MATCHED = 4  # tokens, at most, by which a place to copy from is found
_RECENT = 4096  # tokens sampled of late that all rows may copy from


class RecentTokens:
    """What an engine sampled of late, as one text: the pieces of its calls, each behind what came before it."""

    def __init__(self) -> None:
        self._tokens = np.full(_RECENT, -1, np.int32)

    def note(self, record: np.ndarray, count: int) -> None:
        """Appends the last `count` tokens of a rollout's record, with a few before them by which they are found."""
        piece = record[max(0, len(record) - count - MATCHED) :][-_RECENT:]
        self._tokens = np.concatenate([self._tokens[len(piece) :], piece])

    def beside(self, records: Items[np.ndarray], places: Iterable[int], rows: int, longest: int) -> np.ndarray:
        """int32 [rows, N]: these tokens and, at the end of its row, each record; -1 is no token.

        Args:
          records: int32, of at most `longest` tokens.
          places: their rows.
        """
        known_RN = np.full((rows, _RECENT + longest), -1, np.int32)
        known_RN[:, :_RECENT] = self._tokens
        for row, record in zip(places, records, strict=True):
            known_RN[row, known_RN.shape[1] - len(record) :] = record
        return known_RN


def propose(known_RN: jax.Array, last_R: jax.Array, count: int) -> jax.Array:
    """int32 [R, count]: the tokens that followed the latest of the longest matches of a row's last tokens.

    At most MATCHED tokens are compared. Where nothing matches, or fewer tokens followed, the rest is arbitrary.

    Args:
      known_RN: int32 tokens; -1 is none.
      last_R: int32, the place of a row's last token, at least MATCHED.
    """
    places_N = jnp.arange(known_RN.shape[1])
    before_RN = places_N < last_R[:, None]
    run_RN, same_RN = jnp.zeros(known_RN.shape, jnp.int32), before_RN
    for back in range(MATCHED):
        token_R1 = jnp.take_along_axis(known_RN, last_R[:, None] - back, axis=1)
        shifted_RN = jnp.pad(known_RN, ((0, 0), (back, 0)), constant_values=-1)[:, : known_RN.shape[1]]
        same_RN &= (shifted_RN == token_R1) & (token_R1 >= 0)
        run_RN += same_RN
    best_R = jnp.argmax(jnp.where(before_RN, run_RN * known_RN.shape[1] + places_N, -1), axis=1)
    from_RJ = jnp.minimum(best_R[:, None] + 1 + jnp.arange(count), last_R[:, None])
    return jnp.maximum(jnp.take_along_axis(known_RN, from_RJ, axis=1), 0)


def accepted(drafts_RJ: jax.Array, drawn_RT: jax.Array) -> jax.Array:
    """int32 [R]: how many drawn tokens count, from the first on: one, and those behind drafts that were drawn, too."""
    return 1 + jnp.cumprod(drafts_RJ == drawn_RT[:, :-1], axis=1, dtype=jnp.int32).sum(axis=1)
