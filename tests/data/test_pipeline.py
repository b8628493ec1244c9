import itertools

import pytest

from hypereyes_jax.data.pipeline import Batches, PipelineConfig
from hypereyes_jax.errors import UserError

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


@pytest.mark.parametrize(
    ("count", "batch", "processes", "steps"), [(11, 4, 2, 2), (10, 4, 4, 2), (13, 6, 3, 2), (8, 4, 2, 2)]
)
def test_every_process_has_as_many_batches_as_the_others(count, batch, processes, steps):
    for index in range(processes):
        config = PipelineConfig(batch=batch, epochs=1)
        assert len(list(Batches([(i,) for i in range(count)], list, config, index, processes))) == steps


class Opened:
    """A source that says which rows were opened."""

    def __init__(self, count):
        self.count, self.rows = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError
        self.rows.append(index)
        return (index,)


def test_a_process_opens_only_its_own_rows_and_no_more_than_are_packed_ahead():
    config = PipelineConfig(batch=4, epochs=1, prefetch=2, workers=3)
    sources = [Opened(400) for _ in range(2)]
    parts = [Batches(source, list, config, i, 2) for i, source in enumerate(sources)]
    got = [take(part, 10) for part in parts]
    for source, batches_got in zip(sources, got, strict=True):
        used = {number for batch in batches_got for (number,) in batch}
        assert used <= set(source.rows)
        assert len(source.rows) <= 2 * (10 + 2 + 2)
    assert not set(sources[0].rows) & set(sources[1].rows)


def test_an_error_of_a_row_reaches_whoever_asks_for_the_batch():
    class Broken(Opened):
        def __getitem__(self, index):
            raise UserError("the file changed")

    with pytest.raises(UserError, match="the file changed"):
        next(Batches(Broken(8), list, PipelineConfig(batch=4)))
