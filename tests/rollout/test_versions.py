"""Versions of the weights along a rollout, and how far they lie behind."""

from hypereyes_jax.rollout.versions import version_figures, version_spans
from tests.rollout.stamped import stamped_trajectory


def test_staleness_is_counted_over_tokens_and_partial_rollouts_over_rollouts():
    figures = version_figures([stamped_trajectory([3, 3], [3, 4]), stamped_trajectory([5, 5, 5, 5])], 5)
    assert figures == {"staleness": (2 + 2 + 2 + 1) / 8, "staleness_max": 2.0, "partial_rollouts": 0.5}
    assert version_figures([stamped_trajectory()], 5)["staleness"] == 0


def test_the_versions_along_a_rollout_are_told_by_tokens():
    assert version_spans(stamped_trajectory([3, 3], [3, 4], [4])) == [(3, 3), (4, 2)]
