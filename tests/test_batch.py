import gevent
import pytest
from gevent.monkey import get_original
from lab import WAIT, until

from batch import Batch
from workers import Workers

Outcome = tuple[int | Exception, list[str]]


class Source:
    """Supplies numbers; the first supply waits at a gate, so that others arrive meanwhile, and the second may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.counts: list[int] = []
        self.gate = get_original("_thread", "allocate_lock")()
        self._error = error
        self._next = 0

    def supply(self, count: int, notes: list[str]) -> range:
        self.counts.append(count)
        if len(self.counts) == 1:
            assert self.gate.acquire(timeout=WAIT)
        elif self._error is not None and len(self.counts) == 2:
            raise self._error
        notes.append(f"{count} supplied")
        self._next += count
        return range(self._next - count, self._next)


def outcomes(batch: Batch[int], source: Source) -> list[Outcome]:
    """The outcomes for one caller, and for three more that arrive while the first is being supplied."""
    workers = Workers(4)

    def take() -> Outcome:
        notes: list[str] = []
        try:
            return batch.take(notes), notes
        except ValueError as error:
            return error, notes

    with source.gate:
        takes = [gevent.spawn(workers.run, take)]
        until(lambda: source.counts == [1])
        takes += [gevent.spawn(workers.run, take) for _ in range(3)]
        until(lambda: len(batch._orders) == 3)
    return [one.get(timeout=WAIT) for one in takes]


def test_those_who_wait_are_supplied_together() -> None:
    source = Source()
    batch = Batch(source.supply)
    (first, notes), *others = outcomes(batch, source)
    assert (first, notes) == (0, ["1 supplied"])
    assert {number for number, _ in others} == {1, 2, 3}
    assert sorted(notes for _, notes in others) == [[], [], ["3 supplied"]]
    assert source.counts == [1, 3]
    assert not batch._orders


def test_a_failure_is_that_of_all_who_waited_and_of_nobody_else() -> None:
    failure = ValueError("nothing there")
    source = Source(failure)
    batch = Batch(source.supply)
    (first, _), *others = outcomes(batch, source)
    assert (first, [outcome for outcome, _ in others]) == (0, [failure] * 3)
    assert batch.take([]) == 1


def test_too_few_are_a_failure() -> None:
    batch = Batch[int](lambda _count, _notes: [])
    with pytest.raises(ValueError, match="shorter"):
        batch.take([])
