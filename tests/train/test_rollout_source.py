"""Settings of rollouts ahead and of replayed experts that do not fit are refused before anything is spent."""

from dataclasses import replace

import pytest

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.replicas import ReplicaGroups
from hypereyes_jax.train.rollout_source import check_ahead, check_replicas_ahead, check_routing_replay
from hypereyes_jax.train.settings import RlSettings
from hypereyes_jax.train.sizes import MINIATURE_RL
from tests import small_models

LEARNER = MINIATURE_RL.learner
MODEL = Qwen3VLConfig(small_models.TEXT, small_models.VISION, 1, 2, 3, 4)


def of_experts(count):
    text = replace(MODEL.text, num_experts=count, num_experts_per_tok=min(2, count), moe_intermediate_size=16)
    return replace(MODEL, text=text)


def test_what_is_the_default_and_what_fits_is_taken():
    check_ahead(RlSettings(), LEARNER)
    check_ahead(RlSettings(ahead=2), LEARNER)
    assert RlSettings(ahead=2).staleness_limit == 3
    check_routing_replay(RlSettings(), MODEL)
    check_routing_replay(RlSettings(routing_replay="sampler"), of_experts(128))


@pytest.mark.parametrize(
    ("settings", "learner", "message"),
    [
        ({"ahead": -1}, {}, "must be 0 steps or more"),
        ({"max_staleness": 2}, {}, "add --settings.ahead"),
        ({"ahead": 2, "max_staleness": 1}, {}, "raise it to at least"),
        ({"ahead": 1}, {"tis_cap": 0.0}, "unweighted"),
    ],
)
def test_rollouts_ahead_that_do_not_fit_are_refused(settings, learner, message):
    with pytest.raises(UserError, match=message):
        check_ahead(RlSettings(**settings), replace(LEARNER, **learner))


def test_replicas_that_processes_share_do_not_run_ahead():
    own, shared = ReplicaGroups(0, ((0,), (1,))), ReplicaGroups(0, ((0, 1),))
    check_replicas_ahead(RlSettings(ahead=1), own)
    check_replicas_ahead(RlSettings(), shared)
    with pytest.raises(UserError, match="each replica on the devices of one process"):
        check_replicas_ahead(RlSettings(ahead=1), shared)


def test_a_run_that_is_to_be_repeated_does_not_run_ahead():
    check_ahead(RlSettings(), LEARNER, exact=True)
    with pytest.raises(UserError, match="timing decides"):
        check_ahead(RlSettings(ahead=1), LEARNER, exact=True)


def test_what_a_server_cannot_do_is_refused():
    with pytest.raises(UserError, match="a server samples"):
        check_ahead(RlSettings(ahead=1), LEARNER, on_server=True)
    with pytest.raises(UserError, match="which a server does not"):
        check_routing_replay(RlSettings(routing_replay="sampler"), of_experts(128), on_server=True)


@pytest.mark.parametrize("experts", [0, 256])
def test_experts_that_a_byte_does_not_name_are_not_replayed(experts):
    with pytest.raises(UserError, match="needs a model with 1 to 255 experts"):
        check_routing_replay(RlSettings(routing_replay="sampler"), of_experts(experts))
