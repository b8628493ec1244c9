import math

import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.train.finite import FiniteSteps

GOOD = {"loss": 1.0, "grad_norm": 2.0, "refused": 0.0}
BAD = {"loss": 1.0, "grad_norm": math.inf, "refused": 1.0}


def test_three_refused_steps_in_a_row_end_the_run_with_the_term():
    steps = FiniteSteps()
    steps.check(4, BAD)
    steps.check(5, BAD)
    with pytest.raises(UserError, match=r"steps 4 to 6 were skipped.*grad_norm is inf"):
        steps.check(6, BAD)


def test_a_good_step_between_starts_the_count_anew(caplog):
    steps = FiniteSteps()
    for step in range(20):
        steps.check(step, GOOD if step % 3 == 2 else BAD)
    assert "step 4 was skipped" in caplog.text
    assert "loss" not in caplog.text.split("unchanged: ")[1].split("\n")[0].replace("grad_norm", "")
