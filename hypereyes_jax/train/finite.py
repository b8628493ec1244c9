"""Ends a training whose steps come to no numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from hypereyes_jax.errors import UserError

IN_A_ROW = 3  # one may be a batch that overflowed; of three in a row the weights, the data or the settings are at fault

_LOG = logging.getLogger(__name__)


class FiniteSteps:
    """Watches for steps that the learner refused, because their loss or gradient was not finite.

    A refused step leaves weights and moments as they were (`learner.Learner`), so what is saved is always finite.
    """

    def __init__(self) -> None:
        self._refused = 0  # in a row, up to now

    def check(self, step: int, figures: Mapping[str, float]) -> None:
        """Logs a refused step with the terms that are not finite. Call it after each step.

        Args:
          figures: the learner's, by their names; `refused` is 1 where it refused the step.

        Raises:
          UserError: the last `IN_A_ROW` steps were refused.
        """
        if not figures["refused"]:
            self._refused = 0
            return
        self._refused += 1
        terms = ", ".join(f"{name} is {value}" for name, value in sorted(figures.items()) if not math.isfinite(value))
        _LOG.warning("step %d was skipped, and the weights are unchanged: %s", step, terms)
        if self._refused == IN_A_ROW:
            raise UserError(
                f"steps {step - IN_A_ROW + 1} to {step} were skipped, because their figures were not finite ({terms}). "
                "Weights and checkpoints are those from before. Give a lower --settings.learning-rate, or check the "
                "data of these steps."
            )
