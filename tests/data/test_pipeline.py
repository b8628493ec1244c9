import itertools

import pytest

from hypereyes_jax.data.pipeline import Batches, PipelineConfig

DATA = [(number,) for number in range(20)]


def batches(config=PipelineConfig(batch=6, epochs=None), **kwargs):  # noqa: B008
    return Batches(DATA, lambda group: [number for (number,) in group], config, **kwargs)


def take(iterator, n):
    return list(itertools.islice(iterator, n))


def test_two_runs_with_one_seed_are_equal_and_another_seed_differs():
    assert take(batches(), 8) == take(batches(), 8)
    assert take(batches(), 8) != take(batches(PipelineConfig(batch=6, epochs=None, seed=1)), 8)


def test_an_epoch_holds_every_trajectory_once_and_epochs_are_shuffled_anew():
    flat = list(itertools.chain.from_iterable(batches(PipelineConfig(batch=5, epochs=2))))
    assert sorted(flat[:20]) == sorted(flat[20:]) == list(range(20))
    assert flat[:20] != flat[20:]


@pytest.mark.parametrize("done", [0, 1, 3, 7])
def test_a_restored_iterator_goes_on_exactly_where_the_other_stopped(done):
    first = batches()
    take(first, done)
    state = first.state()
    rest = take(first, 5)
    again = batches()
    again.restore(state)
    assert take(again, 5) == rest


def test_batches_packed_ahead_do_not_move_the_saved_place():
    iterator = batches(PipelineConfig(batch=6, epochs=None, prefetch=8))
    take(iterator, 2)
    assert iterator.state() == (lambda it: (take(it, 2), it.state())[1])(batches())


def test_processes_share_a_batch_without_overlap():
    whole = take(batches(), 4)
    parts = [take(batches(process_index=i, process_count=2), 4) for i in range(2)]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(batch) for batch in whole]


def test_impossible_batches_are_refused():
    with pytest.raises(ValueError, match="does not divide among 4 processes"):
        batches(process_count=4)
    with pytest.raises(ValueError, match="make no batch of 64"):
        batches(PipelineConfig(batch=64))
