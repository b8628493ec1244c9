import numpy as np

from hypereyes_jax.env.types import Question
from hypereyes_jax.train.question_order import QuestionOrder
from hypereyes_jax.train.settings import RlSettings

QUESTIONS = [Question(f"q-{n}", "Which one?", (), ("x",)) for n in range(7)]
SETTINGS = RlSettings(steps=8, prompts=3, group=2, seed=5)


def test_an_epoch_plays_no_question_twice_and_drops_the_incomplete_batch():
    order = QuestionOrder(QUESTIONS, SETTINGS)
    for epoch in range(3):
        played = order.of_step(2 * epoch) + order.of_step(2 * epoch + 1)  # two batches of three out of seven
        assert len(set(played)) == 6
        assert set(played) < set(range(7))


def test_each_epoch_has_a_permutation_of_its_own_and_a_seed_its_own_epochs():
    order = QuestionOrder(QUESTIONS, SETTINGS)
    epochs = [order.of_step(2 * epoch) + order.of_step(2 * epoch + 1) for epoch in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = QuestionOrder(QUESTIONS, RlSettings(steps=8, prompts=3, group=2, seed=6))
    assert [other.of_step(step) for step in range(8)] != [order.of_step(step) for step in range(8)]
    assert epochs[1] == QuestionOrder(QUESTIONS, SETTINGS).of_step(2) + QuestionOrder(QUESTIONS, SETTINGS).of_step(3)


def test_an_epoch_ends_with_its_last_whole_batch():
    order = QuestionOrder(QUESTIONS, SETTINGS)
    assert [order.ends_epoch(step) for step in range(5)] == [False, True, False, True, False]


def test_a_group_is_the_question_of_its_place_in_its_step_with_seeds_that_no_other_group_has():
    order = QuestionOrder(QUESTIONS, SETTINGS)
    plans = [order.plan(number) for number in range(9)]  # of three steps
    for number, plan in enumerate(plans):
        step, place = divmod(number, 3)
        assert plan.question.id == f"q-{order.of_step(step)[place]}"
        assert len(plan.seeds) == 2
    seeds = np.concatenate([plan.seeds for plan in plans])
    assert len(set(seeds.tolist())) == 18
