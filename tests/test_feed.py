import time

import gevent
import pytest
from lab import WAIT

from errors import TooManyOnlookers
from feed import Feed


def test_ticks() -> None:
    asked: list[float] = []

    def clock() -> float:
        asked.append(time.monotonic())
        return 7.9  # so that it waits for 0.11 s

    feed = Feed(clock=clock)
    with feed.look() as ticks:
        next(ticks)  # at once
        assert not asked
        took = []
        for _ in range(5):
            next(ticks)
            took.append(time.monotonic() - asked[-1])
    assert 0.1 < min(took) < 1  # a busy machine may have made others late


def test_a_slow_one_is_not_waited_for_and_finds_one_tick_at_most() -> None:
    feed = Feed(clock=lambda: 7.9)
    with feed.look() as slow, feed.look() as quick:
        next(slow)
        for _ in range(4):
            next(quick)
        began = time.monotonic()
        next(slow)
        assert 0.1 < time.monotonic() - began < 1


def test_so_many_may_look() -> None:
    feed = Feed(most=2)
    with feed.look(), feed.look():
        assert feed.onlookers == 2
        with pytest.raises(TooManyOnlookers), feed.look():
            raise AssertionError
    assert feed.onlookers == 0
    with feed.look():
        assert feed.onlookers == 1


def test_the_end() -> None:
    feed = Feed()
    with feed.look() as ticks:
        next(ticks)
        waiting = gevent.spawn(list, ticks)
        gevent.sleep(0)
        feed.close()
        assert waiting.get(timeout=WAIT) == []
    with feed.look() as ticks:
        assert list(ticks) == []
